"""One compressed base and swappable adapters: a graph for ONNX Runtime GenAI, and an `.onnx_adapter` file an adapter.

    optimize:
      swap:
        - type: onnx_adapters
          base: [{type: onnx, precision: int4}]      # any chain that turns a model into ONNX
          adapters: {support: /models/support-lora}  # beside the one that the recipe trains, called `name`

The base is compressed by the passes under `base`, once; then its graph gets inputs for LoRA matrices, in float32 beside
weights in few bits. `backend: {adapter: NAME}` switches; `base` switches off, and gives the base's own logits, bit by
bit. Adapters were trained on the base in float, so what compression costs each of them is measured: Kullback-Leibler
divergence of the compressed base with the adapter from the float base with it, on held-out rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from components.core.artifacts import Artifact, hash_file, hash_json
from components.core.chains import chain_problems
from components.core.component import StrictConfig
from components.core.errors import ArtifactError, ConfigError, DataError
from components.core.kinds import register
from components.core.recipe import OfKind, Spec
from components.core.safeload import ADAPTER, load_adapter, load_causal_lm, load_tokenizer
from components.interfaces import Pass, StepContext, Subject
from components.runtime import opened

GRAPH = "model.onnx"
NOISE = 1e-5
"""Divergence, in nats, that comes of the order of sums alone."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class AdapterSource(StrictConfig):
    """A directory with a PEFT adapter. `sha256` pins its content; it is found out where it is not given."""

    path: str
    sha256: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _pinned(cls, given: Any) -> Any:
        plain = {"path": given} if isinstance(given, str) else given
        if not isinstance(plain, dict) or not isinstance(plain.get("path"), str):
            return plain
        found = _digest(Path(plain["path"]))
        if plain.get("sha256", found) not in (found, None):
            raise ConfigError(f"sha256: the adapter in '{plain['path']}' has {found}; it changed, or is another one")
        return {**plain, "sha256": found}


def _digest(directory: Path) -> str:
    missing = [name for name in ADAPTER if not (directory / name).is_file()]
    if missing:
        raise ConfigError(f"path: '{directory}' holds no adapter: it has no {' and no '.join(missing)}")
    return hash_json([hash_file(directory / name) for name in ADAPTER])


def _default_base() -> list[Spec]:
    return [OfKind("pass").parse({"type": "onnx", "precision": "int4"})]  # type: ignore[list-item]


@register("pass", "onnx_adapters")
class OnnxAdapters(Pass):
    """One compressed base for ONNX Runtime GenAI, and one file for each adapter that it can be switched to."""

    consumes = ("adapter",)
    produces = "onnx"
    libraries = ("onnxruntime-genai", "onnxruntime", "onnx", "transformers", "torch", "peft")

    class Config(StrictConfig):
        base: list[Annotated[Spec, OfKind("pass")]] = Field(default_factory=_default_base, min_length=1)
        name: str = Field("trained", pattern=NAME)
        adapters: dict[Annotated[str, Field(pattern=NAME)], AdapterSource] = {}
        rows: NonNegativeInt = Field(16, description="held-out rows to measure on; 0: a few fixed texts")
        max_length: PositiveInt = 512
        max_kl: NonNegativeFloat | None = Field(None, description="of each adapter; more fails the pass")

        @model_validator(mode="after")
        def _checked(self) -> OnnxAdapters.Config:
            problems = [text for _, text in chain_problems(self.base, "model")]
            given = self.base[-1].component.produces
            if not problems and given != "onnx":
                problems = [f"the chain gives {given}; end it with a pass that gives onnx"]
            if problems:
                raise ConfigError([f"base: {problem}" for problem in problems])
            if {"base", self.name} & self.adapters.keys() or self.name == "base":
                raise ConfigError(f"adapters: 'base' and '{self.name}' are taken; choose other names")
            return self

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset().union(*(spec.component.effects(spec.config) for spec in config.base))

    @classmethod
    def needs_rows(cls, config: Any) -> bool:
        return bool(config.rows) or any(spec.component.needs_rows(spec.config) for spec in config.base)

    @classmethod
    def inputs(cls, config: Any) -> Mapping[str, Spec]:
        return {role: spec for step in config.base for role, spec in step.component.inputs(step.config).items()}

    def estimated_bytes(self, parameters: int) -> int:
        return int(self.config.base[-1].build().estimated_bytes(parameters))

    def estimated_memory(self, parameters: int) -> int:
        steps = (spec.build().estimated_memory(parameters) for spec in self.config.base)
        return int(max(parameters * 12, *steps))

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        from components.compression.onnx.adapters import check_base, make_room, write_adapter, write_list

        base = parents["model"]
        places = {self.config.name: source.path} | {n: Path(given.path) for n, given in self.config.adapters.items()}
        for name, place in places.items():
            check_base(name, place, base)
        loras = {name: _lora(base, place, name) for name, place in places.items()}
        compressed = self._compress(base, out, context)
        layers = _layers(loras.values())
        make_room(out / GRAPH, layers)
        files = {name: f"{name}.onnx_adapter" for name in places}
        for name, file in files.items():
            write_adapter(loras[name], layers, out / file)
        write_list(out, files, self.config.name)
        written = source.model_copy(update={"path": out, "kind": "onnx"})
        figures = self._measured(written, base, places, context)
        for name, file in files.items():
            figures[name]["bytes"] = (out / file).stat().st_size
        return {"base": {**compressed, **figures.pop("base")}, "adapters": figures}

    def _compress(self, base: Artifact, out: Path, context: StepContext) -> dict[str, Any]:
        """Run the base's passes; the last one writes to `out`. Returns what each of them measured."""
        facts: dict[str, Any] = {}
        with ExitStack() as stack:
            current = base
            for spec in self.config.base:
                place = out
                if spec is not self.config.base[-1]:
                    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postmill-base-")))
                facts[spec.type] = spec.build().apply(current, {}, place, context)
                current = current.model_copy(update={"path": place, "kind": spec.component.produces})
        return facts

    def _measured(
        self, written: Artifact, base: Artifact, places: Mapping[str, Path], context: StepContext
    ) -> dict[str, dict[str, Any]]:
        """How far the graph is from the float base, alone and with each adapter, by name."""
        rows = self._rows(base, context)
        network = load_causal_lm(base.path)
        figures = {"base": {"mean_kl": _kl(network, written, "base", rows)}}
        for name, place in places.items():
            adapted = load_adapter(load_causal_lm(base.path), place)
            figures[name] = self._checked(name, adapted, written, rows)
        return figures

    def _checked(self, name: str, adapted: Any, written: Artifact, rows: Any) -> dict[str, Any]:
        """An ArtifactError if the adapter does in the graph not what it does in PyTorch, or too little of it."""
        kl, without = _kl(adapted, written, name, rows), _kl(adapted, written, "base", rows)
        if kl > max(without, NOISE):
            raise ArtifactError(
                f"with adapter '{name}' the graph is further from base and adapter in PyTorch ({kl:.4g} nats) than "
                f"without it ({without:.4g}): the compressed base does not carry it; compress less"
            )
        if self.config.max_kl is not None and kl > self.config.max_kl:
            raise ArtifactError(
                f"adapter '{name}' is {kl:.4g} nats from base and adapter in PyTorch, at most {self.config.max_kl:g} "
                "are allowed (max_kl); compress the base less, or train the adapter on what was compressed"
            )
        return {"mean_kl": kl, "mean_kl_without_it": without}

    def _rows(self, base: Artifact, context: StepContext) -> Any:
        import torch

        from components.compression.closeness import probe_rows
        from components.compression.distance import ScoredRow, held_out_split, scored_rows

        tokenizer = load_tokenizer(base.path)
        if not self.config.rows:
            return [ScoredRow(ids, torch.arange(ids.shape[1] - 1)) for ids in probe_rows(tokenizer)]
        if context.dataset is None:
            raise DataError("this pass measures on held-out rows, and was given no data set; give one, or rows: 0")
        split = held_out_split(context.dataset)
        return scored_rows(context.dataset, tokenizer, split, self.config.rows, self.config.max_length, context.seed)


def _lora(base: Artifact, place: Path, name: str) -> Any:
    from components.compression.onnx.adapters import lora_of

    return lora_of(load_adapter(load_causal_lm(base.path), place), name)


def _layers(loras: Any) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every layer that some adapter changes, by name."""
    return {layer: (len(a), b.shape[1]) for lora in loras for layer, (a, b) in lora.matrices.items()}


def _kl(reference: Any, written: Artifact, adapter: str, rows: Any) -> float:
    """Mean divergence, in nats a token, of the graph with an adapter from a network."""
    import torch

    from components.compression.distance import divergence, log_probabilities

    found = []
    with opened(Subject(name=adapter, artifact=written), adapter=adapter) as backend:
        for row in rows:
            logits = torch.from_numpy(backend.logits(row.ids[0].tolist()))[row.positions]
            found.append(divergence(log_probabilities(reference, row), logits.log_softmax(-1)))
    return float(torch.cat(found).mean())
