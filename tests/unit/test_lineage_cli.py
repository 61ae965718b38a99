"""`postmill lineage` and `postmill report` on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from components.core.recipe import parse_recipe
from components.core.rows import row_digest
from components.services.data import DataService
from components.services.workspace import Workspace
from flows.cli_lineage import add_to
from flows.lineage import print_lineage
from tests import tiny
from tests.unit.lineage_world import World, build, made
from tests.unit.test_data_page import Page

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with real rows besides, on which a model was trained and another one measured."""
    found = build(tmp_path_factory.mktemp("cli") / "root")
    rows = tiny.recipe(found.root, found.root / "model")
    dataset = DataService(Workspace(found.root)).validate(parse_recipe(rows).data)
    base = found.parts()["base"]
    trained = made(found.store, "train", "dpo", {}, model=base, dataset=dataset)
    made(found.store, "optimize", "cast", {}, source=trained)
    made(found.store, "benchmark", "score", {"metrics": {}}, dataset=dataset, base=base)
    return found


@pytest.fixture
def command(world: World, monkeypatch: pytest.MonkeyPatch) -> Command:
    app = typer.Typer()
    add_to(app)
    monkeypatch.setenv("POSTMILL_ROOT", str(world.root))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, list(words))


def test_tree(command: Command) -> None:
    """A model's tree leads back to its rows; what stands there already is named, not written out again."""
    found = command("lineage", "toy@production")
    assert found.exit_code == 0, found.output
    lines = [line.strip(" │├└─") for line in found.stdout.splitlines()]
    assert lines[0] == "toy@production"
    assert any(line.startswith("files: pass int4: onnx") for line in lines)
    assert any(line.startswith("rows train: 24 rows") for line in lines)
    assert "reused: toy  (above)" in lines
    assert sum(line.startswith("trained step") for line in lines) == 1


def test_json_and_page(command: Command, tmp_path: Path) -> None:
    """`--json -` prints nothing but the graph; files are written where they are asked for."""
    printed = json.loads(command("lineage", "toy/1", "--json", "-").stdout)
    found = command("lineage", "toy/1", "--json", str(tmp_path / "g.json"), "--html", str(tmp_path / "g.html"))
    assert "toy version 1" in found.stdout
    assert json.loads((tmp_path / "g.json").read_text()) == printed
    assert printed["root"] == "version/toy/1"
    assert "Every one of its" in Page((tmp_path / "g.html").read_text()).text


def test_of_a_row(command: Command) -> None:
    """`--of` leads forward from a row to what was trained and what was measured on it (B22)."""
    digest = row_digest({"messages": tiny.conversation(5)}).hex()
    found = command("lineage", "--of", digest)
    assert found.exit_code == 0, found.output
    words = found.stdout
    assert words.startswith(f"row row {digest}")
    assert "train.jsonl:6: rows train: 24 rows" in words
    assert words.index("trained step dpo") < words.index("pass cast")
    held_out = json.dumps({"messages": tiny.conversation(103)})
    assert "measured on: base model tiny" in command("lineage", "--of", held_out).stdout


def test_row_that_nobody_saw(command: Command) -> None:
    """A row that no data set holds ends with exit code 1, and says so."""
    found = command("lineage", "--of", "nobody says this")
    assert (found.exit_code, "no data set here holds it" in found.output) == (1, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "say which"),
        (("toy", "--of", "x"), "say which"),
        (("toy@nowhere",), "no alias 'nowhere'"),
        (("toy", "--html", "/no/such/place.html"), "name a file in a folder that is there"),
        (("toy", "--json", "/no/such/place.json"), "cannot write '/no/such/place.json'"),
    ],
)
def test_mistakes(command: Command, words: tuple[str, ...], told: str) -> None:
    """A mistake is one message with its remedy, not a traceback."""
    found = command("lineage", *words)
    assert found.exit_code in (1, 2)
    assert told in found.output


def test_missing_is_red(world: World, tmp_path: Path) -> None:
    """What is missing stands in the tree with its reason, and is counted."""
    broken = world.copy(tmp_path / "root")
    (broken.parts()["merged"].path / "weights").unlink()
    console = Console(width=200, record=True)
    print_lineage(console, broken.service().of_model("toy/1"))
    text = console.export_text()
    assert "missing: 1 of 2 files are gone from the store" in text
    assert "1 of 15 parts missing" in text


def test_report(command: Command, world: World) -> None:
    """`postmill report` writes the page of a folder again, with the lineage that the store knows now."""
    folder = world.root / "reports" / "toy"
    found = command("report", str(folder))
    assert found.stdout.strip() == str(folder / "report.html"), found.output
    assert "toy@production" in Page((folder / "report.html").read_text()).text
    wrong = command("report", str(world.root))
    assert (wrong.exit_code, "holds no evidence of a run" in wrong.output) == (1, True)
