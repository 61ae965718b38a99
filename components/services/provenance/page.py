"""The lineage of a model or a row as one HTML page: the graph as a drawing, and below it every part with its facts.

Path("lineage.html").write_text(lineage_page(graph), encoding="utf-8")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.data._page_html import Html, Node, join, plural, tag
from components.services.provenance.drawing import GRAPH_STYLE, anchor, drawing
from components.services.provenance.graph import KINDS, Graph
from components.services.provenance.graph import Node as Part
from components.services.report import parts

TABLES = ("settings", "libraries", "files")
"""Facts that have a heading of their own, in this order."""


def lineage_page(graph: Graph) -> str:
    """The whole page."""
    title = f"Lineage of {graph[graph.root].title}" if graph.root else "Lineage"
    return parts.page(
        title,
        GRAPH_STYLE,
        tag("h1", "Lineage"),
        _banner(graph),
        drawing(graph),
        tag("p", "Lines that follow from others are left out. A box leads to its facts below.", cls="note"),
        parts_section(graph),
    )


def _banner(graph: Graph) -> Html:
    name = graph[graph.root].title if graph.root else "Lineage"
    gone = [node for node in graph.nodes if node.missing]
    if not gone:
        return parts.banner("good", name, f"Every one of its {len(graph.nodes)} parts is known and there.")
    told = f"{plural(len(gone), 'part')} of {len(graph.nodes)} {'is' if len(gone) == 1 else 'are'} missing:"
    return parts.banner("warn", name, told, *(join(_link(graph, node), f": {node.missing}") for node in gone))


def parts_section(graph: Graph) -> Html:
    """Every part with all that is known of it, closed until it is asked for."""
    groups = [
        (tag("h3", f"{name[0].upper()}{name[1:]}"), [_part(graph, node) for node in found])
        for kind, name in KINDS.items()
        if (found := graph.of_kind(kind))
    ]
    return parts.section("Parts", groups)


def _part(graph: Graph, node: Part) -> Html:
    summary = tag(
        "summary",
        tag("span", node.title, cls="name"),
        f" {node.note} " if node.note else " ",
        parts.badge("missing", "bad") if node.missing else None,
    )
    known = {"missing": tag("span", node.missing, cls="hit")} if node.missing else {}
    known |= {"digest": tag("code", node.digest)} if node.digest else {}
    known |= {name: value for name, value in node.facts.items() if name not in TABLES}
    for name, ends in (("came of", graph.above(node.id)), ("went into", graph.below(node.id))):
        if ends:
            known[name] = _joined([join(_link(graph, end), f" ({role})") for role, end in ends])
    tables = [_table(name, node.facts[name]) for name in TABLES if node.facts.get(name)]
    # what a link leads to stands inside of the details, which a browser opens for it
    return tag("details", summary, tag("div", parts.facts(known), tables, id=anchor(graph, node)), cls="part")


def _table(name: str, found: Mapping[str, Any]) -> Node:
    values = {key: tag("code", str(value)) if name == "files" else value for key, value in found.items()}
    return [tag("h3", name), parts.facts(values)]


def _link(graph: Graph, node: Part) -> Html:
    return tag("a", node.title, href=f"#{anchor(graph, node)}")


def _joined(found: list[Html]) -> Html:
    return Html(", ".join(found))
