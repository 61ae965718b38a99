"""Speed, memory and size of every subject, measured so that they can be compared.

    benchmark: [{type: latency, rounds: 5, price_per_hour: 0.40}]

One request at a time, as a user waits for it: time to first token (TTFT), time per output token (TPOT), tokens per
second. Subjects take turns within a round, so a machine that slows down slows all of them. A warm-up is not counted; it
shows which threads help, and each of them then stays on a core. Medians and 95th percentiles are reported, and in
the notes how well the medians are known. Load time and peak memory come from a process of its own for each subject.
Energy is what the machine's counters say, where it has any; the cost of a thousand tokens is the time they take at the
price of the machine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt

from components.benchmarks._energy import Counter, counters, read_all, used
from components.benchmarks._intervals import of_median
from components.benchmarks._pinned import pinned
from components.core.chat import encode_prompt
from components.core.component import StrictConfig
from components.core.errors import PostmillError
from components.core.events import StageProgress
from components.core.kinds import register
from components.core.machine import machine, peak_rss
from components.interfaces import Backend, Benchmark, EvalRows, Measurement, Metric, StepContext, Subject
from components.runtime import choose_rows, opened

COST = Metric("cost_per_1k_tokens", "price", "lower", "cost/1k")


@dataclass(frozen=True)
class Request:
    """Seconds to the first token and between each two after it, and the joules of the request if they are counted."""

    first: float
    gaps: list[float]
    joules: float | None

    @property
    def tokens(self) -> int:
        return 1 + len(self.gaps)

    @property
    def seconds(self) -> float:
        return self.first + sum(self.gaps)


@register("benchmark", "latency")
class Latency(Benchmark):
    """Time to first token, time per token, tokens per second, load time, peak memory, bytes, energy, cost."""

    metrics = (
        Metric("ttft_ms", "ms", "lower", "TTFT"),
        Metric("ttft_p95_ms", "ms", "lower", "TTFT p95"),
        Metric("tpot_ms", "ms", "lower", "TPOT"),
        Metric("tpot_p95_ms", "ms", "lower", "TPOT p95"),
        Metric("tokens_per_s", "tokens/s", "higher", "tokens/s"),
        Metric("load_s", "s", "lower", "load"),
        Metric("peak_rss", "bytes", "lower", "peak RSS"),
        Metric("bytes", "bytes", "lower", "size"),
        Metric("joules_per_token", "joules", "lower", "J/token", always=False),
    )
    together = True
    libraries = ("torch", "transformers", "onnxruntime-genai")
    depends_on_machine = True

    class Config(StrictConfig):
        rounds: PositiveInt = 3
        new_tokens: int = Field(32, ge=2)
        price_per_hour: PositiveFloat | None = Field(
            None, description="of this machine, in any currency; with it the cost of a thousand tokens is reported"
        )

    config: Config

    @classmethod
    def reports(cls, config: Any) -> tuple[Metric, ...]:
        return (*cls.metrics, COST) if config.price_per_hour else cls.metrics

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        conversation = choose_rows(rows, 1, context.seed).conversations[0]
        with ExitStack() as stack, pinned() as pins:
            backends = {s.name: stack.enter_context(opened(s, bus=context.bus, dtype="float32")) for s in subjects}
            prompts = {name: encode_prompt(backend.tokenizer, conversation) for name, backend in backends.items()}
            timings: dict[str, list[Request]] = {name: [] for name in backends}
            meters = counters()

            def one(name: str) -> Request:
                return _time_one(backends[name], prompts[name], self.config.new_tokens, meters)

            for turn in range(self.config.rounds + 1):
                for name in backends:
                    if turn == 0:
                        pins.warm(partial(one, name))
                    else:
                        timings[name].append(one(name))
                context.bus.emit(StageProgress(stage="benchmark", name="latency", done=turn, total=self.config.rounds))
        return [self._summary(s, timings[s.name], prompts[s.name], pins.count) for s in subjects]

    def _summary(self, subject: Subject, timings: list[Request], prompt: list[int], pins: int) -> Measurement:
        first = [request.first * 1000 for request in timings]
        gaps = [gap * 1000 for request in timings for gap in request.gaps]
        figures = {
            "ttft_ms": statistics.median(first),
            "ttft_p95_ms": _p95(first),
            "tpot_ms": statistics.median(gaps),
            "tpot_p95_ms": _p95(gaps),
            "tokens_per_s": 1000 / statistics.median(gaps),
            "bytes": float(_bytes(subject)),
            **_footprint(subject, prompt),
            **self._costs(timings),
        }
        intervals = {"ttft_ms": of_median(first), "tpot_ms": of_median(gaps)}
        shape = {"prompt_tokens": len(prompt), "new_tokens": self.config.new_tokens, "cores": machine().cores}
        notes = {**shape, "requests": len(timings), "pinned_threads": pins, "intervals": intervals}
        return Measurement(subject=subject.name, benchmark="latency", metrics=figures, notes=notes)

    def _costs(self, timings: list[Request]) -> dict[str, float]:
        """Energy where it was counted, price where there is one; of whole requests, prompt included."""
        tokens, price = sum(request.tokens for request in timings), self.config.price_per_hour
        joules = [request.joules for request in timings if request.joules is not None]
        found = {"joules_per_token": sum(joules) / tokens} if len(joules) == len(timings) else {}
        if price:
            found[COST.name] = 1000 * price / 3600 * sum(request.seconds for request in timings) / tokens
        return found


def _p95(values: Sequence[float]) -> float:
    """With linear interpolation; of a few values it is near the largest, and the notes say how many there were."""
    import numpy as np

    return float(np.percentile(values, 95))


def _time_one(backend: Backend, prompt: list[int], new_tokens: int, meters: Sequence[Counter] = ()) -> Request:
    before, stamps = read_all(meters), [time.perf_counter()]
    for _ in backend.stream(prompt, new_tokens, stop=False):
        stamps.append(time.perf_counter())
    joules = used(meters, before, read_all(meters)) if meters else None
    gaps = [later - earlier for earlier, later in zip(stamps[1:], stamps[2:], strict=False)]
    return Request(stamps[1] - stamps[0], gaps, joules)


def _bytes(subject: Subject) -> int:
    """What has to be on disk to run the subject: an adapter needs its base too."""
    return subject.artifact.size + sum(parent.size for parent in subject.parents.values() if parent.kind == "model")


def _footprint(subject: Subject, prompt: list[int]) -> dict[str, float]:
    """Load time and peak memory, from a fresh process that loads the subject and answers once."""
    job = json.dumps({"subject": subject.model_dump(mode="json"), "prompt": prompt})
    done = subprocess.run([sys.executable, "-m", __name__], input=job, capture_output=True, text=True)
    if done.returncode:
        raise PostmillError(f"measuring memory of {subject.name} failed: {done.stderr.strip()[-500:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _probe(job: dict[str, Any]) -> dict[str, float]:
    subject = Subject.model_validate(job["subject"])
    started = time.perf_counter()
    with opened(subject, dtype="float32") as backend:
        for _ in backend.stream(job["prompt"], 8, stop=False):
            pass
        return {"load_s": time.perf_counter() - started, "peak_rss": float(peak_rss())}


if __name__ == "__main__":
    print(json.dumps(_probe(json.load(sys.stdin))))
