"""TRL's DPO trainer on pairs that are tokenised already, its reference log-probabilities computed once and kept.

The reference of DPO never changes. TRL's default asks it again at every step, a third of the work; here each row is
scored once before training, and a killed run finds the scores again beside its checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from trl import DPOTrainer

from components.core.dataset import token_lengths
from components.training.guarded import Guarded
from components.training.rows import SIDES

CHOSEN, REJECTED = SIDES["preference"]


@dataclass(frozen=True)
class PairCollator:
    """Chosen answers above, rejected ones below, padded on the right: what TRL's preference losses read."""

    pad: int
    multiple: int = 1

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        sides = [(row[f"{side}input_ids"], row[f"{side}spans"]) for side in (CHOSEN, REJECTED) for row in rows]
        longest = max(len(ids) for ids, _ in sides)
        width = longest + -longest % self.multiple
        batch = {
            "input_ids": torch.tensor([[*ids, *[self.pad] * (width - len(ids))] for ids, _ in sides]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in sides]),
            "completion_mask": torch.tensor([_mask(spans, width) for _, spans in sides]),
        }
        if "ref_chosen_logps" in rows[0]:
            names = ("ref_chosen_logps", "ref_rejected_logps")
            batch |= {name: torch.tensor([row[name] for row in rows]) for name in names}
        return batch


def _mask(spans: Sequence[int], width: int) -> list[int]:
    mask = [0] * width
    for first, end in zip(spans[::2], spans[1::2], strict=True):
        mask[first:end] = [1] * (end - first)
    return mask


class SafeDpo(Guarded, DPOTrainer):  # type: ignore[misc]
    """Direct preference optimisation and its variants."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.precompute_ref_logps = True
        self.train_dataset = self._with_reference(self.train_dataset, "train")
        if self.eval_dataset is not None:
            self.eval_dataset = self._with_reference(self.eval_dataset, "eval")

    def lengths(self) -> list[int]:
        return pair_lengths(self.train_dataset)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # TRL would do it before the cheaper head is there, and write beside the rows

    def _with_reference(self, rows: Any, split: str) -> Any:
        """The rows with two columns more: how likely the untrained model finds each answer (nats, summed)."""
        found = self.run.kept(f"reference-{split}.safetensors", lambda: self._score(rows))
        return _with_columns(rows, {f"ref_{name}_logps": found[name].tolist() for name in ("chosen", "rejected")})

    def _score(self, rows: Any) -> dict[str, Any]:
        lengths, size = pair_lengths(rows), self.args.per_device_train_batch_size
        order = sorted(range(len(rows)), key=lengths.__getitem__)
        chosen, rejected = torch.zeros(len(rows)), torch.zeros(len(rows))
        for start in range(0, len(order), size):
            self.run.heed()
            numbers = order[start : start + size]
            batch = self._prepare_inputs(self.data_collator([rows[number] for number in numbers]))
            good, bad = self.compute_ref_log_probs(self.model, batch)
            chosen[numbers], rejected[numbers] = good.float().cpu(), bad.float().cpu()
        return {"chosen": chosen, "rejected": rejected}


def pair_lengths(rows: Any) -> list[int]:
    """Tokens of the longer answer of each pair, prompt included."""
    sides = (token_lengths(rows, f"{side}input_ids") for side in (CHOSEN, REJECTED))
    return [max(lengths) for lengths in zip(*sides, strict=True)]


def _with_columns(rows: Any, columns: Mapping[str, list[float]]) -> Any:
    """Columns of our own beside memory-mapped ones; nothing is written."""
    from datasets import concatenate_datasets

    if rows._indices is not None:  # or concatenating writes a file beside the rows
        rows = rows.flatten_indices(keep_in_memory=True)
    return concatenate_datasets([rows, Dataset.from_dict(dict(columns))], axis=1)
