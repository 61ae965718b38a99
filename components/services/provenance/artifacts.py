"""Artifacts of the store as nodes of the graph: what a manifest tells about one, and everything it was made of.

An artifact that is gone is a node too, with what its descendants know of it; where another artifact of the same stage
has the same content, that one stands for it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from components.core.artifacts import Store
from components.core.secret import masked_data
from components.services.provenance.facts import LONGEST_LIST, STAGES, artifact_node, leaves
from components.services.provenance.graph import KINDS, Edge, Graph, Node

Key = tuple[str, str, str]
"""Stage, key and digest: what a manifest calls its parents by."""
REGISTRY = "registry"
"""The stage of a registered version's files where a run is compared with them."""
NAMED = ("training", "variant")
"""Kinds that show what benchmarks called them."""


def key_of(entry: Mapping[str, Any]) -> Key:
    """How a manifest, or a parent in it, is called."""
    return entry["stage"], entry["key"], entry["digest"]


def node_id(stage: str, digest: str) -> str:
    """Artifacts of a stage with the same content are one node."""
    return f"{stage}/{digest[:32]}"


def version_id(model: str, version: str) -> str:
    """What the node of a registered version is called."""
    return f"version/{model}/{version}"


class Parts:
    """Nodes and edges while a graph is put together."""

    def __init__(self, store: Store, manifests: Mapping[Key, dict[str, Any]]) -> None:
        self.store, self.manifests = store, manifests
        self.nodes: dict[str, Node] = {}
        self.edges: set[Edge] = set()
        self._walked: dict[Key, str] = {}
        self._names: dict[str, set[str]] = {}

    def graph(self, root: str = "") -> Graph:
        """What was put together so far."""
        self._link_winners()
        nodes = (
            node.model_copy(update={"names": sorted(self._names.get(node.id, ())), "facts": masked_data(node.facts)})
            for node in self.nodes.values()
        )
        return Graph.of(nodes, self.edges, root)

    def _link_winners(self) -> None:
        """From a search to the variants that it found; its manifest knows them by name only."""
        for search in [node for node in self.nodes.values() if node.kind == "search"]:
            winners = {name.removeprefix("settings.winners.") for name, _ in leaves(search.facts)}
            for variant in [node for node, names in self._names.items() if names & winners]:
                self.link(search.id, variant, "found")

    def add(self, node: Node) -> str:
        """A node; the first of an id stays."""
        assert node.kind in KINDS, node.kind
        return self.nodes.setdefault(node.id, node).id

    def link(self, source: str, target: str, role: str) -> None:
        self.edges.add(Edge(source=source, target=target, role=role))

    def by_content(self, digest: str, kinds: Sequence[str], preferred: Container[str] = ()) -> str:
        """The node of an artifact of which only the content is known, with all it was made of. Of several artifacts
        that one counts whose key the run knew (`preferred`), else the newest; of none there is a missing node."""
        found = [key for key in self.manifests if key[2] == digest and STAGES.get(key[0]) in kinds]
        if found:
            newest = max(found, key=lambda key: (key[1] in preferred, self.manifests[key].get("created", "")))
            return self.with_ancestors(newest)
        stage = next(stage for stage, kind in STAGES.items() if kind == kinds[0])
        node = Node(
            kind=kinds[0],
            id=node_id(stage, digest),
            label=f"{KINDS[kinds[0]]} {digest[:12]}",
            digest=digest,
            missing="no artifact with this content is in the store",
        )
        return self.add(node)

    def with_ancestors(self, key: Key) -> str:
        """The node of an artifact, after everything that it was made of."""
        if key in self._walked:
            return self._walked[key]
        stage, _, digest = key
        if stage == REGISTRY:
            return self._registered(key)
        node = self._walked[key] = node_id(stage, digest)
        manifest = self.manifests.get(key) or self._twin(key)
        if manifest is None:
            return self.add(_gone(key))
        self._own(node, manifest)
        for role, parent in manifest["parents"].items():
            source = self.with_ancestors(key_of(parent))
            self.link(source, node, "measured" if stage == "judge" else role)
            if stage == "benchmark" and self.nodes[source].kind in NAMED:
                self._names.setdefault(source, set()).add(role)
        return node

    def _registered(self, key: Key) -> str:
        """A registered version that a run was compared with."""
        model, _, version = key[1].rpartition("-")
        label = f"{model} version {version}"
        return self.add(Node(kind="version", id=version_id(model, version), label=label, digest=key[2]))

    def id_of(self, key: Key) -> str:
        """What the node of an artifact is called, whether it is in the graph or not."""
        return node_id(key[0], key[2])

    def holding(self, digest: str) -> str | None:
        """The node in the graph that has these files."""
        return next((node.id for node in self.nodes.values() if digest and node.digest == digest), None)

    def in_graph(self, keys: Iterable[str]) -> dict[str, Node]:
        """Those of these keys whose artifacts are in the graph."""
        known = {key[1]: self.id_of(key) for key in [*self.manifests, *self._walked]}
        return {key: self.nodes[known[key]] for key in keys if known.get(key) in self.nodes}

    def alone(self, key: Key) -> str:
        """The node of an artifact without what it was made of."""
        node = self.id_of(key)
        self._own(node, self.manifests[key])
        return node

    def _own(self, node: str, manifest: Mapping[str, Any]) -> None:
        made = artifact_node(node, manifest, self.store.place(manifest["stage"], manifest["key"]))
        known = self.nodes.get(node)
        if known is None or known.missing:
            self.nodes[node] = known = made
        if known.facts["artifact"] != made.facts["artifact"]:
            others = {*filter(None, known.facts.get("same content", "").split(", ")), made.facts["artifact"]}
            known = known.model_copy(update={"facts": {**known.facts, "same content": ", ".join(sorted(others))}})
            self.nodes[node] = known
        if made.label not in known.label.split(
            " + "
        ):  # a pass that changed nothing: the same files under the name of both
            both = sorted([made, known], key=lambda each: each.created)
            self.nodes[node] = known.model_copy(update={"label": " + ".join(each.label for each in both)})
        if manifest["kind"] == "dataset":
            for split in manifest["meta"].get("rows", {}):
                self.link(self.rows(manifest, split), node, split)

    def rows(self, dataset: Mapping[str, Any], split: str) -> str:
        """The node of one split of a data set: the files that its rows come from."""
        meta, digest = dataset["meta"], dataset["meta"].get("content", {}).get(split, dataset["digest"])
        files = list(meta.get("files", {}).get(split, {})) or meta.get("sources", {}).get(split, [])
        place = files[0] if len(files) == 1 else f"{len(files):,} files" if files else "held out"
        facts = {"rows": meta["rows"][split], **{f"file {n}": name for n, name in enumerate(files[:LONGEST_LIST], 1)}}
        if len(files) > LONGEST_LIST:
            facts["more files"] = len(files) - LONGEST_LIST
        label = f"{split}: {meta['rows'][split]:,} rows"
        return self.add(
            Node(kind="rows", id=f"rows/{split}/{digest}", label=label, note=place, digest=digest, facts=facts)
        )

    def _twin(self, key: Key) -> dict[str, Any] | None:
        """The newest artifact of the stage with the same content."""
        alike = [manifest for other, manifest in self.manifests.items() if (other[0], other[2]) == (key[0], key[2])]
        return max(alike, key=lambda manifest: str(manifest.get("created", "")), default=None)


def _gone(key: Key) -> Node:
    stage, name, digest = key
    kind = STAGES.get(stage, "artifact")
    facts = {"artifact": f"{stage}/{name}"}
    why = "deleted from the store, or damaged; run the recipe again to rebuild it"
    label = f"{KINDS[kind]} {digest[:12]}"
    return Node(kind=kind, id=node_id(stage, digest), label=label, digest=digest, missing=why, facts=facts)
