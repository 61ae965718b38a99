"""Where a model comes from and where it went, as one graph: rows -> data set -> recipe and run -> trained steps ->
passes -> measurements -> verdict -> registered version -> alias.

    LineageGraphService(workspace, registry).of_model("triage@production").plain()

Put together from manifests of the store, tags of the registry and runs in MLflow; no file is read or verified.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from components.core.artifacts import Artifact, hash_file, hash_json
from components.core.kinds import service
from components.services.evidence import TRAINING, VERDICT
from components.services.lineage import LineageService, Sighting, Wanted
from components.services.model_registry import ModelRegistryService, VersionEntry
from components.services.provenance.artifacts import Key, Parts, key_of, version_id
from components.services.provenance.graph import Graph, Node
from components.services.search import REPORT as SEARCH
from components.services.workspace import Workspace
from components.trackers.mlflow import refusals

RECIPE = "recipe.yaml"
FILES = ("variant", "training", "model")
"""Kinds of artifact that a registered version can have the files of."""
CACHED = " (cached)"
"""How a run marks artifacts that it found in the store."""


@dataclass(frozen=True)
class RunEntry:
    """What is known of a run: its recipe, and for each artifact (by key) whether it was made or found in the store."""

    id: str
    name: str
    recipe: str = ""
    """Digest of the recipe, as it was run."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""


@service("lineage_graph")
class LineageGraphService:
    """Puts the graph together, from a model, from a row, or from what a run made."""

    def __init__(self, workspace: Workspace, registry: ModelRegistryService) -> None:
        self.workspace, self.registry = workspace, registry

    def of_model(self, reference: str) -> Graph:
        """Everything that a registered version came of, and its aliases. `reference`: MODEL@alias, MODEL/3, MODEL."""
        entry, parts = self.registry.find(reference), self._parts()
        version = self._version(parts, _entry(entry, self.registry), str(entry.run_id or ""), entry.creation_timestamp)
        alias = reference.partition("@")[2]
        return parts.graph(_alias_id(entry.name, alias) if alias else version)

    def of_run(self, artifacts: Iterable[Artifact], run: RunEntry | None = None) -> Graph:
        """What a run made, and everything that went into it."""
        parts = self._parts()
        nodes = [parts.with_ancestors((a.stage, a.key, a.digest)) for a in artifacts]
        if run is not None:
            self._run(parts, run)
        return parts.graph(nodes[-1] if nodes else "")

    def of_folder(self, folder: Path) -> Graph | None:
        """The graph of the run that left a folder of evidence, with versions that rest on its verdict; None if
        nothing that the folder names is in the store any more."""
        parts = self._parts()
        keys = [key for key in _named_in(folder, parts.manifests) if key in parts.manifests]
        nodes = [parts.with_ancestors(key) for key in keys]
        for verdict in {key[2] for key in keys if parts.manifests[key]["kind"] == "verdict"}:
            for entry in self.registry.versions("postmill.verdict", verdict):
                found = self.registry.find(f"{entry.name}/{entry.version}")
                self._version(parts, entry, str(found.run_id or ""), found.creation_timestamp)
        return parts.graph(nodes[-1]) if nodes else None

    def dataset(self, graph: Graph) -> Artifact | None:
        """The data set of a graph, verified; None if it is gone."""
        places = [place for node in graph.of_kind("dataset") for place in node.artifacts]
        found = (self.workspace.store.find(*place.split("/", 1)) for place in places)
        return next((artifact for artifact in found if artifact is not None), None)

    def of_row(self, wanted: Wanted, label: str = "") -> Graph:
        """Where a row went: data sets, what was trained and measured on it, versions and aliases. Nothing but the row
        itself if no data set holds it."""
        lineage = LineageService(self.workspace, self.registry)
        parts, sightings = Parts(self.workspace.store, lineage.manifests), lineage.find(wanted)
        facts = {"places": sum(sighting.count for sighting in sightings)}
        row = parts.add(
            Node(
                kind="row",
                id=f"row/{wanted.digits}",
                label=label or f"row {wanted.digits}",
                digest=wanted.digits,
                facts=facts,
            )
        )
        for sighting in sightings:
            self._sighting(parts, row, sighting)
        return parts.graph(row)

    def _parts(self) -> Parts:
        """Nothing yet, over the store as it is now: this service may live longer than a run."""
        return Parts(self.workspace.store, LineageService(self.workspace, self.registry).manifests)

    # ------------------------------------------------------------ a version

    def _version(self, parts: Parts, entry: VersionEntry, run_id: str, created_ms: int) -> str:
        """The node of a version, with all it came of and all that points at it."""
        tags = entry.tags
        run = self.run_entry(run_id) if run_id else None
        preferred = run.artifacts if run else {}
        version = _version_node(parts, entry, created_ms)
        if "postmill.digest" in tags:
            parts.link(parts.by_content(tags["postmill.digest"], FILES, preferred), version, "files")
        if "postmill.verdict" in tags:
            parts.link(self._verdict(parts, tags["postmill.verdict"], preferred), version, "evidence")
        if "postmill.dataset" in tags:
            parts.by_content(tags["postmill.dataset"], ["dataset"], preferred)
        if run is not None:
            parts.link(self._run(parts, run), version, "registered")
        return version

    def _verdict(self, parts: Parts, digest: str, preferred: Mapping[str, str]) -> str:
        node = parts.by_content(digest, ["verdict"], preferred)
        folder = self._reports().get(digest)
        if folder is not None:
            known = parts.nodes[node]
            parts.nodes[node] = known.model_copy(update={"facts": {**known.facts, "evidence": str(folder)}})
        return node

    def _run(self, parts: Parts, run: RunEntry) -> str:
        """The node of a run, between its recipe and what it trained."""
        facts = {**run.facts, "run": run.id}
        node = Node(
            kind="run",
            id=f"run/{run.id}",
            label=run.name,
            note=str(facts.get("status", "")).lower(),
            digest=run.id,
            facts=facts,
            missing=run.missing,
        )
        parts.add(node)
        if run.recipe:
            parts.link(parts.add(self._recipe(run)), node.id, "recipe")
        known = parts.in_graph(run.artifacts)
        first = next(
            (kind for kind in ("training", "variant") if any(node.kind == kind for node in known.values())), ""
        )
        for key, made in known.items():
            if made.kind == first:
                parts.link(node.id, made.id, run.artifacts[key])
        return node.id

    def run_entry(self, run_id: str) -> RunEntry:
        """What MLflow knows of a run; one that was deleted is told as missing."""
        with refusals(self.registry.uri):
            try:
                found = self.registry.client.get_run(run_id)
            except Exception as error:
                if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return RunEntry(run_id, f"run {run_id[:12]}", missing="deleted from MLflow")
        info, tags = found.info, found.data.tags
        made = {
            value.removesuffix(CACHED): "reused" if value.endswith(CACHED) else "made"
            for name, value in tags.items()
            if name.startswith("artifact.")
        }
        facts = {"created": _date(info.start_time), "ended": _date(info.end_time), "status": info.status}
        if info.end_time:
            facts["seconds"] = round((info.end_time - info.start_time) / 1000, 1)
        facts |= {name: value for name, value in tags.items() if name.startswith(("git.", "postmill."))}
        gone = "deleted in MLflow" if info.lifecycle_stage == "deleted" else ""
        return RunEntry(run_id, info.run_name, tags.get("postmill.recipe", ""), made, facts, gone)

    def _recipe(self, run: RunEntry) -> Node:
        """The recipe of a run. Its text is in the evidence of the last run of that name, else with the run itself."""
        files = sorted(self.workspace.reports.glob(f"*/{RECIPE}"))
        file = next((file for file in files if _digest_of_yaml(file) == run.recipe), None)
        missing = "its text is gone, with the run" if file is None and run.missing else ""
        facts = {"text": str(file) if file else "recipe.yaml in the evidence of the run, in MLflow"}
        return Node(
            kind="recipe",
            id=f"recipe/{run.recipe}",
            label=run.name,
            digest=run.recipe,
            missing=missing,
            facts={} if missing else facts,
        )

    def _reports(self) -> dict[str, Path]:
        """Folders of evidence by the digest of their verdict."""
        files = sorted(self.workspace.reports.glob(f"*/{VERDICT}"))
        return {verdict_digest(file): file.parent for file in files}

    # ------------------------------------------------------------ a row

    def _sighting(self, parts: Parts, row: str, sighting: Sighting) -> None:
        key = ("data", sighting.key, sighting.digest)
        dataset = parts.alone(key)
        for split in dict.fromkeys(place.split for place in sighting.places):
            found = parts.rows(parts.manifests[key], split)
            places = [f"{place.file}:{place.line}" for place in sighting.places if place.split == split]
            parts.link(row, found, ", ".join(places[:3]) + (f" and {len(places) - 3:,} more" if places[3:] else ""))
        nodes = {dataset}
        for artifact in sighting.artifacts:
            own = next(key for key in parts.manifests if key[:2] == (artifact.stage, artifact.key))
            node = parts.alone(own)
            if artifact.relation == "measured on":
                parts.link(dataset, node, "measured on")
                continue
            for role, parent in parts.manifests[own]["parents"].items():
                source = parts.id_of(key_of(parent))
                if source in nodes:
                    parts.link(source, node, role)
            nodes.add(node)
        for version in sighting.versions:
            self._went_into(parts, dataset, version.model, version.version, version.relation)

    def _went_into(self, parts: Parts, dataset: str, model: str, number: str, relation: str) -> None:
        """A version that saw the row, below its files if they are in the graph, else below the data set."""
        entry = next(each for each in self.registry.versions_of(model) if each.version == number)
        version = _version_node(parts, entry, 0)
        files = parts.holding(entry.tags.get("postmill.digest", ""))
        parts.link(files or dataset, version, "files" if files else relation)


def _entry(found: Any, registry: ModelRegistryService) -> VersionEntry:
    """The version as the registry lists it, with its aliases."""
    return next(entry for entry in registry.versions_of(found.name) if entry.version == str(found.version))


def _alias_id(model: str, alias: str) -> str:
    return f"alias/{model}@{alias}"


def _version_node(parts: Parts, entry: VersionEntry, created_ms: int) -> str:
    """The node of a version, and those of its aliases."""
    tags = entry.tags
    facts = {"created": _date(created_ms), **{name: value for name, value in sorted(tags.items()) if value}}
    said = [tags.get("postmill.variant", ""), str(facts["created"])[:10]]
    node = Node(
        kind="version",
        id=version_id(entry.name, entry.version),
        label=f"{entry.name} version {entry.version}",
        note=", ".join(filter(None, said)),
        digest=tags.get("postmill.digest", ""),
        missing="" if tags.get("postmill.digest") else "not registered by Postmill: nothing is known of its origin",
        facts={name: value for name, value in facts.items() if value},
    )
    parts.nodes[node.id] = node
    for alias in entry.aliases:
        label = f"{entry.name}@{alias}"
        parts.link(node.id, parts.add(Node(kind="alias", id=_alias_id(entry.name, alias), label=label)), "alias")
    return node.id


def verdict_digest(file: Path) -> str:
    """The digest of the artifact that holds nothing but this verdict."""
    return hash_json({VERDICT: hash_file(file)})


def _named_in(folder: Path, manifests: Mapping[Key, Mapping[str, Any]]) -> list[Key]:
    """The artifacts that a folder of evidence names: what was trained, and the verdict."""
    steps = json.loads((folder / TRAINING).read_text(encoding="utf-8")) if (folder / TRAINING).is_file() else []
    keys: list[Key] = [("train", step["key"], step["digest"]) for step in steps if "key" in step]
    if (folder / VERDICT).is_file():
        digest = verdict_digest(folder / VERDICT)
        alike = [key for key in manifests if key[0] == "judge" and key[2] == digest]
        alike.sort(key=lambda key: str(manifests[key].get("created", "")))
        keys += alike[-1:]
    return [*keys[:-1], *_search_of(folder, manifests), *keys[-1:]]


def _search_of(folder: Path, manifests: Mapping[Key, Mapping[str, Any]]) -> list[Key]:
    """The search whose table lies in the folder."""
    if not (folder / SEARCH).is_file():
        return []
    digest = hash_file(folder / SEARCH)
    of_stage = [key for key in manifests if key[0] == "search"]
    return [key for key in of_stage if manifests[key]["files"].get(SEARCH) == digest][-1:]


def _digest_of_yaml(file: Path) -> str:
    try:
        return hash_json(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError:  # not as a run left it
        return ""


def _date(milliseconds: int | None) -> str:
    if not milliseconds:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
