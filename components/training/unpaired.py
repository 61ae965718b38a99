"""TRL's KTO trainer on answers that were judged one by one, tokenised already, its reference scored once and kept.

KTO measures how far the model has drifted on mismatched pairs: each prompt with the answer before it in the batch. So
batches are laid out once, and only their order changes from pass to pass: the reference's view of every pair, matched
and mismatched, is computed before training and found again after a kill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl import KTOTrainer

from components.core.artifacts import Artifact
from components.core.dataset import index, token_lengths
from components.core.dataset import rows as plain_rows
from components.training.config import Speed, TrainingConfig
from components.training.guarded import Guarded
from components.training.order import bucketed_order, shuffled_passes
from components.training.rows import SIDES, fitting, preference_rows, supervised_rows

REFERENCE = ("ref_logps", "ref_KL_logps")


@dataclass(frozen=True)
class Answers:
    """Judged answers with their tokens. Answer number n is side n // len(rows) of row n % len(rows)."""

    rows: Any
    sides: tuple[str, ...]
    labels: list[bool]

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self) -> list[int]:
        """Tokens of every answer, prompt included."""
        return [length for side in self.sides for length in token_lengths(self.rows, f"{side}input_ids")]

    def tokens(self, number: int) -> tuple[list[int], list[int]]:
        """Token ids, and 1 for each that belongs to the answer."""
        side, row = divmod(number, len(self.rows))
        found = self.rows[row]
        ids, spans = found[f"{self.sides[side]}input_ids"], found[f"{self.sides[side]}spans"]
        mask = [0] * len(ids)
        for first, end in zip(spans[::2], spans[1::2], strict=True):
            mask[first:end] = [1] * (end - first)
        return ids, mask


def judged_answers(dataset: Artifact, split: str, tokenizer: Any, config: TrainingConfig) -> Answers:
    """The answers of a split; of preferences, the chosen ones as wanted and the rejected ones as not.

    Longer rows than allowed are left out, and of eval rows those beyond `evaluate.rows`.
    """
    if dataset.meta["shape"] == "preference":
        pairs = preference_rows(dataset, split, tokenizer, config)
        return Answers(pairs, SIDES["preference"], [True] * len(pairs) + [False] * len(pairs))
    supervised_rows(dataset, split, tokenizer, config)  # refuses another tokenizer, and rows with nothing to learn
    rows = index(dataset, split)
    lengths = token_lengths(rows)
    judged = zip(plain_rows(dataset, split), lengths, strict=True)
    labels = [bool(row["label"]) for row, length in judged if length <= config.max_length]
    rows = fitting(rows, lengths, config.max_length)
    if split == "eval" and config.evaluate:
        labels = labels[: config.evaluate.rows]
        rows = rows.select(range(len(labels)))
    return Answers(rows, ("",), labels)


def batch_order(answers: Answers, config: TrainingConfig, seed: int) -> list[int]:
    """Answer numbers in batches of similar length. The last batch is filled up with answers of other batches."""
    size, lengths = config.batch_size, answers.lengths()
    bucketing = config.speed.bucketing if isinstance(config.speed, Speed) else True
    order = bucketed_order(lengths if bucketing else [0] * len(lengths), size, seed, 1)
    left = sorted(set(range(len(lengths))) - set(order))
    missing = -(len(order) + len(left)) % size
    return [*order, *left, *(order[place % len(order)] for place in range(missing))]


class JudgedRows(torch.utils.data.Dataset):  # type: ignore[misc]
    """Answers in an order of batches; each comes with the mismatched answer, that of the place before in its batch."""

    def __init__(self, answers: Answers, order: Sequence[int], size: int, most: int, drift: bool = True) -> None:
        self.answers, self.order, self.size, self.most, self.drift = answers, list(order), size, most, drift
        self.rows = answers.rows
        self.packs = [[number % len(self.rows)] for number in self.order]
        """Which row of `rows` stands behind each place; errors name it."""
        self.reference: Mapping[str, Any] = {}

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> dict[str, Any]:
        ids, mask = self.answers.tokens(self.order[place])
        found = {"input_ids": ids, "completion_mask": mask, "label": self.answers.labels[self.order[place]]}
        if self.drift:
            start, other = mask.index(1), self._before(place)
            others, other_mask = self.answers.tokens(self.order[other])
            begin = other_mask.index(1)
            found["KL_input_ids"] = [*ids[:start], *others[begin:]][: self.most]
            found["KL_completion_mask"] = [*mask[:start], *other_mask[begin:]][: self.most]
        return found | {name: float(values[place]) for name, values in self.reference.items()}

    def _before(self, place: int) -> int:
        first = place - place % self.size
        members = min(self.size, len(self.order) - first)
        return first + (place - first - 1) % members


@dataclass(frozen=True)
class JudgedCollator:
    """Padded on the right, under the names that TRL's KTO loss reads."""

    pad: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {"label": torch.tensor([row["label"] for row in rows])}
        for prefix in ("", "KL_"):
            if f"{prefix}input_ids" in rows[0]:
                ids = [row[f"{prefix}input_ids"] for row in rows]
                batch[f"{prefix}input_ids"] = padded(ids, self.pad)
                batch[f"{prefix}attention_mask"] = padded([[1] * len(row) for row in ids], 0)
                batch[f"{prefix}completion_mask"] = padded([row[f"{prefix}completion_mask"] for row in rows], 0)
        return batch | {name: torch.tensor([row[name] for row in rows]) for name in REFERENCE if name in rows[0]}


def padded(lists: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """One row a list, filled up on the right."""
    width = max(map(len, lists))
    return torch.tensor([[*numbers, *[value] * (width - len(numbers))] for numbers in lists])


class SafeKto(Guarded, KTOTrainer):  # type: ignore[misc]
    """Kahneman-Tversky optimisation."""

    train_dataset: JudgedRows

    def __init__(self, *args: Any, train_dataset: JudgedRows, eval_dataset: JudgedRows | None, **kwargs: Any) -> None:
        held_out = None if eval_dataset is None else eval_dataset.rows
        # TRL wants to see a data set of its own kind
        super().__init__(*args, train_dataset=train_dataset.rows, eval_dataset=held_out, **kwargs)
        self.precompute_ref_logps = True
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        for rows, split in ((train_dataset, "train"), (eval_dataset, "eval")):
            if rows is not None:
                rows.reference = {}
                file = f"reference-{split}.safetensors"
                rows.reference = self.run.kept(file, lambda rows=rows: self._score(rows))  # type: ignore[misc]

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # TRL would do it before the cheaper head is there, and write beside the rows

    def _layout(self) -> list[int]:
        """Whole batches in another order each pass; what is in a batch stays, and so does what it is compared with."""
        config = self.run.config
        size, count = config.batch_size, self.args.max_steps * config.accumulate
        batches = shuffled_passes(len(self.train_dataset) // size, self.args.seed, count)[:count]
        return [batch * size + place for batch in batches for place in range(size)]

    def _score(self, rows: JudgedRows) -> dict[str, Any]:
        """How likely the untrained model finds each answer, and each mismatched one (nats, summed)."""
        size, found = self.args.per_device_train_batch_size, []
        for start in range(0, len(rows), size):
            self.run.heed()
            batch = [rows[place] for place in range(start, min(start + size, len(rows)))]
            found.append(self.compute_ref_log_probs(self.model, self._prepare_inputs(self.data_collator(batch))))
        columns = zip(REFERENCE, zip(*found, strict=True), strict=True)
        return {
            name: torch.cat([part.float().cpu() for part in parts]) for name, parts in columns if parts[0] is not None
        }
