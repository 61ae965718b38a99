"""The example plugin, really installed by pip, used in a process of its own; and a new plugin's own test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.scaffold import new_plugin
from tests import tiny
from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(180)
EXAMPLE = ROOT / "examples" / "plugin"
BEGIN = """
import json, sys
from pathlib import Path
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.plugins import PluginManager, PluginSettings
bus, told = EventBus(), []
bus.on_any(told.append)
plugins = PluginManager(registry, bus, PluginSettings(allow=("acme",)))
report = [one for one in plugins.load_all() if one.name == "acme"][0]
plain, out = json.load(sys.stdin), {}
"""
END = "\nprint(json.dumps(out))\n"


def run(command: list[str], path: Path | None = None, given: str = "", folder: Path = ROOT) -> str:
    """What a child process prints; `path` is where it finds installed things first."""
    environment = os.environ | ({"PYTHONPATH": f"{path}{os.pathsep}{ROOT}"} if path else {})
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, cwd=folder, env=environment, check=False, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example plugin, installed offline from a copy of its folder."""
    copy, site = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    run([sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(copy)], folder=copy)
    return site


@pytest.fixture
def child(site: Path) -> Callable[..., Any]:
    """Run code after the plugins are loaded; it fills `out` from `plain`."""

    def call(code: str, **plain: Any) -> Any:
        printed = run([sys.executable, "-c", BEGIN + code + END], site, json.dumps(plain))
        return json.loads(printed.splitlines()[-1])

    return call


def test_found_by_its_entry_point(child: Callable[..., Any], site: Path) -> None:
    """An installed third-party plugin is found and registered, and loading it imports no ML library (A13, A21, C57)."""
    code = """
out["report"] = [report.version, report.outcome, report.origin, sorted(report.provides)]
out["heavy"] = [name for name in ("torch", "transformers", "postmill_acme.trainer") if name in sys.modules]
out["place"] = str(Path(sys.modules["postmill_acme"].__file__).parent)
out["classes"] = [registry.get(*at).summary() for at in (("trainer", "acme_freeze"), ("benchmark", "acme_words"))]
"""
    out = child(code)
    provides = ["benchmark:acme_words", "section:acme", "service:acme_greeter", "trainer:acme_freeze"]
    assert out["report"] == ["1.0", "loaded", "postmill-acme 1.0", provides]
    assert out["heavy"] == []
    assert out["place"] == str(site / "postmill_acme")
    assert all(summary.endswith(".") for summary in out["classes"])


def recipe(root: Path, model: Path, **changes: Any) -> dict[str, Any]:
    """The tiny recipe on the plugin's trainer and benchmark."""
    train = [{"type": "acme_freeze", "max_steps": 2, "batch_size": 2, "learning_rate": 1e-2}]
    plain = {"train": train, "benchmark": [{"type": "acme_words", "rows": 2, "max_new_tokens": 4}]}
    variant = {"fp32": [{"type": "onnx", "precision": "fp32"}]}
    gate = [{"type": "budget", "max": {"acme_words": 1000}}]
    return tiny.recipe(root, model, **plain, optimize=variant, gate=gate, **changes)


def test_recipe(child: Callable[..., Any], tmp_path: Path) -> None:
    """A recipe takes the plugin's trainer, benchmark and section; a wrong key in the section is refused (A21, C57)."""
    code = """
from components.core.errors import ConfigError
from components.core.recipe import parse_recipe
good = parse_recipe({**plain, "acme": {"greeting": "good day"}})
out["used"] = [good.train[0].config.layers, good.acme.greeting, parse_recipe(plain).acme.greeting]
out["again"] = parse_recipe(good.dump()) == good
try:
    parse_recipe({**plain, "acme": {"greting": "good day"}})
except ConfigError as error:
    out["refused"] = error.problems
plugins.unload("acme")
try:
    parse_recipe({**plain, "acme": {}})
except ConfigError as error:
    out["gone"] = error.problems
"""
    out = child(code, **recipe(tmp_path, tmp_path / "model"))
    assert out["used"] == [1, "good day", "hello"]
    assert out["again"]
    assert len(out["refused"]) == 1
    assert "acme.greting" in out["refused"][0]
    assert any("acme_freeze" in problem for problem in out["gone"])
    assert any("acme" in problem.partition(":")[0] for problem in out["gone"])


def test_its_service_gets_the_section(child: Callable[..., Any], tmp_path: Path, tiny_model: Path) -> None:
    """A plugin's service is filled in with the recipe's section; without a recipe it says what it lacks (A32, E6)."""
    code = """
from components import Application, Settings, parse_recipe
from components.core.errors import WiringError
plugins.close()
recipe_of = plain.pop("root")
with Application(Settings(root=recipe_of, plugins=PluginSettings(allow=("acme",)))) as app:
    with app.run(parse_recipe(plain | {"acme": {"greeting": "good day"}})) as run:
        out["said"] = run.get("acme_greeter").greet("Ada")
    with app.container() as container:
        try:
            container.get("acme_greeter")
        except WiringError as error:
            out["refused"] = str(error)
    out["health"] = [health.status for health in app.health().values()]
"""
    out = child(code, root=str(tmp_path), **tiny.recipe(tmp_path, tiny_model))
    assert out["said"] == "good day, Ada"
    assert "AcmeSection belongs to the run of a recipe" in out["refused"]
    assert set(out["health"]) == {"ok"}


def test_training_and_measuring(child: Callable[..., Any], tmp_path: Path, tiny_model: Path) -> None:
    """The plugin's trainer moves the last layer and nothing else, its benchmark measures both (A21, E16, R7)."""
    code = """
import torch
torch.set_num_threads(1)
from components.core.recipe import parse_recipe
from components.core.safeload import load_causal_lm
from components.interfaces import Subject
from components.services.benchmarking import BenchmarkService, scoreboard
from components.services.data import DataService
from components.services.model import ModelService
from components.services.training import TrainingService
from components.services.workspace import Workspace
recipe, workspace = parse_recipe(plain["recipe"]), Workspace(Path(plain["root"]), bus)
base = ModelService(workspace).fetch(recipe.model)
dataset = DataService(workspace).validate(recipe.data, base)
trained = TrainingService(workspace).train(recipe.train, base, dataset, recipe.seed)
before, after = (load_causal_lm(artifact.path).state_dict() for artifact in (base, trained))
out["moved"] = [name for name in before if not torch.equal(before[name], after[name])]
out["kept"] = len(before) - len(out["moved"])
out["meta"] = trained.meta
out["files"] = sorted(path.name for path in trained.path.iterdir())
subjects = [Subject(name="base", artifact=base), Subject(name="trained", artifact=trained)]
board = scoreboard(BenchmarkService(workspace).measure(recipe.benchmark, subjects, dataset, recipe.seed))
out["words"] = [board.metrics(name)["acme_words"] for name in ("base", "trained")]
out["rows"] = len(board.rows("base", "acme_words"))
out["events"] = [event.topic for event in told]
out["health"] = plugins.get("acme").health().metrics
"""
    out = child(code, recipe=recipe(tmp_path, tiny_model), root=str(tmp_path))
    assert out["moved"]
    assert all(".layers.1." in name for name in out["moved"])
    assert out["kept"] > 0
    assert out["meta"]["steps"] == len(out["meta"]["losses"]) == 2
    assert all(name.endswith((".json", ".jinja", ".safetensors")) for name in out["files"])
    assert all(0 <= words <= 4 for words in out["words"])
    assert out["rows"] == 2
    assert out["events"].count("training.step") == 2
    assert "metric.logged" in out["events"]
    assert out["health"] == {"steps": 2}


def test_source_tree_stays_clean(site: Path) -> None:
    """Installing left nothing in the example's own folder (C57)."""
    assert not (EXAMPLE / "build").exists()


@pytest.mark.parametrize("name", ["acme", "two_words"])
def test_skeleton_passes_its_own_test(name: str, tmp_path: Path) -> None:
    """A new plugin passes its test as written, before anything is changed or installed (A54, C57)."""
    new_plugin(name, tmp_path)
    folder = tmp_path / f"postmill-{name}"
    printed = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)], ROOT, folder=tmp_path)
    assert "4 passed" in printed
