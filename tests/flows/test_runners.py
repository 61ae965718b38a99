"""Runners: the same results wherever the work is done, no event lost, and a killed worker costs only its task.

Dask and Ray run for real, on this machine, where they are installed (`pip install 'postmill[dask,ray]'`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.errors import ConfigError, MissingExtraError, PostmillError, StepSkipped
from components.core.events import Event, StageFinished, StageSkipped, StageStarted
from components.core.plugins import PluginSettings
from components.core.recipe import parse_recipe
from components.core.settings import Settings, load_settings
from components.interfaces import Subject
from components.services.application import Application
from components.services.elsewhere.chosen_runner import chosen_runner
from components.services.elsewhere.turns import timed
from components.services.runner import RunnerService
from components.services.trials import Trial
from flows.pipeline import pipeline
from tests import tiny
from tests.conftest import ROOT, Lab
from tests.flows.conftest import Run

pytestmark = [pytest.mark.flow, pytest.mark.timeout(400)]
PATIENCE_S = 120


def installed(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


ELSEWHERE = [
    pytest.param({"type": "processes", "workers": 2}, id="processes"),
    pytest.param({"type": "dask", "workers": 2}, id="dask", marks=[installed("distributed"), pytest.mark.slow]),
    pytest.param({"type": "ray", "workers": 2}, id="ray", marks=[installed("ray"), pytest.mark.slow]),
]
RUNNERS = [pytest.param({"type": "threads", "workers": 2}, id="threads"), *ELSEWHERE]

PLUGIN = '''
"""Passes of the tests: one waits until it is killed, and copies its source when it is begun again; one fails."""

import os, shutil, time
from pathlib import Path
from components.core.component import StrictConfig
from components.core.errors import DataError
from components.core.plugins import Plugin
from components.interfaces import Pass

class Nap(Pass):
    consumes, produces = ("model",), "model"

    class Config(StrictConfig):
        note: Path
        tries: int = 1

    def apply(self, source, parents, out, context):
        with self.config.note.open("a") as note:
            note.write(f"{os.getpid()}\\n")
        if len(self.config.note.read_text().split()) <= self.config.tries:
            time.sleep(300)
        shutil.copytree(source.path, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        return {}

class Fail(Nap):
    class Config(StrictConfig):
        how: str = "data"

    def apply(self, source, parents, out, context):
        if self.config.how == "data":
            raise DataError("the rows are wrong")
        return {}["nothing"]

class Napping(Plugin):
    name, version = "napping", "1"

    def register(self, api):
        api.component("pass", "nap", Nap)
        api.component("pass", "fail", Fail)
'''


class Place:
    """A root with the plugin, beside the lab's artifacts; `open` gives the runner of a run there."""

    def __init__(self, root: Path, lab: Lab, model: Path) -> None:
        self.root, self.lab, self.model = root, lab, model
        self.events: list[Event] = []
        (root / "plugins").mkdir()
        (root / "plugins" / "napping.py").write_text(PLUGIN, encoding="utf-8")
        shutil.copytree(lab.workspace.root / "artifacts", root / "artifacts", ignore=_made_of_trained)

    @contextmanager
    def open(self, runner: dict[str, Any], **changes: Any) -> Iterator[tuple[RunnerService, Any]]:
        plugins = PluginSettings(auto_discover=False, directories=(self.root / "plugins",))
        with Application(Settings(root=self.root, runner=runner, plugins=plugins)) as app:
            app.bus.on_any(self.events.append)
            plan = parse_recipe(tiny.recipe(self.lab.workspace.root, self.model, **changes))
            with app.run(plan) as run:
                yield run.get(RunnerService), plan

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def _made_of_trained(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("optimize", "benchmark", "reference", "judge")]


@pytest.fixture
def place(tmp_path: Path, lab: Lab, tiny_model: Path) -> Place:
    return Place(tmp_path, lab, tiny_model)


def store(root: Path) -> dict[str, str]:
    """Keys and digests of what was made, without measured times and what hangs on them."""
    found = {}
    for manifest in (root / "artifacts").glob("*/[!.]*/manifest.json"):
        known = json.loads(manifest.read_text(encoding="utf-8"))
        if known["stage"] != "judge" and known["identity"]["config"].get("type") != "latency":
            found[f"{known['stage']}/{known['key']}"] = known["digest"]
    return found


@pytest.mark.parametrize("runner", RUNNERS)
def test_every_runner_gives_the_same(runner: dict[str, Any], first: Run, tmp_path: Path) -> None:
    """The whole pipeline with each runner: the same keys and digests, every event heard once, timings alone (C62)."""
    events: list[Event] = []
    for stage in ("model", "data", "train"):
        shutil.copytree(first.root / "artifacts" / stage, tmp_path / "artifacts" / stage)
    with Application(Settings(root=tmp_path, runner=runner)) as app:
        app.bus.on_any(events.append)
        outcome = pipeline(first.plain)
    assert outcome.chosen == first.outcome.chosen
    made = store(tmp_path)
    assert made.items() <= store(first.root).items()  # which has what other tests made there too
    assert {key.partition("/")[0] for key in made} >= {"optimize", "benchmark"}
    assert not [*(tmp_path / "artifacts" / ".jobs").glob("*")]

    finished = [f"{event.stage} {event.name}" for event in events if isinstance(event, StageFinished)]
    assert len(finished) == len(set(finished))
    assert {"optimize fp32/onnx", "optimize int4/onnx", "benchmark exact_match int4", "benchmark latency"} <= {
        *finished
    }
    alone = next(e.time for e in events if isinstance(e, StageStarted) and e.name == "latency")
    others = [e for e in events if isinstance(e, StageFinished) and e.stage in ("optimize", "benchmark")]
    assert all(event.time <= alone for event in others if event.name != "latency")


@pytest.mark.chaos
@pytest.mark.parametrize("runner", ELSEWHERE)
def test_a_killed_worker_costs_only_its_task(runner: dict[str, Any], place: Place, tmp_path: Path) -> None:
    """SIGKILL of a worker in the middle of a pass: that one is begun again elsewhere, another one goes on (C62)."""
    note = tmp_path / "note"
    merged = {"type": "merge_adapter"}
    chains = {"napping": [merged, {"type": "nap", "note": str(note)}], "other": [merged, {"type": "cast"}]}
    with place.open(runner, optimize=chains) as (service, plan):
        made: dict[str, Any] = {}
        threads = [
            threading.Thread(
                target=lambda name=name: made.update(
                    {name: service.variant(plan, name, place.lab.trained, place.lab.dataset)}
                )
            )
            for name in chains
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: note.is_file() and note.read_text().endswith("\n"))
        killed = int(note.read_text())
        assert killed != os.getpid()
        os.kill(killed, signal.SIGKILL)
        for thread in threads:
            thread.join(PATIENCE_S)
    assert set(made) == {*chains}
    assert len(note.read_text().split()) == 2
    assert [event.name for event in place.told(StageFinished)].count("other/cast") == 1
    assert [event.name for event in place.told(StageStarted)].count("napping/nap") == 2


@pytest.mark.chaos
def test_a_task_that_kills_its_workers_is_given_up(place: Place, tmp_path: Path) -> None:
    """What brings down a second worker too ends with one error that says so."""
    note = tmp_path / "note"
    chain = [{"type": "merge_adapter"}, {"type": "nap", "note": str(note), "tries": 9}]
    with place.open({"type": "processes"}, optimize={"napping": chain}) as (service, plan):
        killer = threading.Thread(target=_kill_all, args=(note, 2))
        killer.start()
        with pytest.raises(PostmillError, match=r"(?s)killed by signal 9.*tried 2 times"):
            service.variant(plan, "napping", place.lab.trained, place.lab.dataset)
        killer.join()


def _kill_all(note: Path, times: int) -> None:
    for number in range(times):
        wait_for(lambda number=number: note.is_file() and len(note.read_text().split("\n")) > number + 1)
        os.kill(int(note.read_text().split()[number]), signal.SIGKILL)


@pytest.mark.parametrize("runner", ELSEWHERE)
def test_errors_arrive(runner: dict[str, Any], place: Place) -> None:
    """An error elsewhere is the same error here; one that is a bug carries its traceback; a skipped step is skipped."""
    merged = {"type": "merge_adapter"}
    chains = {
        "data": [merged, {"type": "fail"}],
        "bug": [merged, {"type": "fail", "how": "bug"}],
        "may": [merged, {"type": "fail", "required": False}],
    }
    given = (place.lab.trained, place.lab.dataset)
    with place.open(runner, optimize=chains) as (service, plan):
        with pytest.raises(PostmillError, match="the rows are wrong") as caught:
            service.variant(plan, "data", *given)
        assert type(caught.value).__name__ == "DataError"
        with pytest.raises(RuntimeError, match=r"(?s)napping\.py.*KeyError: 'nothing'"):
            service.variant(plan, "bug", *given)
        with pytest.raises(StepSkipped, match="not required"):
            service.variant(plan, "may", *given)
    assert [event.name for event in place.told(StageSkipped)] == ["may/fail"]
    assert not place.lab.workspace.bus.failures


def test_a_trial_is_begun_elsewhere_and_timed_here(place: Place) -> None:
    """A trial of a search has the same figures wherever it was begun; what takes time is measured in this process."""
    search = {
        "space": [[{"type": "merge_adapter"}, {"type": "cast"}]],
        "quick": None,
        "objectives": ["mean_kl", "bytes"],
        "measure": [{"type": "latency", "rounds": 1, "new_tokens": 2}, {"type": "agreement", "rows": 2}],
    }
    chain = [{"type": "merge_adapter"}, {"type": "cast"}]
    trained = Subject(name="trained", artifact=place.lab.trained, parents={"model": place.lab.base})
    with place.open({"type": "processes"}, optimize={"search": search}) as (service, plan):
        found = service.trial(plan, Trial(number=0, chain=chain), [trained], place.lab.dataset, [])
        here = service.searches.run(
            plan.optimize.search, Trial(number=0, chain=chain), [trained], place.lab.dataset, plan.seed
        )
    assert (found.state, found.reason) == ("finished", "")
    assert found == here  # the second one found everything in the store
    assert {"mean_kl", "bytes", "tpot_ms"} <= found.figures.keys()
    started = {event.name for event in place.told(StageStarted)}
    assert {"trial 0/cast", "agreement", "latency"} <= started


def test_a_chain_that_must_be_alone_stays_here(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes that measure time or set threads are done in this process, and so are benchmarks of time (C62)."""
    cache = {"type": "kv_cache", "cache": "quantized", "length": 8, "rounds": 1, "tokens": 2, "recent": 4, "bits": 8}
    benchmark = [{"type": "latency", "rounds": 1, "new_tokens": 2}, {"type": "agreement", "rows": 2}]
    chains = {"cached": [{"type": "merge_adapter"}, cache]}
    with place.open({"type": "processes"}, optimize=chains, benchmark=benchmark) as (service, plan):
        monkeypatch.setattr(service.workers, "run", lambda *_: pytest.fail("sent elsewhere"))
        service.variant(plan, "cached", place.lab.trained, place.lab.dataset)
        assert [timed(spec) for spec in plan.benchmark] == [True, False]
        service.benchmark(plan, plan.benchmark[0], [place.lab.subject("base")], place.lab.dataset)


# ------------------------------------------------------------ clusters that are not there


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize(
    ("type_", "scheme"),
    [
        pytest.param("dask", "tcp://", marks=installed("distributed")),
        pytest.param("ray", "", marks=[installed("ray"), pytest.mark.slow]),
    ],
)
def test_a_cluster_that_is_gone_is_named_before_any_work(type_: str, scheme: str, place: Place) -> None:
    """Nobody answers at the address: one error with the address and the remedy, when the run begins (D23)."""
    address = f"{scheme}127.0.0.1:{free_port()}"
    with (
        pytest.raises(PostmillError, match=rf"(?s)answers at '{address}'; start one.*take runner\.address out"),
        place.open({"type": type_, "address": address}),
    ):
        pass
    assert not place.told(StageStarted)


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_a_dask_cluster_that_was_there(place: Place, tmp_path: Path) -> None:
    """A cluster of others does the work; a scheduler without workers, and one that dies meanwhile, are named (D23)."""
    note, address = tmp_path / "note", f"tcp://127.0.0.1:{free_port()}"
    chain = [{"type": "merge_adapter"}, {"type": "nap", "note": str(note)}]
    changes = {"optimize": {"napping": chain, "quick": [{"type": "merge_adapter"}]}}
    runner = {"type": "dask", "address": address}
    with program("distributed.cli.dask_scheduler", "--port", address.rpartition(":")[2], "--no-dashboard") as scheduler:
        wait_for(lambda: answers(address))
        with pytest.raises(PostmillError, match="has no workers"), place.open(runner, **changes):
            pass
        with program("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"):
            wait_for(lambda: workers_of(address) == 1)
            with place.open(runner, **changes) as (service, plan):
                assert service.at_once == 1
                service.variant(plan, "quick", place.lab.trained, place.lab.dataset)
                killer = threading.Thread(target=lambda: (wait_for(note.is_file), scheduler.kill()))
                killer.start()
                with pytest.raises(PostmillError, match=f"no Dask scheduler answers at '{address}'"):
                    service.variant(plan, "napping", place.lab.trained, place.lab.dataset)
                killer.join()


@contextmanager
def program(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()


def answers(address: str) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0


def workers_of(address: str) -> int:
    from distributed import Client

    with Client(address, timeout=PATIENCE_S, set_as_default=False) as client:
        return len(client.nthreads())


def wait_for(there: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


# ------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("runner", "message"),
    [
        ({"type": "dusk"}, "runner.*dusk.*did you mean 'dask'"),
        ({"type": "processes", "address": "tcp://x:1"}, r"runner\.address"),
        ({"type": "dask", "address": "tcp://x:1", "workers": 2}, "has its own workers"),
        ({"type": "threads", "workers": 0}, r"runner\.workers.*greater than 0"),
    ],
)
def test_mistakes_in_the_settings(runner: dict[str, Any], message: str) -> None:
    """A runner that does not fit is refused with the remedy before any work."""
    with Application(Settings(runner=runner)) as app, pytest.raises(ConfigError, match=message):
        app.check_settings()


def test_a_name_is_short_for_a_runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`runner: processes` is enough in the settings or the environment; by default one thing follows the other."""
    monkeypatch.chdir(tmp_path)
    assert chosen_runner(Settings()).size == 1
    monkeypatch.setenv("POSTMILL_RUNNER", "processes")
    assert (load_settings().runner, chosen_runner(load_settings()).size) == ({"type": "processes"}, 2)


def test_a_missing_package_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Dask the run ends before it begins, with the extra that brings it."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"postmill\[dask\]"), place.open({"type": "dask"}):
        pass


def test_the_guide_is_right() -> None:
    """Every line of settings in docs/runners.md is one."""
    page = (ROOT / "docs" / "runners.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("runner: ")]
    settings = [Settings(**yaml.safe_load(line)) for line in lines]
    assert all(chosen_runner(each) for each in settings)
    assert {each.runner["type"] for each in settings} == {"processes", "dask", "ray"}
