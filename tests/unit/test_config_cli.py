"""`postmill config`: what is in force, where every key of it was said, the schema, and nothing secret in any of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from components.core.component import StrictConfig
from components.core.kinds import registry
from components.core.recipe import load_recipe
from components.core.schema import recipe_schema
from components.core.secret import Secret
from components.core.settings import Settings
from components.interfaces import Gate
from flows.cli import app
from tests import tiny
from tests.conftest import ROOT

CANARY = "hf_CANARY123456"
HEAVY = ("torch", "transformers", "mlflow", "prefect", "onnxruntime", "pandera", "scipy")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    return tmp_path


@pytest.fixture
def recipe(here: Path) -> Path:
    """A recipe of two layers and an overlay."""
    plain = tiny.recipe(here, here / "model")
    del plain["seed"]
    tiny.write_recipe(Path("base.yaml"), plain)
    Path("environments").mkdir()
    Path("environments/dev.yaml").write_text("train: {0: {max_steps: 5}}\n")
    Path("recipe.yaml").write_text("extends: base.yaml\nname: mine\n")
    return Path("recipe.yaml")


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `postmill config ...`; nothing secret is ever in them."""
    result = CliRunner().invoke(app, ["config", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "CANARY" not in result.output + result.stderr
    return result.exit_code, result.stdout, result.stderr


def shown(*arguments: object) -> Any:
    """What `config show` prints, read back."""
    code, out, err = invoke("show", *arguments)
    assert (code, err) == (0, "")
    return yaml.safe_load(out)


def origins(*arguments: object) -> dict[str, tuple[str, str]]:
    """What `config show --origin` prints: key -> value and place."""
    code, out, err = invoke("show", "--origin", *arguments)
    assert (code, err) == (0, "")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    return {key: (value, place) for key, value, place in rows}


def refused(*arguments: object) -> list[str]:
    """The messages of a command that is refused."""
    code, out, err = invoke(*arguments)
    assert (code, out) == (2, "")
    assert all(line.startswith("error: ") for line in err.splitlines())
    return [line.removeprefix("error: ") for line in err.splitlines()]


# ---------------------------------------------------------------- show


def test_show_settings() -> None:
    """Without a recipe the settings are shown, with every default (A36)."""
    assert shown() == {"settings": Settings().model_dump(mode="json")}


def test_show_recipe(recipe: Path) -> None:
    """A recipe is shown as it would run, and what is shown is a recipe (A36, E2)."""
    found = shown(recipe, "--env", "dev", "--set", "seed=4", "--set", "features.journal=false")
    assert found["recipe"] == load_recipe(recipe, ["seed=4"], overlays=["dev"]).dump()
    assert found["settings"]["features"] == {"journal": False}
    Path("again.yaml").write_text(yaml.safe_dump(found["recipe"]))
    assert shown("again.yaml")["recipe"] == found["recipe"]


def test_show_makes_nothing(here: Path, recipe: Path) -> None:
    """Showing makes no file and no directory (E3)."""
    before = sorted(here.rglob("*"))
    invoke("show", recipe)
    invoke("show", recipe, "--origin")
    invoke("schema")
    assert sorted(here.rglob("*")) == before


def test_overlays_of_the_settings(recipe: Path) -> None:
    """Overlays that the settings name are laid over every recipe; --env names others instead (C55)."""
    Path("environments/prod.yaml").write_text("train: {0: {accumulate: 7}}\n")
    Path("postmill.yaml").write_text("environment: [dev]\n")
    (step,) = shown(recipe)["recipe"]["train"]
    assert (step["max_steps"], step["accumulate"]) == (5, 1)
    (step,) = shown(recipe, "--env", "prod")["recipe"]["train"]
    assert (step["max_steps"], step["accumulate"]) == (3, 7)
    (step,) = shown(recipe, "--env", "prod", "--env", "dev")["recipe"]["train"]
    assert (step["max_steps"], step["accumulate"]) == (5, 7)


# ---------------------------------------------------------------- origin


SOURCES = {
    "--set": "--set",
    "environment": "environment POSTMILL_SEED",
    ".env": ".env POSTMILL_SEED",
    "overlay": "environments/dev.yaml:2",
    "recipe": "recipe.yaml:3",
    "extended": "base.yaml:1",
    "default": "default",
}


@pytest.mark.parametrize("strongest", range(len(SOURCES)), ids=SOURCES)
def test_origin_of_a_recipe_key(recipe: Path, monkeypatch: pytest.MonkeyPatch, strongest: int) -> None:
    """`--origin` names file and line, or variable, of the source that won; the strongest removed one by one (A37)."""
    present = list(SOURCES)[strongest:]
    arguments = ["--set", "seed=100"] if "--set" in present else []
    if "environment" in present:
        monkeypatch.setenv("POSTMILL_SEED", "101")
    if ".env" in present:
        Path(".env").write_text("POSTMILL_SEED=102\n")
    for source, file in (("overlay", "environments/dev.yaml"), ("recipe", "recipe.yaml")):
        if source in present:
            with Path(file).open("a") as handle:
                handle.write(f"seed: {100 + list(SOURCES).index(source)}\n")
    if "extended" in present:
        Path("base.yaml").write_text("seed: 105\n" + Path("base.yaml").read_text())
    value, place = origins(recipe, "--env", "dev", *arguments)["seed"]
    assert place == SOURCES[present[0]]
    assert value == ("17" if present == ["default"] else str(100 + strongest))


SETTINGS_SOURCES = {
    "--set": "--set",
    "environment": "environment POSTMILL_PLUGINS__BLOCK",
    ".env": ".env POSTMILL_PLUGINS__BLOCK",
    "postmill.json": "postmill.json",
    "postmill.yaml": "postmill.yaml:3",
    "default": "default",
}


@pytest.mark.parametrize("strongest", range(len(SETTINGS_SOURCES)), ids=SETTINGS_SOURCES)
def test_origin_of_a_setting(monkeypatch: pytest.MonkeyPatch, strongest: int) -> None:
    """The same for the settings, for a list (A37)."""
    present = list(SETTINGS_SOURCES)[strongest:]
    arguments = ["--set", "plugins.block=[n0]"] if "--set" in present else []
    if "environment" in present:
        monkeypatch.setenv("POSTMILL_PLUGINS__BLOCK", "[n1]")
    if ".env" in present:
        Path(".env").write_text("POSTMILL_PLUGINS__BLOCK='[n2]'\n")
    if "postmill.json" in present:
        Path("postmill.json").write_text('{"plugins": {"block": ["n3"]}}')
    if "postmill.yaml" in present:
        Path("postmill.yaml").write_text("\nplugins:\n  block: [n4]\n")
    value, place = origins(*arguments)["plugins.block"]
    assert place == SETTINGS_SOURCES[present[0]]
    assert json.loads(value) == ([] if present == ["default"] else [f"n{strongest}"])


def test_origin_of_every_key(recipe: Path) -> None:
    """Every key of settings and recipe has its row; what nobody said is `default` (A37)."""

    def leaves(value: Any, prefix: str = "") -> set[str]:
        if isinstance(value, dict) and value:
            return {leaf for key, item in value.items() for leaf in leaves(item, f"{prefix}{key}.")}
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return leaves(dict(enumerate(value)), prefix)
        return {prefix[:-1]}

    plain = shown(recipe)
    rows = origins(recipe)
    assert set(rows) == leaves(plain["settings"]) | leaves(plain["recipe"])
    assert rows["name"] == ('"mine"', "recipe.yaml:2")
    assert rows["train.0.lora.r"][1].startswith("base.yaml:")
    assert rows["train.0.accumulate"] == ("1", "default")
    assert rows["train.0.optimizer.type"] == ('"adamw"', "default")
    lines = Path("base.yaml").read_text().splitlines()
    for key, (value, place) in rows.items():
        file, _, line = place.rpartition(":")
        if file == "base.yaml":
            written = lines[int(line) - 1]
            assert key.rpartition(".")[2] in written or json.loads(value) in ([], {}), (key, written)


def test_origin_inside_values_said_at_once(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys inside a value that was said at once come from there; the others of its section are defaults (A37)."""
    Path("environments/dev.yaml").write_text("\noptimize:\n  small: enhanced\n")
    monkeypatch.setenv("POSTMILL_DATA__CONTRACT", "{max_bad_fraction: 0.5, rules: {overlap: fail}}")
    rows = origins(recipe, "--env", "dev", "--set", "train.0.lora={r: 2}", "--set", "features={journal: false}")
    assert rows["optimize.small.0.type"] == ('"merge_adapter"', "environments/dev.yaml:3")
    assert rows["optimize.small.1.precision"] == ('"int8"', "environments/dev.yaml:3")
    assert rows["data.contract.max_bad_fraction"] == ("0.5", "environment POSTMILL_DATA__CONTRACT")
    assert rows["data.contract.rules.overlap.action"] == ('"fail"', "environment POSTMILL_DATA__CONTRACT")
    assert rows["data.allow_dirty"][1] == "default"
    assert rows["train.0.lora.r"] == ("2", "--set")
    assert rows["train.0.lora.alpha"][1] == "default"
    assert rows["features.journal"] == ("false", "--set")


def test_origin_of_the_names_without_prefix(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MODEL_NAME, TRAINING_TYPE and BATCH_SIZE are named as origins (A37, E4)."""
    Path(".env").write_text("MODEL_NAME=org/model\n")
    monkeypatch.setenv("TRAINING_TYPE", "lora")
    monkeypatch.setenv("BATCH_SIZE", "9")
    rows = origins(recipe)
    assert rows["model.name"] == ('"org/model"', ".env MODEL_NAME")
    assert rows["train.0.type"] == ('"lora"', "environment TRAINING_TYPE")
    assert rows["train.0.batch_size"] == ("9", "environment BATCH_SIZE")


def test_origin_is_not_cut(recipe: Path) -> None:
    """Long values and places stand in one line of a pipe, whole (A37)."""
    long = "/".join(["folder"] * 60)
    Path(long).mkdir(parents=True)
    (Path(long) / "top.yaml").write_text(f"extends: {recipe.absolute()}\nname: {'n' * 100}\n")
    assert origins(f"{long}/top.yaml")["name"] == (json.dumps("n" * 100), f"{long}/top.yaml:2")


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.yaml"], "file 'absent.yaml' does not exist"),
        (["recipe.yaml", "--env", "dve"], "unknown environment 'dve'; did you mean 'dev'? (known: dev)"),
        (["recipe.yaml", "--set", "sede=1"], "--set: sede: unknown key 'sede'; did you mean 'seed'?"),
        (["recipe.yaml", "--set", "seed"], "--set 'seed': write it as key=value"),
        (["--set", "seed=1"], "--set seed=1: not a setting, and no recipe is named"),
        (["--set", "plugins.blok=[a]"], "--set: plugins.blok: unknown key 'blok'; did you mean 'block'?"),
    ],
)
def test_mistakes(recipe: Path, arguments: list[str], message: str) -> None:
    """A mistake is one message on stderr and exit code 2, with and without --origin (E3)."""
    for extra in ([], ["--origin"]):
        (problem,) = refused("show", *arguments, *extra)
        assert problem.startswith(message)


def test_unknown_variables(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that mean nothing are refused, all at once, before the recipe is read (E3, E4)."""
    monkeypatch.setenv("POSTMILL_ROOOT", "x")
    monkeypatch.setenv("POSTMILL_TRIAN__0__MAX_STEPS", "1")
    assert [problem.partition(":")[0] for problem in refused("show", recipe)] == [
        "environment POSTMILL_ROOOT",
        "environment POSTMILL_TRIAN__0__MAX_STEPS",
    ]


def test_all_mistakes_of_a_recipe(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistakes in every layer are reported together, each at its place (E3)."""
    Path("environments/dev.yaml").write_text("train: {0: {max_steps: 0}}\nsede: 1\n")
    Path(".env").write_text("POSTMILL_SEED=-1\n")
    monkeypatch.setenv("BATCH_SIZE", "0")
    found = refused("show", recipe, "--env", "dev", "--set", "register.alias=latest")
    assert sorted(problem.partition(": ")[0] for problem in found) == [
        "--set",
        ".env POSTMILL_SEED",
        "environment BATCH_SIZE",
        "environments/dev.yaml:1",
        "environments/dev.yaml:2",
    ]


# ---------------------------------------------------------------- secrets


class Guarded(Gate):
    """A throw-away gate that needs a token."""

    class Config(StrictConfig):
        token: Secret

    @classmethod
    def needs(cls, config: Any) -> Any:
        return ()

    def judge(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def guarded() -> Iterator[None]:
    """The throw-away gate, registered for one test."""
    try:
        with registry.owned_by("tests"):
            registry.add("gate", "guarded", Guarded)
        yield
    finally:
        with registry.owned_by("tests"):
            registry.forget("tests")


def test_secrets_are_shown_by_name(recipe: Path, guarded: None) -> None:
    """A secret is shown as the name of its variable, never with its value (C54)."""
    with recipe.open("a") as handle:
        handle.write("gate: [{type: guarded, token: env:HF_TOKEN}]\n")
    assert shown(recipe)["recipe"]["gate"] == [{"type": "guarded", "token": "env:HF_TOKEN"}]
    assert origins(recipe)["gate.0.token"] == ('"env:HF_TOKEN"', "recipe.yaml:3")


@pytest.mark.parametrize(
    "assignment",
    [
        f"gate.0.token={CANARY}",
        f"gate.0.token.x={CANARY}",
        f"gate=[{{type: guarded, token: {CANARY}}}]",
        f"gate=[{{type: guarded, tokn: {CANARY}}}]",
        f"gate={{token: {CANARY}}}",
        f"seed={CANARY}",
        f"seed='{CANARY}",
        f"train.0.{CANARY}=1",
        f"plugins={CANARY}",
        f"{CANARY}=1",
        CANARY,
    ],
)
def test_secrets_in_mistakes_are_not_repeated(recipe: Path, guarded: None, assignment: str) -> None:
    """Whatever is wrong with a value or a key, a secret in it is not repeated (C54)."""
    with recipe.open("a") as handle:
        handle.write("gate: [{type: guarded, token: env:HF_TOKEN}]\n")
    assert refused("show", recipe, "--set", assignment)


def test_secrets_in_files_are_not_repeated(recipe: Path, guarded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets that were written into files or variables are refused or blotted out, never repeated (C54)."""
    for text in (f"name: {CANARY}", f"seed: {CANARY}", f"{CANARY}: 1", f"gate: [{{type: guarded, token: {CANARY}}}]"):
        Path("recipe.yaml").write_text(f"extends: base.yaml\n{text}\n")
        assert refused("show", recipe)
    Path("recipe.yaml").write_text("extends: base.yaml\n")
    assert shown("--set", f"root=/x/{CANARY}")["settings"]["root"] == "/x/***"
    assert origins("--set", f"root=/x/{CANARY}")["root"][0] == '"/x/***"'
    monkeypatch.setenv("POSTMILL_SEED", CANARY)
    assert refused("show", recipe)
    monkeypatch.delenv("POSTMILL_SEED")
    monkeypatch.setenv(f"POSTMILL_{CANARY}", "1")
    assert refused("show", recipe)


# ---------------------------------------------------------------- schema, imports, watch


def test_schema() -> None:
    """`config schema` prints the JSON Schema of a recipe (A38)."""
    code, out, err = invoke("schema")
    assert (code, err) == (0, "")
    assert json.loads(out) == recipe_schema()


def test_help_lists_the_commands() -> None:
    """Without a command the three are listed (A37)."""
    code, out, err = invoke()
    assert code in (0, 2)
    assert all(name in out + err for name in ("show", "schema", "watch"))


@pytest.mark.parametrize("arguments", [["show"], ["show", "recipe.yaml", "--origin"], ["schema"]], ids=" ".join)
def test_nothing_heavy_is_imported(recipe: Path, arguments: list[str]) -> None:
    """Showing the configuration imports no ML library, no orchestrator and no tracker (A37)."""
    code = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom flows.cli import app\n"
        f"try:\n    app({['config', *arguments]!r})\nexcept SystemExit as done:\n    assert not done.code\n"
        f"print('IMPORTED', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "IMPORTED []"
    assert "CANARY" not in done.stdout + done.stderr


def test_watch(recipe: Path) -> None:
    """`config watch` says at every save what changed or what is wrong, and ends with Ctrl-C, not a traceback (A39)."""
    Path(".env").write_text("POSTMILL_DATA__CONTRACT__MAX_BAD_FRACTION=0.8\n")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "BATCH_SIZE": "3"}
    command = [sys.executable, "-m", "flows.cli", "config", "watch", "recipe.yaml", "--env", "dev"]
    with Path("log").open("w") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)

    def said(text: str) -> bool:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None and text not in Path("log").read_text():
            time.sleep(0.02)
        return text in Path("log").read_text()

    def save(name: str, text: str) -> None:
        Path("scratch").write_text(text)
        Path("scratch").replace(name)

    try:
        assert said("recipe.yaml is valid; watching base.yaml, recipe.yaml, environments/dev.yaml, .env")
        save("environments/dev.yaml", "train: {0: {max_steps: 6}}\n")
        assert said("train.0.max_steps: 5 -> 6")
        save(".env", "POSTMILL_DATA__CONTRACT__MAX_BAD_FRACTION=0.9\n")
        assert said("data.contract.max_bad_fraction: 0.8 -> 0.9")
        save("recipe.yaml", f"extends: base.yaml\nname: mine\nseed: {CANARY}\n")
        assert said("recipe.yaml:3: seed: Input should be a valid integer")
        save("recipe.yaml", "extends: base.yaml\nname: yours\n")
        assert said("name: 'mine' -> 'yours'")
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in Path("log").read_text()
    assert "CANARY" not in Path("log").read_text()
