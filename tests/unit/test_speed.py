"""Speed, energy and cost: what is counted, how well it is known, and what is absent where nothing counts it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.benchmarks import _energy, latency, throughput
from components.benchmarks._energy import Counter, counters, read_all, used
from components.benchmarks._intervals import of_mean, of_median
from components.benchmarks.latency import Latency, Request
from components.benchmarks.throughput import Throughput
from components.core.errors import ConfigError
from components.core.events import EventBus
from components.interfaces import EvalRows, StepContext
from components.services.data import load_rows

# ---------------------------------------------------------------- intervals


def test_interval_of_shares() -> None:
    """Of right and wrong rows it is Wilson's interval, which also says something where all are right."""
    low, high = of_mean([1] * 8 + [0] * 2)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))
    assert of_mean([1] * 10)[0] == pytest.approx(0.7225, abs=1e-3)


def test_interval_of_a_mean() -> None:
    """Of other figures it holds the mean in about 95 of 100 samples, and is the same every time."""
    draw = np.random.default_rng(1)
    found = [of_mean(list(draw.random(40))) for _ in range(60)]
    assert sum(low <= 0.5 <= high for low, high in found) >= 53
    assert of_mean([0.1, 0.5, 0.7]) == of_mean([0.1, 0.5, 0.7])


@pytest.mark.parametrize(
    ("count", "skipped", "confidence"), [(1, 0, 0.0), (3, 0, 0.75), (6, 0, 0.9688), (20, 5, 0.9586)]
)
def test_interval_of_a_median(count: int, skipped: int, confidence: float) -> None:
    """It lies between two values in order; a few values say less than 95 %, and the confidence tells how much."""
    found = of_median([float(value) for value in range(count)])
    assert found == {"low": skipped, "high": count - 1 - skipped, "confidence": confidence, "n": count}


# ---------------------------------------------------------------- energy and cost


def zone(root: Path, number: int, name: str, energy: int) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    for file, value in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", 1000_000_000)):
        (folder / file).write_text(f"{value}\n")
    return folder


def test_processor_packages(tmp_path: Path) -> None:
    """Whole packages are counted, in joules; a counter that began again is followed over the wrap."""
    first = zone(tmp_path, 0, "package-0", 999_000_000)
    zone(tmp_path, 1, "psys", 5)
    found = counters(tmp_path)
    assert [counter.name for counter in found if not counter.name.startswith("gpu")] == ["package-0"]
    (package,) = [counter for counter in found if counter.name == "package-0"]
    before = package.read()
    (first / "energy_uj").write_text("2000000")
    assert package.used(before, package.read()) == pytest.approx(3.0)


def test_no_counter_is_no_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without counters, or with some that are not for us to read, has none, and that is no error."""
    monkeypatch.setattr(_energy, "find_spec", lambda name: None)
    (tmp_path / "intel-rapl:0").mkdir()
    assert counters(tmp_path) == []
    assert counters(tmp_path / "gone") == []


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs that count are counted, from millijoules; where the driver is missing there are none."""
    count = iter((1000, 1000, 3500))
    fake = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=lambda device: next(count),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(_energy, "find_spec", lambda name: object())
    found = counters(tmp_path)
    before = read_all(found)
    assert used(found, before, read_all(found)) == pytest.approx(2.5)

    def missing() -> None:
        raise RuntimeError("no driver")

    fake.nvmlInit = missing
    assert counters(tmp_path) == []


def requests(joules: float | None) -> list[Request]:
    return [Request(0.5, [0.1, 0.1, 0.3], joules), Request(0.7, [0.1, 0.1, 0.1], joules)]


def test_energy_of_a_token() -> None:
    """Joules of all requests over their tokens; absent, not 0, where nothing counted them (A45)."""
    assert Latency()._costs(requests(4.0)) == {"joules_per_token": pytest.approx(1.0)}
    assert Latency()._costs(requests(None)) == {}


def test_cost_of_a_thousand_tokens() -> None:
    """The time of whole requests at the price of the machine; reported only where there is a price (C65)."""
    config = Latency.Config(price_per_hour=3.6)
    assert Latency(config)._costs(requests(None)) == {"cost_per_1k_tokens": pytest.approx(1000 * 0.001 * 2.0 / 8)}
    assert "cost_per_1k_tokens" in {metric.name for metric in Latency.reports(config)}
    assert "cost_per_1k_tokens" not in {metric.name for metric in Latency.reports(Latency.Config())}


def test_energy_and_cost_are_measured(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a counter and a price both figures stand beside the others, with percentiles and intervals."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(latency, "counters", lambda: [Counter("package-0", lambda: float(next(ticks)))])
    benchmark = Latency(Latency.Config(rounds=2, new_tokens=3, price_per_hour=1.0))
    (found,) = benchmark.measure([lab.subject("fp32")], load_rows(lab.dataset), StepContext(1, EventBus()))
    assert found.metrics["joules_per_token"] == pytest.approx(1 / 3)
    assert found.metrics["cost_per_1k_tokens"] > 0
    assert found.metrics["ttft_p95_ms"] >= found.metrics["ttft_ms"]
    assert found.metrics["tpot_p95_ms"] >= found.metrics["tpot_ms"]
    interval = found.notes["intervals"]["tpot_ms"]
    assert interval["low"] <= found.metrics["tpot_ms"] <= interval["high"]
    assert (interval["n"], found.notes["requests"]) == (4, 2)


# ---------------------------------------------------------------- throughput


def test_every_combination_is_a_metric() -> None:
    """Batch sizes times prompt lengths, named so that a gate can ask for one; none twice (A45)."""
    config = Throughput.Config(batch_sizes=[1, 8], prompt_tokens=[16, 64])
    names = [metric.name for metric in Throughput.reports(config)]
    assert names == [f"tokens_per_s_b{batch}_p{length}" for batch in (1, 8) for length in (16, 64)]
    with pytest.raises(ValueError, match="one stands there twice"):
        Throughput.Config(batch_sizes=[1, 1])


def test_all_subjects_do_the_same_work(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer has the length that was asked for, in every backend, and subjects take turns; round 0 warms up."""
    seen: list[tuple[str, int, int, int]] = []

    def counting(backend: Any, prompts: list[list[int]], new_tokens: int) -> float:
        answers = backend.generate(prompts, new_tokens, stop=False)
        lengths = {len(prompt) for prompt in prompts}
        assert {answer.tokens for answer in answers} == {new_tokens}
        seen.append((type(backend).__name__, len(prompts), lengths.pop(), len(answers)))
        return float(len(seen))

    monkeypatch.setattr(throughput, "_speed", counting)
    benchmark = Throughput(Throughput.Config(batch_sizes=[3], prompt_tokens=[300], new_tokens=5, rounds=2))
    subjects = [lab.subject(name) for name in ("trained", "fp32")]
    found = benchmark.measure(subjects, EvalRows([]), StepContext(1, EventBus()))
    assert seen == [("TorchBackend", 3, 300, 3), ("OnnxGenaiBackend", 3, 300, 3)] * 3
    assert [measurement.metrics for measurement in found] == [
        {"tokens_per_s_b3_p300": 4.0},
        {"tokens_per_s_b3_p300": 5.0},
    ]


def test_prompts_that_do_not_fit(lab: Any) -> None:
    """A prompt longer than the model takes is refused with both lengths."""
    benchmark = Throughput(Throughput.Config(prompt_tokens=[9000]))
    with pytest.raises(ConfigError, match=r"prompt_tokens: 9000 is more than the model takes \(2048 tokens\)"):
        benchmark.measure([lab.subject("fp32")], EvalRows([]), StepContext(1, EventBus()))
