"""TRL's ORPO trainer on pairs that are tokenised already, with the logits of the trained tokens alone.

TRL's own forward pass holds the logits of every position of both answers, several copies of them; here the head
multiplies the positions that the loss reads. No reference model is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.utils import add_fused_lm_head

from components.core.dataset import IGNORED
from components.core.errors import ConfigError
from components.training.guarded import Guarded
from components.training.preference import pair_lengths


class _Finished:
    """Rows that stay as they are: TRL tokenises whatever it is given, and writes the result beside it."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def map(self, *_: Any, **__: Any) -> _Finished:
        return self


class SafeOrpo(Guarded, ORPOTrainer):  # type: ignore[misc]
    """Odds ratio preference optimisation. `prompt_loss`: the supervised part covers the prompt as well."""

    def __init__(self, *args: Any, train_dataset: Any, eval_dataset: Any, prompt_loss: bool, **kwargs: Any) -> None:
        held_out = None if eval_dataset is None else _Finished(eval_dataset)
        super().__init__(*args, train_dataset=_Finished(train_dataset), eval_dataset=held_out, **kwargs)
        self.train_dataset, self.eval_dataset, self.prompt_loss = train_dataset, eval_dataset, prompt_loss
        self.use_dpo_data_collator = True  # ours gives what is read; TRL warns of any but its own
        if not self.lean:
            self._add_fused_head()

    def _add_fused_head(self) -> None:
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        if isinstance(model.get_output_embeddings(), BaseTunerLayer):
            raise ConfigError(
                "orpo cannot train an adapter on the output layer (lm_head); take it out of target_modules"
            )
        add_fused_lm_head(model)

    def lengths(self) -> list[int]:
        return pair_lengths(self.train_dataset)

    def concatenated_forward(self, model: Any, batch: Any) -> tuple[Any, ...]:
        """Mean log-probabilities of chosen and rejected answers, no logits, and the supervised loss on the chosen."""
        batch = self._prepare_inputs(batch)
        ids, answer = batch["input_ids"], batch["completion_mask"].bool()
        chosen, trained = len(ids) // 2, answer.clone()
        if self.prompt_loss:
            trained[:chosen] = batch["attention_mask"][:chosen].bool()
        labels = ids.masked_fill(~trained, IGNORED)
        more = {"output_router_logits": True} if self.aux_loss_enabled else {}
        found = model(input_ids=ids, attention_mask=batch["attention_mask"], labels=labels, fused_lm_head=True, **more)
        # methods that put virtual tokens before a row give their positions too
        scores = found.log_probs[:, 1 - ids.shape[1] :]
        answer, trained = answer[:, 1:], trained[:, 1:]
        means = (scores * answer).sum(-1) / answer.sum(-1)
        loss = -(scores[:chosen] * trained[:chosen]).sum() / trained[:chosen].sum()
        unknown = torch.full((1,), torch.nan, device=ids.device)
        known = (means[:chosen], means[chosen:], unknown, unknown, loss)
        return (*known, found.aux_loss) if self.aux_loss_enabled else known
