"""Brings base models into the store, opens them, and puts changed ones back.

models = ModelService(workspace)
base = models.fetch(recipe.model)
network = models.load(base, adapter=trained)       # on the GPU if there is one, in the dtype that is fast there
models.save(network.merge_and_unload(), tokenizer, "merged")
models.optimize(trained, ["O2"]).steps             # 8-bit weights on ONNX Runtime, with what each pass measured
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from typing import Any, Literal

from pydantic import Field, PositiveInt

from components.core.artifacts import Artifact, hash_directory
from components.core.component import StrictConfig
from components.core.errors import ConfigError, ModelLoadError
from components.core.events import ModelLoaded
from components.core.families import facts as family_facts
from components.core.kinds import registry, service
from components.core.machine import machine
from components.core.recipe import Spec
from components.core.safeload import check_model_directory, explained, load_adapter, load_causal_lm
from components.interfaces import ModelSource
from components.services.optimized import OptimizationResult, Step, expanded, result
from components.services.workspace import Workspace
from components.training.adapters import Lora, quantization_config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opening:
    """What makes two networks in memory the same: digests of the weights, and how they are held."""

    model: str
    adapter: str
    dtype: str
    device: str
    quantize: Literal["int4", "int8"] | None
    activation_checkpointing: bool


@service("model")
class ModelService:
    """Fetches base models, opens and saves models."""

    class Config(StrictConfig):
        keep: PositiveInt = Field(2, description="opened networks in memory; the one that was used last goes last")

    def __init__(self, workspace: Workspace, config: Config | None = None) -> None:
        self.workspace = workspace
        self.keep = (config or self.Config()).keep
        self._networks: OrderedDict[Opening, Any] = OrderedDict()
        self._lock = RLock()

    def fetch(self, spec: Spec) -> Artifact:
        """The base model as an artifact of kind "model"."""
        source: ModelSource = spec.build()

        def make(out: Path) -> Mapping[str, Any]:
            facts = source.fetch(out)
            check_model_directory(out)
            return {**facts, **_described(out, str(facts.get("name", "")))}

        identity = {"type": spec.type, **source.identity()}

        def needs_bytes() -> int:
            return (source.parameters() or 0) * 4

        return self.workspace.stage("model", spec.type, spec.component, identity, {}, "model", make, needs_bytes)

    # ------------------------------------------------------------ open

    def load(
        self,
        model: Artifact | str,
        dtype: str = "auto",
        device: str = "auto",
        adapter: Artifact | None = None,
        quantize: Literal["int4", "int8"] | None = None,
        activation_checkpointing: bool = False,
        force_reload: bool = False,
    ) -> Any:
        """The network of a model or adapter, or of a model by name (a directory, or the hub's); opened only once.

        It is shared with whoever opens it alike, so a change of its weights belongs on a copy.
        """
        base, adapter = self._parts(model, adapter)
        device = _device(device)
        digest = adapter.digest if adapter else ""
        way = Opening(base.digest, digest, _dtype(dtype, device), device, quantize, activation_checkpointing)
        with self._lock:
            if force_reload:
                self._networks.pop(way, None)
            if way not in self._networks:
                while len(self._networks) >= self.keep:  # before, not after: memory may not hold one more
                    self._networks.popitem(last=False)
                self._networks[way] = self._opened(base, adapter, way)
            self._networks.move_to_end(way)
            return self._networks[way]

    def unload(self) -> None:
        """Let go of every network; memory is free when nobody else holds one."""
        with self._lock:
            self._networks.clear()

    def _parts(self, model: Artifact | str, adapter: Artifact | None) -> tuple[Artifact, Artifact | None]:
        """The model itself, and the adapter that goes on it."""
        if isinstance(model, str):
            model = self._fetched(model)
        if model.kind == "adapter" and adapter is None:
            return self.workspace.store.get(model.parents["model"]), model
        if model.kind != "model":
            raise ModelLoadError(
                f"an artifact of kind '{model.kind}' is no PyTorch model; run it with components.runtime.opened"
            )
        if adapter is not None and adapter.parents["model"].digest != model.digest:
            raise ModelLoadError(
                f"the adapter {adapter.digest[:12]} was trained on model {adapter.parents['model'].digest[:12]}, not "
                f"on {model.digest[:12]}; load the adapter alone, its own base comes with it"
            )
        return model, adapter

    def _fetched(self, name: str) -> Artifact:
        """A model by name: a directory, or the hub's."""
        config = registry.get("model", "pretrained").Config(name=name)
        return self.fetch(Spec(kind="model", type="pretrained", config=config))

    def _opened(self, base: Artifact, adapter: Artifact | None, way: Opening) -> Any:
        started = time.perf_counter()
        network = load_causal_lm(base.path, way.dtype, quantization_config(Lora(quantize=way.quantize)))
        if adapter is not None:
            network = load_adapter(network, adapter.path)
        network = _placed(network, way)
        if way.activation_checkpointing:
            network.activation_checkpointing_enable({"use_reentrant": False})
        subject, kind = str(base.meta.get("name", base.digest[:12])), (adapter or base).kind
        seconds = time.perf_counter() - started
        self.workspace.bus.emit(ModelLoaded(subject=subject, kind=kind, backend="torch", seconds=seconds))
        return network

    # ------------------------------------------------------------ optimize

    def optimize(
        self, model: Artifact | str, names: Sequence[Step], dataset: Artifact | None = None, seed: int = 17
    ) -> OptimizationResult:
        """Exactly these passes in this order, and what each of them measured: `optimize(model, ["O2"])`.

        A pass by its name or as in a recipe (`{"type": "onnx", "precision": "int4"}`), or a level. `dataset`: for
        passes that calibrate or heal. What is unknown, does not fit or fails raises; nothing is left out but what is
        switched off, or has a condition that is not met.
        """
        # not above: the service of passes opens models with this one
        from components.services.optimization import OptimizationService

        source = self._fetched(model) if isinstance(model, str) else model
        chain = expanded(names, source.kind)
        if not chain:
            raise ConfigError(f"name at least one pass; known: {', '.join(registry.names('pass'))}")
        return result(OptimizationService(self.workspace).each_of(chain, source, seed, dataset))

    # ------------------------------------------------------------ save

    def save(self, network: Any, tokenizer: Any, name: str) -> Artifact:
        """A network and its tokenizer as an artifact of kind "model"; equal files under one name are one artifact."""
        if hasattr(network, "peft_config"):
            raise ConfigError("this network has an adapter on it; save what network.merge_and_unload() gives")
        self.workspace.root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".saving-", dir=self.workspace.root) as scratch:
            written = Path(scratch)
            network.save_pretrained(written, safe_serialization=True)
            tokenizer.save_pretrained(written)
            check_model_directory(written)

            def make(out: Path) -> Mapping[str, Any]:
                for file in sorted(written.iterdir()):
                    shutil.move(file, out)
                return {"name": name, "parameters": network.num_parameters()}

            identity = {"type": "saved", "name": name, "files": hash_directory(written)}
            return self.workspace.stage("model", name, [], identity, {}, "model", make)


def _described(directory: Path, name: str) -> dict[str, Any]:
    """Family, sizes and sampling for the manifest; nothing of a model that cannot be described (only ONNX, damaged):
    what is wrong with it is said, with the remedy, by who opens it."""
    try:
        return {"profile": family_facts(directory, name)}
    except Exception as error:  # any configuration at all may stand there
        log.debug("no facts about %s: %s", directory, error)
        return {}


def _device(wanted: str) -> str:
    """`auto`: the first GPU, else the CPU. `cuda` is the first GPU."""
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    there = {"auto": (gpus or ["cpu"])[0], "cpu": "cpu", **{gpu: gpu for gpu in gpus}}
    if gpus:
        there["cuda"] = gpus[0]
    if wanted not in there:
        raise ModelLoadError(f"there is no device '{wanted}' here; take one of {', '.join(there)}", "device")
    return there[wanted]


def _dtype(wanted: str, device: str) -> str:
    import torch

    if wanted == "auto" and device == "cpu":
        return machine().dtype()
    if wanted == "auto":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if wanted not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype: '{wanted}' is none of auto, float32, bfloat16, float16")
    return wanted


def _placed(network: Any, way: Opening) -> Any:
    if way.quantize is None:
        with explained(f"cannot move the model to {way.device}"):
            return network.to(way.device)
    if str(network.device) != way.device:
        raise ModelLoadError(
            f"weights in few bits stay on {network.device}, where bitsandbytes puts them; ask for that device",
            "device",
        )
    return network
