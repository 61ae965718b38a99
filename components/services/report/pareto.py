"""A search as a picture and as a page: every trial by the objectives, the front, the budget, the winners.

`front_picture(found, Path("pareto.png"))`, `front_page(found, Path("pareto.html"))`; `found`: `summary` of a search.
The page works without a network: plotly's script is inside of it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which colour-blind people tell apart
FRONT, OTHER, GIVEN_UP, BUDGET, WINNER = "#0072B2", "#56B4E9", "#8A8A8A", "#D55E00", "#009E73"
LOG_FROM = 10.0
"""Figures that span more than this factor are drawn on a logarithmic axis."""
LISTED = 10
"""Chains that are written out below the picture."""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }}
th, td {{ padding: .35rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }}
td.n, th.n {{ text-align: right; white-space: nowrap }}
tr.winner td {{ background: #e6f5ef; font-weight: 600 }} tr.pruned td, tr.failed td {{ color: #777 }}
</style></head><body><h1>{title}</h1><p>{lead}</p>{charts}<h2>All trials</h2>{table}</body></html>
"""


class _Axis:
    """One objective: where a trial lies on it, and how it is called. A trial that was given up has only the figures
    that were known by then, its quality on few rows."""

    def __init__(self, objective: Mapping[str, Any], budget: Mapping[str, float]) -> None:
        self.name = objective["name"]
        size = objective["unit"] == "bytes"
        self.scale = 1e-6 if size else 1.0
        self.unit = "MB" if size else objective["unit"]
        known = self.unit in (objective["title"], "share")
        self.title = objective["title"] if known else f"{objective['title']} ({self.unit})"
        self.limit = budget[self.name] * self.scale if self.name in budget else None

    def of(self, trial: Mapping[str, Any]) -> float | None:
        value = {**trial["quick"], **trial["figures"]}.get(self.name)
        return None if value is None else value * self.scale

    def logarithmic(self, values: Sequence[float]) -> bool:
        return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_FROM


def _axes(found: Mapping[str, Any]) -> list[_Axis]:
    return [_Axis(objective, found["budget"]) for objective in found["objectives"]]


def _flat(axes: Sequence[_Axis]) -> tuple[_Axis, _Axis]:
    """What is drawn to the right and upwards: by default bytes and quality."""
    return (axes[1], axes[0]) if len(axes) > 1 else (axes[0], axes[0])


def _groups(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Trials that are drawn alike; those of which nothing is known are left out."""
    winners, best = set(found["winners"].values()), set(found["front"])
    groups: dict[str, list[dict[str, Any]]] = {"winner": [], "front": [], "finished": [], "pruned": []}
    across, up = _flat(_axes(found))
    for trial in found["trials"]:
        if across.of(trial) is None or up.of(trial) is None:
            continue
        number = trial["number"]
        group = "winner" if number in winners else "front" if number in best else trial["state"]
        groups["pruned" if group == "failed" else group].append(trial)
    return groups


def lead(found: Mapping[str, Any]) -> str:
    """`12 trials (grid): 5 finished, 6 pruned, 1 failed; 3 on the front; winners: search-7`."""
    states = [trial["state"] for trial in found["trials"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    chosen = ", ".join(found["winners"]) or "none within the budget"
    return f"{len(states)} trials ({found['sampler']}): {counts}; {len(found['front'])} on the front; winners: {chosen}"


# ------------------------------------------------------------ the picture

STYLES: dict[str, dict[str, Any]] = {
    "pruned": {"marker": "x", "s": 34, "c": GIVEN_UP, "lw": 1.3, "label": "pruned (quality on few rows)"},
    "finished": {"marker": "o", "s": 46, "c": OTHER, "label": "measured"},
    "front": {"marker": "o", "s": 70, "c": FRONT, "label": "on the front"},
    "winner": {"marker": "*", "s": 230, "c": WINNER, "edgecolors": "white", "lw": 0.8, "label": "winner"},
}


def front_picture(found: Mapping[str, Any], out: Path) -> Path:
    """Write the PNG; same figures, same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups, (across, up) = _groups(found), _flat(_axes(found))
    told = [*groups["winner"], *groups["front"]]
    listed = sorted(told, key=lambda trial: trial["number"])[:LISTED]
    figure = Figure(figsize=(9, 5.2 + 0.22 * len(listed)), dpi=130, layout="constrained")
    axes = figure.subplots()
    for name, style in STYLES.items():
        points = [(across.of(trial), up.of(trial)) for trial in groups[name]]
        if points:
            axes.scatter(*zip(*points, strict=True), zorder=2 + list(STYLES).index(name), **style)
    _scales(axes, groups, across, up)
    _limits(axes, across, up)
    for trial in told:
        near: dict[str, Any] = {"xytext": (7, 6), "textcoords": "offset points", "fontsize": 9, "zorder": 9}
        axes.annotate(str(trial["number"]), (across.of(trial), up.of(trial)), **near)
    axes.set_title(lead(found), loc="left", fontsize=10.5, pad=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", edgecolor="none", framealpha=0.85, fontsize=9)
    if listed:
        lines = "\n".join(_line(found, trial) for trial in listed)
        figure.supxlabel(lines, fontsize=8, family="monospace", x=0.01, ha="left")
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(str(out), metadata={"Software": None})
    return out


def _line(found: Mapping[str, Any], trial: Mapping[str, Any]) -> str:
    mark = "*" if trial["number"] in found["winners"].values() else " "
    figures = "  ".join(f"{_cell(axis, trial):<{len(axis.title) + 9}}" for axis in _axes(found))
    passes = trial["passes"] if len(trial["passes"]) <= 70 else trial["passes"][:69] + "…"
    return f"{mark}{trial['number']:>3}  {figures}{passes}"


def _cell(axis: _Axis, trial: Mapping[str, Any]) -> str:
    value = axis.of(trial)
    return "-" if value is None else f"{axis.title} {value:.3g}"


def _scales(axes: Any, groups: Mapping[str, list[dict[str, Any]]], across: _Axis, up: _Axis) -> None:
    for axis, way in ((across, "x"), (up, "y")):
        drawn = [value for trials in groups.values() for trial in trials if (value := axis.of(trial)) is not None]
        if axis.logarithmic(drawn):
            getattr(axes, f"set_{way}scale")("log")
            kept = getattr(axes, f"{way}axis")
            kept.get_major_locator().set_params(subs=(1, 2, 5) if max(drawn) / min(drawn) < 1000 else (1,))
            kept.set_major_formatter(lambda value, _: f"{value:g}")
            kept.set_minor_formatter(lambda *_: "")
        getattr(axes, f"set_{way}label")(axis.title)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, color="#DDDDDD", lw=0.6)
    axes.set_axisbelow(True)
    axes.margins(0.08)


def _limits(axes: Any, across: _Axis, up: _Axis) -> None:
    for axis, draw in ((across, axes.axvline), (up, axes.axhline)):
        if axis.limit is not None:
            draw(axis.limit, color=BUDGET, lw=1.1, ls="--", zorder=1, label=f"budget: {axis.title} {axis.limit:g}")


# ------------------------------------------------------------ the page

SYMBOLS = {
    "pruned": ("x", GIVEN_UP),
    "finished": ("circle", OTHER),
    "front": ("circle", FRONT),
    "winner": ("star", WINNER),
}


def front_page(found: Mapping[str, Any], out: Path) -> Path:
    """Write the interactive page."""
    axes = _axes(found)
    charts = [_chart(found, list(_flat(axes)))]
    if len(axes) > 2:
        charts.append(_chart(found, [axes[1], axes[2], axes[0]]))
    drawn = [
        chart.to_html(full_html=False, include_plotlyjs=number == 0, div_id=f"chart-{number}")
        for number, chart in enumerate(charts)
    ]
    title = f"Search: {' against '.join(axis.title for axis in axes)}"
    page = PAGE.format(
        title=html.escape(title), lead=html.escape(lead(found)), charts="".join(drawn), table=_table(found)
    )
    out.write_text(page, encoding="utf-8")
    return out


def _chart(found: Mapping[str, Any], axes: Sequence[_Axis]) -> Any:
    """Two objectives in the plane, or three in space."""
    import plotly.graph_objects as plotly

    solid = len(axes) == 3
    chart = plotly.Figure()
    for name, trials in _groups(found).items():
        shown = [trial for trial in trials if all(axis.of(trial) is not None for axis in axes)]
        symbol, color = SYMBOLS[name]
        marker: dict[str, Any] = {"symbol": "diamond" if solid and symbol == "star" else symbol, "color": color}
        marker |= {"size": 6 if solid else 15 if name == "winner" else 10}
        places = dict(zip("xyz", [[axis.of(trial) for trial in shown] for axis in axes], strict=False))
        kind = plotly.Scatter3d if solid else plotly.Scatter
        hover = {"text": [_hover(found, trial) for trial in shown], "hovertemplate": "%{text}<extra></extra>"}
        chart.add_trace(kind(mode="markers", name=STYLES[name]["label"], marker=marker, **places, **hover))
    sides = {f"{way}axis": _side(found, axis) for way, axis in zip("xyz", axes, strict=False)}
    chart.update_layout(template="plotly_white", height=560, margin={"t": 30}, **({"scene": sides} if solid else sides))
    if not solid:
        for axis, draw in zip(axes, (chart.add_vline, chart.add_hline), strict=True):
            if axis.limit is not None:
                draw(axis.limit, line={"dash": "dash", "color": BUDGET}, annotation_text=f"budget {axis.limit:g}")
    return chart


def _side(found: Mapping[str, Any], axis: _Axis) -> dict[str, Any]:
    values = [value for trial in found["trials"] if (value := axis.of(trial)) is not None]
    return {"title": {"text": axis.title}, "type": "log" if axis.logarithmic(values) else "linear"}


def _hover(found: Mapping[str, Any], trial: Mapping[str, Any]) -> str:
    said = [f"<b>trial {trial['number']}</b>, {trial['state']}", *trial["passes"].split(" > ")]
    said += [_cell(axis, trial) for axis in _axes(found)]
    return "<br>".join([said[0], *map(html.escape, said[1:] + ([trial["reason"]] if trial["reason"] else []))])


def _table(found: Mapping[str, Any]) -> str:
    axes, winners, best = _axes(found), {n: name for name, n in found["winners"].items()}, set(found["front"])
    heads = "".join(f'<th class="n">{html.escape(axis.title)}</th>' for axis in axes)
    rows = [f'<tr><th class="n">trial</th><th>passes</th>{heads}<th>what became of it</th></tr>']
    for trial in found["trials"]:
        number = trial["number"]
        values = [axis.of(trial) for axis in axes]
        cells = "".join(f'<td class="n">{"-" if value is None else f"{value:.4g}"}</td>' for value in values)
        word = winners.get(number) or ("on the front" if number in best else trial["state"])
        fate = f"{word}: {trial['reason']}" if trial["reason"] else word
        style = "winner" if number in winners else trial["state"]
        row = f'<td class="n">{number}</td><td>{html.escape(trial["passes"])}</td>{cells}<td>{html.escape(fate)}</td>'
        rows.append(f'<tr class="{style}">{row}</tr>')
    return f"<table>{''.join(rows)}</table>"
