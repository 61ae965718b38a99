"""What a run leaves: the evidence of its verdict, the report, and the accepted variant in the model registry.

recording = run.get(RecordingService)
recording.record(recipe, dataset, trained, subjects, measured, verdict, skipped)
outcome = recording.register(recipe, subjects, dataset, measured, verdict)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.core.artifacts import Artifact, hash_json
from components.core.chat import Message
from components.core.events import EvidenceWritten
from components.core.kinds import service
from components.core.provenance import git_state
from components.core.recipe import Recipe
from components.interfaces import Subject
from components.services.benchmarking import scoreboard
from components.services.cost import CostService, add_cost
from components.services.data import load_rows
from components.services.evidence import REPORT, training_chain, write_evidence
from components.services.judging import read_verdict
from components.services.lineage_graph import LineageGraphService, RunEntry
from components.services.model_registry import ModelRegistryService
from components.services.report.page import write_page
from components.services.search import add_search
from components.services.stage_record import record_stages, write_stages
from components.services.tracking import RunTracking, plugin_tags
from components.services.versions.model_card import CARD, model_card
from components.services.workspace import Workspace


class Outcome(BaseModel):
    """What a run came to: the chosen variant and its registered version, if any, and where everything is."""

    recipe: str
    run_id: str
    accepted: list[str]
    chosen: str | None
    model: str | None = None
    version: str | None = None
    alias: str | None = None
    new_version: bool = False
    artifacts: dict[str, str] = {}


@service("recording", lifetime="scoped")
class RecordingService:
    """Writes the folder of evidence, and registers what it accepts. One for each run."""

    def __init__(
        self,
        workspace: Workspace,
        tracking: RunTracking,
        costs: CostService,
        lineage: LineageGraphService,
        registry: ModelRegistryService,
    ) -> None:
        self.workspace, self.tracking, self.costs = workspace, tracking, costs
        self.lineage, self.registry = lineage, registry

    def champion(self, recipe: Recipe) -> Subject | None:
        """The version in production of the model that the recipe registers; None if there is none."""
        return self.registry.champion(recipe.register_as.model) if recipe.register_as else None

    def record(
        self,
        recipe: Recipe,
        dataset: Artifact,
        trained: Artifact,
        subjects: Sequence[Subject],
        measured: Sequence[Artifact],
        verdict: Artifact | None,
        skipped: Mapping[str, str],
        search: Artifact | None = None,
    ) -> None:
        """Everything the verdict rests on, and the report of a search; tracker and orchestrator take it from the
        folder."""
        folder = self.workspace.reports / recipe.name
        chain = training_chain(trained, self.workspace.store)
        ruling = read_verdict(verdict) if verdict else None
        write_evidence(folder, recipe, dataset, measured, ruling, skipped, chain)
        made = {subject.name: subject.artifact for subject in subjects}
        write_stages(folder, record_stages(made, dataset, self.workspace.store))
        if search is not None:
            add_search(folder, search)
        if cost := self.costs.report():
            add_cost(folder, cost)
        self._write_page(folder, recipe, dataset, [dataset, trained, *measured, *filter(None, (search, verdict))])
        chosen = verdict.meta["chosen"] if verdict else None
        self.workspace.bus.emit(EvidenceWritten(folder=str(folder), chosen=chosen))

    def _write_page(self, folder: Path, recipe: Recipe, dataset: Artifact, parts: list[Artifact]) -> None:
        """The page of the run, with where everything comes from and how long each stage took."""
        timings = self.tracking.watch.timings
        made = {timing.key: "reused" if timing.outcome == "reused" else "made" for timing in timings if timing.key}
        git = {f"git.{name}": value for name, value in git_state(Path.cwd()).items()}
        run = RunEntry(self.tracking.run_id, recipe.name, hash_json(recipe.dump()), made, git)
        write_page(folder, self.lineage.of_run(parts, run), timings, dataset)

    def register(
        self,
        recipe: Recipe,
        subjects: Sequence[Subject],
        dataset: Artifact,
        measured: Sequence[Artifact],
        verdict: Artifact | None,
    ) -> Outcome:
        """The chosen variant as a registered version, with the alias of the recipe on it; nothing without one."""
        chosen, accepted = (verdict.meta["chosen"], verdict.meta["accepted"]) if verdict else (None, [])
        made = {subject.name: str(subject.artifact.path) for subject in subjects}
        run_id = self.tracking.run_id
        outcome = Outcome(recipe=recipe.name, run_id=run_id, accepted=accepted, chosen=chosen, artifacts=made)
        target = recipe.register_as
        if verdict is None or chosen is None or target is None:
            return outcome
        subject = next(subject for subject in subjects if subject.name == chosen)
        evidence = self.workspace.reports / recipe.name
        tags = self._tags(recipe, chosen, dataset, measured, verdict)
        report = (evidence / REPORT).read_text(encoding="utf-8")
        card = model_card(recipe, subjects[0].artifact, subject.artifact, chosen, dataset, tags, report)
        (evidence / CARD).write_text(card, encoding="utf-8")
        done = self.registry.register(
            target.model, target.alias, subject.artifact, run_id, tags, _example(dataset), card, evidence
        )
        facts = {"model": target.model, "version": done.version, "alias": done.alias, "new_version": done.new}
        return outcome.model_copy(update=facts)

    def _tags(
        self, recipe: Recipe, chosen: str, dataset: Artifact, measured: Sequence[Artifact], verdict: Artifact
    ) -> dict[str, str]:
        figures, changed = scoreboard(measured).metrics(chosen), dataset.meta.get("changed")
        git = git_state(Path.cwd())
        return {
            "postmill.accepted": "true",
            "postmill.variant": chosen,
            "postmill.recipe": hash_json(recipe.dump()),
            "postmill.dataset": dataset.digest,
            **({"postmill.data.changed": "; ".join(changed)[:2000]} if changed else {}),
            "postmill.verdict": verdict.digest,
            "postmill.system": dataset.meta.get("system") or "",
            "postmill.tokenizer": dataset.meta.get("tokenizer") or "",
            "postmill.template": (dataset.meta.get("template") or {}).get("sha256", ""),
            "git.commit": git["commit"],
            "git.dirty": git["dirty"],
            **plugin_tags(self.tracking.plugins),
            **{f"metric.{name}": f"{value:.6g}" for name, value in figures.items()},
        }


def _example(dataset: Artifact) -> dict[str, Any]:
    """One held-out question and its expected answer, or the two halves of a text: the input example and signature of
    the version."""
    rows = load_rows(dataset)
    if rows.texts:
        text = rows.texts[0]
        return {"input": [text[: len(text) // 2]], "output": [text[len(text) // 2 :]], "system": None}
    conversation: list[Message] = rows.conversations[0]
    question = next(message["content"] for message in conversation if message["role"] == "user")
    return {"input": [question], "output": [conversation[-1]["content"]], "system": dataset.meta.get("system")}
