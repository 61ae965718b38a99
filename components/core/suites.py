"""Several benchmarks under one name: `benchmark: [maths, chat, {type: latency}]`.

A suite is a file `configs/suites/NAME.yaml` with one key, `benchmark`, and its questions beside it; one of your own is
named by its path, `benchmark: [evaluation/support.yaml]`. Its name is replaced by its benchmarks when a recipe is read,
so the evidence says what was measured, and `postmill check` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.core.documents import load_document
from components.core.errors import ConfigError, did_you_mean
from components.core.spec import Spec

SUITES = Path(__file__).resolve().parents[2] / "configs" / "suites"
KEY = "benchmark"


def suite_names() -> list[str]:
    """The suites that stand in `configs/suites`."""
    return sorted(file.stem for file in SUITES.glob("*.yaml"))


def with_suites(benchmarks: Any) -> Any:
    """The plain list of benchmarks with every suite written out in the place of its name; a ConfigError names a suite
    that there is not. What is no list is left to whoever reads the section."""
    if not isinstance(benchmarks, list):
        return benchmarks
    parts = [_suite(each) if isinstance(each, str) else [each] for each in benchmarks]
    return [step for part in parts for step in part]


def _suite(name: str) -> list[Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml"
    if path.parent == SUITES and name not in suite_names():
        known = ", ".join(suite_names()) or f"none; they stand in '{SUITES}'"
        raise ConfigError(f"unknown suite '{name}'{did_you_mean(name, suite_names())} (known: {known})")
    document = load_document(path)
    steps = document.data.get(KEY)
    if set(document.data) != {KEY} or not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ConfigError(f"{path}: a suite has one key, '{KEY}', with a list of {{type: NAME, ...}}")
    return steps


def data_file(name: str) -> str:
    """Where a file that a benchmark names is: from where one runs, else beside the shipped suites."""
    beside = SUITES / name
    return str(beside) if not Path(name).exists() and beside.is_file() else name


def reported_twice(benchmarks: Sequence[Spec]) -> Iterator[str]:
    """A sentence for every benchmark that reports the metrics of an earlier one and could report them under a name of
    its own: gates find metrics by their name."""
    first: dict[str, int] = {}
    for position, spec in enumerate(benchmarks):
        if not spec.enabled or "name" not in spec.component.Config.model_fields:
            continue
        metric = spec.component.reports(spec.config)[0].name
        other = first.setdefault(metric, position)
        if other != position:
            yield (
                f"benchmark.{position}: '{metric}' is measured by benchmark.{other} already; give one of them another "
                "'name', which goes before its metrics"
            )
