"""What a run left in its folder of evidence, read back for its report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from components.core.errors import ConfigError, DataError
from components.core.recipe import OfKind
from components.core.secret import masked_data
from components.interfaces import Metric
from components.services.evidence import TRAINING, VERDICT
from components.services.judging import Verdict
from components.services.provenance.graph import Graph
from components.services.timings import TIMINGS, Timing

FIGURES, RECIPE, LINEAGE = "figures.json", "recipe.yaml", "lineage.json"
T = TypeVar("T")


@dataclass(frozen=True)
class Evidence:
    """What a folder of evidence holds, without secrets."""

    folder: Path

    def read(self, name: str, default: Any = None) -> Any:
        """A JSON file; `default` where it is not there."""
        path = self.folder / name
        if not path.is_file():
            return default
        try:
            return masked_data(json.loads(path.read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise DataError(f"'{path}' is no JSON ({error}); {_AGAIN}") from error

    def _as(self, kind: type[T], name: str) -> T | None:
        """A JSON file in the shape that it must have; None where it is not there."""
        found = self.read(name)
        try:
            return None if found is None else TypeAdapter(kind).validate_python(found)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            raise DataError(
                f"'{self.folder / name}' is not what a run writes ({at}: {first['msg']}); {_AGAIN}"
            ) from error

    @cached_property
    def figures(self) -> dict[str, dict[str, float]]:
        """Metrics by subject."""
        return self._as(dict[str, dict[str, float]], FIGURES) or {}

    @cached_property
    def verdict(self) -> Verdict | None:
        return self._as(Verdict, VERDICT)

    @cached_property
    def training(self) -> list[dict[str, Any]]:
        return self._as(list[dict[str, Any]], TRAINING) or []

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """As it was run; empty where it is not there."""
        path = self.folder / RECIPE
        return masked_data(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    @cached_property
    def lineage(self) -> Graph | None:
        return self._as(Graph, LINEAGE)

    @cached_property
    def timings(self) -> list[Timing]:
        return self._as(list[Timing], TIMINGS) or []

    @cached_property
    def metrics(self) -> list[Metric]:
        """Every metric that was measured, in the recipe's order; what no benchmark here knows has only its name."""
        names = list(dict.fromkeys(name for metrics in self.figures.values() for name in metrics))
        known = {metric.name: metric for metric in self._known_metrics()}
        ordered = [name for name in known if name in names] + [name for name in names if name not in known]
        return [known.get(name) or Metric(name, "", "higher", name) for name in ordered]

    def _known_metrics(self) -> Iterator[Metric]:
        """Of the benchmarks that are here: the run may have had a plugin, or an older version of one."""
        for plain in self.recipe.get("benchmark") or ():
            try:
                spec = OfKind("benchmark").parse(plain)
            except ConfigError:
                continue
            yield from spec.component.reports(spec.config) if spec else ()

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.folder.name)

    @property
    def chosen(self) -> str | None:
        return self.verdict.chosen if self.verdict else None


def require_evidence(folder: Path) -> None:
    """An error that says what a folder of evidence is, if this is none."""
    if not (folder / FIGURES).is_file():
        raise DataError(f"'{folder}' holds no evidence of a run ({FIGURES}); name a folder below reports/")


_AGAIN = "run the recipe again to write the evidence anew"
