"""Rules on the source itself: dangerous calls appear only where they are listed here, with the reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("components", "tasks", "flows")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
ALLOWED = {
    # the safe door itself, which checks the directory first
    "from_pretrained": {
        "components/core/safeload.py",
        "components/models/packaged_gguf.py",
        # only config.json, of a directory that was checked
        "components/compression/quantization/checkpoint.py",
        "components/compression/onnx/export.py",
    },
    "eval": set[str](),
    "exec": set[str](),
    "torch.load": set[str](),
    "pickle": set[str](),
    "shell=True": set[str](),
    "trust_remote_code=True": set[str](),
    "yaml.load": set[str](),
    "os.system": set[str](),
}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def findings(tree: ast.AST) -> set[str]:
    """Names of the dangerous things that a module does."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {"pickle" for alias in node.names if alias.name.partition(".")[0] in PICKLES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PICKLES:
            found.add("pickle")
        elif isinstance(node, ast.Call):
            found |= _call(node)
        elif isinstance(node, ast.Dict):
            found |= {"trust_remote_code=True" for k, v in zip(node.keys, node.values, strict=True) if _trusts(k, v)}
    return found


def _trusts(key: ast.expr | None, value: ast.expr) -> bool:
    return getattr(key, "value", None) == "trust_remote_code" and getattr(value, "value", None) is not False


def _call(node: ast.Call) -> set[str]:
    name = ast.unparse(node.func)
    found = {rule for rule in ("torch.load", "yaml.load", "os.system") if name == rule}
    if isinstance(node.func, ast.Name) and name in ("eval", "exec"):
        found.add(name)
    if isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
        found.add("from_pretrained")
    for keyword in node.keywords:
        constant = getattr(keyword.value, "value", None)
        if keyword.arg == "shell" and constant is not False:
            found.add("shell=True")
        if keyword.arg == "trust_remote_code" and constant is not False:
            found.add("trust_remote_code=True")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_dangerous_call(path: Path) -> None:
    """No module does what the allow-list does not name for it."""
    here = path.relative_to(ROOT).as_posix()
    surprising = {rule for rule in findings(ast.parse(path.read_text())) if here not in ALLOWED[rule]}
    assert not surprising, f"{here} does {surprising}; go through components.core.safeload, or argue in ALLOWED"


def test_allow_list_is_short_and_alive() -> None:
    """Every entry of the allow-list is still needed."""
    for rule, paths in ALLOWED.items():
        for path in paths:
            assert rule in findings(ast.parse((ROOT / path).read_text())), f"{path} no longer does {rule}"


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "pickle"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("AutoModel.from_pretrained('x')", "from_pretrained"),
        ("f(trust_remote_code=True)", "trust_remote_code=True"),
        ("f(trust_remote_code=flag)", "trust_remote_code=True"),
        ("g(**{'trust_remote_code': True})", "trust_remote_code=True"),
        ("subprocess.run('ls', shell=True)", "shell=True"),
        ("eval('1')", "eval"),
        ("exec('1')", "exec"),
        ("yaml.load('a')", "yaml.load"),
        ("import os\nos.system('ls')", "os.system"),
    ],
)
def test_the_rules_see(source: str, rule: str) -> None:
    """Negative control: each dangerous line is seen."""
    assert rule in findings(ast.parse(source))


def test_the_rules_do_not_cry_wolf() -> None:
    """`model.eval()`, `yaml.safe_load` and an explicit False are fine."""
    assert findings(ast.parse("model.eval()\nyaml.safe_load('a')\nf(trust_remote_code=False, shell=False)")) == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_say_what_they_are(path: Path) -> None:
    """Every module that holds code begins with a docstring."""
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), f"{path} has no docstring"


def unguarded(tree: ast.AST) -> list[int]:
    """Lines where transformers builds a network outside of `with BUILDING`."""
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and "BUILDING" in [ast.unparse(item.context_expr) for item in node.items]
        for inner in ast.walk(node)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and id(node) not in guarded]
    return [call.lineno for call in calls if re.match(r"AutoModel\w*\.from_", ast.unparse(call.func))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_networks_are_built_in_turns(path: Path) -> None:
    """Nobody builds a network while another thread does: transformers changes its classes meanwhile (C39)."""
    assert not unguarded(ast.parse(path.read_text(encoding="utf-8")))


def test_the_rule_on_building_sees() -> None:
    """A call without the lock is found, one inside it is not (C39)."""
    assert unguarded(ast.parse("x = 1\nAutoModelForCausalLM.from_config(x)")) == [2]
    assert not unguarded(ast.parse("with a, BUILDING:\n    AutoModelForCausalLM.from_config(x)"))
