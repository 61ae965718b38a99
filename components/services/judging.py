"""Lets the gates decide: which variants are accepted, and which of them is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.core.artifacts import Artifact, write_json
from components.core.component import Component
from components.core.events import GateJudged
from components.core.kinds import service
from components.core.paired_tests import holm
from components.core.recipe import Recipe, Spec
from components.interfaces import Check, Scoreboard
from components.services.benchmarking import scoreboard
from components.services.workspace import Workspace

PREFERENCES: Mapping[str, tuple[str, int]] = {
    "smallest": ("bytes", 1),
    "fastest": ("tokens_per_s", -1),
    "best": ("exact_match", -1),
}
"""What `register.prefer` orders accepted variants by: a metric, and its sign."""


class VariantVerdict(BaseModel):
    """The gates' checks on one variant."""

    variant: str
    checks: list[Check]

    @property
    def accepted(self) -> bool:
        return all(check.passed for check in self.checks)


class Verdict(BaseModel):
    """The decision of a run: every variant's checks, and the chosen one if any was accepted."""

    variants: list[VariantVerdict]
    chosen: str | None

    @property
    def accepted(self) -> list[str]:
        return [verdict.variant for verdict in self.variants if verdict.accepted]


class _Judgement(Component):
    """Gives the stage its identity."""

    libraries = ("scipy",)


@service("judging")
class JudgingService:
    """Applies a recipe's gates to a scoreboard."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def judge(
        self, recipe: Recipe, measurements: Sequence[Artifact], variants: Sequence[str] | None = None
    ) -> Artifact:
        """The verdict as an artifact; `read_verdict` opens it. `variants`: those that were made, by default all."""
        variants = list(recipe.optimize if variants is None else variants)
        prefer = recipe.register_as.prefer if recipe.register_as else "smallest"

        def make(out: Path) -> Mapping[str, Any]:
            described = [metric for spec in recipe.benchmark for metric in spec.component.reports(spec.config)]
            board = Scoreboard(scoreboard(measurements).measurements, described)
            verdict = decide(recipe.gate, variants, board, prefer)
            write_json(out / "verdict.json", verdict.model_dump())
            return {"chosen": verdict.chosen, "accepted": verdict.accepted}

        config = {"gates": [spec.identity() for spec in recipe.gate], "prefer": prefer, "variants": variants}
        parents = {f"measurement-{position}": artifact for position, artifact in enumerate(measurements)}
        parts = [_Judgement, *(part for spec in recipe.gate for part in spec.parts())]
        artifact = self.workspace.stage("judge", "gate", parts, config, parents, "verdict", make)
        self.workspace.bus.emit(GateJudged(accepted=tuple(artifact.meta["accepted"]), chosen=artifact.meta["chosen"]))
        return artifact


def decide(gates: Sequence[Spec], variants: Sequence[str], board: Scoreboard, prefer: str) -> Verdict:
    """Apply every gate to every variant; choose among the accepted ones by preference.

    To choose among many is to give chance many tries: of twenty variants that are no better than the base, one may well
    look better. So the tests of a gate are corrected for the number of variants (Holm 1979), except where the gate says
    `correct: none`. Then the chance that any variant passes this gate wrongly is at most its alpha, and so is the
    chance that the chosen one did.
    """
    found = [_over_variants({name: spec.build().judge(name, board) for name in variants}) for spec in gates]
    judged = [
        VariantVerdict(variant=name, checks=[check for of_gate in found for check in of_gate[name]])
        for name in variants
    ]
    accepted = [verdict.variant for verdict in judged if verdict.accepted]
    return Verdict(variants=judged, chosen=min(accepted, key=partial(_rank, board, prefer), default=None))


def _rank(board: Scoreboard, prefer: str, variant: str) -> float:
    """Lowest for the variant that is preferred; what was not measured, or is no number, comes last."""
    metric, sign = PREFERENCES[prefer]
    value = board.metrics(variant).get(metric, math.nan)
    return sign * value if math.isfinite(value) else math.inf


def _over_variants(found: Mapping[str, Sequence[Check]]) -> dict[str, list[Check]]:
    """The checks of one gate by variant, each test corrected over the variants. One that could not be tested counts
    among them."""
    checks = {name: list(of_variant) for name, of_variant in found.items()}
    for position in range(max(map(len, checks.values()), default=0) if len(checks) > 1 else 0):
        same = {name: each[position] for name, each in checks.items() if position < len(each)}
        corrected = holm([1.0 if check.p is None else check.p for check in same.values()])
        for (name, check), p in zip(same.items(), corrected, strict=True):
            checks[name][position] = _corrected(check, p, len(same))
    return checks


def _corrected(check: Check, p: float, variants: int) -> Check:
    if check.p is None or check.alpha is None:
        return check
    summary = f"{check.summary}; of {variants} variants p={p:.2g}"
    figures = {**check.figures, "p_of_variants": p}
    passed = check.passed and p < check.alpha
    return check.model_copy(update={"passed": passed, "summary": summary, "figures": figures})


def read_verdict(artifact: Artifact) -> Verdict:
    """The verdict that an artifact holds."""
    return Verdict.model_validate(artifact.read_json("verdict.json"))
