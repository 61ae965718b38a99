"""How many tokens a second does a subject write when it answers several requests at once?

    benchmark: [{type: throughput, batch_sizes: [1, 4, 16], prompt_tokens: [32, 256]}]

Every combination is a metric of its own, `tokens_per_s_b4_p256`: tokens written by a batch of 4 prompts of 256 tokens,
divided by the seconds until the last one is written, reading the prompts included. All answers have the same length
(an end of turn ends none of them), so subjects do the same work. They take turns within a round; a warm-up is not
counted; it shows which threads help, and each of them then stays on a core. Medians are reported, with their
intervals in the notes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator

from components.benchmarks._intervals import of_median
from components.benchmarks._pinned import pinned
from components.compression.closeness import TEXTS
from components.core.chat import whole_backend
from components.core.component import StrictConfig
from components.core.errors import ConfigError
from components.core.events import StageProgress
from components.core.kinds import register
from components.core.machine import machine
from components.interfaces import Backend, Benchmark, EvalRows, Measurement, Metric, StepContext, Subject
from components.runtime import opened

Sizes = Annotated[list[PositiveInt], Field(min_length=1)]
Work = tuple[int, int]
"""Prompts in a batch, and tokens of each."""


@register("benchmark", "throughput")
class Throughput(Benchmark):
    """Tokens per second at several batch sizes and prompt lengths."""

    metrics = ()
    together = True
    shapes = (*Benchmark.shapes, "text", "prompt")
    libraries = ("torch", "transformers", "onnxruntime-genai")
    depends_on_machine = True

    class Config(StrictConfig):
        batch_sizes: Sizes = [1, 4]
        prompt_tokens: Sizes = [32, 128]
        new_tokens: PositiveInt = 16
        rounds: PositiveInt = 3

        @field_validator("batch_sizes", "prompt_tokens")
        @classmethod
        def _each_once(cls, value: list[int]) -> list[int]:
            if len(set(value)) < len(value):
                raise ConfigError("one stands there twice")
            return value

        def work(self) -> list[Work]:
            return list(product(self.batch_sizes, self.prompt_tokens))

    config: Config

    @classmethod
    def reports(cls, config: Any) -> tuple[Metric, ...]:
        return tuple(
            Metric(_name((batch, length)), "tokens/s", "higher", f"tokens/s {batch}x{length}")
            for batch, length in config.work()
        )

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        config, work = self.config, self.config.work()
        with ExitStack() as stack, pinned() as pins:
            backends = {s.name: stack.enter_context(opened(s, bus=context.bus, dtype="float32")) for s in subjects}
            prompts = {name: _prompts(backend, work) for name, backend in backends.items()}
            found: dict[str, dict[Work, list[float]]] = {name: {each: [] for each in work} for name in backends}
            for turn in range(config.rounds + 1):
                for each, (name, backend) in product(work, backends.items()):
                    run = partial(_speed, backend, prompts[name][each], config.new_tokens)
                    if turn == 0:
                        pins.warm(run)
                    else:
                        found[name][each].append(run())
                context.bus.emit(StageProgress(stage="benchmark", name="throughput", done=turn, total=config.rounds))
        return [self._summary(subject.name, found[subject.name], pins.count) for subject in subjects]

    def _summary(self, name: str, found: dict[Work, list[float]], pins: int) -> Measurement:
        figures = {_name(work): statistics.median(speeds) for work, speeds in found.items()}
        intervals = {_name(work): of_median(speeds) for work, speeds in found.items()}
        shape = {"new_tokens": self.config.new_tokens, "cores": machine().cores, "pinned_threads": pins}
        notes = {**shape, "intervals": intervals}
        return Measurement(subject=name, benchmark="throughput", metrics=figures, notes=notes)


def _name(work: Work) -> str:
    return f"tokens_per_s_b{work[0]}_p{work[1]}"


def _prompts(backend: Backend, work: Sequence[Work]) -> dict[Work, list[list[int]]]:
    """Plain text, begun at another place for each prompt of a batch, repeated up to the length."""
    text = whole_backend(backend.tokenizer).encode(" ".join(TEXTS), add_special_tokens=False).ids
    most = backend.tokenizer.model_max_length
    if (longest := max(length for _, length in work)) > most:
        raise ConfigError(f"throughput.prompt_tokens: {longest} is more than the model takes ({most} tokens)")
    return {
        (batch, length): [[text[(row * 7 + place) % len(text)] for place in range(length)] for row in range(batch)]
        for batch, length in work
    }


def _speed(backend: Backend, prompts: list[list[int]], new_tokens: int) -> float:
    started = time.perf_counter()
    answers = backend.generate(prompts, new_tokens, stop=False)
    return sum(answer.tokens for answer in answers) / (time.perf_counter() - started)
