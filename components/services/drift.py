"""Whether new rows are like those that a registered model was trained on.

    DriftService(workspace, registry, lineage).check("triage@production", dataset, Limits())

Lengths and the values of answers in JSON are compared by the population stability index (PSI), the usual measure for
this: under 0.1 nothing moved, over 0.25 a lot did. Of few rows it is large by chance alone, so what counts as moved is
never less than chance gives once in `false_alarms`: PSI / (1/n + 1/m) follows a chi-square distribution with one
degree of freedom less than there are bins (Yurdakul and Naranjo 2020, Journal of Risk Model Validation 14(4)).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from components.core.artifacts import Artifact, Parent
from components.core.component import StrictConfig
from components.core.dataset import index, rows, token_lengths
from components.core.errors import DataError
from components.core.events import DataDrifted
from components.core.kinds import service
from components.core.rows import prompt_text
from components.services.lineage import LineageService
from components.services.model_registry import ModelRegistryService, RegisteredModel
from components.services.workspace import Workspace

BINS = 10
SMOOTHING = 0.5
"""Rows added to each bin, so that an empty one is not infinitely far away."""
MOST_VALUES = 50
JSON_SHARE = 0.9
"""Answers are taken for JSON where this share of those trained on parses."""
SPLIT, TOKENS = "train", "tokens"


class Limits(StrictConfig):
    """What counts as drift."""

    psi: float = Field(0.2, gt=0, description="population stability index of lengths and of values in answers")
    new_values: float = Field(
        0.02, ge=0, le=1, description="share of rows with a value never trained on, beyond what chance gives"
    )
    bad_rows: float = Field(
        0.02, ge=0, le=1, description="share of rows that break the contract, more than when trained"
    )
    duplicates: float = Field(0.05, ge=0, le=1, description="share of repeated rows, more than when trained")
    false_alarms: float = Field(
        0.001, gt=0, lt=0.5, description="of features that did not move, the share called moved"
    )


class Finding(BaseModel):
    """One feature, how far it is from what was trained on, and how far it may be."""

    model_config = ConfigDict(frozen=True)
    feature: str
    measure: str
    value: float
    limit: float
    detail: str

    @property
    def drifted(self) -> bool:
        return self.value > self.limit


class Drift(BaseModel):
    """Every feature that was compared."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: str
    source: str
    rows: tuple[int, int]
    """Trained on, and new."""
    findings: tuple[Finding, ...]

    @property
    def drifted(self) -> list[Finding]:
        """What moved, the farthest first."""
        moved = [finding for finding in self.findings if finding.drifted]
        return sorted(moved, key=lambda finding: finding.value / max(finding.limit, 1e-9), reverse=True)


@service("drift")
class DriftService:
    """Compares validated rows with the data set of a registered version."""

    def __init__(self, workspace: Workspace, registry: ModelRegistryService, lineage: LineageService) -> None:
        self.workspace, self.registry, self.lineage = workspace, registry, lineage

    def check(self, reference: str, fresh: Artifact, limits: Limits, source: str = "") -> Drift:
        """What moved between the rows that `reference` was trained on and the train split of `fresh`.

        Announced as `DataDrifted` if anything did. A DataError if the rows of the model are not in the store.
        """
        model = self.registry.resolve(reference)
        known = self._trained_on(model)
        drift = Drift(
            model=model.name,
            version=model.version,
            source=source or fresh.key,
            rows=(known.meta["rows"][SPLIT], fresh.meta["rows"][SPLIT]),
            findings=tuple(compare(Profile(known), Profile(fresh), limits)),
        )
        if drift.drifted:
            moved = {finding.feature: finding.value for finding in drift.drifted}
            self.workspace.bus.emit(
                DataDrifted(model=model.name, version=model.version, source=drift.source, features=moved)
            )
        return drift

    def _trained_on(self, model: RegisteredModel) -> Artifact:
        digest = model.tags.get("postmill.dataset", "")
        for stage, key, found in self.lineage.datasets:
            if found == digest:
                return self.workspace.store.get(Parent(stage=stage, key=key, digest=digest))
        raise DataError(
            f"the data set {digest[:12]} of {model.name} version {model.version} is not in the store "
            f"'{self.workspace.store.root}'; run its recipe here, or check drift where it was trained"
        )


@dataclass
class Profile:
    """What is compared of a data set: figures and values of every row of its train split."""

    dataset: Artifact
    numbers: dict[str, list[float]] = field(init=False)
    answers: list[str] = field(init=False)

    def __post_init__(self) -> None:
        prompts, self.answers = [], []
        for row in rows(self.dataset, SPLIT):
            prompts.append(float(len(prompt_text(row))))
            if answer := _answer(row):
                self.answers.append(answer)
        self.numbers = {"characters asked": prompts}
        if self.answers:
            self.numbers["characters answered"] = [float(len(answer)) for answer in self.answers]
        if self.dataset.meta.get("tokenizer"):
            found = index(self.dataset, SPLIT)
            column = next(name for name in ("input_ids", "chosen_input_ids") if name in found.column_names)
            self.numbers[TOKENS] = [float(length) for length in token_lengths(found, column)]

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """Answers that are JSON objects."""
        return [parsed for answer in self.answers if (parsed := _parsed(answer)) is not None]

    @property
    def json_share(self) -> float:
        return len(self.objects) / max(len(self.answers), 1)

    def values(self, key: str) -> list[str]:
        """The value of a key in every answer, as JSON text; a key that is not there counts as a value of its own."""
        return [json.dumps(found.get(key, "(absent)"), ensure_ascii=False, sort_keys=True) for found in self.objects]

    def labels(self) -> list[str]:
        """Keys of the answers with few values: what a classifier says, not names and numbers it copies."""
        keys = dict.fromkeys(key for found in self.objects for key in found)
        return [key for key in keys if len(set(self.values(key))) <= min(MOST_VALUES, len(self.objects) / 4)]

    def share_of(self, rule: str = "") -> float:
        """The share of rows that broke a rule of the contract, or any."""
        bad, good = self.dataset.meta["quarantined"].get(SPLIT, 0), self.dataset.meta["rows"][SPLIT]
        if rule:
            contract = self.dataset.read_json("report.json")["contract"]
            bad = sum(entry["broken"].get(SPLIT, 0) for entry in contract if entry["rule"] == rule)
        return float(bad / max(bad + good, 1))


def compare(trained: Profile, fresh: Profile, limits: Limits) -> list[Finding]:
    """Every feature that both have, compared."""
    return [*_numbers(trained, fresh, limits), *_labels(trained, fresh, limits), *_shares(trained, fresh, limits)]


def _numbers(trained: Profile, fresh: Profile, limits: Limits) -> Iterator[Finding]:
    import numpy as np

    same = trained.dataset.meta.get("tokenizer") == fresh.dataset.meta.get("tokenizer")
    for name in (name for name in trained.numbers if name in fresh.numbers and (same or name != TOKENS)):
        before, now = np.array(trained.numbers[name]), np.array(fresh.numbers[name])
        # equal edges fall together where many rows have the same length
        edges = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1))[1:-1])
        counts = [
            np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1).tolist()
            for values in (before, now)
        ]
        detail = f"median {np.median(before):,.0f} -> {np.median(now):,.0f}"
        yield _stability(name, counts[0], counts[1], limits, detail)


def _labels(trained: Profile, fresh: Profile, limits: Limits) -> Iterator[Finding]:
    if trained.json_share < JSON_SHARE:
        return
    lost = trained.json_share - fresh.json_share
    detail = f"{trained.json_share:.1%} -> {fresh.json_share:.1%} of the answers"
    yield _share("answers that are no JSON", max(lost, 0.0), limits.bad_rows, detail)
    for key in trained.labels() if fresh.objects else ():
        before, now = Counter(trained.values(key)), Counter(fresh.values(key))
        known = sorted(before)
        moved = max(before, key=lambda value: abs(now[value] / now.total() - before[value] / before.total()))
        detail = f"{moved} {before[moved] / before.total():.1%} -> {now[moved] / now.total():.1%}"
        yield _stability(key, [before[v] for v in known], [now[v] for v in known], limits, detail)
        strange = Counter({value: count for value, count in now.items() if value not in before})
        # values seen once tell how often a value turns up that was never seen (Good and Turing)
        chance = sum(count == 1 for count in before.values()) / before.total()
        named = ", ".join(f"{value} ({count})" for value, count in strange.most_common(3)) or "none"
        yield _share(f"{key}: new values", strange.total() / now.total(), limits.new_values + chance, named)


def _shares(trained: Profile, fresh: Profile, limits: Limits) -> Iterator[Finding]:
    for name, rule, allowed in (("bad rows", "", limits.bad_rows), ("repeated rows", "duplicate", limits.duplicates)):
        before, now = trained.share_of(rule), fresh.share_of(rule)
        yield _share(name, max(now - before, 0.0), allowed, f"{before:.1%} -> {now:.1%}")


def _stability(feature: str, before: Sequence[int], now: Sequence[int], limits: Limits, detail: str) -> Finding:
    limit = max(limits.psi, chance(sum(before), sum(now), len(before), limits.false_alarms))
    return Finding(feature=feature, measure="PSI", value=stability(before, now), limit=limit, detail=detail)


def _share(feature: str, value: float, limit: float, detail: str) -> Finding:
    return Finding(feature=feature, measure="share", value=value, limit=limit, detail=detail)


def stability(before: Sequence[int], now: Sequence[int]) -> float:
    """Population stability index of counts in the same bins: the sum of (q - p) ln(q / p), 0 if nothing moved."""
    import numpy as np

    counts = [np.asarray(given, dtype=float) + SMOOTHING for given in (before, now)]
    p, q = (given / given.sum() for given in counts)
    return float(((q - p) * np.log(q / p)).sum())


def chance(before: int, now: int, bins: int, false_alarms: float) -> float:
    """The index that samples of the same rows exceed with probability `false_alarms`."""
    from scipy.stats import chi2

    if bins < 2 or not before or not now:
        return float("inf")
    return float(chi2.ppf(1 - false_alarms, bins - 1) * (1 / before + 1 / now))


def _answer(row: Mapping[str, Any]) -> str:
    """What the model is to say; nothing in a row without a wanted answer."""
    said = row.get("messages") or row.get("chosen") or (row.get("completion") if row.get("label", True) else None)
    return str(said[-1].get("content") or "") if said else ""


def _parsed(answer: str) -> dict[str, Any] | None:
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
