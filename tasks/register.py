"""Attach the evidence to the run and, if a variant was accepted, put it into the model registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.core.artifacts import Artifact, hash_json
from components.core.chat import Message
from components.core.events import EvidenceWritten
from components.core.provenance import git_state
from components.core.recipe import Recipe
from components.interfaces import Subject
from components.services.application import Application, current
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
from components.services.tracking import RunTracking, loaded_plugins, plugin_tags
from components.services.versions.model_card import CARD, model_card
from components.services.workspace import Workspace
from tasks.steps import step


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


@step(name="find champion", task_run_name="find champion of {recipe.name}")
def _champion(recipe: Recipe) -> Subject | None:
    target = recipe.register_as
    if target is None:
        return None
    return current().get(ModelRegistryService).champion(target.model)


def champion(recipe: Recipe) -> list[Subject]:
    """The version in production, where a gate compares with it and there is one."""
    found = _champion(recipe) if recipe.has_champion else None
    return [found] if found else []


@step(name="record evidence", task_run_name="record evidence of {recipe.name}")
def record(
    recipe: Recipe,
    dataset: Artifact,
    trained: Artifact,
    subjects: list[Subject],
    measured: list[Artifact],
    verdict: Artifact | None,
    skipped: dict[str, str],
    search: Artifact | None = None,
) -> None:
    """Everything the verdict rests on, and the report of a search; tracker and orchestrator take it from the folder."""
    workspace = current().get(Workspace)
    folder = workspace.reports / recipe.name
    chain = training_chain(trained, workspace.store)
    ruling = read_verdict(verdict) if verdict else None
    write_evidence(folder, recipe, dataset, measured, ruling, skipped, chain)
    made = {subject.name: subject.artifact for subject in subjects}
    write_stages(folder, record_stages(made, dataset, workspace.store))
    if search is not None:
        add_search(folder, search)
    if cost := current().get(CostService).report():
        add_cost(folder, cost)
    _write_page(folder, recipe, dataset, [dataset, trained, *measured, *filter(None, (search, verdict))])
    workspace.bus.emit(EvidenceWritten(folder=str(folder), chosen=verdict.meta["chosen"] if verdict else None))


def _write_page(folder: Path, recipe: Recipe, dataset: Artifact, parts: list[Artifact]) -> None:
    """The page of the run, with where everything comes from and how long each stage took."""
    tracking = current().get(RunTracking)
    timings = tracking.watch.timings
    made = {timing.key: "reused" if timing.outcome == "reused" else "made" for timing in timings if timing.key}
    git = {f"git.{name}": value for name, value in git_state(Path.cwd()).items()}
    run = RunEntry(tracking.run_id, recipe.name, hash_json(recipe.dump()), made, git)
    write_page(folder, current().get(LineageGraphService).of_run(parts, run), timings, dataset)


@step(name="register", task_run_name="register {recipe.name}")
def register(
    recipe: Recipe,
    run_id: str,
    subjects: list[Subject],
    dataset: Artifact,
    measured: list[Artifact],
    verdict: Artifact | None,
) -> Outcome:
    """The chosen variant as a registered version, with the alias of the recipe on it."""
    chosen, accepted = (verdict.meta["chosen"], verdict.meta["accepted"]) if verdict else (None, [])
    made = {subject.name: str(subject.artifact.path) for subject in subjects}
    outcome = Outcome(recipe=recipe.name, run_id=run_id, accepted=accepted, chosen=chosen, artifacts=made)
    target = recipe.register_as
    if verdict is None or chosen is None or target is None:
        return outcome
    subject = next(subject for subject in subjects if subject.name == chosen)
    evidence = current().get(Workspace).reports / recipe.name
    tags = _tags(recipe, chosen, dataset, measured, verdict)
    report = (evidence / REPORT).read_text(encoding="utf-8")
    card = model_card(recipe, subjects[0].artifact, subject.artifact, chosen, dataset, tags, report)
    (evidence / CARD).write_text(card, encoding="utf-8")
    service = current().get(ModelRegistryService)
    registered = service.register(
        target.model, target.alias, subject.artifact, run_id, tags, _example(dataset), card, evidence
    )
    return outcome.model_copy(
        update={
            "model": target.model,
            "version": registered.version,
            "alias": registered.alias,
            "new_version": registered.new,
        }
    )


def _tags(
    recipe: Recipe, chosen: str, dataset: Artifact, measured: list[Artifact], verdict: Artifact
) -> dict[str, str]:
    figures = scoreboard(measured).metrics(chosen)
    git = git_state(Path.cwd())
    return {
        "postmill.accepted": "true",
        "postmill.variant": chosen,
        "postmill.recipe": hash_json(recipe.dump()),
        "postmill.dataset": dataset.digest,
        **({"postmill.data.changed": "; ".join(dataset.meta["changed"])[:2000]} if dataset.meta.get("changed") else {}),
        "postmill.verdict": verdict.digest,
        "postmill.system": dataset.meta.get("system") or "",
        "postmill.tokenizer": dataset.meta.get("tokenizer") or "",
        "postmill.template": (dataset.meta.get("template") or {}).get("sha256", ""),
        "git.commit": git["commit"],
        "git.dirty": git["dirty"],
        **plugin_tags(loaded_plugins(current().get(Application))),
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
