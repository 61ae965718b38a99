"""A configuration that follows its files: valid changes are taken over, invalid ones are not, readers never notice."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.errors import ConfigError
from components.core.events import ConfigChanged, ConfigRejected, EventBus
from components.core.recipe import read_recipe
from components.services.configuration import LiveConfig, differences
from tests import tiny

PATIENCE_S = 5.0


class Desk:
    """A recipe on disk, layered, and everything that was announced about it."""

    def __init__(self, root: Path) -> None:
        self.root, self.bus, self.events = root, EventBus(), list[Any]()
        self.base, self.top = root / "shared" / "base.yaml", root / "mine" / "top.yaml"
        self.overlay = root / "mine" / "environments" / "dev.yaml"
        tiny.write_recipe(self.base, tiny.recipe(root, root / "model"))
        self.write(self.top, "extends: ../shared/base.yaml\nseed: 1\n")
        self.write(self.overlay, "train: {0: {max_steps: 5}}\n")
        self.bus.on(ConfigChanged, self.events.append)
        self.bus.on(ConfigRejected, self.events.append)

    def live(self) -> LiveConfig:
        return LiveConfig(lambda: read_recipe(self.top, overlays=["dev"]), self.bus)

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def seed(self, seed: object) -> None:
        """Save the recipe in place with another seed."""
        self.write(self.top, f"extends: ../shared/base.yaml\nseed: {seed}\n")

    @property
    def changes(self) -> list[Any]:
        """The differences that were announced."""
        return [event.changes for event in self.events if isinstance(event, ConfigChanged)]

    @property
    def problems(self) -> list[Any]:
        """The refusals that were announced."""
        return [event.problems for event in self.events if isinstance(event, ConfigRejected)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def live(desk: Desk) -> Iterator[LiveConfig]:
    """The recipe, followed by a thread."""
    with desk.live() as live:
        yield live


def eventually(true: Callable[[], Any]) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.01)
    return bool(true())


def settle() -> None:
    """Time in which a change would have been noticed."""
    time.sleep(0.4)


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "postmill-config"]


# ---------------------------------------------------------------- taking over and refusing


def test_first_load(desk: Desk) -> None:
    """The first load is in force at once, knows its files, is counted, and announces nothing (A39, E35)."""
    live = desk.live()
    assert (live.current.seed, live.current.train[0].config.max_steps) == (1, 5)
    assert {file.resolve() for file in live.files} == {desk.base, desk.top, desk.overlay}
    assert (live.metrics.loads, live.metrics.updates, live.metrics.errors) == (1, 0, 0)
    assert live.metrics.load_seconds > 0
    assert desk.events == []
    assert live.health().status == "ok"


def test_first_load_of_a_bad_file(desk: Desk) -> None:
    """A process does not start with a configuration that is refused (A39)."""
    desk.seed(-1)
    with pytest.raises(ConfigError, match="seed"):
        desk.live()


def test_a_valid_change_is_taken_over(desk: Desk) -> None:
    """A valid change replaces the object and is announced with old and new value of every key (A39, A40, E7)."""
    live = desk.live()
    before = live.current
    desk.seed(2)
    desk.write(desk.overlay, "train: {0: {max_steps: 6, lora: null}}\noptimize: {int4: null, fp32: [{type: onnx}]}\n")
    assert live.reload()
    assert (live.current.seed, live.current.train[0].config.max_steps, before.seed) == (2, 6, 1)
    (changes,) = desk.changes
    assert changes["seed"] == (1, 2)
    assert changes["train.0.max_steps"] == (5, 6)
    assert changes["train.0.lora"][1] is None
    assert changes["optimize.int4"][1] is None
    assert (live.metrics.loads, live.metrics.updates, live.metrics.errors) == (2, 1, 0)


@pytest.mark.parametrize("text", ["seed: 1\n", "# a comment\n\nextends: ../shared/base.yaml\nseed: 0x1\n"])
def test_an_unchanged_configuration_is_no_news(desk: Desk, text: str) -> None:
    """Saving the same configuration again, however it is written, announces nothing and keeps the object (A40)."""
    live = desk.live()
    before = live.current
    desk.write(desk.top, text if "extends" in text else f"extends: ../shared/base.yaml\n{text}")
    assert not live.reload()
    assert live.current is before
    assert desk.events == []
    assert live.metrics.updates == 0


BAD = {
    "value": "extends: ../shared/base.yaml\nseed: -1\n",
    "key": "extends: ../shared/base.yaml\nsede: 1\n",
    "syntax": "extends: ../shared/base.yaml\nseed: [\n",
    "torn": "exte",
    "empty": "",
    "missing base": "extends: ../shared/bsae.yaml\n",
    "not text": "\udcff",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_an_invalid_change_is_refused(desk: Desk, text: str) -> None:
    """An invalid file keeps the old object, is announced with its problems, forgotten when it is good (A39, E7)."""
    live = desk.live()
    before = live.current
    desk.top.write_bytes(text.encode(errors="surrogateescape"))
    assert not live.reload()
    assert live.current is before
    assert desk.problems == [live.problems]
    assert live.problems
    assert (live.health().status, live.health().detail) == ("degraded", "; ".join(live.problems))
    assert (live.metrics.errors, live.metrics.updates, live.metrics.loads) == (1, 0, 1)
    assert not live.reload()
    assert len(desk.events) == 1, "the same refusal is said once"
    desk.seed(7)
    assert live.reload()
    assert (live.current.seed, live.problems, live.health().status) == (7, (), "ok")
    assert desk.changes == [{"seed": (1, 7)}]


def test_going_back_after_a_refusal(desk: Desk) -> None:
    """A file that is put right again as it was is well, and no news (A40)."""
    live = desk.live()
    desk.seed(-1)
    live.reload()
    desk.seed(1)
    assert not live.reload()
    assert (live.health().status, desk.changes) == ("ok", [])


def test_a_file_that_vanishes(desk: Desk) -> None:
    """A file that is gone keeps the old configuration; when it returns it is read again (A39)."""
    live = desk.live()
    desk.top.unlink()
    assert not live.reload()
    assert "does not exist" in live.problems[0]
    desk.seed(3)
    assert live.reload()
    assert live.current.seed == 3


def test_a_handler_that_fails(desk: Desk) -> None:
    """A handler that raises changes nothing about the new configuration (A40)."""

    def fail(_: Any) -> None:
        raise RuntimeError("handler")

    desk.bus.on(ConfigChanged, fail)
    live = desk.live()
    desk.seed(2)
    assert live.reload()
    assert live.current.seed == 2
    assert len(desk.bus.failures) == 1


def test_a_handler_sees_the_new_configuration(desk: Desk) -> None:
    """When the change is announced, the new configuration is already in force (A40)."""
    live, seen = desk.live(), []
    desk.bus.on(ConfigChanged, lambda event: seen.append((live.current.seed, live.reload())))
    desk.seed(2)
    live.reload()
    assert seen == [(2, False)]


def test_health_is_a_snapshot(desk: Desk) -> None:
    """The figures of a health record do not change afterwards (E35)."""
    live = desk.live()
    health = live.health()
    desk.seed(2)
    live.reload()
    assert health.metrics["loads"] == 1
    assert live.health().metrics["loads"] == 2
    assert set(health.metrics) == {"attempts", "loads", "updates", "errors", "load_seconds", "error_rate"}


def test_attempts_are_counted(desk: Desk) -> None:
    """Every attempt is counted and timed, valid or refused, and the share of refused ones is known (E35)."""
    live = desk.live()
    desk.seed(-1)
    live.metrics.load_seconds = 0.0
    live.reload()
    assert live.metrics.load_seconds > 0
    live.reload()
    desk.seed(2)
    live.reload()
    figures = live.health().metrics
    counted = {name: figures[name] for name in ("attempts", "loads", "updates", "errors", "error_rate")}
    assert counted == {"attempts": 4, "loads": 2, "updates": 1, "errors": 2, "error_rate": 0.5}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": (1, 2)}),
        ({"a": 1}, {}, {"a": (1, None)}),
        ({}, {"a": {"b": 1}}, {"a": (None, {"b": 1})}),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3, 4]}}, {"a.b.1": (2, 3), "a.b.2": (None, 4)}),
        ({"a": [1, 2]}, {"a": [1]}, {"a.1": (2, None)}),
        ({"a": [1]}, {"a": {"b": 1}}, {"a": ([1], {"b": 1})}),
        ({"a": {"b": 1}}, {"a": None}, {"a": ({"b": 1}, None)}),
        ({"a": []}, {"a": None}, {"a": ([], None)}),
        ({"a": [{"x": 1}]}, {"a": [{"x": 2}]}, {"a.0.x": (1, 2)}),
        ({"a": None}, {}, {}),
    ],
)
def test_differences(old: Any, new: Any, expected: Any) -> None:
    """The difference names every leaf that is not the same, by its dotted key (A40)."""
    assert differences(old, new) == expected


# ---------------------------------------------------------------- following the files


def in_place(path: Path, text: str) -> None:
    """Save like `echo > file`."""
    path.write_text(text)


def by_rename(path: Path, text: str) -> None:
    """Save like an editor: a new file that is renamed over the old one."""
    scratch = path.with_name(f".{path.name}.swp")
    scratch.write_text(text)
    scratch.replace(path)


def by_removal(path: Path, text: str) -> None:
    """Save like a careless editor: the old file away first."""
    path.rename(path.with_name(f"{path.name}~"))
    path.write_text(text)


@pytest.mark.parametrize("save", [in_place, by_rename, by_removal], ids=lambda save: save.__name__)
def test_every_way_to_save_is_seen(desk: Desk, live: LiveConfig, save: Callable[[Path, str], None]) -> None:
    """The thread sees a file that is written in place, renamed over or made anew, again and again (A39, E7)."""
    for seed in (2, 3, 4):
        save(desk.top, f"extends: ../shared/base.yaml\nseed: {seed}\n")
        assert eventually(lambda seed=seed: live.current.seed == seed)
    assert live.metrics.updates == 3


def test_all_layers_are_followed(desk: Desk, live: LiveConfig) -> None:
    """Extended files and overlays are followed like the file itself, wherever they lie (A39, C55)."""
    plain = yaml.safe_load(desk.base.read_text())
    desk.write(desk.base, yaml.safe_dump(plain | {"name": "other"}))
    assert eventually(lambda: live.current.name == "other")
    by_rename(desk.overlay, "train: {0: {max_steps: 9}}\n")
    assert eventually(lambda: live.current.train[0].config.max_steps == 9)
    assert {"name": ("tiny", "other")} in desk.changes
    assert {"train.0.max_steps": (5, 9)} in desk.changes


def test_refusal_and_recovery_are_seen(desk: Desk, live: LiveConfig) -> None:
    """The thread refuses a bad file and goes on; the next good one is taken over (A39, E7)."""
    before = live.current
    by_rename(desk.top, BAD["value"])
    assert eventually(lambda: desk.problems)
    assert live.current is before
    assert live.health().status == "degraded"
    desk.seed(5)
    assert eventually(lambda: live.current.seed == 5)
    assert live.health().status == "ok"


def test_nothing_happens_without_a_change(desk: Desk, live: LiveConfig) -> None:
    """Neighbours of the files, touched and equal files announce nothing (A40)."""
    assert eventually(lambda: live.metrics.loads >= 2)
    before = live.current
    (desk.top.parent / "neighbour.txt").write_text("x")
    os.utime(desk.top)
    desk.seed(1)
    settle()
    assert desk.changes == []
    assert live.current is before


def test_a_change_before_the_thread_looks_is_seen(desk: Desk) -> None:
    """A change between the first load and the beginning of the watch is not missed (A39)."""
    live = desk.live()
    desk.seed(2)
    with live:
        assert eventually(lambda: live.current.seed == 2)


def test_a_new_layer_is_followed(desk: Desk, live: LiveConfig) -> None:
    """A file that is extended from now on is followed from now on, in a folder of its own too (A39)."""
    extra = desk.root / "elsewhere" / "extra.yaml"
    desk.write(extra, "seed: 2\n")
    desk.write(desk.top, "extends: [../shared/base.yaml, ../elsewhere/extra.yaml]\n")
    assert eventually(lambda: live.current.seed == 2)
    assert eventually(lambda: extra.parent in live._folders())
    for seed in (3, 4):
        desk.write(extra, f"seed: {seed}\n")
        assert eventually(lambda seed=seed: live.current.seed == seed)


def test_a_new_layer_that_is_wrong_at_first(desk: Desk, live: LiveConfig) -> None:
    """A new layer that is refused when it is named is taken over as soon as it is right (A39)."""
    extra = desk.top.parent / "extra.yaml"
    desk.write(extra, "seed: -2\n")
    desk.write(desk.top, "extends: [../shared/base.yaml, extra.yaml]\n")
    assert eventually(lambda: desk.problems)
    desk.write(extra, "seed: 2\n")
    assert eventually(lambda: live.current.seed == 2)


def test_a_folder_that_comes_back(desk: Desk, live: LiveConfig) -> None:
    """A folder that is moved away and back, as a checkout does, is followed again (A39)."""
    assert eventually(lambda: live.metrics.loads >= 2)
    desk.top.parent.rename(desk.root / "away")
    assert eventually(lambda: live.health().status == "degraded")
    (desk.root / "away").rename(desk.top.parent)
    assert eventually(lambda: live.health().status == "ok")
    settle()
    desk.seed(6)
    assert eventually(lambda: live.current.seed == 6)


def test_links_that_are_switched(desk: Desk) -> None:
    """A file behind a link that is switched to another folder is seen, as Kubernetes does it (A39)."""
    for seed in (1, 2):
        desk.write(desk.root / f"mount/v{seed}/top.yaml", f"extends: {desk.base}\nseed: {seed}\n")
    mount = desk.root / "mount"
    (mount / "..data").symlink_to("v1")
    (mount / "top.yaml").symlink_to("..data/top.yaml")
    live = LiveConfig(lambda: read_recipe(mount / "top.yaml"), desk.bus)
    with live:
        assert eventually(lambda: live.metrics.loads >= 2)
        (mount / "..new").symlink_to("v2")
        (mount / "..new").replace(mount / "..data")
        assert eventually(lambda: live.current.seed == 2)
        desk.write(mount / "v2/top.yaml", f"extends: {desk.base}\nseed: 3\n")
        assert eventually(lambda: live.current.seed == 3)


@pytest.mark.parametrize("folder", ["node_modules", ".git", "site-packages", "__pycache__"])
def test_no_folder_is_ignored(tmp_path: Path, folder: str) -> None:
    """A recipe is followed wherever it lies, also below folders that developers' tools pass over (A39)."""
    desk = Desk(tmp_path / folder)
    with desk.live() as live:
        desk.seed(2)
        assert eventually(lambda: live.current.seed == 2)


def test_the_tree_below_is_not_watched(desk: Desk, live: LiveConfig) -> None:
    """Only the folders of the files are watched, not the thousands that may lie below them (A39)."""
    assert eventually(lambda: live.metrics.loads >= 2)
    settle()
    loads = live.metrics.loads
    desk.write(desk.top.parent / "artifacts" / "x" / "y.yaml", "a: 1\n")
    settle()
    before = live.metrics.loads
    assert before <= loads + 1  # the new folder itself may be noticed
    desk.write(desk.top.parent / "artifacts" / "x" / "y.yaml", "a: 2\n")
    settle()
    assert live.metrics.loads == before


def test_the_last_of_many_quick_saves_wins(desk: Desk, live: LiveConfig) -> None:
    """Of many saves in a row none is the last one that is missed (A39)."""
    for seed in range(2, 102):
        by_rename(desk.top, f"extends: ../shared/base.yaml\nseed: {seed}\n")
        time.sleep(0.005)
    assert eventually(lambda: live.current.seed == 101)
    assert desk.problems == []


# ---------------------------------------------------------------- beginning and end


def test_close_stops_the_thread(desk: Desk) -> None:
    """`close` ends the thread soon, may be called twice, and later saves change nothing (A39)."""
    live = desk.live()
    live.close()
    with live:
        assert len(watchers()) == 1
    started = time.monotonic()
    live.close()
    assert time.monotonic() - started < 2
    assert watchers() == []
    desk.seed(2)
    settle()
    assert live.current.seed == 1
    assert live.health().status == "ok"


def test_it_can_be_followed_again(desk: Desk) -> None:
    """After an end there may be another beginning, which sees what happened in between (A39)."""
    live = desk.live()
    for seed in (2, 3):
        with live:
            assert eventually(lambda: live.metrics.loads >= 1)
        desk.seed(seed)
        with live:
            assert eventually(lambda seed=seed: live.current.seed == seed)
    assert watchers() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_noticed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the thread ends by a bug, health says that nobody follows the files any more (A39)."""
    live = desk.live()

    def fail() -> Any:
        raise RuntimeError("bug")

    monkeypatch.setattr(live, "_load", fail)
    with live:
        assert eventually(lambda: live.health().status == "failed")
        assert "the thread that follows the files has ended" in live.health().detail


# ---------------------------------------------------------------- many at once


def test_readers_see_whole_recipes(desk: Desk) -> None:
    """Readers on other threads see one whole valid recipe or another during 50 swaps, never a mixture (A39, E7)."""
    live, stop, wrong = desk.live(), threading.Event(), list[Any]()
    seen: set[int] = set()

    def read() -> None:
        while not stop.is_set():
            recipe = live.current
            seen.add(recipe.seed)
            if recipe.name != f"r{recipe.seed}" and recipe.seed != 1:
                wrong.append((recipe.name, recipe.seed))
            time.sleep(0.0002)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for thread in readers:
        thread.start()
    try:
        for seed in range(2, 52):
            desk.write(desk.top, f"extends: ../shared/base.yaml\nseed: {seed}\nname: r{seed}\n")
            assert live.reload()
    finally:
        stop.set()
        for thread in readers:
            thread.join()
    assert not wrong
    assert live.metrics.updates == len(desk.changes) == 50
    assert len(seen) > 1


def test_many_threads_reload(desk: Desk) -> None:
    """Threads that reload at once end with what stands on disk; every change is announced once, in order (A40)."""
    live = desk.live()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            live.reload()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for seed in range(2, 32):
        by_rename(desk.top, f"extends: ../shared/base.yaml\nseed: {seed}\n")
        time.sleep(0.01)
    time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    live.reload()
    assert live.current.seed == 31
    steps = [change["seed"] for change in desk.changes]
    assert [old for old, _ in steps] == [1, *(new for _, new in steps[:-1])]
    assert desk.problems == []
