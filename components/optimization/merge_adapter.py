"""Fold a LoRA adapter into its base model. The result is a plain model that every exporter understands.

Merging is proven on the spot: the merged model's logits are compared with those of base plus adapter, and a
difference beyond rounding fails the pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ArtifactError
from components.core.kinds import register
from components.core.safeload import load_adapter, load_causal_lm, load_tokenizer
from components.interfaces import Pass, StepContext


@register("pass", "merge_adapter")
class MergeAdapter(Pass):
    """Fold an adapter into its base model, in float32."""

    consumes = ("adapter",)
    produces = "model"
    libraries = ("torch", "transformers", "peft")

    class Config(StrictConfig):
        max_logit_difference: PositiveFloat = 1e-2

    config: Config

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        from components.compression.closeness import logits_of, probe_rows, worst_difference

        tokenizer = load_tokenizer(source.path)
        rows = probe_rows(tokenizer)
        adapted = load_adapter(load_causal_lm(parents["model"].path), source.path)
        before = logits_of(adapted, rows)
        merged = adapted.merge_and_unload(safe_merge=True)
        worst = worst_difference(before, logits_of(merged, rows))
        if not worst <= self.config.max_logit_difference:
            raise ArtifactError(
                f"merging changed the logits by {worst:.4g} (at most {self.config.max_logit_difference:g} allowed): "
                "the adapter does not belong to this base, or is not a plain LoRA"
            )
        merged.save_pretrained(out, safe_serialization=True)
        tokenizer.save_pretrained(out)
        return {"max_logit_difference": worst}
