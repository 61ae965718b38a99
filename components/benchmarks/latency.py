"""Speed, memory and size of every subject, measured so that they can be compared.

One request at a time, as a user waits for it: time to first token (TTFT), time per output token (TPOT), tokens per
second. Subjects take turns within a round, so a machine that slows down slows all of them; a warm-up is not counted;
medians are reported. Load time and peak memory come from a process of its own for each subject.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from pydantic import PositiveInt

from components.core.chat import encode_prompt
from components.core.component import StrictConfig
from components.core.errors import PostmillError
from components.core.events import StageProgress
from components.core.kinds import register
from components.core.machine import machine, peak_rss
from components.interfaces import Backend, Benchmark, EvalRows, Measurement, Metric, StepContext, Subject
from components.runtime import choose_rows, opened


@register("benchmark", "latency")
class Latency(Benchmark):
    """Time to first token, time per token, tokens per second, load time, peak memory, bytes."""

    metrics = (
        Metric("ttft_ms", "ms", "lower", "TTFT"),
        Metric("tpot_ms", "ms", "lower", "TPOT"),
        Metric("tokens_per_s", "tokens/s", "higher", "tokens/s"),
        Metric("load_s", "s", "lower", "load"),
        Metric("peak_rss", "bytes", "lower", "peak RSS"),
        Metric("bytes", "bytes", "lower", "size"),
    )
    together = True
    libraries = ("torch", "transformers", "onnxruntime-genai")
    depends_on_machine = True

    class Config(StrictConfig):
        rounds: PositiveInt = 3
        new_tokens: PositiveInt = 32

    config: Config

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        conversation = choose_rows(rows, 1, context.seed).conversations[0]
        with ExitStack() as stack:
            backends = {s.name: stack.enter_context(opened(s, bus=context.bus, dtype="float32")) for s in subjects}
            prompts = {name: encode_prompt(backend.tokenizer, conversation) for name, backend in backends.items()}
            timings: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in backends}
            for turn in range(self.config.rounds + 1):
                for name, backend in backends.items():
                    timing = _time_one(backend, prompts[name], self.config.new_tokens)
                    if turn > 0:  # round 0 warms up
                        timings[name].append(timing)
                context.bus.emit(StageProgress(stage="benchmark", name="latency", done=turn, total=self.config.rounds))
        return [self._summary(s, timings[s.name], prompts[s.name]) for s in subjects]

    def _summary(self, subject: Subject, timings: list[tuple[float, list[float]]], prompt: list[int]) -> Measurement:
        first = statistics.median(timing[0] for timing in timings)
        per_token = statistics.median(gap for timing in timings for gap in timing[1])
        figures = {
            "ttft_ms": first * 1000,
            "tpot_ms": per_token * 1000,
            "tokens_per_s": 1 / per_token,
            "bytes": float(_bytes(subject)),
            **_footprint(subject, prompt),
        }
        notes = {"prompt_tokens": len(prompt), "new_tokens": self.config.new_tokens, "cores": machine().cores}
        return Measurement(subject=subject.name, benchmark="latency", metrics=figures, notes=notes)


def _time_one(backend: Backend, prompt: list[int], new_tokens: int) -> tuple[float, list[float]]:
    """Seconds to the first token, and between each two tokens after it."""
    stamps = [time.perf_counter()]
    for _ in backend.stream(prompt, new_tokens, stop=False):
        stamps.append(time.perf_counter())
    gaps = [later - earlier for earlier, later in zip(stamps[1:], stamps[2:], strict=False)]
    return stamps[1] - stamps[0], gaps


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
