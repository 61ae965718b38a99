"""The command line: exit codes, messages on stderr, and how little it imports."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.core.component import first_line
from components.core.kinds import registry
from flows.cli import app
from tests import tiny
from tests.conftest import ROOT

HEAVY = ("torch", "transformers", "mlflow", "prefect", "onnxruntime", "pandera", "scipy")


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", ["check", "run"])
def test_bad_recipe(tmp_path: Path, command: str) -> None:
    """A recipe with mistakes ends with code 2, every mistake on stderr, and starts nothing (E3)."""
    plain = tiny.recipe(tmp_path, tmp_path / "model", seed=-1)
    plain["train"][0]["max_stepz"] = 5
    path = tiny.write_recipe(tmp_path / "bad.yaml", plain)
    code, out, err = invoke(command, path)
    assert (code, out) == (2, "")
    assert err.count("error: ") == 2
    assert f"{path}:2: seed:" in err
    assert "did you mean 'max_steps'" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml", "rows"]


@pytest.mark.parametrize("command", ["check", "run"])
def test_missing_recipe(tmp_path: Path, command: str) -> None:
    """A missing file is a message and code 2, no traceback."""
    code, _, err = invoke(command, tmp_path / "absent.yaml")
    assert code == 2
    assert err.startswith("error: file ")
    assert "Traceback" not in err


def test_bad_assignment(tmp_path: Path) -> None:
    """A bad `--set` is a message and code 2."""
    path = tiny.write_recipe(tmp_path / "r.yaml", tiny.recipe(tmp_path, tmp_path / "model"))
    assert invoke("check", path, "--set", "seed")[0] == 2
    assert "plain value" in invoke("check", path, "--set", "seed.x=1")[2]


def test_environment_reaches_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`POSTMILL_...` overrides keys of the recipe; `POSTMILL_ROOT` is a setting and no key (E4)."""
    path = tiny.write_recipe(tmp_path / "r.yaml", tiny.recipe(tmp_path, tmp_path / "model"))
    monkeypatch.setenv("POSTMILL_ROOT", str(tmp_path))
    monkeypatch.setenv("POSTMILL_SEED", "-3")
    code, _, err = invoke("check", path)
    assert code == 2
    assert "seed: Input should be greater than or equal to 0 (got -3)" in err
    assert "ROOT" not in err


def test_check_shows_everything(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` prints the resolved recipe, the plan, the data, estimates and one row as the model sees it."""
    monkeypatch.setenv("POSTMILL_ROOT", str(tmp_path))
    path = tiny.write_recipe(tmp_path / "r.yaml", tiny.recipe(tmp_path, tiny_model))
    code, out, err = invoke("check", path, "--set", "train.0.max_steps=7")
    assert (code, err) == (0, "")
    for part in ("max_steps: 7", "accumulate: 1", "merge_adapter -> onnx(int4)", "eval  │    6 │   0"):
        assert part in out
    assert "register  the smallest accepted variant as tiny@staging" in out
    assert "<|im_start|>assistant" in out
    assert not (tmp_path / "mlruns").exists()


def test_check_shows_what_a_level_is(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` shows the passes of a level as they fit what training gives: a whole model is not merged (A8, C54)."""
    monkeypatch.setenv("POSTMILL_ROOT", str(tmp_path))
    path = tiny.write_recipe(tmp_path / "r.yaml", tiny.recipe(tmp_path, tiny_model, optimize={"small": "enhanced"}))
    assert "optimize  small: merge_adapter -> onnx(int8)\n" in invoke("check", path)[1]
    code, out, err = invoke("check", path, "--set", "train.0.lora=null")
    assert (code, err) == (0, "")
    assert "optimize  small: onnx(int8)\n" in out
    assert "merge_adapter" not in out


def test_check_names_missing_packages(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` names every package that passes or the search need and that is not there, with its extra (C39)."""
    monkeypatch.setenv("POSTMILL_ROOT", str(tmp_path))
    monkeypatch.setattr("components.core.chains.find_spec", lambda module: None)
    merge = {"type": "merge_adapter"}
    optimize = {"file": [merge, {"type": "gguf"}], "search": {"space": ["basic", [merge, {"type": "gguf"}]]}}
    path = tiny.write_recipe(tmp_path / "r.yaml", tiny.recipe(tmp_path, tiny_model, optimize=optimize))
    code, out, err = invoke("check", path)
    assert code == 1
    assert "search    12 chains at most" in out
    for what, module, extra in (
        ("optimize.search", "optuna", "search"),
        ("optimize.search", "plotly", "search"),
        ("optimize.file: pass 'gguf'", "gguf", "gguf"),
        ("optimize.search.space.1: pass 'gguf'", "gguf", "gguf"),
    ):
        said = f"{what} needs the package '{module}', which is not installed; run: pip install 'postmill[{extra}]'"
        assert said in err


def test_check_reports_bad_rows(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` refuses data that the run would refuse, with the lines."""
    monkeypatch.setenv("POSTMILL_ROOT", str(tmp_path))
    path = tiny.write_recipe(tmp_path / "r.yaml", tiny.recipe(tmp_path, tiny_model))
    with (tmp_path / "rows" / "train.jsonl").open("ab") as handle:
        handle.write(b"broken\n")
    code, out, err = invoke("check", path)
    assert code == 1
    assert "train.jsonl:25: parse: not JSON" in err
    assert "1 of 25 train rows are bad" in err


def test_check_refuses_an_unsafe_model(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` refuses a model directory that could run code (E22)."""
    monkeypatch.setenv("POSTMILL_ROOT", str(tmp_path))
    unsafe = tiny.write_model(tmp_path / "unsafe")
    (unsafe / "pytorch_model.bin").write_bytes(b"x")
    path = tiny.write_recipe(tmp_path / "r.yaml", tiny.recipe(tmp_path, unsafe))
    code, _, err = invoke("check", path)
    assert code == 1
    assert "pickle family" in err


def test_components_lists_everything() -> None:
    """`components` lists every kind and name with its summary; a kind can be chosen (A44)."""
    code, out, _ = invoke("components")
    assert code == 0
    for kind in registry.kinds():
        for name in registry.names(kind):
            assert name in out
            assert first_line(registry.get(kind, name)) in out
    only = invoke("components", "gate")[1]
    assert "budget" in only
    assert "sft" not in only


def test_components_of_an_unknown_kind() -> None:
    """An unknown kind is a message with a suggestion."""
    code, _, err = invoke("components", "trainr")
    assert code == 2
    assert "did you mean 'trainer'" in err


def test_no_arguments_show_help() -> None:
    """Without a command the help is shown."""
    code, out, err = invoke()
    assert "run" in out + err
    assert code in (0, 2)


@pytest.mark.parametrize("arguments", [["--help"], ["components"], ["run", "--help"]], ids=" ".join)
def test_quick_commands_import_nothing_heavy(arguments: list[str]) -> None:
    """Help and listings start at once: no ML library, no orchestrator, no tracker is imported."""
    code = (
        "import sys\nfrom flows.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as done:\n    assert not done.code\n"
        f"print('IMPORTED', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "IMPORTED []"


def test_module_runs() -> None:
    """`python -m flows.cli` is the command line."""
    done = subprocess.run([sys.executable, "-m", "flows.cli", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_hidden_packages_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short command hides packages from MLflow's import, and from nothing after it."""
    from flows.cli_common import _hidden

    for name in ("mlflow", "colorsys"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with _hidden("colorsys"), pytest.raises(ModuleNotFoundError):
        import_module("colorsys")
    assert import_module("colorsys").rgb_to_hsv(0, 0, 0) == (0, 0, 0)
