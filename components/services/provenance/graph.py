"""The graph of where a model comes from and where it went: what it consists of, and walks along it.

    graph.above(node.id)      # what a node was made of, with the role of each
    graph.plain()             # the same dictionary every time, for JSON

`lineage_graph.py` builds one from the store and the registry; `lineage_page.py` and `postmill lineage` show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

KINDS: Mapping[str, str] = {
    "row": "row",
    "rows": "rows",
    "dataset": "data set",
    "model": "base model",
    "recipe": "recipe",
    "run": "run",
    "training": "trained step",
    "variant": "pass",
    "search": "search",
    "artifact": "artifact",
    "measurement": "measurement",
    "verdict": "verdict",
    "version": "registered version",
    "alias": "alias",
    "serving": "serving process",
}
"""Kinds of nodes in the order of a model's life, and how a person calls them."""


class Node(BaseModel):
    """One thing in a model's life."""

    model_config = ConfigDict(frozen=True)
    kind: str
    id: str
    """Content, not place: two artifacts of a stage with the same files are one node."""
    label: str
    note: str = ""
    """What a person wants to know of it first, after its name."""
    names: list[str] = []
    """What a run called it, for example the variants that end here."""
    digest: str = ""
    missing: str = ""
    """Why it is no longer there; empty if it is."""
    facts: dict[str, Any] = {}

    @property
    def title(self) -> str:
        """`int4: onnx`"""
        return f"{', '.join(self.names)}: {self.label}" if self.names else self.label

    @property
    def artifacts(self) -> list[str]:
        """`stage/key` of what it is in the store; several where the same content was made again."""
        said = f"{self.facts.get('artifact', '')}, {self.facts.get('same content', '')}"
        return [place for place in said.split(", ") if place]

    @property
    def created(self) -> str:
        return str(self.facts.get("created", ""))


class Edge(BaseModel):
    """`target` came of `source`; `role` is what the source was to it."""

    model_config = ConfigDict(frozen=True)
    source: str
    target: str
    role: str


class Graph(BaseModel):
    """Nodes in the order of a model's life, the oldest of a kind first. `root`: what was asked about."""

    model_config = ConfigDict(frozen=True)
    root: str = ""
    nodes: list[Node]
    edges: list[Edge]

    @classmethod
    def of(cls, nodes: Iterable[Node], edges: Iterable[Edge], root: str = "") -> Graph:
        """The same nodes and edges give the same graph, in whatever order they were found."""
        kinds = list(KINDS)
        ordered = sorted(nodes, key=lambda node: (kinds.index(node.kind), node.created, node.title, node.id))
        place = {node.id: number for number, node in enumerate(ordered)}
        kept = {edge for edge in edges if edge.source != edge.target}
        return cls(
            root=root,
            nodes=ordered,
            edges=sorted(kept, key=lambda edge: (place[edge.source], place[edge.target], edge.role)),
        )

    def plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        return self.model_dump(mode="json")

    def __getitem__(self, node: str) -> Node:
        return self._by_id[node]

    def __contains__(self, node: str) -> bool:
        return node in self._by_id

    def of_kind(self, kind: str) -> list[Node]:
        return [node for node in self.nodes if node.kind == kind]

    def above(self, node: str) -> list[tuple[str, Node]]:
        """What a node came of, each with its role."""
        return [(edge.role, self[edge.source]) for edge in self._ends["target"].get(node, [])]

    def below(self, node: str) -> list[tuple[str, Node]]:
        """What came of a node, each with the role that the node had."""
        return [(edge.role, self[edge.target]) for edge in self._ends["source"].get(node, [])]

    def ancestors(self, node: str) -> set[str]:
        """The node and everything that it came of, however far back."""
        waiting, seen = [node], {node}
        while waiting:
            new = {parent.id for _, parent in self.above(waiting.pop())} - seen
            seen |= new
            waiting += new
        return seen

    @cached_property
    def _by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def _ends(self) -> dict[str, dict[str, list[Edge]]]:
        """Edges by the node at either end."""
        ends: dict[str, dict[str, list[Edge]]] = {"source": {}, "target": {}}
        for edge in self.edges:
            ends["source"].setdefault(edge.source, []).append(edge)
            ends["target"].setdefault(edge.target, []).append(edge)
        return ends
