"""What it costs to run a model: speed, taken in turns with what it is compared with, and memory in a fresh process.

timings({"before": source, "after": out}, tokens=32, rounds=3)
footprint(out, tokens=32)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.compression.closeness import TEXTS
from components.core.artifacts import Artifact
from components.core.errors import PostmillError
from components.core.machine import peak_rss, resident
from components.interfaces import Backend, Subject
from components.runtime import opened


@dataclass(frozen=True)
class Timing:
    """Seconds of a request: to its first token, for each token after it, in all.

    `warmup`: what the very first request took on top of a usual one, compilation included.
    """

    first: float
    token: float
    total: float
    warmup: float = 0.0

    def facts(self, suffix: str = "") -> dict[str, float]:
        found = {"ttft_ms": self.first * 1000, "tokens_per_s": 1 / self.token, "warmup_s": self.warmup}
        return {f"{name}{suffix}": round(value, 4) for name, value in found.items()}


def written(source: Artifact, directory: Path) -> Artifact:
    """A directory that a pass is writing as something to open."""
    return source.model_copy(update={"path": directory})


def timings(models: Mapping[str, Artifact], tokens: int, rounds: int) -> dict[str, Timing]:
    """Medians over requests of so many tokens; the models take turns, so a slow moment slows all of them."""
    with ExitStack() as stack:
        backends = {
            name: stack.enter_context(opened(Subject(name=name, artifact=model), dtype="float32"))
            for name, model in models.items()
        }
        cold = {name: request(backend, tokens) for name, backend in backends.items()}
        found: dict[str, list[Timing]] = {name: [] for name in backends}
        for _ in range(rounds):
            for name, backend in backends.items():
                found[name].append(request(backend, tokens))
    return {name: _median(cold[name], found[name]) for name in found}


def request(backend: Backend, tokens: int) -> Timing:
    """One request, timed."""
    prompt = backend.tokenizer(" ".join(TEXTS)).input_ids
    stamps = [time.perf_counter()]
    for _ in backend.stream(prompt, tokens, stop=False):
        stamps.append(time.perf_counter())
    gaps = [later - earlier for earlier, later in zip(stamps[1:], stamps[2:], strict=False)]
    return Timing(stamps[1] - stamps[0], statistics.median(gaps), stamps[-1] - stamps[0])


def _median(cold: Timing, warm: list[Timing]) -> Timing:
    first, token, total = (
        statistics.median(getattr(each, name) for each in warm) for name in ("first", "token", "total")
    )
    return Timing(first, token, total, max(cold.total - total, 0.0))


def footprint(model: Artifact, tokens: int) -> dict[str, int]:
    """Peak of the resident memory of a process that opens the model and answers once, bytes; `libraries` is what it
    held before, `model` what came on top."""
    job = json.dumps({"model": model.model_dump(mode="json"), "tokens": tokens})
    done = subprocess.run([sys.executable, "-m", __name__], input=job, capture_output=True, text=True)
    if done.returncode:
        raise PostmillError(f"measuring the memory of '{model.path}' failed: {done.stderr.strip()[-500:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure(job: Mapping[str, Any]) -> dict[str, int]:
    import torch  # noqa: F401  what every process of ours holds is no property of the model
    import transformers.models.auto.modeling_auto  # noqa: F401

    before = resident()
    model = Artifact.model_validate(job["model"])
    with opened(Subject(name="model", artifact=model), dtype="float32") as backend:
        request(backend, job["tokens"])
        peak = peak_rss()
    return {"libraries": before, "peak": peak, "model": peak - before}


if __name__ == "__main__":
    print(json.dumps(_measure(json.load(sys.stdin))))
