"""Sets two registered models, or the evidence of two runs, side by side: figures, the same rows, and what was done.

    ComparisonService(registry).compare("triage@production", "triage/4")
    ComparisonService(registry).compare("reports/triage", "reports/triage-long")     # what each of them chose
    ComparisonService(registry).compare("reports/triage:int4", "reports/triage:int8")

Rows that both answered are compared in pairs: the difference of the means with the interval that gates use, and how
many rows each of them did better. Answers to different rows are not compared, and the comparison says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from components.core.errors import DataError, RegistryServiceError
from components.core.kinds import service
from components.core.paired_tests import interval
from components.services.benchmarking import known_metrics
from components.services.evidence import VERDICT
from components.services.judging import Verdict
from components.services.model_registry import EVIDENCE_TAG, ModelRegistryService
from components.services.versions.bound_evidence import read_bound

NOT_METRICS = ("tokens",)
"""Numbers of a row that are no score."""


@dataclass(frozen=True)
class Side:
    """What is known of one of the two."""

    title: str
    variant: str
    figures: Mapping[str, float]
    rows: Mapping[str, Mapping[str, float]]
    """Metric -> row id -> value."""
    recipe: Mapping[str, Any]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Paired:
    """A metric on the rows that both answered. `low`, `high`: 95 % interval of the difference, second minus first."""

    metric: str
    rows: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    only_first: int
    only_second: int


@dataclass(frozen=True)
class Comparison:
    """Both sides, what can be said row by row, and the keys of the recipes that differ."""

    first: Side
    second: Side
    paired: tuple[Paired, ...]
    recipe: Mapping[str, tuple[Any, Any]]
    same_data: bool

    def plain(self) -> dict[str, Any]:
        """As JSON, without the rows."""
        sides = {
            name: {"title": side.title, "variant": side.variant, "figures": dict(side.figures)}
            for name, side in (("first", self.first), ("second", self.second))
        }
        changed = {key: list(values) for key, values in self.recipe.items()}
        paired = [asdict(each) for each in self.paired]
        return {**sides, "paired": paired, "recipe": changed, "same_data": self.same_data}


@service("comparison")
class ComparisonService:
    """Compares what two pieces of evidence say."""

    def __init__(self, registry: ModelRegistryService) -> None:
        self.registry = registry

    def compare(self, first: str, second: str) -> Comparison:
        """Each is a reference (`MODEL@alias`, `MODEL/version`) or a folder of evidence, with `:variant` if not the
        chosen one."""
        sides = self._side(first), self._side(second)
        return Comparison(*sides, tuple(_paired(*sides)), _changed(*sides), _same_data(*sides))

    def _side(self, reference: str) -> Side:
        place, _, variant = reference.rpartition(":")
        if Path(reference).is_dir():
            return _read(Path(reference), reference, _chosen(Path(reference)))
        if place and Path(place).is_dir():
            return _read(Path(place), reference, variant)
        entry = self.registry.find(reference)
        title = f"{entry.name}/{entry.version}"
        if EVIDENCE_TAG not in entry.tags:
            raise RegistryServiceError(f"{title} was registered without evidence; there is nothing to compare")
        folder = self.registry.evidence_of(entry)
        binding = read_bound(folder, entry.tags[EVIDENCE_TAG], title)
        return _read(folder, title, binding.variant)


def _chosen(folder: Path) -> str:
    path = folder / VERDICT
    chosen = Verdict.model_validate_json(path.read_text(encoding="utf-8")).chosen if path.is_file() else None
    return chosen or "trained"


def _read(folder: Path, title: str, variant: str) -> Side:
    figures = _json(folder / "figures.json")
    if variant not in figures:
        raise DataError(f"'{folder}' has no figures of '{variant}' (it has: {', '.join(figures) or 'none'})")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    return Side(title, variant, figures[variant], _rows(folder, variant), recipe, _json(folder / "data.json"))


def _json(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"'{path}' is missing; name a folder of evidence, for example reports/triage")
    return json.loads(path.read_text(encoding="utf-8"))


def _rows(folder: Path, variant: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    with (folder / "rows.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["subject"] == variant:
                for name, value in row.items():
                    if isinstance(value, int | float) and not isinstance(value, bool) and name not in NOT_METRICS:
                        found.setdefault(name, {})[row["id"]] = float(value)
    return found


def _paired(first: Side, second: Side) -> list[Paired]:
    """Every metric that both have rows of, on the rows that both answered."""
    found = []
    for metric in (name for name in first.rows if name in second.rows):
        mine, theirs = first.rows[metric], second.rows[metric]
        common = sorted(mine.keys() & theirs.keys())
        if common:
            found.append(_pair(metric, [mine[row] for row in common], [theirs[row] for row in common]))
    return found


def _pair(metric: str, mine: list[float], theirs: list[float]) -> Paired:
    import numpy as np

    first, second = np.array(mine), np.array(theirs)
    about = known_metrics().get(metric)
    bounded = about is not None and about.unit == "share"
    low, high = interval(second - first, alpha=0.025, bounded=bounded)
    return Paired(
        metric,
        len(first),
        float(first.mean()),
        float(second.mean()),
        float((second - first).mean()),
        low,
        high,
        int((first > second).sum()),
        int((second > first).sum()),
    )


def _changed(first: Side, second: Side) -> dict[str, tuple[Any, Any]]:
    """Keys of the recipes with other values, in the order of the first; a key that one lacks has None there."""
    mine, theirs = _flat(first.recipe), _flat(second.recipe)
    keys = dict.fromkeys([*mine, *theirs])
    return {key: (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = list(enumerate(value))
    else:
        return {prefix.rstrip("."): value}
    return {name: leaf for key, item in items for name, leaf in _flat(item, f"{prefix}{key}.").items()}


def _same_data(first: Side, second: Side) -> bool:
    return bool(first.data.get("content")) and first.data.get("content") == second.data.get("content")
