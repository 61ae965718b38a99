"""What the pages of a run and of a lineage share: the head, figures as a person reads them, lists of facts.

Everything that is put onto a page goes through `tag` and `join`, which escape it (`components/data/_page_html.py`).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.errors import DataError
from components.core.machine import human_bytes
from components.data._page_html import Html, Node, plain, tag
from components.data._page_style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Nothing is fetched and nothing is executed."""
MORE_STYLE = """
a{color:inherit;text-decoration-color:var(--line);text-underline-offset:.15em}
a:hover{text-decoration-color:currentColor}
.name{color:var(--fg);font-weight:600}
h2 .dim{font-weight:400;font-size:.85rem;margin-left:.4rem}
.badge.good{color:var(--tone);background:var(--tonebg);border-color:transparent}
.badge.warn{color:var(--tone);background:var(--tonebg);border-color:transparent}
details.part{border-bottom:1px solid var(--line);padding:.3rem 0}
details.part>summary{width:auto;font-size:.88rem}
details.part>div{padding:.2rem 0 .6rem 1rem;scroll-margin-top:2rem}
details.part h3{color:var(--dim)}
dl.facts{word-break:break-word}
"""


def page(title: str, style: str, *body: Node) -> str:
    """A whole page that needs nothing else."""
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{plain(title)}</title><style>{STYLE}{MORE_STYLE}{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{tag("main", *body)}</body></html>\n'


def section(title: str, *children: Node, note: str = "") -> Html:
    """A part of a page under its heading."""
    return tag("section", tag("h2", title, tag("span", note, cls="dim") if note else None), *children)


def banner(tone: str, title: str, *lines: Node) -> Html:
    """What a reader must know first. `tone`: good, warn or bad."""
    return tag("div", tag("strong", title), [tag("p", line) for line in lines], cls=f"verdict {tone}")


def badge(word: str, tone: str = "") -> Html:
    return tag("span", word, cls=f"badge {tone}".strip())


def table(head: Mapping[str, bool], rows: list[tuple[str | None, list[Node]]]) -> Html:
    """`head`: titles, and whether their column is of numbers; `rows`: a class, and the cells, the first one a name."""
    numbers = list(head.values())
    titles = [tag("th", title, scope="col", cls="n" if number else None) for title, number in head.items()]
    body = [
        tag(
            "tr",
            tag("th", cells[0], scope="row"),
            [tag("td", cell, cls="n" if number else None) for cell, number in zip(cells[1:], numbers[1:], strict=True)],
            cls=look,
        )
        for look, cells in rows
    ]
    return tag("div", tag("table", tag("thead", tag("tr", titles)), tag("tbody", body)), cls="scroll")


def facts(found: Mapping[str, Any]) -> Html:
    """Names and values in two columns."""
    return tag("dl", [(tag("dt", name), tag("dd", _value(name, value))) for name, value in found.items()], cls="facts")


def _value(name: str, value: Any) -> Node:
    return value if isinstance(value, Html) else shown(name, value)


def shown(name: str, value: Any) -> str:
    """A figure as a person reads it, told by its name: sizes with a unit, times in seconds and minutes."""
    last = name.rpartition(".")[2].rpartition(" ")[2]
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if not isinstance(value, int | float):
        return str(value)
    if last in ("size", "memory") or last.startswith(("bytes", "peak_rss", "peak_memory")):
        return human_bytes(value)
    if last == "seconds" or last.endswith("_seconds"):
        return seconds(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def seconds(value: float) -> str:
    """`4 ms`, `1.42 s`, `12.3 s`, `4 min 05 s`, `2 h 03 min`."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def picture(file: Path, about: str) -> Html:
    """A PNG inside the page."""
    content = file.read_bytes()
    if not content.startswith(b"\x89PNG\r\n"):
        raise DataError(f"'{file}' is no PNG; delete it, and write the report again")
    return Html(f'<img alt="{plain(about)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">')
