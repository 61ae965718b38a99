"""Components with a life: legal moves, order of start and stop, and an end that comes whatever happens."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from components.core.component import Component, StrictConfig
from components.core.errors import ConfigError, PostmillError
from components.core.events import ComponentMoved, EventBus
from components.core.health import Health, asked, worst
from components.core.lifecycle import MOVES, IllegalMove, Instances, Managed, State
from components.core.registry import Kind, Registry

LOG: list[str] = []
LEGAL = {
    ("created", "running"),
    ("created", "stopped"),
    ("created", "failed"),
    ("running", "stopped"),
    ("running", "failed"),
    ("stopped", "running"),
    ("failed", "stopped"),
}


class Machine(Component):
    """Writes down what is done to it, and breaks where it is told to."""

    class Config(StrictConfig):
        name: str = "machine"
        breaks: tuple[str, ...] = ()
        options: dict[str, int] = {}

    config: Config

    def _do(self, what: str) -> None:
        LOG.append(f"{what} {self.config.name}")
        if what in self.config.breaks:
            raise OSError(f"{self.config.name} cannot {what}")

    def setup(self) -> None:
        self._do("setup")

    def close(self) -> None:
        self._do("close")

    def health(self) -> Health:
        self._do("health")
        return Health("ok", f"{self.config.name} is well", {"beats": 1})


@pytest.fixture
def bus() -> EventBus:
    LOG.clear()
    return EventBus()


@pytest.fixture
def moves(bus: EventBus) -> list[ComponentMoved]:
    """Every move that is told on the bus."""
    told: list[ComponentMoved] = []
    bus.on(ComponentMoved, told.append)
    return told


@pytest.fixture
def instances(bus: EventBus) -> Instances:
    registry = Registry([Kind("machine", Machine)])
    registry.add("machine", "plain", Machine)
    return Instances(registry, bus)


def add(instances: Instances, graph: dict[str, tuple[str, ...]], *breaks: str, at: str = "") -> None:
    """Machines by id with what they require; the one at `at` breaks."""
    for name, requires in graph.items():
        instances.create(name, "machine", "plain", requires=requires, name=name, breaks=breaks if name == at else ())


CHAIN = {"c": ("b",), "b": ("a",), "a": ()}

# ---------------------------------------------------------------- states


@pytest.mark.parametrize(("before", "after"), itertools.product(State, State))
def test_moves(bus: EventBus, moves: list[ComponentMoved], before: State, after: State) -> None:
    """Every legal move is made and told; every other one is refused, changes nothing and is not told (A2, A5)."""
    managed = Managed("one", Machine(), (), bus, before, "as it was")
    if (before, after) in LEGAL:
        managed.move(after, "why")
        assert (managed.state, managed.error) == (after, "why")
        assert [event.data for event in moves] == [
            {"id": "one", "before": before.value, "after": after.value, "error": "why"}
        ]
    else:
        with pytest.raises(IllegalMove, match=f"component 'one' is {before} and cannot become {after} \\(only: "):
            managed.move(after)
        assert (managed.state, managed.error, moves) == (before, "as it was", [])


def test_every_state_can_be_reached_and_left() -> None:
    """No state is a dead end, and none is beyond reach (A2)."""
    assert set(MOVES) == set(State)
    assert all(MOVES.values())
    assert set().union(*MOVES.values()) == set(State) - {State.CREATED}
    assert issubclass(IllegalMove, PostmillError)


@pytest.mark.parametrize(
    ("state", "call"),
    [(State.RUNNING, Managed.start), (State.FAILED, Managed.start), (State.STOPPED, Managed.stop)],
)
def test_calls_that_the_state_does_not_allow(bus: EventBus, state: State, call: Callable[[Managed], None]) -> None:
    """Starting or stopping where the state does not allow it is refused before the component is touched (A2)."""
    managed = Managed("one", Machine(), (), bus, state)
    with pytest.raises(IllegalMove, match=f"component 'one' is {state}"):
        call(managed)
    assert managed.state is state
    assert LOG == []


@pytest.mark.parametrize("state", [State.CREATED, State.RUNNING, State.FAILED])
def test_stop_that_fails(bus: EventBus, moves: list[ComponentMoved], state: State) -> None:
    """A component that cannot be closed is failed, with the reason, and its error comes out (A2)."""
    managed = Managed("one", Machine(Machine.Config(breaks=("close",))), (), bus, state, "first")
    with pytest.raises(OSError, match="machine cannot close"):
        managed.stop()
    assert managed.state is State.FAILED
    assert managed.error == ("first" if state is State.FAILED else "OSError: machine cannot close")


# ---------------------------------------------------------------- instances by id


def test_instance_id_is_not_the_class(instances: Instances) -> None:
    """An instance is created, started and found by its id, and its configuration arrives unwrapped (R2, R4, A3)."""
    made = instances.create("opt_1", "machine", "plain", name="first", options={"config": 1})
    assert instances.start("opt_1") is True
    assert isinstance(made, Machine)
    assert instances.get("opt_1") is made
    assert made.config.name == "first"
    assert made.config.options == {"config": 1}
    assert LOG == ["setup first"]
    with pytest.raises(ConfigError, match="no component with id 'plain'"):
        instances.get("plain")


def test_two_of_one_class(instances: Instances) -> None:
    """Two instances of one class are two ids with two configurations (R2, A3)."""
    for name in ("x", "y"):
        instances.create(f"opt_{name}", "machine", "plain", name=name)
    instances.start("opt_y")
    assert instances.status() == {"opt_x": State.CREATED, "opt_y": State.RUNNING}
    assert instances.get("opt_x").config.name == "x"


def test_wrong_configuration_is_refused(instances: Instances) -> None:
    """A component with a wrong configuration is not created, and its id stays free (A3, A23)."""
    with pytest.raises(ConfigError, match="machine 'plain': nam: unknown key 'nam'; did you mean 'name'"):
        instances.create("one", "machine", "plain", nam="x")
    with pytest.raises(ConfigError, match="unknown machine 'plane'; did you mean 'plain'"):
        instances.create("one", "machine", "plane")
    assert instances.status() == {}


def test_id_is_unique(instances: Instances) -> None:
    """An id is given once; the first instance stays (A3)."""
    first = instances.create("one", "machine", "plain")
    with pytest.raises(ConfigError, match="component id 'one' is taken"):
        instances.create("one", "machine", "plain")
    assert instances.get("one") is first


@pytest.mark.parametrize("call", [Instances.get, Instances.start, Instances.stop])
def test_unknown_id_suggests(instances: Instances, call: Callable[[Instances, str], Any]) -> None:
    """An unknown id is refused with the closest one (A3, A41)."""
    instances.create("journal", "machine", "plain")
    with pytest.raises(ConfigError, match="no component with id 'jurnal'; did you mean 'journal'"):
        call(instances, "jurnal")


def test_component_made_elsewhere(instances: Instances) -> None:
    """A component that somebody else built can be kept too (A41)."""
    mine = Machine()
    assert instances.add("mine", mine) is mine
    assert instances.get("mine") is mine


# ---------------------------------------------------------------- order


def test_start_and_stop_in_order(instances: Instances, moves: list[ComponentMoved]) -> None:
    """What is required starts first and stops last, and every move is told in that order (A4, A5)."""
    add(instances, CHAIN)
    instances.start_all()
    assert LOG == ["setup a", "setup b", "setup c"]
    instances.stop_all()
    assert LOG[3:] == ["close c", "close b", "close a"]
    assert [(event.id, event.before, event.after) for event in moves] == [
        *((name, "created", "running") for name in "abc"),
        *((name, "running", "stopped") for name in "cba"),
    ]


def test_start_takes_what_it_requires(instances: Instances) -> None:
    """Starting one component starts what it requires, once, and nothing else (A3, A4)."""
    add(instances, {**CHAIN, "other": ()})
    assert instances.start("b") is True
    assert instances.start("c") is True
    assert LOG == ["setup a", "setup b", "setup c"]
    assert instances.status()["other"] is State.CREATED


def test_start_of_what_runs_is_harmless(instances: Instances) -> None:
    """Starting what runs changes nothing (A3)."""
    add(instances, CHAIN)
    for _ in range(2):
        assert instances.start("a") is True
        instances.start_all()
    assert LOG == ["setup a", "setup b", "setup c"]


def test_stop_takes_what_requires_it(instances: Instances) -> None:
    """Stopping one component stops first what requires it, and nothing else (A3, A4)."""
    add(instances, {**CHAIN, "other": ("a",), "free": ()})
    instances.start_all()
    LOG.clear()
    instances.stop("b")
    assert LOG == ["close c", "close b"]
    instances.stop("a")
    assert LOG[2:] == ["close other", "close a"]
    assert instances.status()["free"] is State.RUNNING


@pytest.mark.parametrize("state", ["created", "stopped"])
def test_stop_of_what_does_not_run_is_harmless(instances: Instances, state: str) -> None:
    """Stopping what does not run changes nothing (A3)."""
    add(instances, {"a": ()})
    if state == "stopped":
        instances.start("a")
        instances.stop("a")
    LOG.clear()
    instances.stop("a")
    instances.stop_all()
    assert LOG == []
    assert instances.status() == {"a": State(state)}


def test_diamond(instances: Instances) -> None:
    """What two components require is started once, before both (A4)."""
    add(instances, {"top": ("left", "right"), "left": ("bottom",), "right": ("bottom",), "bottom": ()})
    instances.start("top")
    assert LOG[0] == "setup bottom"
    assert LOG[-1] == "setup top"
    assert len(LOG) == 4
    instances.stop("bottom")
    assert LOG[4] == "close top"
    assert LOG[-1] == "close bottom"
    assert len(LOG) == 8


MISSING = {"one": ("two", "three"), "two": (), "four": ("tow",)}
CIRCLE = {"a": ("b",), "b": ("c",), "c": ("a",), "d": ()}


def test_missing_requirements_are_found_first(instances: Instances) -> None:
    """All missing requirements are reported together before anything starts (A4, A44)."""
    add(instances, MISSING)
    with pytest.raises(ConfigError) as caught:
        instances.start_all()
    assert caught.value.problems == [
        "component 'one' requires 'three', which does not exist",
        "component 'four' requires 'tow', which does not exist; did you mean 'two'?",
    ]
    with pytest.raises(ConfigError, match="component 'one' requires 'three', which does not exist"):
        instances.start("one")
    assert LOG == []


def test_circle_is_found_first(instances: Instances) -> None:
    """A circle of requirements is shown before anything starts (A4, A44)."""
    add(instances, CIRCLE)
    with pytest.raises(ConfigError, match=r"components require each other in a circle: (\w -> ){3}\w"):
        instances.start_all()
    with pytest.raises(ConfigError, match="in a circle"):
        instances.start("a")
    assert LOG == []


@pytest.mark.parametrize("broken", [MISSING, CIRCLE])
def test_strangers_do_not_disturb(instances: Instances, broken: dict[str, tuple[str, ...]]) -> None:
    """What can never start hinders nobody else from starting, stopping and being closed (A4)."""
    add(instances, {"well": (), "user": ("well",)})
    with instances:
        instances.start_all()
        add(instances, broken)
        with pytest.raises(ConfigError):
            instances.start_all()
        instances.stop("user")
        assert instances.start("user") is True
        LOG.clear()
    assert LOG == ["close user", "close well"]


def test_hundred_instances(instances: Instances) -> None:
    """A hundred instances, added in any order, start and stop in theirs (A3, A4)."""
    graph = {f"n{i}": tuple(f"n{j}" for j in {i // 2, i // 3} - {i}) for i in range(100)}
    names = list(graph)
    random.Random(17).shuffle(names)
    add(instances, {name: graph[name] for name in names})
    with instances:
        instances.start_all()
        assert set(instances.status().values()) == {State.RUNNING}
        started = [line.removeprefix("setup ") for line in LOG]
        assert all(started.index(need) < started.index(name) for name, needs in graph.items() for need in needs)
        LOG.clear()
    stopped = [line.removeprefix("close ") for line in LOG]
    assert sorted(stopped) == sorted(names)
    assert all(stopped.index(need) > stopped.index(name) for name, needs in graph.items() for need in needs)


# ---------------------------------------------------------------- failures


def test_setup_that_raises(instances: Instances, moves: list[ComponentMoved]) -> None:
    """A component whose setup raises is closed and failed; what ran before is stopped with the block (A1, A2)."""
    add(instances, CHAIN, "setup", at="b")
    with pytest.raises(OSError, match="b cannot setup"), instances:
        instances.start_all()
    assert LOG == ["setup a", "setup b", "close b", "close a"]
    assert instances.status() == {"a": State.STOPPED, "b": State.FAILED, "c": State.CREATED}
    assert [(event.id, event.after, event.error) for event in moves] == [
        ("a", "running", ""),
        ("b", "failed", "OSError: b cannot setup"),
        ("a", "stopped", ""),
    ]


def test_setup_and_close_that_raise(instances: Instances) -> None:
    """If the close after a failed setup fails too, the reason of the failed start comes out (A1, A2)."""
    add(instances, {"a": ()}, "setup", "close", at="a")
    with pytest.raises(OSError, match="a cannot setup"):
        instances.start("a")
    assert instances.status() == {"a": State.FAILED}
    assert instances.health()["a"].detail == "OSError: a cannot setup"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_interrupted_setup(instances: Instances, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a setup leaves it failed and closed too (A2)."""

    def interrupted(self: Machine) -> None:
        raise error

    add(instances, CHAIN)
    monkeypatch.setattr(type(instances.get("a")), "setup", interrupted)
    with pytest.raises(type(error)), instances:
        instances.start_all()
    assert LOG == ["close a"]
    assert instances.status()["a"] is State.FAILED


def test_close_that_raises_stops_nobody(instances: Instances) -> None:
    """A component that fails to close does not keep the others open; its error is told at the end (A1, A3)."""
    add(instances, CHAIN, "close", at="b")
    with pytest.raises(ExceptionGroup) as caught, instances:
        instances.start_all()
    assert [str(error) for error in caught.value.exceptions] == ["b cannot close"]
    assert LOG[3:] == ["close c", "close b", "close a"]
    assert instances.status() == {"a": State.STOPPED, "b": State.FAILED, "c": State.STOPPED}


def test_stop_of_one_goes_on_too(instances: Instances) -> None:
    """Stopping one component stops it even if one that requires it fails to close (A3)."""
    add(instances, CHAIN, "close", at="c")
    instances.start_all()
    with pytest.raises(ExceptionGroup, match="components failed to stop"):
        instances.stop("a")
    assert instances.status() == {"a": State.STOPPED, "b": State.STOPPED, "c": State.FAILED}


def test_error_of_the_block_comes_out(instances: Instances, caplog: pytest.LogCaptureFixture) -> None:
    """What fails in the block comes out unchanged even if a component then fails to close, which is logged (A1)."""
    add(instances, CHAIN, "close", at="b")
    error = RuntimeError("the run failed")
    with pytest.raises(RuntimeError) as caught, instances:
        start_and_raise(instances, error)
    assert caught.value is error
    assert "component b failed to stop" in caplog.text
    assert LOG[3:] == ["close c", "close b", "close a"]


def start_and_raise(instances: Instances, error: Exception) -> None:
    instances.start_all()
    raise error


def test_failed_must_be_stopped_before_it_starts(instances: Instances) -> None:
    """A failed component does not start again until it was stopped (A2)."""
    made = Machine(Machine.Config(name="a", breaks=("setup",)))
    instances.add("a", made)
    with pytest.raises(OSError, match="cannot setup"):
        instances.start("a")
    for start in (lambda: instances.start("a"), instances.start_all):
        with pytest.raises(IllegalMove, match=r"component 'a' is failed and cannot become running \(only: stopped\)"):
            start()
    made.config = Machine.Config(name="a")
    instances.stop("a")
    assert instances.start("a") is True


def test_failed_close_can_be_tried_again(instances: Instances) -> None:
    """A component that could not be closed is closed by the next stop (A2)."""
    made = Machine(Machine.Config(name="a", breaks=("close",)))
    instances.add("a", made)
    instances.start("a")
    with pytest.raises(ExceptionGroup):
        instances.stop("a")
    with pytest.raises(OSError, match="a cannot close"):
        instances.stop("a")
    made.config = Machine.Config(name="a")
    instances.stop("a")
    assert instances.status() == {"a": State.STOPPED}


def test_restart(instances: Instances, moves: list[ComponentMoved]) -> None:
    """What was stopped starts again, with a setup and a close each time (A2, A3)."""
    add(instances, CHAIN)
    for _ in range(3):
        instances.start_all()
        instances.stop_all()
    assert LOG == ["setup a", "setup b", "setup c", "close c", "close b", "close a"] * 3
    assert len(moves) == 18


def test_block_ends_without_a_start(instances: Instances) -> None:
    """A block in which nothing started closes nothing (A1)."""
    with instances:
        add(instances, CHAIN)
    assert LOG == []


# ---------------------------------------------------------------- health


def test_health_by_state(instances: Instances) -> None:
    """Who runs is asked; who does not is degraded, who failed is failed with the reason, and is not asked (A6)."""
    add(instances, {"runs": (), "waits": (), "stopped": (), "broken": ()}, "setup", at="broken")
    instances.start("runs")
    instances.start("stopped")
    instances.stop("stopped")
    with pytest.raises(OSError, match="broken cannot setup"):
        instances.start("broken")
    LOG.clear()
    assert instances.health() == {
        "runs": Health("ok", "runs is well", {"beats": 1}),
        "waits": Health("degraded", "created"),
        "stopped": Health("degraded", "stopped"),
        "broken": Health("failed", "OSError: broken cannot setup"),
    }
    assert LOG == ["health runs"]


def test_health_that_raises_is_a_finding(instances: Instances) -> None:
    """A component whose health check raises is reported as failed; the others are asked all the same (A6, R1)."""
    add(instances, CHAIN, "health", at="b")
    instances.start_all()
    found = instances.health()
    assert found["b"] == Health("failed", "OSError: b cannot health")
    assert worst(health.status for health in found.values()) == "failed"
    assert found["a"].status == found["c"].status == "ok"


def test_health_forgets_an_old_error(instances: Instances) -> None:
    """After a failed component was stopped, its old error is no longer its health (A6)."""
    made = Machine(Machine.Config(name="a", breaks=("setup",)))
    instances.add("a", made)
    with pytest.raises(OSError, match="cannot setup"):
        instances.start("a")
    instances.stop("a")
    assert instances.health()["a"] == Health("degraded", "stopped")


def test_worst() -> None:
    """The worst of several statuses counts; of none, all is well (A6)."""
    for mix in itertools.permutations(("ok", "degraded", "failed")):
        assert worst(mix) == "failed"
        assert worst(mix[:1]) == mix[0]
    assert worst(["ok", "degraded", "ok"]) == "degraded"
    assert worst([]) == "ok"


def test_asked() -> None:
    """A probe that raises is itself the finding; Ctrl-C is not (A6)."""
    assert asked(lambda: Health("ok", "well")) == Health("ok", "well")
    assert asked(lambda: 1 / 0) == Health("failed", "ZeroDivisionError: division by zero")  # type: ignore[arg-type]

    def interrupted() -> Health:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked(interrupted)


def test_component_defaults() -> None:
    """A component that holds nothing needs no setup, close or health of its own, and works in a `with` block (A1)."""

    class Quiet(Component):
        """Holds nothing."""

    with Quiet() as quiet:
        assert quiet.health() == Health("ok")
    quiet.close()
    assert Quiet.summary() == "Holds nothing."


def test_component_closes_with_its_block(bus: EventBus) -> None:
    """A component's own block calls setup and close, also when its body raises (A1)."""
    with pytest.raises(RuntimeError), Machine():
        raise RuntimeError
    assert LOG == ["setup machine", "close machine"]
