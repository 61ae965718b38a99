"""What a person sees of a run's events."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from components.core.events import (
    DataValidated,
    Event,
    EventBus,
    StageCached,
    StageFailed,
    StageFinished,
    StageProgress,
    StageSkipped,
    StageStarted,
    TrainStep,
)
from flows.display import Display

RUN: tuple[Event, ...] = (
    DataValidated(rows={"train": 1200, "eval": 6}, quarantined={"train": 2, "eval": 0}),
    StageCached(stage="model", name="pretrained", key="k"),
    StageStarted(stage="train", name="sft"),
    TrainStep(step=3, total=3, loss=0.5, tokens_per_s=12.0),
    StageFinished(stage="train", name="sft", key="k", size=2000),
    StageStarted(stage="benchmark", name="latency"),
    StageProgress(stage="benchmark", name="latency", done=1, total=3),
    StageFailed(stage="benchmark", name="latency", error="OSError: x"),
    StageSkipped(stage="optimize", name="int4/[prune]", reason="plugin [acme] is not installed"),
)


def shown(*told: Event, terminal: bool = False) -> str:
    """What stands on the console after these events."""
    text, bus = io.StringIO(), EventBus()
    with Display(Console(file=text, force_terminal=terminal, width=200), bus):
        for event in told:
            bus.emit(event)
    bus.emit(StageCached(stage="model", name="after the run", key="k"))
    assert not bus.failures
    return text.getvalue()


def test_one_line_a_stage() -> None:
    """In a log every stage that ended has its line, and nothing is shown after the run."""
    lines = shown(*RUN).splitlines()
    assert [line.strip() for line in lines if line.strip()] == [
        "rows: 1,200 train, 6 eval; quarantined: 2",
        "model     pretrained: unchanged, from the store",
        "train: step 3/3  loss 0.500  12 tokens/s",
        "train     sft: 0.0 s, 2.0 kB",
        "benchmark latency: failed",
        "optimize  int4/[prune]: skipped: plugin [acme] is not installed",
    ]


@pytest.mark.parametrize("part", ["sft", "failed", "unchanged, from the store", "plugin [acme] is not installed"])
def test_live_lines(part: str) -> None:
    """On a terminal the same is told by live lines, names in brackets included."""
    assert part in shown(*RUN, terminal=True)
