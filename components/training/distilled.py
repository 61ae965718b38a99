"""Learning from a teacher: its likeliest tokens, computed once and kept, or its judgement of what the student says.

Offline, the teacher reads each row that the run will come to, once. The log-probabilities of its likeliest tokens at
the trained positions go into one file beside the checkpoints, so neither another pass nor a killed run asks it again,
and it is out of memory when training begins. On-policy, teacher and student both read what the student just said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from trl import DistillationTrainer

from components.core.artifacts import Artifact
from components.core.dataset import IGNORED, token_lengths
from components.core.errors import TrainingError
from components.core.events import StageProgress
from components.core.safeload import load_causal_lm, load_tokenizer
from components.training.divergence import Mix, likeliest, taught_sums
from components.training.head import add_lean_head, has_plain_head
from components.training.policy import Generating
from components.training.run import Run
from components.training.state import save_tensors
from components.training.supervised import SafeSft

TEACHER = "teacher.safetensors"


def check_vocabulary(student: Any, teacher: Artifact) -> None:
    """A TrainingError unless both give the same number to the same token; their chat templates may differ."""
    mine, theirs = student.get_vocab(), load_tokenizer(teacher.path).get_vocab()
    if mine == theirs:
        return
    odd = sorted(token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token))
    sizes = f"{len(theirs)} and {len(mine)} tokens; {len(odd)} differ, for example {odd[0]!r}"
    raise TrainingError(
        f"teacher and student have different vocabularies ({sizes}), so their probabilities cannot be compared; "
        "choose a teacher with the student's tokenizer"
    )


# ---------------------------------------------------------------- offline


class SafeDistillation(SafeSft):
    """Supervised fine-tuning whose loss is, to a part, the distance to the teacher's distribution."""

    def __init__(self, *args: Any, teacher: Artifact, top_k: int, mix: Mix, **kwargs: Any) -> None:
        self.mix = mix
        super().__init__(*args, **kwargs)
        if has_plain_head(self.model) and not self.lean:
            self.add_head()  # on a GPU too: TRL's knows no teacher
        file, needed = self.run.scratch / TEACHER, sorted(set(self._layout()))
        with self.run.one_after_another():
            if not _answered(file, needed):
                self._ask(teacher, top_k, file, needed)
        self.train_dataset = TaughtRows(self.train_dataset, file)
        self.data_collator = TaughtCollator(self.data_collator)

    def add_head(self) -> None:
        add_lean_head(self.model, self.run.setting.chunk, self.scored, mix=self.mix)

    def _ask(self, teacher: Artifact, top_k: int, file: Path, needed: Sequence[int]) -> None:
        size = self.model.get_output_embeddings().weight.shape[0]
        asked = Teacher(teacher, self.args.device, self.run.setting.dtype, min(top_k, size), self.mix.temperature, size)

        def told(done: int) -> None:
            self.run.heed()
            self.run.emit(StageProgress(stage="train", name="teacher", done=done, total=len(needed)))

        size = self.args.per_device_train_batch_size
        found = asked.answers(self.train_dataset, needed, self.data_collator, size, told)
        if self.run.main_process():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(found, file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        taught = inputs.get("taught")
        plain = {name: value for name, value in inputs.items() if name != "taught"}
        if taught is None:  # eval rows: the loss on their answers
            return super().compute_loss(model, plain, return_outputs, num_items_in_batch)
        loss, kl, nll = self._parts(model, plain, taught, num_items_in_batch)
        positions = len(taught[0])
        self._metrics["train"]["kl"].append(float(kl) / positions)
        self._metrics["train"]["cross_entropy"].append(float(nll) / positions)
        return loss if num_items_in_batch is None else loss * self.accelerator.num_processes

    def _parts(self, model: Any, inputs: Any, taught: tuple[Any, Any], items: Any) -> tuple[Any, Any, Any]:
        if has_plain_head(self.model):
            found = model(**inputs, fused_lm_head=True, num_items_in_batch=items, taught=taught)
            return found.loss, found.kl, found.cross_entropy
        labels = inputs.pop("labels")[:, 1:]
        labelled = labels != IGNORED
        logits = model(**inputs, use_cache=False).logits[:, :-1][labelled]
        total, kl, nll = taught_sums(logits, labels[labelled], *taught, self.mix)
        return total / (labelled.sum() if items is None else items), kl, nll


class Teacher:
    """A model that says which tokens it finds likely; gone from memory when `answers` returns."""

    def __init__(
        self, artifact: Artifact, device: Any, dtype: str, top_k: int, temperature: float, vocabulary: int
    ) -> None:
        self.network = load_causal_lm(artifact.path).to(device)
        self.plain = has_plain_head(self.network)
        self.device, self.dtype = device, getattr(torch, dtype)
        self.top_k, self.temperature, self.vocabulary = top_k, temperature, vocabulary

    def answers(
        self,
        rows: Any,
        needed: Sequence[int],
        collate: Callable[[Any], Any],
        size: int,
        told: Callable[[int], None],
    ) -> dict[str, torch.Tensor]:
        """For the labelled positions of the needed rows, in their order: `log_probs` and `ids` (positions, k); where
        each row's `starts`, one that is not needed where the next one does."""
        lengths = token_lengths(rows)
        order = sorted(needed, key=lengths.__getitem__)
        by_row: dict[int, tuple[Any, Any]] = {}
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            found = self._batch(collate([rows[number] for number in numbers]))
            by_row |= dict(zip(numbers, found, strict=True))
            told(start + len(numbers))
        counts = torch.tensor([0, *(len(by_row[number][1]) if number in by_row else 0 for number in range(len(rows)))])
        log_probs, ids = (torch.cat(tensors) for tensors in zip(*(by_row[n] for n in sorted(by_row)), strict=True))
        return {"log_probs": log_probs, "ids": ids, "starts": counts.cumsum(0)}

    def _batch(self, batch: Mapping[str, Any]) -> list[tuple[Any, Any]]:
        labelled = batch["labels"][:, 1:] != IGNORED
        inputs = {name: batch[name].to(self.device) for name in ("input_ids", "attention_mask") if name in batch}
        with (
            torch.no_grad(),
            torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            logits = self._logits(inputs, labelled.to(self.device))[:, : self.vocabulary]
        log_probs, ids = likeliest(logits, self.top_k, self.temperature)
        counts = labelled.sum(1).tolist()
        return list(zip(log_probs.cpu().split(counts), ids.cpu().split(counts), strict=True))

    def _logits(self, inputs: Mapping[str, Any], labelled: Any) -> Any:
        if not self.plain:
            return self.network(**inputs, use_cache=False).logits[:, :-1][labelled]
        hidden = self.network.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1]
        return self.network.get_output_embeddings()(hidden[labelled])


def _starts(file: Path) -> list[int]:
    with safe_open(file, "pt") as answers:
        return list(answers.get_tensor("starts").tolist())


def _answered(file: Path, needed: Sequence[int]) -> bool:
    """Whether the teacher has been asked about all of these rows."""
    if not file.is_file():
        return False
    starts = _starts(file)
    return all(starts[number] < starts[number + 1] for number in needed)


class TaughtRows:
    """Rows with what the teacher said about their trained positions, read from its file when they are asked for."""

    def __init__(self, rows: Any, file: Path) -> None:
        self.rows, self.file, self.starts = rows, file, _starts(file)
        assert len(self.starts) == len(rows) + 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        first, end = self.starts[number], self.starts[number + 1]
        with safe_open(self.file, "pt") as answers:
            taught = tuple(answers.get_slice(name)[first:end] for name in ("log_probs", "ids"))
        return {**self.rows[number], "taught": taught}

    @property
    def column_names(self) -> list[str]:
        """Those of the rows; errors find the place of a row by them."""
        return list(self.rows.column_names)

    def with_format(self, kind: str) -> Any:
        """The columns of the rows."""
        return self.rows.with_format(kind)


@dataclass(frozen=True)
class TaughtCollator:
    """What the teacher said, position by position, beside what another collator makes of the rows."""

    collate: Any

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        taught = [row["taught"] for row in rows if "taught" in row]
        plain = [{name: value for name, value in row.items() if name != "taught"} for row in rows]
        batch = dict(self.collate(plain))
        return {**batch, "taught": tuple(map(torch.cat, zip(*taught, strict=True)))} if taught else batch


# ---------------------------------------------------------------- on-policy


class SafeOnPolicyDistillation(Generating, DistillationTrainer):  # type: ignore[misc]
    """The student answers; the teacher says at every token of that what it would have found likely."""

    def add_head(self) -> None:
        """TRL's loss reads hidden states and the output matrix itself."""

    def _compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        # TRL puts this in the place of the model's forward, where accelerate's autocast would be
        with self.accelerator.autocast():
            return super()._compute_loss(*args, **kwargs)


def open_teacher(run: Run, artifact: Artifact) -> Any:
    """The teacher's network, which stays in memory beside the student's."""
    network = load_causal_lm(artifact.path)
    if run.setting.attention:
        network.set_attn_implementation(run.setting.attention)
    return network.requires_grad_(False)
