"""PyTorch: runs a model directory, or an adapter on its base (merged in memory).

A directory may say how it is opened (`components.compression.opening`): its dtype, attention, compilation and cache
then come before the configuration here, because that is the model whose quality and speed were measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from components.compression.opening import Runtime, read_runtime
from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ModelLoadError
from components.core.families import family_of
from components.core.health import Health
from components.core.kinds import register
from components.core.machine import machine
from components.core.safeload import load_adapter, load_causal_lm, load_tokenizer
from components.interfaces import Backend, Generation

PIECE = 8
"""Tokens at a time where logits go through a quantized cache."""


@register("backend", "torch")
class TorchBackend(Backend):
    """Models and adapters through transformers on PyTorch; quantized ones expanded to float32."""

    serves = ("model", "adapter", "quantized")
    libraries = ("torch", "transformers", "peft")

    class Config(StrictConfig):
        dtype: Literal["auto", "float32", "bfloat16"] = "float32"

    config: Config
    _model: Any = None
    _runtime = Runtime()
    _together = True

    def open(self, artifact: Artifact, parents: Mapping[str, Artifact]) -> None:
        dtype = machine().dtype() if self.config.dtype == "auto" else self.config.dtype
        self._tokenizer = load_tokenizer(artifact.path)
        if artifact.kind == "quantized":
            from components.compression.quantization.checkpoint import load_quantized

            self._model = load_quantized(artifact.path)
            self._together = _padded_left(artifact)
            return
        if artifact.kind == "model":
            self._runtime = read_runtime(artifact.path)
            self._model = _prepared(load_causal_lm(artifact.path, self._runtime.dtype or dtype), self._runtime)
            self._together = _padded_left(artifact)
            return
        if "model" not in parents:
            raise ModelLoadError(f"the adapter {artifact.digest[:12]} needs its base model, which was not given")
        # merged in float32: adding a small update to bfloat16 weights would lose most of it
        merged = load_adapter(load_causal_lm(parents["model"].path), artifact.path).merge_and_unload()
        self._model = merged.to(_torch_dtype(dtype))
        self._together = _padded_left(parents["model"])

    def close(self) -> None:
        self._model = None

    def health(self) -> Health:
        if self._model is None:
            return Health("degraded", "not opened")
        return Health("ok", f"{type(self._model).__name__} is open in {self._model.dtype}")

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: bool = True) -> list[Generation]:
        if self._together:
            return self._answers(prompts, max_new_tokens, stop)
        return [answer for prompt in prompts for answer in self._answers([prompt], max_new_tokens, stop)]

    def _answers(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: bool) -> list[Generation]:
        import torch

        pad = self._tokenizer.pad_token_id
        width = max(len(prompt) for prompt in prompts)
        # left padding: transformers continues every row at its last column
        where = self._model.device
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=where)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=where)
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=self._cache(width + max_new_tokens),
                max_new_tokens=max_new_tokens,
                min_new_tokens=None if stop else max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=self._tokenizer.eos_token_id,
            )
        return [self._generation(row[width:].tolist()) for row in output]

    def _generation(self, ids: list[int]) -> Generation:
        end = self._tokenizer.eos_token_id
        finished = end in ids
        kept = ids[: ids.index(end)] if finished else ids
        return Generation(self._tokenizer.decode(kept, skip_special_tokens=True), len(kept) + finished, finished)

    def stream(self, prompt: Sequence[int], max_new_tokens: int, stop: bool = True) -> Iterator[int]:
        import torch

        where = self._model.device
        ids, cache = torch.tensor([list(prompt)], device=where), self._cache(len(prompt) + max_new_tokens)
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                step = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = step.past_key_values
            token = int(step.logits[0, -1].argmax())
            yield token
            if stop and token == self._tokenizer.eos_token_id:
                return
            ids = torch.tensor([[token]], device=where)

    def logits(self, ids: Sequence[int]) -> Any:
        import torch

        if self._runtime.cache.type == "quantized":
            return self._logits_through_cache(ids)
        with torch.inference_mode():
            row = torch.tensor([list(ids)], device=self._model.device)
            return self._model(input_ids=row, use_cache=False).logits[0].float().cpu().numpy()

    def _logits_through_cache(self, ids: Sequence[int]) -> Any:
        """In pieces, so that later tokens look at earlier ones as the cache has kept them, and not as they were."""
        import torch

        cache, found = self._cache(len(ids)), []
        with torch.inference_mode():
            for start in range(0, len(ids), PIECE):
                piece = torch.tensor([list(ids[start : start + PIECE])])
                found.append(self._model(input_ids=piece, past_key_values=cache, use_cache=True).logits[0].float())
        return torch.cat(found).numpy()

    def _cache(self, length: int) -> Any:
        """An empty cache for so many tokens; None where transformers shall make its own."""
        if self._runtime.cache.type == "dynamic":
            return None
        from components.compression.caches import new_cache

        return new_cache(self._model.config, self._runtime.cache, length)


def _prepared(model: Any, runtime: Runtime) -> Any:
    if runtime.cache.type == "offloaded":
        from components.compression.caches import device_of

        model = model.to(device_of(runtime.cache.type))
    if runtime.attention:
        model.set_attn_implementation(runtime.attention)
    if runtime.compile:
        chosen = runtime.compile
        mode = {"mode": chosen.mode} if chosen.backend == "inductor" else {}
        model.compile(backend=chosen.backend, dynamic=True, **mode)
    return model


def _padded_left(model: Artifact) -> bool:
    """Whether prompts of several lengths can be continued together; models of some family might not bear it."""
    return family_of(model.path, str(model.meta.get("name", ""))).padding_side == "left"


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)
