"""PyTorch: runs a model directory, or an adapter on its base (merged in memory)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ModelLoadError
from components.core.families import family_of
from components.core.health import Health
from components.core.kinds import register
from components.core.machine import machine
from components.core.safeload import load_adapter, load_causal_lm, load_tokenizer
from components.interfaces import Backend, Generation


@register("backend", "torch")
class TorchBackend(Backend):
    """Models and adapters through transformers on PyTorch."""

    serves = ("model", "adapter")
    libraries = ("torch", "transformers", "peft")

    class Config(StrictConfig):
        dtype: Literal["auto", "float32", "bfloat16"] = "float32"

    config: Config
    _model: Any = None
    _together = True

    def open(self, artifact: Artifact, parents: Mapping[str, Artifact]) -> None:
        dtype = machine().dtype() if self.config.dtype == "auto" else self.config.dtype
        self._tokenizer = load_tokenizer(artifact.path)
        if artifact.kind == "model":
            self._model = load_causal_lm(artifact.path, dtype)
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

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Generation]:
        if self._together:
            return self._answers(prompts, max_new_tokens)
        return [answer for prompt in prompts for answer in self._answers([prompt], max_new_tokens)]

    def _answers(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Generation]:
        import torch

        pad = self._tokenizer.pad_token_id
        width = max(len(prompt) for prompt in prompts)
        # left padding: transformers continues every row at its last column
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
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

        ids, cache = torch.tensor([list(prompt)]), None
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                step = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = step.past_key_values
            token = int(step.logits[0, -1].argmax())
            yield token
            if stop and token == self._tokenizer.eos_token_id:
                return
            ids = torch.tensor([[token]])

    def logits(self, ids: Sequence[int]) -> Any:
        import torch

        with torch.inference_mode():
            return self._model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float().numpy()


def _padded_left(model: Artifact) -> bool:
    """Whether prompts of several lengths can be continued together; models of some family might not bear it."""
    return family_of(model.path, str(model.meta.get("name", ""))).padding_side == "left"


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)
