"""Histograms of the data report as drawings inside the page: bars, axes, and the same in words for those who listen.

Try it: `histogram({"counts": [3, 9, 4], "edges": [0, 10, 20, 30], ...}, "tokens", "train")`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

from components.data._page_html import Html, plain, plural, short, tag

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 300, 130, 34, 22, 30, 12
WORDS = {"tokens": "Tokens", "characters": "Characters", "messages": "Messages"}


def histogram(spread: Mapping[str, Any], figure: str, split: str) -> Html:
    """One figure of one split: a caption with the figures that matter, and the bars."""
    quantiles, rows = spread["quantiles"], sum(spread["histogram"]["counts"])
    low, high, word = quantiles["p0"], quantiles["p100"], WORDS[figure].lower()
    heading = tag("b", f"{WORDS[figure]} a row")
    if low == high:
        one = word[:-1] if low == 1 else word
        return tag("figure", tag("figcaption", heading), tag("p", f"Every row has {low:,} {one}.", cls="same"))
    first, last = quantiles["p25"], quantiles["p75"]
    middle = f"half between {first:,} and {last:,}" if first < last else f"shortest {low:,}"
    middle = f"{middle}, longest {high:,}"
    caption = tag("figcaption", heading, f" · median {quantiles['p50']:,}, {middle}")
    about = f"{WORDS[figure]} a row, {split}: {plural(rows, 'row')}, median {quantiles['p50']:,}, {middle}"
    return tag("figure", caption, _drawing(spread["histogram"], high, about, f"{word} a row"))


def _drawing(bars: Mapping[str, Any], longest: int, about: str, axis: str) -> Html:
    counts, edges = bars["counts"], bars["edges"]
    top = max(counts)
    parts = [Html(f"<title>{plain(about)}</title>"), _grid(top)]
    for place, count in enumerate(counts):
        if count:
            parts.append(_bar(place, count, counts, edges, longest))
    parts += [
        _ticks(counts, edges),
        _label(LEFT - 4, 9, "rows", "end"),
        _label(_right(), HEIGHT - 2, axis, "end"),
    ]
    return tag("svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=about)


def _right() -> int:
    return WIDTH - RIGHT


def _grid(top: int) -> Html:
    """Lines at round numbers of rows, and the ground that the bars stand on."""
    levels = [0, *(level for level in _round_numbers(0, top, 2) if level)]
    lines = "".join(f"M{LEFT} {_y(level, top):.1f}H{_right()}" for level in levels)
    labels = [_label(LEFT - 4, _y(level, top) + 3, short(level), "end") for level in levels]
    return Html(f'<path d="{lines}"/>{"".join(labels)}')


def _y(count: float, top: int) -> float:
    return HEIGHT - BOTTOM - count / top * (HEIGHT - BOTTOM - TOP)


def _bar(place: int, count: int, counts: Sequence[int], edges: Sequence[float], longest: int) -> Html:
    step = (_right() - LEFT) / len(counts)
    y, gap = _y(count, max(counts)), min(2.0, step * 0.12)
    low, high = _values(place, edges)
    # the last bar takes every row from there up, so that one long row does not press the others together
    tail = place == len(counts) - 1 and longest > edges[-1]
    high = longest if tail else high
    values = f"{low:,}" if high <= low else f"{low:,} to {high:,}"
    return Html(
        f'<rect x="{LEFT + place * step:.1f}" y="{y:.1f}" width="{max(step - gap, 0.5):.1f}" '
        f'height="{HEIGHT - BOTTOM - y:.1f}"{" class=tail" if tail else ""}>'
        f"<title>{values}: {plural(count, 'row')}</title></rect>"
    )


def _values(place: int, edges: Sequence[float]) -> tuple[int, int]:
    """The least and the greatest whole number that a bar counts."""
    if _one_value_a_bar(edges):
        return (int(edges[0]) + place,) * 2
    last = place == len(edges) - 2
    return ceil(edges[place]), floor(edges[-1]) if last else ceil(edges[place + 1]) - 1


def _one_value_a_bar(edges: Sequence[float]) -> bool:
    return len(edges) - 2 == edges[-1] - edges[0]


def _ticks(counts: Sequence[int], edges: Sequence[float]) -> Html:
    """Round numbers under the bars."""
    low, high = edges[0], edges[-1]
    step = (_right() - LEFT) / len(counts)

    def x(value: float) -> float:
        if _one_value_a_bar(edges):
            return LEFT + (value - low + 0.5) * step
        return LEFT + (value - low) / (high - low) * (_right() - LEFT)

    values = _round_numbers(low, high, 5)
    marks = "".join(f"M{x(value):.1f} {HEIGHT - BOTTOM}v3" for value in values)
    labels = [_label(x(value), HEIGHT - BOTTOM + 13, f"{value:,}", "middle") for value in values]
    return Html(f'<path d="{marks}"/>{"".join(labels)}')


def _round_numbers(low: float, high: float, most: int) -> list[int]:
    """At most about `most` multiples of 1, 2 or 5 times a power of ten."""
    raw = max((high - low) / most, 1)
    power = 10 ** floor(log10(raw))
    step = next(int(power * factor) for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    return list(range(ceil(low / step) * step, floor(high) + 1, step))


def _label(x: float, y: float, text: str, anchor: str) -> Html:
    return Html(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{plain(text)}</text>')
