"""Training on answers that the model gives while it trains: prompts, their order, and what a kill must not lose.

    class SafeGrpo(Generating, GRPOTrainer): ...

TRL draws its prompts epoch by epoch and forgets, when it is killed, where in an epoch it was and the answers it still
meant to learn from. Here the whole run is laid out in advance, and answers that are not used up are in the checkpoint:
a resumed run gives the same weights, bit by bit, wherever it was interrupted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from accelerate.utils import gather_object

from components.core.artifacts import Artifact
from components.core.chat import Message
from components.core.dataset import index, token_lengths, tokens
from components.core.errors import TrainingError
from components.training.guarded import Guarded
from components.training.order import shuffled_passes
from components.training.rows import fitting
from components.training.state import load_tensors, save_tensors

ANSWERS = "answers-{}.safetensors"


class Generating(Guarded):
    """Stands before TRL trainers that generate: GRPO, on-policy distillation."""

    ordered = False
    num_generations = 1
    num_iterations = 1
    """How often each answer is learnt from."""
    _step: int
    _buffered_inputs: Any

    def _get_train_sampler(self, train_dataset: Any = None) -> list[int]:
        """A round of prompts, each as often as it is answered; and all of that for every pass that learns from it."""
        size = self.run.config.batch_size * self.run.config.accumulate
        rounds = math.ceil(self.args.max_steps / self.num_iterations)
        order = shuffled_passes(len(self.train_dataset), self.args.seed, rounds * size)
        return [
            row
            for start in range(0, rounds * size, size)
            for _ in range(self._passes)
            for row in order[start : start + size]
            for _ in range(self.num_generations)
        ]

    @property
    def _passes(self) -> int:
        """Forward passes that one round of answers lasts."""
        return int(self.args.gradient_accumulation_steps * self.num_iterations)

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}  # they are tokens already, of the template that the data stage checked

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        # accelerate's autocast is in the forward of the adapter's network, and generation calls the one inside
        with self.accelerator.autocast():
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]

    def _prepare_inputs(self, inputs: Any) -> Any:
        batch = super()._prepare_inputs(inputs)  # type: ignore[misc]
        if self.model.training and "completion_mask" in batch:
            meter, trained = self.run.meter, int(batch["completion_mask"].sum())
            meter.rows += len(batch["completion_mask"])
            meter.trained += trained
            meter.tokens += trained + int(batch["prompt_mask"].sum())
        return batch

    # ------------------------------------------------------------ checkpoints

    def _write(self, place: Path | None) -> Mapping[str, Any]:
        unused = gather_object([self._unused_answers()])
        notes = super()._write(place)
        if place is not None:
            for rank, answers in enumerate(unused):
                if answers:
                    save_tensors(answers, place / ANSWERS.format(rank))
        return notes

    def _unused_answers(self) -> dict[str, torch.Tensor]:
        if self._buffered_inputs is None or self._step % self._passes == 0:
            return {}
        parts = enumerate(self._buffered_inputs)
        return {f"{at}.{name}": value for at, part in parts for name, value in part.items() if torch.is_tensor(value)}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        place, passes = Path(resume_from_checkpoint), int(self.args.gradient_accumulation_steps)
        state = json.loads((place / "trainer_state.json").read_text(encoding="utf-8"))
        self._step = state["global_step"] * passes
        file = place / ANSWERS.format(self.args.process_index)
        if not file.is_file():
            return
        parts: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in load_tensors(file).items():
            at, _, name = key.partition(".")
            parts.setdefault(int(at), {})[name] = value.to(self.args.device)
        if len(parts) == passes:  # else memory ran out, and steps are cut up in another way than before
            self._buffered_inputs = [parts[at] for at in range(passes)]


# ---------------------------------------------------------------- prompts


def prompts_problem(dataset: Artifact, config: Any) -> str | None:
    """Why prompts and answers do not fit into `max_length`; None if they do."""
    if dataset.meta.get("tokenizer") is None:
        return None
    lengths = prompt_lengths(index(dataset, "train"))
    too_long = sum(length > _room(config) for length in lengths)
    if too_long < len(lengths) and too_long <= config.max_too_long_fraction * len(lengths):
        return None
    return (
        f"{too_long} of {len(lengths)} prompts leave no room for max_completion_length={config.max_completion_length} "
        f"tokens below max_length={config.max_length}; raise max_length, or allow leaving them out with "
        "max_too_long_fraction"
    )


def _room(config: Any) -> int:
    return int(config.max_length - config.max_completion_length)


def prompt_lengths(rows: Any) -> list[int]:
    """Tokens of each prompt: a row up to the last thing that the assistant says in it."""
    lengths, spans = token_lengths(rows), rows.with_format("arrow")["spans"].to_pylist()
    return [found[-2] if found else length for found, length in zip(spans, lengths, strict=True)]


def prompt_rows(dataset: Artifact, split: str, tokenizer: Any, config: Any) -> Any:
    """Rows with `prompt` (token ids) and `row` (as the data stage keeps it). Prompts that are too long are left out."""
    from datasets import Dataset, concatenate_datasets

    tokens(dataset, split, tokenizer)  # refuses tokens of another tokenizer
    rows = index(dataset, split)
    numbers = Dataset.from_dict({"number": list(range(len(rows)))})
    rows = fitting(concatenate_datasets([rows, numbers], axis=1), prompt_lengths(rows), _room(config))
    if not len(rows):
        raise TrainingError(f"no {split} prompt leaves room for max_completion_length={config.max_completion_length}")
    return rows.with_transform(_Prompts(dataset.path / f"{split}.rows.jsonl"))


class _Prompts:
    """Reads rows from their file when they are asked for."""

    def __init__(self, file: Path) -> None:
        self.file, starts = file, [0]
        with file.open("rb") as lines:
            starts += [len(line) for line in lines]
        self.places = np.cumsum(starts)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        ids, spans = batch["input_ids"], batch["spans"]
        prompts = [list(row[: found[-2]] if found else row) for row, found in zip(ids, spans, strict=True)]
        with self.file.open("rb") as lines:
            return {"prompt": prompts, "row": [self._row(lines, number) for number in batch["number"]]}

    def _row(self, lines: Any, number: int) -> Any:
        lines.seek(self.places[number])
        return orjson.loads(lines.readline())


def messages_before(row: Mapping[str, Any]) -> list[Message]:
    """What is said before the answer that is wanted."""
    if "prompt" in row:
        return list(row["prompt"])
    said = row["messages"]
    last = max((at for at, message in enumerate(said) if message["role"] == "assistant"), default=len(said))
    return list(said[:last])
