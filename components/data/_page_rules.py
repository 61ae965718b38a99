"""The data contract on the page: every rule, who broke it, and a few of the rows that did.

Rows are shown as they stand in the file, up to a share of the page's room, so that the page stays small whatever is
in them. Every one of them is in `quarantine.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.data._page_html import Html, join, plural, tag, visible
from components.data.contract import SHOWN

ROOM = 100_000
"""Bytes of the page that are there for rows."""
SMALLEST = 200
REPEATED = {
    "duplicate": "same content twice in a split",
    "near_duplicate": "nearly the same content in a split",
    "duplicate_id": "same id, different content",
    "overlap": "also in a split held out from it",
    "near_overlap": "nearly the same in a held-out split",
}


def rules_section(report: Mapping[str, Any], splits: Sequence[str]) -> Html:
    """Broken rules first, the most broken on top; then those that every row kept; then what was not asked."""
    rules = sorted(report["contract"], key=lambda rule: -_broken(rule))
    broken = [rule for rule in rules if _broken(rule)]
    asked = [rule for rule in rules if not _broken(rule) and rule.get("checked", True)]
    idle = [rule for rule in rules if not _broken(rule) and not rule.get("checked", True)]
    room = max(ROOM // max(sum(len(rule["examples"]) for rule in broken), 1), SMALLEST)
    columns = [tag("th", split, scope="col", cls="n") for split in splits]
    names = [tag("th", name, scope="col") for name in ("Rule", "What it demands", "If broken")]
    table = tag(
        "table",
        tag("thead", tag("tr", names, columns)),
        tag("tbody", [_rule(rule, splits, room) for rule in broken]) if broken else None,
        _quiet("Kept by every row", asked, splits),
        _quiet("Not checked: they say nothing about rows of this kind, or need a model", idle, splits),
    )
    note = tag("p", "Rows that broke a rule, by split. A row counts under the first rule that it broke.", cls="note")
    return tag("section", tag("h2", "Contract"), note, tag("div", table, cls="scroll"), _ignored(report["ignored"]))


def _broken(rule: Mapping[str, Any]) -> int:
    return sum(rule["broken"].values())


def _quiet(title: str, rules: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> Html | None:
    if not rules:
        return None
    heading = tag("tr", tag("th", title, scope="colgroup", colspan=3 + len(splits), cls="group"))
    return tag("tbody", heading, [_line(rule, splits) for rule in rules], cls="quiet")


def _ignored(names: Sequence[str]) -> Html:
    if not names:
        return tag("p", "Every rule there is was asked for.", cls="note")
    codes = join(*(join(", " if place else "", tag("code", name)) for place, name in enumerate(names)))
    return tag("p", "Not asked for (off by default, or set to ignore): ", codes, ".", cls="note")


def _rule(rule: Mapping[str, Any], splits: Sequence[str], room: int) -> Html:
    if not rule["examples"]:
        return _line(rule, splits)
    shown, total = len(rule["examples"]), _broken(rule)
    title = plural(shown, "example") if shown < total else ("The row" if total == 1 else f"All {plural(total, 'row')}")
    examples = [_example(example, room) for example in rule["examples"]]
    more = tag("td", tag("details", tag("summary", title), examples), colspan=3 + len(splits))
    return join(_line(rule, splits, "open"), tag("tr", more, cls="more"))


def _line(rule: Mapping[str, Any], splits: Sequence[str], cls: str | None = None) -> Html:
    counts = [rule["broken"].get(split, 0) for split in splits]
    cells = [tag("td", count or "–", cls="n hit" if count else "n dim") for count in counts]
    action = rule["action"]
    loud = "badge bad" if action == "fail" else "badge"
    return tag(
        "tr",
        tag("th", rule["rule"], scope="row"),
        tag("td", _demand(rule["about"])),
        tag("td", tag("span", "stops the run" if action == "fail" else action, cls=loud)),
        cells,
        cls=cls,
    )


def _demand(text: str) -> Html:
    """`names` of a summary in the type of code."""
    parts = text.split("`")
    return join(*(tag("code", part) if place % 2 else part for place, part in enumerate(parts)))


def _example(example: Mapping[str, Any], room: int) -> Html:
    row = example["row"]
    shown, whole = visible(row, room)
    also = example.get("also")
    return tag(
        "div",
        tag("p", tag("span", f"{example['file']}:{example['line']}", cls="file"), Html(" "), _split(example["split"])),
        tag("p", visible(example["reason"], 600)[0], f"; also breaks {', '.join(also)}" if also else None),
        tag("pre", shown, "…" if not whole or len(row) >= SHOWN else None, dir="ltr") if row else _no_text(),
        tag("p", "The row is longer; this is its beginning.", cls="note") if not whole or len(row) >= SHOWN else None,
        cls="row",
    )


def _split(name: str) -> Html:
    return tag("span", name, cls="badge")


def _no_text() -> Html:
    return tag("p", "The row has no text.", cls="note")


def repeated(report: Mapping[str, Any]) -> list[tuple[str, int, bool]]:
    """(what, rows, whether it was looked for) of the rules about rows that stand there twice."""
    asked = {rule["rule"]: _broken(rule) for rule in report["contract"] if rule.get("checked", True)}
    return [(what, asked.get(name, 0), name in asked) for name, what in REPEATED.items()]
