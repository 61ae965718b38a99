"""Threads that help to compute are bound to a core each while they are timed (C39)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.benchmarks import _pinned
from components.benchmarks._pinned import pinned
from components.core.kinds import registry
from components.interfaces import StepContext
from components.services.data import load_rows

CORES = os.sched_getaffinity(0)
WORK = [{"type": "latency"}, {"type": "throughput", "batch_sizes": [1], "prompt_tokens": [8]}]
pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="there is nothing to bind to on one core")


def busy() -> int:
    return sum(range(3_000_000))


@pytest.fixture
def worker() -> Iterator[ThreadPoolExecutor]:
    """A pool of one thread, which lives on between tasks as those of backends do."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy).result()
        yield pool


def test_the_thread_that_helps_is_bound(worker: ThreadPoolExecutor) -> None:
    """Who worked in the warm-up gets a core, the result is handed on, and the binding ends with the block."""
    helper = worker.submit(threading.get_native_id).result()
    with pinned() as pins:
        assert pins.warm(lambda: worker.submit(busy).result()) == busy()
        assert helper in pins.bound
        (core,) = os.sched_getaffinity(helper)
        assert core in CORES - {min(CORES)}
    assert os.sched_getaffinity(helper) == CORES


def test_new_threads_may_run_everywhere(worker: ThreadPoolExecutor) -> None:
    """The thread that asks is not bound, so threads that a library starts for each answer have all cores."""
    with pinned() as pins:
        pins.warm(lambda: (busy(), worker.submit(busy).result()))
        assert pins.count == 1
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(os.sched_getaffinity, 0).result() == CORES


def test_threads_that_end_do_not_matter() -> None:
    """A pool that is gone when its threads would be released is no failure."""
    with pinned() as pins:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(busy).result()
            pins.warm(lambda: pool.submit(busy).result())
        assert pins.count == 1


def test_a_kernel_that_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, worker: ThreadPoolExecutor
) -> None:
    """Where nobody says which threads worked, none is bound, and the count says so."""
    monkeypatch.setattr(_pinned, "TASKS", tmp_path)
    with pinned() as pins:
        pins.warm(lambda: worker.submit(busy).result())
        assert pins.count == 0


@pytest.mark.parametrize("config", WORK, ids=lambda config: config["type"])
def test_timings_say_how_many_threads_were_bound(
    lab: Any, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notes of timings tell how many threads were bound; afterwards none is (C39)."""
    monkeypatch.setattr(_pinned.Pins, "count", 7)
    options = {name: value for name, value in config.items() if name != "type"}
    benchmark = registry.create("benchmark", config["type"], rounds=1, new_tokens=4, **options)
    subjects = [lab.subject("trained"), lab.subject("fp32")]
    found = benchmark.measure(subjects, load_rows(lab.dataset), StepContext(17, lab.workspace.bus))
    assert [measurement.notes["pinned_threads"] for measurement in found] == [7, 7]
    assert os.sched_getaffinity(0) == CORES
