"""TRL's SFT trainer on rows that are tokenised already (`input_ids`, `labels`), bucketed by length or packed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from trl import SFTTrainer

from components.training.guarded import Guarded
from components.training.head import has_plain_head
from components.training.packing import PIECES, PackCollator, PackedRows, check_packing, wants_flat
from components.training.rows import padding


class SafeSft(Guarded, SFTTrainer):  # type: ignore[misc]
    """Next-token loss on the labelled tokens."""

    scored = False

    def __init__(self, *args: Any, packing: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if packing:
            self._pack()

    def _pack(self) -> None:
        """Packs take the place of rows; a model that cannot keep the rows of a pack apart stops the run here."""
        flat = wants_flat(self.model)
        with self.accelerator.autocast() if flat else nullcontext():  # FlashAttention knows no fp32
            check_packing(self.model, self.train_dataset[: sum(PIECES)]["input_ids"])
        self.train_dataset = PackedRows(self.train_dataset, self.args.max_length, self.args.seed)
        if self.eval_dataset is not None:
            self.eval_dataset = PackedRows(self.eval_dataset, self.args.max_length, self.args.seed)
        self.data_collator = PackCollator(padding(self.processing_class), flat)
        self.run.rows_in_a_pass = len(self.train_dataset)
        self.args.max_steps = self.run.steps()  # epochs are passes over the packs
        self.run.packs = self.train_dataset.figures()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if return_outputs or not has_plain_head(self.model):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = model(**inputs, fused_lm_head=True, num_items_in_batch=num_items_in_batch).loss
        # `num_items_in_batch` counts the tokens of all processes, and DDP takes the mean of their gradients
        return loss if num_items_in_batch is None else loss * self.accelerator.num_processes
