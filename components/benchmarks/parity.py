"""Did merging, rounding, pruning or exporting change more than it should? The same prompts, replayed on every subject.

    benchmark: [{type: parity, rows: 6}]
    gate: [{type: budget, max: {prompt_mismatches: 0, passes_with_mismatches: 0}, min: {end_of_turn_rate: 0.95}}]

The prompts are a fixed set of texts that no training touches (other scripts, code, numbers, odd spacing) and a few
held-out ones. Each is rendered by the subject's own chat template and turned into tokens by its own tokenizer: bytes
and tokens must be those of the reference, else the model that is served is asked something else than the one that was
trained. On the reference's tokens the largest difference between two logits is reported (a float32 export: rounding; a
quantized one: more, `agreement` says what it means), and of greedy answers to held-out prompts, how many end with the
end of turn: a model that lost it talks on until it is cut off.

Every pass of a variant's chain is asked the same, so that the report says which one changed what. A pass that changes
prompts on the way counts even if a later one changes them back: what is between them was calibrated on others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveInt

from components.benchmarks._answering import answers
from components.compression.closeness import TEXTS
from components.core.chat import Message, Template, encode_prompt, render
from components.core.component import StrictConfig
from components.core.dataset import tokenizer_digest
from components.core.errors import ConfigError, PostmillError
from components.core.kinds import register
from components.interfaces import Backend, Benchmark, EvalRows, Measurement, Metric, StepContext, Subject
from components.runtime import choose_rows, opened


@dataclass(frozen=True)
class Said:
    """What a subject makes of one prompt: its bytes (hashed), its tokens, the logits at each of them."""

    prompt: str
    tokens: list[int]
    logits: Any


@register("benchmark", "parity")
class Parity(Benchmark):
    """Prompts, tokens, logits and ends of turn of every subject, against those of the trained model."""

    metrics = (
        Metric("prompt_mismatches", "prompts", "lower", "other prompts"),
        Metric("token_mismatches", "prompts", "lower", "other tokens"),
        Metric("max_logit_difference", "logits", "lower", "logit diff."),
        Metric("end_of_turn_rate", "share", "higher", "end of turn"),
        Metric("passes_with_mismatches", "passes", "lower", "passes off"),
    )
    together = True
    every_pass = True
    libraries = ("torch", "transformers", "onnxruntime-genai")
    depends_on_machine = True

    class Config(StrictConfig):
        rows: PositiveInt = 6
        max_new_tokens: PositiveInt = 64
        reference: str = "trained"

    config: Config

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        # the reference first: the others are compared with it as they are opened, and closed again
        ordered = sorted(subjects, key=lambda subject: subject.name != self.config.reference)
        if ordered[0].name != self.config.reference:
            names = ", ".join(subject.name for subject in subjects)
            raise ConfigError(f"parity.reference='{self.config.reference}' is none of {names}")
        replays = _Replays(self.config, choose_rows(rows, self.config.rows, context.seed), context)
        found = {subject.name: replays.with_passes(subject) for subject in ordered}
        return [found[subject.name] for subject in subjects]


class _Replays:
    """The probes, what the reference made of them, and what was measured already: variants share passes."""

    def __init__(self, config: Parity.Config, rows: EvalRows, context: StepContext) -> None:
        self.config, self.rows, self.context = config, rows, context
        self.probes: dict[str, list[Message]] = {
            f"probe-{number}": [{"role": "user", "content": text}] for number, text in enumerate(TEXTS)
        }
        self.probes |= {row_id: _question(row) for row_id, row in zip(rows.ids, rows.conversations, strict=True)}
        self.reference: dict[str, Said] = {}
        self.done: dict[str, Measurement] = {}

    def with_passes(self, subject: Subject) -> Measurement:
        """The measurement of a subject; its notes say what each pass of its chain came to."""
        passes = [{"pass": made.name, **self._of(made).metrics} for made in subject.passes]
        wrong = sum(bool(each["prompt_mismatches"] or each["token_mismatches"]) for each in passes)
        own = self._of(subject)
        metrics = {**own.metrics, "passes_with_mismatches": float(wrong)}
        notes = {**own.notes, "passes": passes} if passes else own.notes
        return own.model_copy(update={"subject": subject.name, "metrics": metrics, "notes": notes})

    def _of(self, subject: Subject) -> Measurement:
        key = subject.artifact.digest
        if key not in self.done:
            with opened(subject, bus=self.context.bus, dtype="float32") as backend:
                said = {name: _say(backend, probe, self.reference.get(name)) for name, probe in self.probes.items()}
                self.reference = self.reference or said
                self.done[key] = self._summary(subject.name, backend, said, self._ends(backend, subject.name))
        return self.done[key]

    def _ends(self, backend: Backend, name: str) -> dict[str, int]:
        prompts = [encode_prompt(backend.tokenizer, row) for row in self.rows.conversations]
        said = answers(backend, prompts, self.config.max_new_tokens, len(prompts), name, self.context.bus)
        return {row_id: int(answer.finished) for row_id, answer in zip(self.rows.ids, said, strict=True)}

    def _summary(self, name: str, backend: Backend, said: dict[str, Said], ends: dict[str, int]) -> Measurement:
        found: list[dict[str, Any]] = []
        for probe, mine in said.items():
            theirs = self.reference[probe]
            line = {
                "id": probe,
                "prompt_mismatches": int(mine.prompt != theirs.prompt),
                "token_mismatches": int(mine.tokens != theirs.tokens),
                "max_logit_difference": _difference(name, mine.logits, theirs.logits),
            }
            found.append(line | ({"end_of_turn_rate": ends[probe]} if probe in ends else {}))
        figures = {
            "prompt_mismatches": float(sum(row["prompt_mismatches"] for row in found)),
            "token_mismatches": float(sum(row["token_mismatches"] for row in found)),
            "max_logit_difference": max(row["max_logit_difference"] for row in found),
            "end_of_turn_rate": sum(ends.values()) / len(ends),
        }
        prompts = hashlib.sha256("".join(each.prompt for each in said.values()).encode()).hexdigest()
        digests = {"template": Template(backend.tokenizer).sha256, "tokenizer": tokenizer_digest(backend.tokenizer)}
        notes = {
            **digests,
            "prompts": prompts,
            "reference": self.config.reference,
            "max_new_tokens": self.config.max_new_tokens,
        }
        return Measurement(subject=name, benchmark="parity", metrics=figures, rows=found, notes=notes)


def _question(row: list[Message]) -> list[Message]:
    return row[:-1] if row[-1]["role"] == "assistant" else row


def _say(backend: Backend, probe: list[Message], reference: Said | None) -> Said:
    """Logits on the reference's tokens, so that weights are compared even where the tokenizer differs."""
    tokens = encode_prompt(backend.tokenizer, probe)
    text = render(backend.tokenizer, probe, reply=True)
    logits = backend.logits(reference.tokens if reference else tokens)
    return Said(hashlib.sha256(text.encode()).hexdigest(), tokens, logits)


def _difference(name: str, mine: Any, theirs: Any) -> float:
    import numpy as np

    if mine.shape != theirs.shape:
        raise PostmillError(
            f"parity: {name} gives {mine.shape[-1]} logits and the reference {theirs.shape[-1]}: another vocabulary"
        )
    worst = float(np.abs(mine - theirs).max())
    if not np.isfinite(worst):
        raise PostmillError(f"parity: {name} gives logits that are no numbers; export or quantize it again")
    return worst
