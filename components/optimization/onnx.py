"""Export to ONNX for ONNX Runtime GenAI: fp32, or weights in 8 or 4 bits, with the proof that it is the same network.

    optimize:
      fp32: [{type: merge_adapter}, {type: onnx, precision: fp32}]
      int8: [{type: merge_adapter}, {type: onnx, precision: int8, exporter: auto}]

Three exporters (`postmill components exporter`) stand behind one interface: the runtime's own builder, which writes the
fastest graphs and knows about twenty architectures; transformers' exporter; and an own one. `exporter: auto` takes the
first whose graph passes the parity check, and records why it left those before. Embedding and head are rounded too,
and a table that is tied is in the file once.

The parity check runs network and graph on the same token rows, prefill and decode. In float32, and for a model whose
weights come rounded, logits have to agree but for the order of sums; weights that are rounded here may be so far from
the network, in Kullback-Leibler divergence, as `max_kl` says. A model that is quantized keeps its codes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ArtifactError, ConfigError, PostmillError
from components.core.kinds import register, registry
from components.core.safeload import check_model_directory, load_causal_lm, load_tokenizer
from components.interfaces import Exporter, Pass, StepContext

Bits = Literal["auto", "float", "int8", "int4"]
BITS: Mapping[str, int] = {"fp32": 32, "int8": 8, "int4": 4}
BLOCKS = {"int8": 64, "int4": 32}
"""Weights that share a scale: wider blocks cost little at 8 bits and a lot at 4."""
MAX_KL = {8: 0.1, 4: 2.0}
"""Mean divergence by bits, above which a graph is broken rather than rounded."""


class ParityConfig(StrictConfig):
    """What the parity check does, and how far a graph may be from the network."""

    steps: PositiveInt = 8
    max_logit_difference: PositiveFloat = 5e-3
    max_kl: PositiveFloat | None = None


@register("pass", "onnx")
class OnnxExport(Pass):
    """Export to ONNX (fp32, int8 or int4 weights) for ONNX Runtime GenAI, with a parity check."""

    consumes = ("model", "quantized")
    produces = "onnx"
    libraries = ("onnxruntime-genai", "onnxruntime", "onnx-ir", "onnx", "onnxscript", "transformers", "torch")
    bits: ClassVar[Mapping[str, int]] = BITS

    class Config(StrictConfig):
        precision: Literal["fp32", "int8", "int4"] | None = None
        exporter: str = "auto"
        method: Literal["default", "rtn", "k_quant", "search"] = "default"
        block_size: Literal[16, 32, 64, 128, 256] | None = None
        embedding: Bits = "auto"
        head: Bits = "auto"
        accuracy_level: Literal[1, 4] = 4
        extra: dict[str, str | int | bool] = {}
        parity: ParityConfig = Field(default_factory=ParityConfig)

        @field_validator("exporter")
        @classmethod
        def _known(cls, name: str) -> str:
            if name != "auto":
                registry.entry("exporter", name)
            return name

        @model_validator(mode="after")
        def _rounds(self) -> Self:
            for key in ("embedding", "head"):
                if self.precision == "fp32" and getattr(self, key) in ("int8", "int4"):
                    raise ConfigError(f"precision: fp32 rounds nothing, so leave out '{key}: {getattr(self, key)}'")
            return self

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset() if config.precision == "fp32" else frozenset({"quantized"})

    @classmethod
    def refusal(cls, config: Any, kind: str, effects: frozenset[str]) -> str | None:
        if kind == "quantized" and config.precision is not None:
            return (
                f"takes a quantized model with the bits that it has: leave out 'precision: {config.precision}', "
                "or export the model that it was made of"
            )
        if kind == "model" and "quantized" in effects and config.precision != "fp32":
            return "would round weights that a pass before it has rounded; write 'precision: fp32'"
        return super().refusal(config, kind, effects)

    def estimated_bytes(self, parameters: int) -> int:
        # scales and the parts that stay in float add about a quarter
        return int(parameters * BITS[self._precision] / 8 * 1.25)

    def estimated_memory(self, parameters: int) -> int:
        # seen: 2.0 GB for 134 million weights, the float32 weights three times and the libraries
        return parameters * 12 + 500_000_000

    @property
    def _precision(self) -> str:
        return self.config.precision or "int4"

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        check_model_directory(source.path)
        expected, tokenizer = self._expected(source, context.seed)
        tokenizer.save_pretrained(out)
        given = {file.name for file in out.iterdir()}
        left: list[str] = []
        for name in self._exporters(source.kind):
            try:
                facts = self._export(name, source, out, expected)
            except PostmillError as error:
                if self.config.exporter != "auto":
                    raise
                left.append(f"{name}: {error}")
                _clear(out, given)
            else:
                return {**facts, "exporter": name, "left": left}
        raise ArtifactError(f"no exporter takes this model: {'; '.join(left)}")

    def _expected(self, source: Artifact, seed: int) -> tuple[Any, Any]:
        from components.compression.onnx.parity import probe_rows, reference

        tokenizer = load_tokenizer(source.path)
        network = _network(source)
        rows = probe_rows(tokenizer, network.config.get_text_config().vocab_size, seed)
        return reference(network, rows, self.config.parity.steps), tokenizer

    @classmethod
    def uses(cls, config: Any) -> Sequence[type]:
        return list(_exporters(config.exporter).values())

    def _exporters(self, kind: str) -> Sequence[str]:
        known = _exporters(self.config.exporter)
        if self.config.exporter != "auto":
            return list(known)
        return [name for name in sorted(known, key=lambda name: known[name].place) if kind in known[name].kinds]

    def _export(self, name: str, source: Artifact, out: Path, expected: Any) -> dict[str, Any]:
        from components.compression.onnx.export import export_codes, export_weights
        from components.compression.onnx.genai_config import separate_padding
        from components.compression.onnx.graph import check_graph
        from components.compression.onnx.scales import halve_scales

        exporter: Exporter = registry.create("exporter", name)
        if source.kind == "quantized":
            facts, exact = export_codes(exporter, source.path, out, self._wish)
            facts = {**facts, "scales_saved_bytes": halve_scales(out / "model.onnx")}
        else:
            facts, exact = export_weights(exporter, source.path, out, self._wish)
        check_graph(out / "model.onnx")
        separate_padding(out)
        return {**facts, "parity": self._proven(out, expected, exact, rounded=facts["precision"] != "fp32")}

    @property
    def _wish(self) -> Any:
        from components.compression.onnx.export import Wish

        config = self.config
        return Wish(
            bits=BITS[self._precision],
            method=config.method,
            block=config.block_size or BLOCKS.get(self._precision, 32),
            embedding=config.embedding,
            head=config.head,
            accuracy=config.accuracy_level,
            options=config.extra,
        )

    def _proven(self, out: Path, expected: Any, exact: bool, rounded: bool) -> dict[str, Any]:
        """Figures of the parity check, or an ArtifactError that says where network and graph part."""
        from components.compression.onnx.graph import exact_copy
        from components.compression.onnx.parity import compare, require_close, require_equal

        limits = self.config.parity
        padding = load_tokenizer(out).pad_token_id
        facts: dict[str, Any] = {}
        if exact:
            with exact_copy(out) if rounded else nullcontext(out) as place:
                found = compare(expected, place, padding)
            require_equal(found, expected, limits.max_logit_difference)
            facts = {"limit": limits.max_logit_difference, **found.facts()}
        if rounded:
            found = compare(expected, out)
            bound = limits.max_kl or MAX_KL[BITS[self._precision]]
            require_close(found, expected, bound)
            figures = found.facts()
            del figures["batch_tokens"]  # after the first that is another, all are
            facts |= {"rounded": {"limit_kl": bound, **figures}}
        return facts


def _network(source: Artifact) -> Any:
    """What the graph has to say, in float32."""
    if source.kind == "quantized":
        from components.compression.quantization.checkpoint import load_quantized

        return load_quantized(source.path)
    return load_causal_lm(source.path)


def _clear(out: Path, kept: set[str]) -> None:
    """Remove what an exporter left behind that failed."""
    for file in out.iterdir():
        if file.name not in kept:
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def _exporters(wanted: str) -> dict[str, Any]:
    """The exporter of this name, or all of them for `auto`."""
    sound = (name for name in registry.names("exporter") if not registry.broken("exporter", name))
    return {name: registry.get("exporter", name) for name in (sound if wanted == "auto" else [wanted])}
