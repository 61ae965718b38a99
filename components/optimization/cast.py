"""Weights in half the bytes: float16 or bfloat16 safetensors, with the distance to float32 that this costs.

    optimize: {half: [{type: merge_adapter}, {type: cast, dtype: bfloat16}]}

The model is then opened in that dtype, so that what benchmarks measure is what is served. float16 has more digits and
less range: a model whose activations leave it is refused. On a CPU without bfloat16 arithmetic, half precision is a
matter of memory, not of speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveFloat

from components.compression.opening import read_runtime, write_runtime
from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ArtifactError
from components.core.kinds import register
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import Pass, StepContext


@register("pass", "cast")
class Cast(Pass):
    """Store and open the weights in half precision."""

    consumes = ("model",)
    produces = "model"
    libraries = ("torch", "transformers")
    keeps_opening = True

    class Config(StrictConfig):
        dtype: Literal["bfloat16", "float16"] = "bfloat16"
        max_mean_kl: PositiveFloat = 0.05
        """Most that the answers to fixed texts may differ from float32's, in nats a token."""

    config: Config

    def estimated_bytes(self, parameters: int) -> int:
        return parameters * 2

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        import torch

        from components.compression.closeness import distance, logits_of, probe_rows

        tokenizer = load_tokenizer(source.path)
        rows = probe_rows(tokenizer)
        network = load_causal_lm(source.path)
        before = logits_of(network, rows)
        network = network.to(getattr(torch, self.config.dtype))
        after = logits_of(network, rows)
        if not all(bool(row.isfinite().all()) for row in after):
            raise ArtifactError(f"in {self.config.dtype} this model's numbers overflow; take dtype: bfloat16")
        found = distance(before, after)
        if found["mean_kl"] > self.config.max_mean_kl:
            raise ArtifactError(
                f"in {self.config.dtype} the model is {found['mean_kl']:.3g} nats a token from float32 "
                f"(at most {self.config.max_mean_kl:g} allowed): leave it in float32, or raise max_mean_kl"
            )
        network.save_pretrained(out, safe_serialization=True)
        tokenizer.save_pretrained(out)
        write_runtime(out, read_runtime(source.path), dtype=self.config.dtype)
        return {"dtype": self.config.dtype, **{f"probe_{name}": value for name, value in found.items()}}
