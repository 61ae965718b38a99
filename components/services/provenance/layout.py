"""Where the nodes of a graph stand in a picture: in layers from top to bottom, lines between them as short as may be.

    boxes, lines = arranged({"a": [], "b": ["a"]})      # by node, what it came of

A line that follows from others (from a data set to what was made of a model trained on it) is left out, which makes a
graph of sixty lines one that a person can read. Layers, crossings and places are after Sugiyama (1981).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

Point = tuple[float, float]
WIDTH, HEIGHT = 196, 58
"""Of a box."""
GAP, LEVEL = 22, 100
"""Between boxes, and from layer to layer."""
THIN = 26
"""The room that a line takes where it passes through a layer."""
SWEEPS = 8


def arranged(
    parents: Mapping[str, Collection[str]], kept: Collection[tuple[str, str]] = ()
) -> tuple[dict[str, Point], dict[tuple[str, str], list[Point]]]:
    """The middle of every node's box, and every line as the points that it goes through. `kept`: lines that are drawn
    though they follow from others."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(parents)
    graph.add_edges_from((source, target) for target in parents for source in parents[target])
    _break_circles(graph)
    thin = nx.transitive_reduction(graph)
    thin.add_edges_from(edge for edge in kept if graph.has_edge(*edge))
    level = _levels(thin)
    routes = {edge: _through(edge, level) for edge in thin.edges}
    full = nx.DiGraph()
    full.add_nodes_from(parents)
    full.add_edges_from(step for route in routes.values() for step in pairwise(route))
    layers = _ordered(full, level)
    across = _places(full, layers)
    place = {node: (across[node], level[node] * LEVEL + HEIGHT / 2) for node in full}
    return {node: place[node] for node in parents}, {edge: [place[node] for node in routes[edge]] for edge in routes}


def _break_circles(graph: Any) -> None:
    """Content that came back to what it was, pass after pass, makes a circle; its last line goes."""
    import networkx as nx

    while not nx.is_directed_acyclic_graph(graph):
        graph.remove_edge(*nx.find_cycle(graph)[-1])


def _levels(graph: Any) -> dict[str, int]:
    """Layer of each node: as far down as what came of it allows, so that inputs stand where they are used."""
    import networkx as nx

    order = list(nx.topological_sort(graph))
    first: dict[str, int] = {}
    for node in order:
        first[node] = max((first[above] + 1 for above in graph.predecessors(node)), default=0)
    level: dict[str, int] = {}
    for node in reversed(order):
        level[node] = min((level[below] - 1 for below in graph.successors(node)), default=first[node])
    return level


def _through(edge: tuple[str, str], level: dict[str, int]) -> list[str]:
    """The line as steps from layer to layer; the points between its ends become nodes without a box."""
    source, target = edge
    between = [f"{source}\0{target}\0{number}" for number in range(level[source] + 1, level[target])]
    level.update({node: level[source] + number for number, node in enumerate(between, 1)})
    return [source, *between, target]


def _ordered(graph: Any, level: Mapping[str, int]) -> list[list[str]]:
    """Nodes of each layer from left to right; each near the middle of its neighbours, so that few lines cross."""
    layers: list[list[str]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    for node in graph:
        layers[level[node]].append(node)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer, beside in pairwise(layers) if down else pairwise(layers[::-1]):
            at = {node: number for number, node in enumerate(layer)}
            near = graph.predecessors if down else graph.successors
            now = {node: number for number, node in enumerate(beside)}
            beside.sort(key=lambda node: _mean([at[other] for other in near(node)], now[node]))
    return layers


def _places(graph: Any, layers: Sequence[Sequence[str]]) -> dict[str, float]:
    """The middle of each node from the left: near its neighbours, in the order of its layer, no box on another."""
    across = {node: float(number * (WIDTH + GAP)) for layer in layers for number, node in enumerate(layer)}
    for sweep in range(8 * SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            wanted = [
                _mean([across[n] for n in (*graph.predecessors(v), *graph.successors(v))], across[v]) for v in layer
            ]
            across.update(zip(layer, _apart(layer, wanted), strict=True))
    left = min((across[node] - _wide(node) / 2 for node in across), default=0.0)
    return {node: round(place - left, 1) for node, place in across.items()}


def _apart(layer: Sequence[str], wanted: Sequence[float]) -> list[float]:
    """The wanted places, moved as little as needed: pushed from both sides, the middle of the two counts."""

    def pushed(nodes: Sequence[str], places: Sequence[float]) -> list[float]:
        found: list[float] = []
        for node, place in zip(nodes, places, strict=True):
            least = found[-1] + (_wide(nodes[len(found) - 1]) + _wide(node)) / 2 + GAP if found else place
            found.append(max(place, least))
        return found

    right = pushed(layer, wanted)
    left = [-place for place in pushed(layer[::-1], [-place for place in wanted[::-1]])][::-1]
    return [(one + other) / 2 for one, other in zip(left, right, strict=True)]


def _wide(node: str) -> int:
    return THIN if "\0" in node else WIDTH


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
