"""A new plugin, ready to change: `postmill plugin new acme` writes a distribution that installs and passes its test.

The skeleton brings one gate, because a gate needs neither a model nor a library. What else a plugin can bring:
`examples/plugin` and docs/extending.md.
"""

from __future__ import annotations

import keyword
import os
import re
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from components.core.errors import PluginError

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LONGEST = 50

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "postmill-$name"
version = "0.1"
description = "A Postmill plugin"
readme = "README.md"
requires-python = ">=3.11"
# Postmill reads this before it executes anything; other plugins that yours needs stand here too
dependencies = ["postmill>=0.1,<1"]

[project.entry-points."postmill.plugins"]
$name = "postmill_$name.plugin:${cls}Plugin"

[tool.setuptools]
packages = ["postmill_$name"]

[tool.pytest.ini_options]
pythonpath = ["."]
"""

README = """\
# postmill-$name

A plugin for Postmill.

    pip install -e .
    pytest

A recipe may then say

    gate: [{type: ${name}_not_worse, metric: exact_match, tolerance: 0.02}]
"""

PACKAGE = '''\
"""A Postmill plugin."""
'''

PLUGIN = '''\
"""What the plugin brings, under which names."""

from __future__ import annotations

from components.core.plugins import Plugin, PluginApi


class ${cls}Plugin(Plugin):
    """Brings the gate `${name}_not_worse`."""

    def register(self, api: PluginApi) -> None:
        # named, not imported: what is imported here, every start of Postmill waits for
        api.component("gate", "${name}_not_worse", "postmill_$name.gate:NotWorse")
'''

GATE = '''\
"""No worse than the base model in one metric, where more is better.

gate: [{type: ${name}_not_worse, metric: exact_match, tolerance: 0.02}]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import NonNegativeFloat

from components.core.component import StrictConfig
from components.interfaces import Check, Gate, Scoreboard


class NotWorse(Gate):
    """A metric is at most `tolerance` below that of the base model."""

    class Config(StrictConfig):
        metric: str = "exact_match"
        tolerance: NonNegativeFloat = 0.0

    config: Config

    @classmethod
    def needs(cls, config: Any) -> Iterable[str]:
        return (config.metric,)

    def judge(self, variant: str, board: Scoreboard) -> list[Check]:
        metric = self.config.metric
        found, base = board.metrics(variant).get(metric), board.metrics("base").get(metric)
        if found is None or base is None:
            return [Check(gate="${name}_not_worse", passed=False, summary=f"{metric} was not measured")]
        summary = f"{metric} {found:.4g} (base {base:.4g}, tolerance {self.config.tolerance:.4g})"
        return [Check(gate="${name}_not_worse", passed=found >= base - self.config.tolerance, summary=summary)]
'''

TEST = '''\
"""The plugin registers its gate, and the gate judges."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from components.core.events import EventBus
from components.core.plugins import PluginApi
from components.core.registry import Kind, Registry
from components.interfaces import Measurement, Scoreboard

from postmill_$name.plugin import ${cls}Plugin


@pytest.fixture
def registry() -> Registry:
    """A registry of our own, with the plugin in it."""
    registry = Registry([Kind("gate", "components.interfaces:Gate")])
    ${cls}Plugin().register(PluginApi(registry, EventBus(), ExitStack(), "plugin $name"))
    return registry


def board(**scores: float) -> Scoreboard:
    """A score for each subject."""
    return Scoreboard([Measurement(subject=name, benchmark="b", metrics={"score": x}) for name, x in scores.items()])


@pytest.mark.parametrize(("score", "passed"), [(0.81, True), (0.79, True), (0.5, False)])
def test_gate(registry: Registry, score: float, passed: bool) -> None:
    """A variant passes within the tolerance, and not below it."""
    gate = registry.create("gate", "${name}_not_worse", metric="score", tolerance=0.02)
    (check,) = gate.judge("int8", board(base=0.8, int8=score))
    assert check.passed is passed


def test_unmeasured(registry: Registry) -> None:
    """A variant that was not measured does not pass."""
    gate = registry.create("gate", "${name}_not_worse", metric="score")
    (check,) = gate.judge("int8", board(base=0.8))
    assert not check.passed
'''

FILES = {
    "pyproject.toml": PYPROJECT,
    "README.md": README,
    "postmill_$name/__init__.py": PACKAGE,
    "postmill_$name/plugin.py": PLUGIN,
    "postmill_$name/gate.py": GATE,
    "tests/test_plugin.py": TEST,
}


def new_plugin(name: str, folder: Path) -> list[Path]:
    """Write the distribution `postmill-NAME` into `folder`, whole or not at all; returns its files."""
    _check_name(name)
    target = folder / f"postmill-{name}"
    if os.path.lexists(target):
        raise PluginError(f"'{target}' exists already; choose another name, or remove it")
    try:
        with TemporaryDirectory(prefix=f".{target.name}-", dir=folder) as scratch:
            draft = Path(scratch) / target.name
            written = [_write(draft, path, text, name) for path, text in FILES.items()]
            draft.rename(target)
    except OSError as error:
        raise PluginError(f"cannot write '{target}': {error.strerror or error}") from error
    return [target / path.relative_to(draft) for path in written]


def next_steps(name: str, folder: Path) -> tuple[str, str]:
    """The commands that test and install a new plugin."""
    target = folder / f"postmill-{name}"
    return f"pytest {target}", f"pip install -e {target}"


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise PluginError(
            f"'{name}' cannot be the name of a plugin: write up to {LONGEST} lower-case letters and digits, "
            "words joined by single underscores, beginning with a letter, for example my_gates"
        )
    if keyword.iskeyword(name):
        raise PluginError(f"'{name}' cannot be the name of a plugin: it is a word of the Python language")


def _write(draft: Path, path: str, text: str, name: str) -> Path:
    values = {"name": name, "cls": "".join(word.capitalize() for word in name.split("_"))}
    place = draft / Template(path).substitute(values)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(Template(text).substitute(values), encoding="utf-8")
    return place
