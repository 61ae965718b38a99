"""Sinks: the journal loses and leaks nothing; Prefect hears what its automations can use, and only in a flow run."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError
from components.core.events import (
    ComponentMoved,
    Event,
    EventBus,
    EvidenceWritten,
    GateJudged,
    HandlerFailed,
    MetricLogged,
    RunFinished,
    RunStarted,
    StageFailed,
    StageProgress,
    StageStarted,
    TrainingFinished,
    TrainStep,
    catalogue,
)
from components.core.health import Health
from components.core.kinds import registry
from components.core.recipe import parse_recipe
from components.core.secret import masked_data
from components.core.settings import Settings
from components.interfaces import Sink
from components.services.application import Application
from components.services.evidence import REPORT
from components.sinks.journal import Journal
from tasks.events import PrefectSink
from tests import tiny

STARTED = StageStarted(stage="train", name="sft")
STEP = TrainStep(step=1, total=2, loss=0.5)
PROGRESS = StageProgress(stage="train", name="sft", done=1, total=2)


def run_started(recipe: str = "tiny", run_id: str = "r1") -> RunStarted:
    return RunStarted(recipe=recipe, run_id=run_id, digest="d")


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.fixture
def journal(bus: EventBus, tmp_path: Path) -> Iterator[Journal]:
    with Journal().attach(bus, tmp_path / "logs") as journal:
        yield journal


def written(root: Path) -> list[Path]:
    return sorted((root / "logs").glob("*"))


def lines(file: Path) -> list[dict[str, Any]]:
    """Every line of a journal as strict JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = file.read_bytes().decode("utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text[:-1].split("\n")]


def only(root: Path) -> list[dict[str, Any]]:
    (file,) = written(root)
    return lines(file)


# ---------------------------------------------------------------- journal


def test_a_line_for_every_event(bus: EventBus, journal: Journal, tmp_path: Path) -> None:
    """Each event is one line of JSON with its time, its topic and what it carries, written at once (A5, B6)."""
    bus.emit(run_started())
    bus.emit(STEP)
    assert [line["event"] for line in only(tmp_path)] == ["run.started", "training.step"]  # before it is closed
    bus.emit(STARTED)
    last = only(tmp_path)[-1]
    assert last == {"time": round(STARTED.time, 3), "event": "stage.started", "stage": "train", "name": "sft"}


def test_every_event_of_the_catalogue(bus: EventBus, journal: Journal, tmp_path: Path) -> None:
    """Whatever event we emit finds its line (B5)."""
    values: dict[str, Any] = {"int": 1, "float": 0.5, "bool": True}
    bus.emit(run_started())
    for cls in catalogue():
        if cls is not RunStarted:
            bus.emit(cls(**{f.name: values.get(str(f.type), "x") for f in fields(cls) if f.name != "time"}))
    assert [line["event"] for line in only(tmp_path)] == [
        "run.started",
        *(cls.topic for cls in catalogue() if cls is not RunStarted),
    ]
    assert not bus.failures


def test_private_file(bus: EventBus, journal: Journal, tmp_path: Path) -> None:
    """A journal is readable by its owner only, whatever the umask (A5)."""
    before = os.umask(0)
    try:
        bus.emit(run_started())
    finally:
        os.umask(before)
    (file,) = written(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_new_file_for_each_run(bus: EventBus, journal: Journal, tmp_path: Path) -> None:
    """Every run has a file of its own that begins with its start, even two of a recipe in one second (A5)."""
    for number in range(3):
        bus.emit(run_started(run_id=f"r{number}"))
        bus.emit(RunFinished(recipe="tiny", run_id=f"r{number}", status="FINISHED"))
    files = written(tmp_path)
    assert len(files) == 3
    assert sorted(line["run_id"] for file in files for line in lines(file)) == ["r0", "r0", "r1", "r1", "r2", "r2"]
    assert all(file.name.startswith("tiny-") and file.suffix == ".jsonl" for file in files)


def test_two_journals_do_not_share_a_file(tmp_path: Path) -> None:
    """Journals of two runs at the same moment write into two files (A31)."""
    buses = [EventBus(), EventBus()]
    journals = [Journal().attach(bus, tmp_path / "logs") for bus in buses]
    for each in journals:
        each.setup()
    for number, bus in enumerate(buses):
        bus.emit(run_started(run_id=str(number)))
    for each in journals:
        each.close()
    assert sorted([line["run_id"] for line in lines(file)] for file in written(tmp_path)) == [["0"], ["1"]]


def test_events_without_a_run(bus: EventBus, journal: Journal, tmp_path: Path) -> None:
    """Work that is no tracked run is written down too, under `process` (A5)."""
    bus.emit(STARTED)
    bus.emit(run_started())
    assert [file.name.partition("-")[0] for file in written(tmp_path)] == ["process", "tiny"]


def test_starting_sinks_is_not_worth_a_file(bus: EventBus, journal: Journal, tmp_path: Path) -> None:
    """No file is begun for the sinks' own start; within a run their moves are written (A5)."""
    moved = ComponentMoved(id="journal", before="created", after="running")
    bus.emit(moved)
    assert written(tmp_path) == []
    bus.emit(run_started())
    bus.emit(moved)
    assert [line["event"] for line in only(tmp_path)] == ["run.started", "component.moved"]


class Colour(StrEnum):
    RED = "red"


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Opaque(), "<opaque>"),
        (Path("/a/b"), "/a/b"),
        ({1}, [1]),
        (b"\xff", "b'\\xff'"),
        (Colour.RED, "red"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ({("a", 1): {None: 2}}, {"('a', 1)": {"None": 2}}),
        ([(1, {2: (3,)})], [[1, {"2": [3]}]]),
        ("line\nbreak \u2028 \u0000 and ü", "line\nbreak \u2028 \u0000 and ü"),
        ("lone \ud800 surrogate", "lone \ud800 surrogate"),
        pytest.param(STEP, str(STEP), id="event"),
        (10**30, 10**30),
        (None, None),
        (True, True),
    ],
)
def test_data_that_json_does_not_know(
    bus: EventBus, journal: Journal, tmp_path: Path, value: Any, expected: Any
) -> None:
    """Whatever an event carries becomes one whole line of strict JSON (A5, B5)."""
    bus.emit(TrainingFinished(trainer="sft", figures={"x": value}))
    bus.emit(STARTED)
    first, second = only(tmp_path)
    assert first["figures"] == {"x": expected}
    assert second["event"] == "stage.started"
    assert not bus.failures


def circle() -> dict[str, Any]:
    inner: dict[str, Any] = {}
    inner["me"] = inner
    return inner


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("value", [circle(), Hostile()])
def test_journal_survives_hostile_data(bus: EventBus, journal: Journal, tmp_path: Path, value: Any) -> None:
    """Data that cannot be written at all costs its own line, which is told, and no other one (A5, B7)."""
    bus.emit(STARTED)
    bus.emit(TrainingFinished(trainer="sft", figures={"x": value}))
    bus.emit(STARTED)
    assert [line["event"] for line in only(tmp_path)] == ["stage.started", "error.handler", "stage.started"]
    assert only(tmp_path)[1]["on"] == "training.finished"


SECRETS = [
    "hf_CANARY123456",
    'quote"back\\slash',
    "123456789",
    "line\nbreak and tab\t",
    "ünïcode-sëcret",
    '": "stage',
]


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_masked(
    bus: EventBus, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """The value of a variable that looks like a secret never reaches the file, and every line stays JSON (A5)."""
    monkeypatch.setenv("SOME_API_KEY", secret)
    nested = {f"key {secret}": [secret, (f"a {secret} b",), Path(f"/x/{secret}")], "n": 0.1234567891}
    bus.emit(StageFailed(stage="train", name="sft", error=f"401 for {secret}"))
    bus.emit(TrainingFinished(trainer="sft", figures=nested))
    first, second = only(tmp_path)
    assert first["error"] == "401 for ***"
    assert second["figures"] == {"key ***": ["***", ["a *** b"], "/x/***"], "n": 0.1234567891}


def test_short_and_harmless_values_stay(
    bus: EventBus, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short values and variables that are no secrets by their name are left alone (A5)."""
    monkeypatch.setenv("SOME_TOKEN", "sft")
    monkeypatch.setenv("SOME_PLACE", "stage.started in Paris")
    bus.emit(StageFailed(stage="train", name="sft", error="stage.started in Paris"))
    assert only(tmp_path)[0]["error"] == "stage.started in Paris"
    assert only(tmp_path)[0]["name"] == "sft"


def test_threads_write_whole_lines(bus: EventBus, journal: Journal, tmp_path: Path) -> None:
    """Events of several threads at once are whole lines in one file (A5)."""
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait(10)
        for step in range(100):
            bus.emit(TrainingFinished(trainer=str(thread), figures={"step": step, "long": "x" * 20_000}))

    with ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(work, thread) for thread in range(8)]:
            job.result(timeout=60)
    found = only(tmp_path)
    assert len(found) == 800
    assert {(line["trainer"], line["figures"]["step"]) for line in found} == {
        (str(thread), step) for thread in range(8) for step in range(100)
    }


def test_journal_ends(bus: EventBus, tmp_path: Path) -> None:
    """After its close a journal writes nothing; closing twice, or without a setup, is harmless (A1)."""
    journal = Journal().attach(bus, tmp_path / "logs")
    journal.close()
    journal.setup()
    bus.emit(run_started())
    journal.close()
    journal.close()
    bus.emit(STARTED)
    assert [line["event"] for line in only(tmp_path)] == ["run.started"]
    assert not bus.failures


def test_journal_can_start_again(bus: EventBus, tmp_path: Path) -> None:
    """A journal that was closed can be set up again, with a file of its own (A1, A2)."""
    journal = Journal().attach(bus, tmp_path / "logs")
    for _ in range(2):
        with journal:
            bus.emit(run_started())
    assert [len(lines(file)) for file in written(tmp_path)] == [1, 1]


def test_health_of_the_journal(bus: EventBus, journal: Journal, tmp_path: Path) -> None:
    """The journal says where it writes, once it does (A6)."""
    assert journal.health() == Health("ok", "waits for a run")
    bus.emit(run_started())
    assert journal.health() == Health("ok", f"writes to {written(tmp_path)[0]}")


def test_journal_that_cannot_write(bus: EventBus, journal: Journal, tmp_path: Path) -> None:
    """A journal that cannot be written fails alone: the run and the other handlers go on (B7)."""
    (tmp_path / "logs").write_text("a file in the way")
    heard: list[Event] = []
    bus.on(StageStarted, heard.append)
    bus.emit(STARTED)
    assert heard == [STARTED]
    assert [type(error) for _, error in bus.failures] == [FileExistsError, FileExistsError]


def test_journal_of_an_application(tmp_path: Path) -> None:
    """Every run of an application has one journal below `monitoring.folder`, from its start to its end (A5, A34)."""
    recipe = parse_recipe(tiny.recipe(tmp_path / "d", tmp_path / "m"))
    others = {"prefect": False, "webhook": False}
    settings = Settings(root=tmp_path, features=others, plugins={"enabled": False})
    with Application(settings) as app:
        for number in range(2):
            with app.run(recipe) as run:
                run.get(EventBus).emit(run_started(run_id=str(number)))
                run.get(EventBus).emit(MetricLogged(values={"a": 1.0}))
        app.bus.emit(STARTED)
    told = [[line["event"] for line in lines(file)] for file in written(tmp_path)]
    assert told == [["run.started", "metric.logged"]] * 2


def test_journal_can_be_switched_off(tmp_path: Path) -> None:
    """`features: {journal: false}` leaves no trace on disk (A5)."""
    recipe = parse_recipe(tiny.recipe(tmp_path / "d", tmp_path / "m"))
    settings = Settings(root=tmp_path, features={"journal": False, "prefect": False}, plugins={"enabled": False})
    with Application(settings) as app, app.run(recipe):
        app.bus.emit(run_started())
    assert not (tmp_path / "logs").exists()


def test_plain_changes_nothing_that_is_plain() -> None:
    """What JSON knows comes out as it is (B5)."""
    value = {"a": [1, 2.5, None, True, "x"], "b": {"c": []}}
    assert masked_data(value) == value


# ---------------------------------------------------------------- Prefect


@dataclass
class Told:
    """What reached Prefect."""

    events: list[dict[str, Any]]
    artifacts: list[dict[str, Any]]
    inside: bool = False


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    """Prefect's functions, replaced by lists."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    import prefect.artifacts
    import prefect.context
    import prefect.events

    told = Told([], [])

    class Context:
        @staticmethod
        def get() -> Any:
            return object() if told.inside else None

    monkeypatch.setattr(prefect.context, "FlowRunContext", Context)
    monkeypatch.setattr(prefect.events, "emit_event", lambda **event: told.events.append(event))
    monkeypatch.setattr(prefect.artifacts, "create_markdown_artifact", lambda **made: told.artifacts.append(made))
    return told


@pytest.fixture
def sink(bus: EventBus, tmp_path: Path, prefect: Told) -> Iterator[PrefectSink]:
    with PrefectSink().attach(bus, tmp_path) as sink:
        yield sink


def test_silent_outside_a_flow_run(bus: EventBus, sink: PrefectSink, prefect: Told, tmp_path: Path) -> None:
    """Outside a flow run nothing is sent to Prefect, and nothing fails (A5)."""
    for event in (run_started(), STARTED, STEP, EvidenceWritten(folder=str(tmp_path), chosen=None)):
        bus.emit(event)
    assert (prefect.events, prefect.artifacts) == ([], [])
    assert not bus.failures


def test_events_in_a_flow_run(bus: EventBus, sink: PrefectSink, prefect: Told) -> None:
    """In a flow run every event is sent with its topic, the run as its resource, and what it carries (A5, B6)."""
    prefect.inside = True
    bus.emit(STARTED)
    bus.emit(run_started(run_id="abc"))
    bus.emit(GateJudged(accepted=("int4",), chosen="int4"))
    assert prefect.events == [
        {
            "event": "postmill.stage.started",
            "resource": {"prefect.resource.id": "postmill.run.process", "prefect.resource.name": "process"},
            "payload": {"stage": "train", "name": "sft"},
        },
        {
            "event": "postmill.run.started",
            "resource": {"prefect.resource.id": "postmill.run.abc", "prefect.resource.name": "abc"},
            "payload": {"recipe": "tiny", "run_id": "abc", "digest": "d", "plugins": []},
        },
        {
            "event": "postmill.gate.judged",
            "resource": {"prefect.resource.id": "postmill.run.abc", "prefect.resource.name": "abc"},
            "payload": {"accepted": ["int4"], "chosen": "int4"},
        },
    ]
    assert not bus.failures


def test_single_steps_are_not_sent(bus: EventBus, sink: PrefectSink, prefect: Told) -> None:
    """Steps of the training and of a long stage are left out; all else of the catalogue is sent (A5)."""
    prefect.inside = True
    for event in (STEP, PROGRESS, STARTED):
        bus.emit(event)
    assert [event["event"] for event in prefect.events] == ["postmill.stage.started"]


@pytest.mark.parametrize("secret", SECRETS)
def test_prefect_gets_plain_data_without_secrets(
    bus: EventBus, sink: PrefectSink, prefect: Told, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """What is sent is plain JSON, with secrets masked (A5)."""
    monkeypatch.setenv("MY_PASSWORD", secret)
    prefect.inside = True
    bus.emit(TrainingFinished(trainer="sft", figures={"p": Path(f"/{secret}"), "nan": float("nan"), "n": 0.1234567891}))
    (event,) = prefect.events
    assert event["payload"] == {"trainer": "sft", "figures": {"p": "/***", "nan": "nan", "n": 0.1234567891}}
    json.dumps(event, allow_nan=False)


def test_report_becomes_an_artifact(
    bus: EventBus, sink: PrefectSink, prefect: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of a run is shown on the flow run's page, under a key that Prefect takes, without secrets (A5)."""
    monkeypatch.setenv("MY_TOKEN", "CANARY123")
    folder = tmp_path / "My_Recipe.v2"
    folder.mkdir()
    (folder / REPORT).write_text("# Report\nall **well** CANARY123", encoding="utf-8")
    prefect.inside = True
    bus.emit(EvidenceWritten(folder=str(folder), chosen="int4"))
    assert prefect.artifacts == [{"markdown": "# Report\nall **well** ***", "key": "my-recipe-v2"}]


def test_prefect_that_fails_harms_nobody(
    bus: EventBus, sink: PrefectSink, prefect: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not answer is told as a failed handler; the run goes on (B7)."""

    def refuse(**event: Mapping[str, Any]) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr("prefect.events.emit_event", refuse)
    prefect.inside = True
    told: list[HandlerFailed] = []
    bus.on(HandlerFailed, told.append)
    bus.emit(STARTED)
    assert [event.error for event in told] == ["ConnectionError: no server"] * len(told)
    assert told


def test_prefect_sink_ends(bus: EventBus, prefect: Told, tmp_path: Path) -> None:
    """After its close nothing is sent; closing without a setup is harmless (A1)."""
    prefect.inside = True
    sink = PrefectSink().attach(bus, tmp_path)
    sink.close()
    sink.setup()
    sink.close()
    sink.close()
    bus.emit(STARTED)
    assert prefect.events == []


# ---------------------------------------------------------------- all sinks


@pytest.mark.parametrize("name", registry.names("sink"))
def test_contract_of_every_sink(name: str, bus: EventBus, tmp_path: Path) -> None:
    """Every sink opens, hears, says how it is, and lets go of the bus when it is closed (A1, A6, A7)."""
    sink = registry.get("sink", name)().attach(bus, tmp_path / "logs")
    assert isinstance(sink, Sink)
    before = subscribers(bus)
    sink.setup()
    bus.emit(run_started())
    assert isinstance(sink.health(), Health)
    sink.close()
    assert subscribers(bus) == before
    assert not bus.failures


def subscribers(bus: EventBus) -> int:
    return sum(len(signal.receivers) for signal in bus._signals.values())


@pytest.mark.parametrize("make", [lambda: registry.create("sink", "jurnal"), lambda: registry.get("sink", "jurnal")])
def test_unknown_sink_suggests(make: Callable[[], Any]) -> None:
    """An unknown sink is refused with the closest name (A23)."""
    with pytest.raises(ConfigError, match="unknown sink 'jurnal'; did you mean 'journal'"):
        make()
