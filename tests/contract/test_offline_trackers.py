"""What every tracker promises, on the real library without a network, in a temporary folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from components.core import errors
from components.core.errors import MissingExtraError
from components.core.kinds import registry
from components.core.secret import Secret
from tests.conftest import ROOT
from tests.contract.common import named
from tests.contract.tracked import READERS

OFFLINE = ("wandb", "comet", "tensorboard")
EXTRAS = {"wandb": "wandb", "comet": "comet_ml", "tensorboard": "tensorboard"}
HOSTED = ("wandb", "comet")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test here leaves a process behind."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    after = psutil.Process().children(recursive=True)
    assert not [child for child in after if child.pid not in before and child.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(autouse=True)
def installed(request: pytest.FixtureRequest) -> None:
    """Comet comes with an extra; without it its tests are left out. `pip install 'postmill[comet]'` runs them."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name == "comet":
        pytest.importorskip(EXTRAS[name])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose database is made once: that takes seconds."""
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture
def place(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where the tracker of a test keeps its runs."""
    return request.getfixturevalue("database") if name == "mlflow" else tmp_path


def test_every_tracker_can_be_read_back() -> None:
    """A tracker without a reader here would go untested (A27)."""
    assert set(registry.names("tracker")) == set(READERS)


@named("tracker")
def test_everything_is_recorded(name: str, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Parameters, tags, metrics with their steps, files and the outcome are there afterwards, and nothing is printed
    (B17)."""
    tracker = registry.create("tracker", name, root=place)
    run_id = tracker.start("a run", {"seed": 17, "train.0.type": "sft"}, {"git.commit": "abc"})
    tracker.tag({"more": "tags"})
    tracker.metrics([(step, {"train/loss": 1 / step, "train/speed": 5.0}) for step in (1, 2, 3)])
    tracker.metrics([(0, {"int4/bytes": 7.0})])  # a figure of the whole run, after steps
    for file in ("note.md", "other.txt"):
        (tmp_path / file).write_text("evidence")
        tracker.file(tmp_path / file, "evidence" if file == "note.md" else "")
    (tmp_path / "note.md").unlink()  # what was handed over is the tracker's
    tracker.finish("FINISHED")
    seen = READERS[name](place, run_id)
    assert seen.params.items() >= {"seed": "17", "train.0.type": "sft"}.items()
    assert seen.tags.items() >= {"git.commit": "abc", "more": "tags"}.items()
    assert seen.metrics["train/loss"] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    assert seen.metrics["train/speed"] == [(1, 5.0), (2, 5.0), (3, 5.0)]
    assert seen.metrics["int4/bytes"] == [(0, 7.0)]
    assert seen.files.items() >= {"evidence/note.md": b"evidence", "other.txt": b"evidence"}.items()
    assert seen.status == "FINISHED"
    assert capfd.readouterr() == ("", "")


@named("tracker")
def test_a_failed_run_is_recorded_as_failed(name: str, place: Path) -> None:
    """A run that went wrong says so in every tracker (B17)."""
    tracker = registry.create("tracker", name, root=place)
    run_id = tracker.start("a run", {}, {})
    tracker.finish("FAILED")
    assert READERS[name](place, run_id).status == "FAILED"


@named("tracker")
def test_runs_do_not_mix(name: str, place: Path) -> None:
    """Two runs one after the other in the same folder are two records (B17)."""
    ids = []
    for loss in (1.0, 2.0):
        tracker = registry.create("tracker", name, root=place)
        ids.append(tracker.start("a run", {}, {}))
        tracker.metrics([(1, {"loss": loss})])
        tracker.finish("FINISHED")
    assert [READERS[name](place, run_id).metrics["loss"] for run_id in ids] == [[(1, 1.0)], [(1, 2.0)]]


@named("tracker")
def test_a_figure_that_is_no_number_is_refused(name: str, place: Path) -> None:
    """What is no number is an error of whoever sent it, never a silent hole in the record (B17)."""
    tracker = registry.create("tracker", name, root=place)
    tracker.start("a run", {}, {})
    try:
        with pytest.raises(ValueError, match="hot"):
            tracker.metrics([(1, {"heat": "hot"})])
    finally:
        tracker.finish("FAILED")


@named("tracker")
def test_health_makes_nothing(name: str, tmp_path: Path) -> None:
    """A tracker that could work says so, without making a file or asking a server (B17)."""
    health = registry.create("tracker", name, root=tmp_path / "new").health()
    assert health.status == "ok"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", OFFLINE)
def test_sick_trackers_say_why(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be one, and a library that is not there, are found by asking, with the remedy (B17)."""
    (tmp_path / "file").write_text("")
    health = registry.create("tracker", name, root=tmp_path / "file").health()
    assert (health.status, "cannot be written" in health.detail) == ("failed", True)
    monkeypatch.setattr("components.trackers._library.find_spec", lambda module: None)
    health = registry.create("tracker", name, root=tmp_path).health()
    assert health.status == "failed"
    assert health.detail.endswith(f"run: pip install 'postmill[{name}]'")


@pytest.mark.parametrize("name", OFFLINE)
def test_a_missing_library_names_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its library a tracker says which extra to install, and leaves nothing behind (A27)."""

    def absent(module: str) -> Any:
        raise ModuleNotFoundError(module)

    monkeypatch.setattr(errors.importlib, "import_module", absent)
    tracker = registry.get("tracker", name)(registry.get("tracker", name).Config(root=tmp_path))
    with pytest.raises(MissingExtraError) as caught:
        tracker.start("a run", {}, {})
    assert str(caught.value).startswith(f"the package '{EXTRAS[name]}' is not installed")
    assert str(caught.value).endswith(f"pip install 'postmill[{name}]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", HOSTED)
def test_online_needs_a_key(name: str) -> None:
    """Nobody is asked for a key while a run starts: online without one is a mistake of the recipe (E3)."""
    config = registry.get("tracker", name).Config
    with pytest.raises(ValidationError, match=f"add api_key: env:{name.upper()}_API_KEY"):
        config(mode="online")
    with pytest.raises(ValueError, match="a secret is not written into a configuration"):
        config(api_key="0123456789abcdef")
    assert config(mode="online", api_key="env:K").api_key == Secret("env:K")


@pytest.mark.parametrize("name", HOSTED)
def test_a_key_that_is_not_set(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is named and not set is found by asking for health; a run that is offline does not need it."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    online = registry.create("tracker", name, root=tmp_path, api_key="env:NO_SUCH_KEY")
    assert online.health().status == "failed"
    assert "NO_SUCH_KEY" in online.health().detail
    with pytest.raises(errors.ConfigError, match="NO_SUCH_KEY"):
        online.start("a run", {}, {})
    offline = registry.create("tracker", name, root=tmp_path, api_key="env:NO_SUCH_KEY", mode="offline")
    assert offline.health().status == "ok"


@pytest.mark.parametrize("name", HOSTED)
def test_a_key_of_the_environment_stays_unused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the recipe sends a run to a server: a key that lies in the environment does not (C54)."""
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    tracker = registry.create("tracker", name, root=tmp_path)
    run_id = tracker.start("a run", {"seed": 1}, {})
    tracker.finish("FINISHED")
    assert READERS[name](tmp_path, run_id).params["seed"] == "1"


def test_images_are_shown(tmp_path: Path) -> None:
    """A picture among the files is one for TensorBoard too (B17)."""
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (8, 6), "red").save(tmp_path / "loss.png")
    tracker = registry.create("tracker", "tensorboard", root=tmp_path)
    run_id = tracker.start("a run", {"text": "a|b\nc"}, {})
    tracker.file(tmp_path / "loss.png", "evidence")
    tracker.finish("FINISHED")
    events = EventAccumulator(str(tmp_path / "tensorboard" / run_id)).Reload()
    (image,) = events.Images("evidence/loss.png")
    assert (image.width, image.height) == (8, 6)
    assert READERS["tensorboard"](tmp_path, run_id).params == {"text": "a\\|b<br>c"}


RECORD = """
import sys
from pathlib import Path
from components.core.kinds import registry
talk = []
def listen(event, arguments):
    if event == "socket.getaddrinfo" or event in ("socket.connect", "socket.sendto") and type(arguments[1]) is tuple:
        talk.append((event, arguments))
sys.addaudithook(listen)
hooks = sys.excepthook, sys.exit
tracker = registry.create("tracker", {name!r}, root=Path({root!r}))
tracker.start("a run", {{"a": 1}}, {{}})
tracker.metrics([(1, {{"loss": 1.0}})])
tracker.finish("FINISHED")
assert (sys.excepthook, sys.exit) == hooks
assert not [finder for finder in sys.meta_path if "Comet" in type(finder).__name__]
assert not talk, talk
"""


def isolated() -> list[str]:
    """A command that runs another one without any network, where the kernel lets us; else nothing."""
    command = ["unshare", "--user", "--map-root-user", "--net"]
    try:
        done = subprocess.run([*command, "true"], capture_output=True, timeout=10)
    except OSError:
        return []
    return command if done.returncode == 0 else []


@pytest.mark.parametrize("name", OFFLINE)
def test_no_network_is_needed(name: str, tmp_path: Path) -> None:
    """A run is recorded where there is no network, nobody asks for one, and the process stays as it was (B17)."""
    code = RECORD.format(name=name, root=str(tmp_path))
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [*isolated(), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert any((tmp_path / name).rglob("*"))
    home = {path.name for path in (tmp_path / "home").rglob("*") if path.parent.name in (".cache", ".config", "home")}
    assert home <= {".cache", ".config", "matplotlib"}  # Comet imports matplotlib, which keeps a list of fonts
