"""What a person sees of a run's events."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from components.core.events import (
    CheckpointLoaded,
    CheckpointSaved,
    DataValidated,
    Event,
    EventBus,
    SampleGenerated,
    SpeedChosen,
    StageCached,
    StageFailed,
    StageFinished,
    StageProgress,
    StageSkipped,
    StageStarted,
    TrainingAdapted,
    TrainingEvaluated,
    TrainingStarted,
    TrainStep,
)
from flows.display import Display
from flows.display_training import Pace, cut, duration, figure, sparkline, words

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


def shown(*told: Event, terminal: bool = False, width: int = 200) -> str:
    """What stands on the console after these events."""
    text, bus = io.StringIO(), EventBus()
    with Display(Console(file=text, force_terminal=terminal, width=width), bus):
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


# ---------------------------------------------------------------- training


BEGIN = (StageStarted(stage="train", name="sft"), TrainingStarted(trainer="sft"))


def steps(first: int, last: int, total: int = 60, seconds: float = 2.0) -> list[TrainStep]:
    """Steps at an even pace; the numbers do not depend on the clock of the test."""
    return [
        TrainStep(
            step=step,
            total=total,
            loss=3.0 / step,
            tokens_per_s=2140.4,
            figures={"memory": 1.6e9, "grad_norm": 0.5},
            time=1000.0 + step * seconds,
        )
        for step in range(first, last + 1)
    ]


def lines(*told: Event) -> list[str]:
    """The lines of a log after these events of training, without those of the stage."""
    return [line.strip() for line in shown(*BEGIN, *told).splitlines() if line.strip()]


def test_steps_in_a_log() -> None:
    """In a log every tenth step and the last one has its line: loss, pace, time left and memory (B15, E34)."""
    assert lines(*steps(1, 20, total=20)) == [
        "train: step 10/20  loss 0.300  2,140 tokens/s  ETA 0:20  1.6 GB",
        "train: step 20/20  loss 0.150  2,140 tokens/s  1.6 GB",
    ]


def test_steps_that_say_little() -> None:
    """A trainer that measures neither pace nor memory has a line without them (B15)."""
    assert lines(TrainStep(step=10, total=20, loss=0.5)) == ["train: step 10/20  loss 0.500"]


def test_time_left_after_a_resume() -> None:
    """After a resume the time left comes from the steps of this process alone (B16)."""
    told = lines(CheckpointLoaded(path="/x", step=45), *steps(46, 50))
    assert told == ["train: goes on from step 45", "train: step 50/60  loss 0.060  2,140 tokens/s  ETA 0:20  1.6 GB"]


def test_pace_follows() -> None:
    """The time left is measured on the last steps, and begins anew when steps begin anew (B15)."""
    pace = Pace()
    for step in range(1, 101):
        pace.add(step, step * 1.0 if step <= 40 else 40 + (step - 40) * 3.0)
    assert pace.left(110) == pytest.approx(30.0)
    pace.add(1, 500.0)
    assert pace.left(110) is None


def test_saved_is_said_once_in_a_log() -> None:
    """A checkpoint is a word in the next line, not a line of its own (B16)."""
    told = lines(*steps(1, 15), CheckpointSaved(path="/x", step=15), *steps(16, 30))
    assert [line.endswith("saved at 15") for line in told] == [False, True, False]


def test_speed_is_one_line_and_a_table() -> None:
    """What was chosen for speed is one line, and what each lever gave a table (E34)."""
    tried = [
        {"lever": "threads", "value": 2, "tokens_per_s": 1122.4, "gain": 1.83, "chosen": True, "seconds": 3},
        {"lever": "compile", "value": False},
    ]
    told = lines(SpeedChosen(choice={"threads": 2, "dtype": "bfloat16", "compile": False}, tried=tried))
    assert told[0] == "train: speed: threads 2, dtype bfloat16, compile off"
    rows = [line.split() for line in told[1:]]
    expected = [["lever", "value", "tokens/s", "gain"], ["threads", "2", "1,122", "×1.83", "chosen"]]
    assert rows == [*expected, ["compile", "off", "-", "-"]]
    assert lines(SpeedChosen(choice={"threads": 2})) == ["train: speed: threads 2"]


def test_what_happens_in_between() -> None:
    """An adapted run, an evaluation and a sample are told where they happen (B15, E34)."""
    answer = "one\n\n[two]\nthree\nfour"
    told = lines(
        TrainingAdapted(step=3, reason="out of memory", action="2 times 4 rows instead of 8"),
        TrainingEvaluated(step=40, figures={"eval_loss": 0.91, "tokens": 4096}),
        SampleGenerated(step=40, prompt="a question\nof [two] lines", answer=answer),
        SampleGenerated(step=41, prompt="x" * 500, answer=""),
    )
    assert told[:6] == [
        "train: memory ran out at step 3; 2 times 4 rows instead of 8",
        "train: step 40: eval loss 0.91, tokens 4,096",
        "step 40: a question of [two] lines",
        "one",
        "[two]",
        "three…",
    ]
    assert told[6].endswith("x…")
    assert len(told[6]) < 200
    assert told[7] == "(nothing)"


@pytest.mark.parametrize(
    ("width", "parts", "absent"),
    [
        (170, ["━", "█", "step 12/60  loss 0.250  2,140 tokens/s  ETA 1:36  1.6 GB", "saved at 11"], []),
        (100, ["step 12/60  loss 0.250  2,140 tokens/s  ETA 1:36  1.6 GB"], ["━", "█", "saved"]),
        (80, ["step 12/60  loss 0.250  ETA 1:36  1.6 GB"], ["━", "tokens/s"]),
        (40, [], ["ETA"]),
    ],
)
def test_live_line_fits(width: int, parts: list[str], absent: list[str]) -> None:
    """On a terminal the live line has a bar and the last losses where there is room, else what matters most (B15)."""
    text = shown(*BEGIN, *steps(1, 11), CheckpointSaved(path="/x", step=11), *steps(12, 12), terminal=True, width=width)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert [part for part in parts if part not in plain] == []
    assert [part for part in absent if part in plain] == []


def test_a_second_step_leaves_the_first_alone() -> None:
    """Of two training steps, even of the same name, only the one that runs moves (B15)."""
    ended = StageFinished(stage="train", name="sft", key="k", size=2000)
    text, bus = io.StringIO(), EventBus()
    with Display(Console(file=text, force_terminal=True, width=170), bus) as display:
        for event in (*BEGIN, *steps(1, 60), ended, StageStarted(stage="train", name="dpo"), ended, *BEGIN):
            bus.emit(event)
        bus.emit(steps(5, 5)[0])
        notes = [(task.fields["note"], task.completed) for task in display.progress.tasks]
    assert not bus.failures
    assert notes[0][1] == 1
    assert "2.0 kB" in notes[0][0]
    assert "step 5/60" in notes[2][0]
    assert "step" not in notes[1][0]


def test_small_words() -> None:
    """Numbers, durations and lines are written as people read them."""
    assert [duration(seconds) for seconds in (0.4, 48, 3723)] == ["0:00", "0:48", "1:02:03"]
    assert [figure(value) for value in (0.9134, 12.34, 12345.6)] == ["0.913", "12.3", "12,346"]
    assert sparkline([3.0, 2.0, float("nan"), 1.0]) == "█▅·▁"
    assert (sparkline([]), sparkline([1.0, 1.0])) == ("", "▁▁")
    assert (cut("a\n b", 5), cut("abcdef", 4)) == ("a b", "abc…")
    assert words({"a": None, "b": True, "c_d": 0}) == "b on, c d 0"


def test_a_long_stage_says_in_a_file_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no bar can be drawn, a stage that takes minutes tells its progress now and then (B17)."""
    clock = [0.0]
    monkeypatch.setattr("flows.display.time.monotonic", lambda: clock[0])
    out, bus = io.StringIO(), EventBus()
    with Display(Console(file=out, width=120), bus):
        bus.emit(StageStarted(stage="optimize", name="int4/quantize_gptq"))
        for done in range(5):
            bus.emit(StageProgress(stage="optimize", name="quantize_gptq", done=done, total=30))
            clock[0] += 40
    assert [line.strip() for line in out.getvalue().splitlines() if "/30" in line] == [
        "optimize  quantize_gptq: 2/30",
        "optimize  quantize_gptq: 4/30",
    ]
