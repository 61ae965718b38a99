"""Models in vLLM's layouts, expanded to float32 in PyTorch: their quality as it will be served, not their speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.backends.torch import TorchBackend
from components.core.artifacts import Artifact
from components.core.health import Health
from components.core.kinds import register
from components.core.safeload import load_tokenizer
from components.interfaces import Backend, Generation


class Expanded(TorchBackend):
    """The directory's network in float32."""

    def open(self, artifact: Artifact, parents: Mapping[str, Artifact]) -> None:
        from components.compression.packed_layouts import load_packed

        self._tokenizer = load_tokenizer(artifact.path)
        self._model = load_packed(artifact.path)


@register("backend", "packed")
class PackedBackend(Backend):
    """Models in compressed-tensors' or GPTQ's layout, their weights expanded to float32."""

    serves = ("packed",)
    libraries = ("torch", "transformers")

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._engine = Expanded(Expanded.Config())

    def open(self, artifact: Artifact, parents: Mapping[str, Artifact]) -> None:
        self._engine.open(artifact, parents)

    def close(self) -> None:
        self._engine.close()

    def health(self) -> Health:
        found = self._engine.health()
        return Health(
            found.status, f"{found.detail}; weights in few bits are expanded" if found.status == "ok" else found.detail
        )

    @property
    def tokenizer(self) -> Any:
        return self._engine.tokenizer

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Generation]:
        return self._engine.generate(prompts, max_new_tokens)

    def stream(self, prompt: Sequence[int], max_new_tokens: int, stop: bool = True) -> Iterator[int]:
        return self._engine.stream(prompt, max_new_tokens, stop)

    def logits(self, ids: Sequence[int]) -> Any:
        return self._engine.logits(ids)
