"""Weights that are zero when training begins stay zero: a pruned model stays as sparse as it was.

    train: [{type: sft, callbacks: [{type: keep_zeros}]}]

After every optimizer step they are set back. An adapter is not touched: pruning passes set the zeros again after it
was folded into the weights.
"""

from __future__ import annotations

from typing import Any

from components.core.kinds import register
from components.interfaces import TrainingCallback


@register("callback", "keep_zeros")
class KeepZeros(TrainingCallback):
    """Weights that are zero when training begins stay zero (fine-tuning of pruned models)."""

    def hook(self) -> Any:
        import torch
        from transformers import TrainerCallback

        class Zeros(TrainerCallback):  # type: ignore[misc]
            zeros: list[tuple[Any, Any]]

            def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                # after a resume too: what is zero has been kept so, and the rest is not
                network = getattr(model, "module", model)
                trained = [weight for weight in network.parameters() if weight.requires_grad and weight.dim() > 1]
                # an adapter's second matrix is zero as a whole, and is to learn
                found = [(weight, weight.detach() == 0) for weight in trained]
                self.zeros = [(weight, zero) for weight, zero in found if zero.any() and not zero.all()]

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                with torch.no_grad():
                    for weight, zero in self.zeros:
                        weight.masked_fill_(zero, 0.0)

        return Zeros()
