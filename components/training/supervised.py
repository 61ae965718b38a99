"""TRL's SFT trainer on rows that are tokenised already (`input_ids`, `labels`), bucketed by length or packed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from accelerate.utils import gather_object
from trl import SFTTrainer

from components.core.dataset import IGNORED
from components.training.frozen import HALF
from components.training.guarded import Guarded
from components.training.head import has_plain_head
from components.training.packing import COUNTS, PIECES, PackCollator, PackedRows, check_packing, wants_flat
from components.training.rows import padding


class SafeSft(Guarded, SFTTrainer):  # type: ignore[misc]
    """Next-token loss on the labelled tokens."""

    scored = False

    def __init__(self, *args: Any, packing: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.evaluated = [0.0, 0]
        if packing:
            self._pack()

    def _pack(self) -> None:
        """Packs take the place of rows; a model that cannot keep the rows of a pack apart stops the run here."""
        flat = wants_flat(self.model)
        half = flat or any(weight.dtype in HALF for weight in self.model.parameters())
        # neither FlashAttention nor frozen weights that are held in half precision take float32
        with self.accelerator.autocast() if half else nullcontext():
            check_packing(self.model, self.train_dataset[: sum(PIECES)]["input_ids"])
        self.train_dataset = PackedRows(self.train_dataset, self.args.max_length, self.args.seed)
        if self.eval_dataset is not None:
            self.eval_dataset = PackedRows(self.eval_dataset, self.args.max_length, self.args.seed)
        self.data_collator = PackCollator(padding(self.processing_class), flat)
        self.run.rows_in_a_pass = len(self.train_dataset)
        self.args.max_steps = self.run.steps()  # epochs are passes over the packs
        self.run.packs = self.train_dataset.figures()

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """transformers takes the mean over rows of the mean of their batch; here each trained token counts alike."""
        self.evaluated = [0.0, 0]
        output = super().evaluation_loop(*args, **kwargs)
        parts = gather_object([self.evaluated])
        total, count = (sum(part[at] for part in parts) for at in (0, 1))
        if count:
            output.metrics[f"{kwargs.get('metric_key_prefix', 'eval')}_loss"] = total / count
        return output

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss, *rest = super().prediction_step(model, inputs, *args, **kwargs)
        count = int((inputs["labels"][:, 1:] != IGNORED).sum())
        self.evaluated[0] += float(loss) * count
        self.evaluated[1] += count
        return loss, *rest

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = {name: value for name, value in inputs.items() if name not in COUNTS}
        if return_outputs or not has_plain_head(self.model):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = model(**inputs, fused_lm_head=True, num_items_in_batch=num_items_in_batch).loss
        # `num_items_in_batch` counts the tokens of all processes, and DDP takes the mean of their gradients
        return loss if num_items_in_batch is None else loss * self.accelerator.num_processes
