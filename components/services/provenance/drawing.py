"""The graph as a drawing inside a page: a box a node, which leads to its details, and lines from what to what.

Measurements of one benchmark are one box. Colours come from the page, so the drawing is light and dark with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from components.core.machine import human_bytes
from components.data._page_html import Html, join, plain, tag
from components.services.provenance.graph import KINDS, Graph, Node
from components.services.provenance.layout import HEIGHT, WIDTH, Point, arranged

LETTERS = 25
"""That find room in a box."""
GROUPS: Mapping[str, str] = {
    **dict.fromkeys(("row", "rows", "dataset"), "data"),
    **dict.fromkeys(("recipe", "run"), "told"),
    **dict.fromkeys(("model", "training"), "weights"),
    **dict.fromkeys(("variant", "search", "artifact"), "passes"),
    **dict.fromkeys(("measurement", "verdict"), "proof"),
    **dict.fromkeys(("version", "alias", "serving"), "served"),
}
"""Colour of a kind, by name of a style."""
GRAPH_STYLE = """
.graph{--data:#2f6fb3;--told:#6b7480;--weights:#8a4fa8;--passes:#0f7f76;--proof:#b3641b;--served:#1d7a4b}
@media (prefers-color-scheme:dark){.graph{--data:#6ba1e0;--told:#929ca8;--weights:#c08fdb;--passes:#4fbfb4;
--proof:#e0a05f;--served:#63c08e}}
@media print{.graph{--data:#2f6fb3;--told:#6b7480;--weights:#8a4fa8;--passes:#0f7f76;--proof:#b3641b;--served:#1d7a4b}}
.graph{margin-top:1.2rem}
.graph svg{margin:.4rem auto;height:auto}
.graph svg path{stroke:var(--dim);stroke-width:1.1;opacity:.45}
.graph svg path.main{stroke-width:2;opacity:.9}
.graph svg rect{fill:var(--soft);stroke:var(--line)}
.graph svg rect.stripe{stroke:none;fill:var(--tone)}
.graph svg .main rect.box{fill:var(--bg);stroke:var(--tone);stroke-width:1.4}
.graph svg .gone rect.box{stroke:var(--bad);stroke-width:1.4;stroke-dasharray:5 3}
.graph svg .gone .about{fill:var(--bad);font-weight:600}
.graph svg a:hover rect.box{stroke:var(--fg)}
.graph svg text.title{font:600 11px system-ui,sans-serif;fill:var(--fg)}
.graph svg text.kind{fill:var(--tone);font-weight:600}
""" + "".join(f".graph .{name}{{--tone:var(--{name})}}" for name in dict.fromkeys(GROUPS.values()))


def drawing(graph: Graph) -> Html:
    """The whole graph; boxes lead to `#` and the `anchor` of their node."""
    boxes, own = _boxes(graph)
    line = main_line(graph)
    edges = dict.fromkeys((own[edge.source], own[edge.target]) for edge in graph.edges)
    parents = {node: [source for source, target in edges if target == node] for node in boxes}
    kept = [(own[edge.source], own[edge.target]) for edge in graph.edges if edge.role in ("files", "measured on")]
    middle, lines = arranged(parents, kept)
    # a line may pass beside all boxes
    bends = [x for points in lines.values() for x, _ in points[1:-1]]
    wide = max([x + WIDTH / 2 for x, _ in middle.values()] + [x + 4 for x in bends], default=0)
    high = max((y for _, y in middle.values()), default=0) + HEIGHT / 2
    drawn = [
        _line(points, set(edge) <= line) for edge, points in sorted(lines.items(), key=lambda e: set(e[0]) <= line)
    ]
    drawn += [_box(boxes[node], middle[node], graph, node in line) for node in boxes]
    about = f"Lineage: {len(graph.nodes)} parts, {len(graph.edges)} connections"
    svg = tag(
        "svg",
        Html(f"<title>{plain(about)}</title>"),
        drawn,
        viewBox=f"-2 -2 {wide + 4:.0f} {high + 4:.0f}",
        style=f"width:{wide + 4:.0f}px;min-width:{min(wide + 4, 760):.0f}px;max-width:100%",
        role="img",
        aria_label=about,
    )
    return tag("div", tag("div", svg, cls="scroll"), cls="graph")


def anchor(graph: Graph, node: Node) -> str:
    """The name of a node's details on its page."""
    return f"part-{graph.nodes.index(node) + 1}"


def main_line(graph: Graph) -> set[str]:
    """What the registered files, or the chosen variant, came of and became; everything where there is neither."""
    ends = [
        source.id for version in graph.of_kind("version") for role, source in graph.above(version.id) if role == "files"
    ]
    if not ends:
        chosen = {str(verdict.facts.get("chosen")) for verdict in graph.of_kind("verdict")}
        ends = [node.id for node in graph.nodes if chosen & set(node.names)]
    if not ends:
        return {node.id for node in graph.nodes}
    served = {node.id for kind in ("version", "alias", "serving") for node in graph.of_kind(kind)}
    return served.union(*(graph.ancestors(end) for end in ends))


def size_of(node: Node) -> str:
    """`110 MB`, of what has files."""
    return human_bytes(node.facts["size"]) if isinstance(node.facts.get("size"), int) else ""


def _boxes(graph: Graph) -> tuple[dict[str, list[Node]], dict[str, str]]:
    """Nodes that share a box, by the first of them; and for each node the box that it is in."""
    boxes: dict[str, list[Node]] = {}
    first: dict[tuple[str, ...], str] = {}
    own: dict[str, str] = {}
    for node in graph.nodes:
        alike = (node.label, node.missing, *(below.id for _, below in graph.below(node.id)))
        box = first.setdefault(alike, node.id) if node.kind == "measurement" else node.id
        boxes.setdefault(box, []).append(node)
        own[node.id] = box
    return boxes, own


def _box(nodes: Sequence[Node], middle: Point, graph: Graph, main: bool) -> Html:
    node, (x, y) = nodes[0], (middle[0] - WIDTH / 2, middle[1] - HEIGHT / 2)
    notes = list(dict.fromkeys(name for each in nodes for name in each.note.split(", ")))
    note = "missing" if node.missing else ", ".join(notes) or node.digest[:12]
    look = " ".join([GROUPS[node.kind], *(["main"] if main else []), *(["gone"] if node.missing else [])])
    told = "; ".join(each.title + (f" ({each.missing})" if each.missing else "") for each in nodes)
    inside = join(
        Html(f"<title>{plain(f'{KINDS[node.kind]}: {told}')}</title>"),
        Html(f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'),
        Html(f'<rect class="stripe" x="{x:.1f}" y="{y + 6:.1f}" width="3.5" height="{HEIGHT - 12}"/>'),
        _text(x + 13, y + 16, KINDS[node.kind], "kind"),
        _text(x + 13, y + 32, node.title, "title"),
        _text(x + 13, y + 47, note, "about"),
    )
    return tag("a", inside, href=f"#{anchor(graph, node)}", cls=look)


def _text(x: float, y: float, text: str, look: str) -> Html:
    room = LETTERS if look == "title" else LETTERS + 5
    shown = text if len(text) <= room else f"{text[: room - 1]}…"
    return Html(f'<text class="{look}" x="{x:.1f}" y="{y:.1f}">{plain(shown)}</text>')


def _line(points: Sequence[Point], main: bool) -> Html:
    """From the lower edge of one box to the upper edge of another, bent where it passes a layer."""
    (x, y), *between, (end, low) = points
    stops = [(x, y + HEIGHT / 2), *between, (end, low - HEIGHT / 2)]
    drawn = f"M{stops[0][0]:.1f} {stops[0][1]:.1f}"
    for (left, top), (right, bottom) in pairwise(stops):
        half = (top + bottom) / 2
        drawn += f"C{left:.1f} {half:.1f} {right:.1f} {half:.1f} {right:.1f} {bottom:.1f}"
    return Html(f'<path{" class=main" if main else ""} d="{drawn}"/>')
