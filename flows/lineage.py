"""`postmill lineage`: the graph as a tree on a terminal, as JSON, or as a page."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from components.core.errors import PostmillError
from components.services.provenance.graph import KINDS, Graph, Node
from components.services.provenance.page import lineage_page
from flows.data.display import visible

STYLES = {"version": "bold green", "alias": "bold green", "verdict": "yellow", "measurement": "dim"}
FIRST = ("run", "recipe", "dataset", "training", "variant", "search", "verdict")
"""What stands first below a node: a run before what it made, files before the proof."""
PLAIN = ("recipe", "dataset", "model", "source", "measured", "train", "eval", "test")
"""Roles that the kind of a node tells as well."""
QUIET = ("measurement",)
"""Kinds below which nothing is repeated that stands elsewhere in the tree."""


def tree(graph: Graph, forward: bool = False) -> Tree:
    """The graph from its root: back to what it came of, or forward to what came of it. What stands there already is
    named again, not written out again."""
    shown: set[str] = set()

    def grow(node: Node, role: str) -> Tree:
        shown.add(node.id)
        branch = Tree(_line(node, role), guide_style="dim")
        ends = graph.below(node.id) if forward else graph.above(node.id)
        for role_of, end in sorted(ends, key=lambda entry: _rank(entry[1])):
            if end.id not in shown:
                branch.add(grow(end, role_of))
            elif node.kind not in QUIET:
                branch.add(Text(visible(f"{role_of}: {end.title}  (above)"), "dim"))
        return branch

    return grow(graph[graph.root], "")


def _rank(node: Node) -> tuple[int, str, str]:
    place = FIRST.index(node.kind) if node.kind in FIRST else len(FIRST)
    return place, node.created, node.title


def _line(node: Node, role: str) -> Text:
    said = Text()
    if role and role not in PLAIN:
        said.append(f"{visible(role)}: ", "dim")
    said.append(f"{KINDS[node.kind]} " if node.kind not in ("alias", "version") else "", "dim")
    said.append(visible(node.title), STYLES.get(node.kind, ""))
    if node.note:
        said.append(f"  {visible(node.note)}", "dim")
    if node.digest and node.kind not in ("row", "rows"):
        said.append(f"  {node.digest[:12]}", "dim")
    if node.missing:
        said.append(f"  missing: {visible(node.missing)}", "bold red")
    return said


def print_lineage(console: Console, graph: Graph, forward: bool = False) -> None:
    """The tree, and how many of its parts are gone."""
    console.print(tree(graph, forward), soft_wrap=True, highlight=False)
    gone = sum(bool(node.missing) for node in graph.nodes)
    if gone:
        console.print(f"{gone} of {len(graph.nodes)} parts missing", style="red", highlight=False)


def as_json(graph: Graph) -> str:
    """The same text for the same graph."""
    return json.dumps(graph.plain(), indent=2, ensure_ascii=False)


def write(path: Path, text: str) -> None:
    """A file for whoever asked; its folder must be there."""
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise PostmillError(
            f"cannot write '{path}': {error.strerror}; name a file in a folder that is there"
        ) from error


def write_page(path: Path, graph: Graph) -> None:
    write(path, lineage_page(graph))
