"""Models in other libraries' layouts, in PyTorch: vLLM's are expanded to float32, bitsandbytes' run as they are.

What is expanded has the quality that will be served, but neither its speed nor its memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.backends.torch import TorchBackend
from components.core.artifacts import Artifact
from components.core.errors import require
from components.core.health import Health
from components.core.kinds import register
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import Backend, Generation


class Opened(TorchBackend):
    """The directory's network in PyTorch."""

    expanded = True

    def open(self, artifact: Artifact, parents: Mapping[str, Artifact]) -> None:
        from components.compression.quantization.packed_layouts import load_packed

        self._tokenizer = load_tokenizer(artifact.path)
        told = artifact.read_json("config.json").get("quantization_config", {})
        self.expanded = told.get("quant_method") != "bitsandbytes"
        if self.expanded:
            self._model = load_packed(artifact.path)
        else:
            require("bitsandbytes", "qlora")
            self._model = load_causal_lm(artifact.path)


@register("backend", "packed")
class PackedBackend(Backend):
    """Models in compressed-tensors' or GPTQ's layout (expanded to float32), or in bitsandbytes'."""

    serves = ("packed",)
    libraries = ("torch", "transformers")

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._engine = Opened(Opened.Config())

    def open(self, artifact: Artifact, parents: Mapping[str, Artifact]) -> None:
        self._engine.open(artifact, parents)

    def close(self) -> None:
        self._engine.close()

    def health(self) -> Health:
        found = self._engine.health()
        if found.status != "ok":
            return found
        how = "weights in few bits are expanded" if self._engine.expanded else "through bitsandbytes"
        return Health("ok", f"{found.detail}; {how}")

    @property
    def tokenizer(self) -> Any:
        return self._engine.tokenizer

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: bool = True) -> list[Generation]:
        return self._engine.generate(prompts, max_new_tokens, stop)

    def stream(self, prompt: Sequence[int], max_new_tokens: int, stop: bool = True) -> Iterator[int]:
        return self._engine.stream(prompt, max_new_tokens, stop)

    def logits(self, ids: Sequence[int]) -> Any:
        return self._engine.logits(ids)
