"""Markup for the data report that is safe by construction, and figures as a person reads them.

What goes onto the page is `Html` or it is text; text is escaped on its way in, and characters that cannot be seen, or
that turn the direction of writing, appear as their code points. Rows in quarantine are hostile until proven otherwise.

Try it: `tag("p", "<script>\u202e")` -> `<p>&lt;script&gt;<b class="u">U+202E</b></p>`
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\uf8ff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
)
"""Controls, format and direction marks, surrogates, private use: by eye nothing, or something else."""
_PIECE = re.compile(rf"([{HIDDEN}])\1*|[&<>\"']|[^{HIDDEN}&<>\"']{{1,80}}")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class Html(str):
    """Markup that was made here. Any other text is escaped."""


Node: TypeAlias = "str | int | Iterable[Node] | None"


def tag(name: str, *children: Node, **attributes: str | int | None) -> Html:
    """An element. `cls` is the class; `_` in a name stands for `-`."""
    named = {("class" if key == "cls" else key.replace("_", "-")): value for key, value in attributes.items()}
    written = "".join(f' {key}="{plain(str(value))}"' for key, value in named.items() if value is not None)
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Node) -> Html:
    """Children one after the other; text among them is escaped."""
    return Html("".join(map(_node, children)))


def _node(child: Node) -> str:
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return visible(child)[0]
    if isinstance(child, Iterable):
        return join(*child)
    return "" if child is None else f"{child:,}"


def visible(text: str, room: int = 20_000) -> tuple[Html, bool]:
    """The text as markup of at most `room` bytes, and whether all of it found room."""
    found: list[str] = []
    for match in _PIECE.finditer(text):
        piece = match[0]
        markup = f'<b class="u">{_points(piece)}</b>' if match[1] else _ENTITIES.get(piece, piece)
        room -= len(markup.encode())
        if room < 0:
            return Html("".join(found)), False
        found.append(markup)
    return Html("".join(found)), True


def plain(text: str) -> str:
    """The text where no element may stand: in an attribute, in a drawing."""
    return _PIECE.sub(lambda match: _points(match[0]) if match[1] else _ENTITIES.get(match[0], match[0]), text)


def _points(run: str) -> str:
    return f"U+{ord(run[0]):04X}" + (f"×{len(run):,}" if len(run) > 1 else "")


def percent(part: float, whole: float) -> str:
    """`percent(1, 40)` -> `"2.5%"`; what is not none never reads as none, what is not all never as all."""
    share = part / whole if whole else 0.0
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{share:.0%}" if share in (0, 1) else f"{share:.1%}"


def short(count: float) -> str:
    """`134515008` -> `"134.5 M"`; above the billions a power of ten."""
    if count < 10_000:
        return f"{count:,.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("B", 1e9)):
        if count < size * 999.95:
            return f"{count / size:.1f} {unit}"
    mantissa, exponent = f"{count:.1e}".split("e+")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def plural(count: int, word: str) -> str:
    """`plural(1200, "row")` -> `"1,200 rows"`"""
    return f"{count:,} {word}" + ("" if count == 1 else "s")
