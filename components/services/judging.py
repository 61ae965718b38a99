"""Lets the gates decide: which variants are accepted, and which of them is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.core.artifacts import Artifact, write_json
from components.core.component import Component
from components.core.events import GateJudged
from components.core.kinds import service
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
            verdict = decide(recipe.gate, variants, scoreboard(measurements), prefer)
            write_json(out / "verdict.json", verdict.model_dump())
            return {"chosen": verdict.chosen, "accepted": verdict.accepted}

        config = {"gates": [spec.identity() for spec in recipe.gate], "prefer": prefer, "variants": variants}
        parents = {f"measurement-{position}": artifact for position, artifact in enumerate(measurements)}
        artifact = self.workspace.stage("judge", "gate", _Judgement, config, parents, "verdict", make)
        self.workspace.bus.emit(GateJudged(accepted=tuple(artifact.meta["accepted"]), chosen=artifact.meta["chosen"]))
        return artifact


def decide(gates: Sequence[Spec], variants: Sequence[str], board: Scoreboard, prefer: str) -> Verdict:
    """Apply every gate to every variant; choose among the accepted ones by preference."""
    judged = [
        VariantVerdict(variant=name, checks=[check for spec in gates for check in spec.build().judge(name, board)])
        for name in variants
    ]
    metric, sign = PREFERENCES[prefer]
    accepted = [verdict.variant for verdict in judged if verdict.accepted]
    ranked = sorted(accepted, key=lambda name: sign * board.metrics(name).get(metric, float("inf")))
    return Verdict(variants=judged, chosen=ranked[0] if ranked else None)


def read_verdict(artifact: Artifact) -> Verdict:
    """The verdict that an artifact holds."""
    return Verdict.model_validate(artifact.read_json("verdict.json"))
