"""Where PyTorch keeps the keys and values of earlier tokens: growing, static, quantized, or outside of the GPU.

    optimize: {long: [{type: merge_adapter}, {type: kv_cache, cache: quantized, bits: 4}]}

- `quantized`: 8 or 4 bits for all but the newest tokens, a quarter to an eighth of the memory, slower for every token;
- `static`: all the room from the start, which compilation needs;
- `offloaded`: kept in main memory while a layer does not need it. That spares a GPU; without one it is refused.

Memory, speed and the distance to the unchanged model are measured, through the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from components.compression.opening import EFFECT, KeyValueCache, copy_model, read_runtime, write_runtime
from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.kinds import register
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import Pass, StepContext, Subject
from components.runtime import opened


@register("pass", "kv_cache")
class CacheChoice(Pass):
    """Choose the key-value cache; measures its memory, speed and what it does to the answers."""

    consumes = ("model",)
    produces = "model"
    libraries = ("torch", "transformers")
    depends_on_machine = True
    alone = True
    keeps_opening = True

    class Config(StrictConfig):
        cache: Literal["dynamic", "static", "quantized", "offloaded"] = "quantized"
        bits: Literal[8, 4] = 8
        recent: PositiveInt = Field(64, description="newest tokens that stay as they are")
        length: PositiveInt = Field(512, description="tokens for which its memory is told")
        tokens: PositiveInt = Field(32, description="of each timed answer")
        rounds: PositiveInt = 3

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return EFFECT

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        from components.compression.caches import device_of
        from components.compression.measuring import timings, written

        chosen = KeyValueCache(type=self.config.cache, bits=self.config.bits, recent=self.config.recent)
        caches = {"before": read_runtime(source.path).cache, "after": chosen}
        device = device_of(self.config.cache)
        memory = self._memory(source.path, caches, device)
        copy_model(source.path, out)
        write_runtime(out, read_runtime(source.path), cache=chosen)
        after = written(source, out)
        # on another device than before, speeds would compare the devices
        compared = {"tokens_per_s_before": source} if device == "cpu" else {}
        speed = timings({**compared, "tokens_per_s": after}, self.config.tokens, self.config.rounds)
        return {
            "cache": self.config.cache,
            "device": device,
            **{f"cache_bytes_{when}": size for when, size in memory.items()},
            **{name: round(1 / timing.token, 4) for name, timing in speed.items()},
            **_distance(source, after),
        }

    def _memory(self, model: Path, caches: Mapping[str, KeyValueCache], device: str) -> dict[str, int]:
        """Bytes of each cache when it holds as many tokens as the configuration says, the last one added alone."""
        import torch
        from transformers import DynamicCache

        from components.compression.caches import cache_bytes, new_cache

        network, found = load_causal_lm(model).to(device), {}
        ids = torch.arange(self.config.length, device=device)[None] % network.config.get_text_config().vocab_size
        for when, choice in caches.items():
            cache = new_cache(network.config, choice, self.config.length) or DynamicCache(config=network.config)
            with torch.inference_mode():
                for part in (ids[:, :-1], ids[:, -1:]):
                    if part.numel():
                        network(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
            found[when] = cache_bytes(cache, device)
        return found


def _distance(before: Artifact, after: Artifact) -> dict[str, float]:
    """How far the answers are from those with the cache as it was."""
    import torch

    from components.compression.closeness import TEXTS, distance

    text = load_tokenizer(before.path)(" ".join(TEXTS)).input_ids
    rows = []
    for model in (before, after):
        with opened(Subject(name="model", artifact=model), dtype="float32") as backend:
            rows.append([torch.from_numpy(backend.logits(text))])
    return {f"probe_{name}": value for name, value in distance(*rows).items()}
