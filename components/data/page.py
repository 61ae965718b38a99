"""The data report as one HTML page: verdict, counts, rules with examples, lengths, template, cost, files.

The page needs nothing else: no script, no font, no request, so it reads the same from a disk, in MLflow's viewer and on
paper. What stands in a row cannot become markup (`_page_html.py`); its content policy allows styles and nothing more.

Try it: `postmill data validate RECIPE`, then open the `report.html` that it names; or on a report that is there:
`Path("report.html").write_text(render_page(json.loads(Path("report.json").read_bytes())))`
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from components.data._page_charts import WORDS, histogram
from components.data._page_facts import files_section, model_section
from components.data._page_html import Html, join, percent, plural, short, tag
from components.data._page_rules import repeated, rules_section
from components.data._page_style import STYLE

ORDER = ("train", "eval", "test")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_page(report: Mapping[str, Any]) -> str:
    """A whole page, styles and drawings inside."""
    splits = sorted(report["rows"], key=lambda split: ORDER.index(split) if split in ORDER else len(ORDER))
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Data report</title><style>{STYLE}</style>"
    )
    body = tag(
        "main",
        tag("h1", "Data report"),
        _verdict(report, splits),
        _tiles(report),
        _splits(report, splits),
        rules_section(report, splits),
        _lengths(report, splits),
        model_section(report),
        files_section(report, splits),
        _footer(),
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


# ---------------------------------------------------------------- the verdict


def refusals(report: Mapping[str, Any], splits: Sequence[str]) -> list[str]:
    """Why nothing is trained on these rows; empty if they may be."""
    found = [why for split in splits if (why := _refusal(report, split))]
    fatal = [rule for rule in report["contract"] if rule["action"] == "fail" and any(rule["broken"].values())]
    return [*(f"A row breaks {rule['rule']}, whose action is fail." for rule in fatal), *found]


def _refusal(report: Mapping[str, Any], split: str) -> str | None:
    good, bad, allowed = report["rows"][split], report["quarantined"][split], report["max_bad_fraction"]
    total = good + bad
    if not total:
        return f"The {split} split has no rows."
    if bad > allowed * total:
        share = f"{percent(bad, total)}, and {100 * allowed:g}% is allowed"
        return f"{bad:,} of {total:,} {split} rows are bad: {share}."
    return None if good else f"No row of the {split} split is good."


def _verdict(report: Mapping[str, Any], splits: Sequence[str]) -> Html:
    good, bad = sum(report["rows"].values()), sum(report["quarantined"].values())
    total, why, allowed = good + bad, refusals(report, splits), report["max_bad_fraction"]
    limit = f"Up to {100 * allowed:g}% of a split may be bad." if allowed else "No row may be bad."
    if why:
        tone, title, lines = "bad", "Refused: nothing is trained on this data", why
    elif bad:
        tone, title = "warn", f"{good:,} of {total:,} rows are good"
        lines = [f"{plural(bad, 'row')} ({percent(bad, total)}) went to quarantine. {limit}"]
    else:
        tone, title, lines = "good", f"All {total:,} rows are good", [f"No row broke a rule. {limit}"]
    return tag("div", tag("strong", title), [tag("p", line) for line in lines], cls=f"verdict {tone}")


# ---------------------------------------------------------------- figures at a glance


def _tiles(report: Mapping[str, Any]) -> Html:
    good, bad = sum(report["rows"].values()), sum(report["quarantined"].values())
    twice = repeated(report)
    kinds = [f"{count:,} {what}" for what, count, _ in twice if count]
    looked = any(asked for _, _, asked in twice)
    tiles = [
        _tile("Good rows", f"{good:,}", f"of {good + bad:,}"),
        _tile("Quarantined", f"{bad:,}", f"{percent(bad, good + bad)} of all rows"),
        _tile(
            "Repeated rows",
            f"{sum(count for _, count, _ in twice):,}" if looked else "–",
            "; ".join(kinds) or ("none stands there twice" if looked else "not looked for"),
        ),
    ]
    model = report["model"]
    if model:
        tiles.append(_tile("Tokens an epoch", short(model["tokens_per_epoch"]), _trained(report)))
        if model["flops_per_epoch"]:
            tiles.append(_tile("FLOPs an epoch", short(model["flops_per_epoch"]), f"{short(model['weights'])} weights"))
    return tag("dl", tiles, cls="tiles")


def _trained(report: Mapping[str, Any]) -> str:
    tokens = report["splits"].get("train", {}).get("tokens")
    return f"{percent(tokens['trained'], tokens['total'])} of them trained on" if tokens else "of train"


def _tile(name: str, value: str, small: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", small)))


# ---------------------------------------------------------------- splits


def _splits(report: Mapping[str, Any], splits: Sequence[str]) -> Html:
    words = ("Split", "Good", "Quarantined", "Share", "Good and bad", "Rows read as", "Files")
    numbers = ("Good", "Quarantined", "Share")
    head = tag("tr", [tag("th", word, scope="col", cls="n" if word in numbers else None) for word in words])
    table = tag("table", tag("thead", head), tag("tbody", [_split(report, split) for split in splits]))
    return tag("section", tag("h2", "Splits"), tag("div", table, cls="scroll"))


def _split(report: Mapping[str, Any], split: str) -> Html:
    good, bad = report["rows"][split], report["quarantined"][split]
    files, formats = report["files"].get(split), report["formats"].get(split)
    over = bad > report["max_bad_fraction"] * (good + bad)
    bar = tag("span", Html(f'<i style="width:{good / (good + bad):.2%}"></i>'), cls="share") if good + bad else None
    return tag(
        "tr",
        tag("th", split, scope="row"),
        tag("td", good, cls="n"),
        tag("td", bad, cls="n"),
        tag("td", percent(bad, good + bad), cls="n hit" if over else "n"),
        tag("td", bar, aria_hidden="true"),
        tag("td", ", ".join(dict.fromkeys(formats or report["formats"].get("train", [])))),
        tag("td", _sources(files)),
    )


def _sources(files: Mapping[str, str] | None) -> Html:
    if not files:
        return tag("span", "held out of train", cls="dim")
    return tag("code", next(iter(files))) if len(files) == 1 else join(plural(len(files), "file"))


# ---------------------------------------------------------------- lengths


def _lengths(report: Mapping[str, Any], splits: Sequence[str]) -> Html:
    measured = {split: report["splits"].get(split) or {} for split in splits}
    measured = {split: figures for split, figures in measured.items() if any(figures.values())}
    if not measured:
        return tag("section", tag("h2", "Lengths"), tag("p", "There is no good row to measure.", cls="note"))
    notes = ["Of the good rows."]
    if any(figures.get("tokens") for figures in measured.values()) and report["shape"] in ("preference", "unpaired"):
        notes.append("A row's tokens are those of its longest sequence; trained on counts its shortest.")
    if any(_has_tail(figures) for figures in measured.values()):
        notes.append("The pale last bar takes the longest percent.")
    charts = [_charts(split, figures) for split, figures in measured.items()]
    return tag("section", tag("h2", "Lengths"), tag("p", " ".join(notes), cls="note"), charts, _quantiles(measured))


def _has_tail(figures: Mapping[str, Any]) -> bool:
    return any(
        found["quantiles"]["p100"] > found["histogram"]["edges"][-1] and found["histogram"]["counts"][-1]
        for found in figures.values()
        if found
    )


def _charts(split: str, figures: Mapping[str, Any]) -> Html:
    drawn = [histogram(figures[name], name, split) for name in WORDS if figures.get(name)]
    tokens = figures.get("tokens")
    text = None
    if tokens:
        unknown = plural(tokens["unknown"], "token") if tokens["unknown"] else "none"
        text = (
            f"{tokens['total']:,} tokens, {tokens['trained']:,} of them trained on "
            f"({percent(tokens['trained'], tokens['total'])}); unknown to the tokenizer: {unknown}."
        )
    heading = tag("h3", split)
    return join(heading, tag("p", text) if text else None, tag("div", drawn, cls="charts"))


def _quantiles(measured: Mapping[str, Mapping[str, Any]]) -> Html:
    columns = {"p0": "Least", "p5": "5%", "p25": "25%", "p50": "Median", "p75": "75%", "p95": "95%", "p99": "99%",
               "p100": "Most"}  # fmt: skip
    head = [tag("th", name, scope="col") for name in ("Split", "A row's")]
    head += [tag("th", name, scope="col", cls="n") for name in ("Mean", *columns.values())]
    rows = [
        tag("tr", first, tag("td", WORDS[name].lower()), _spread(found, columns))
        for split, figures in measured.items()
        for first, (name, found) in _grouped(split, figures)
    ]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))
    return join(tag("h3", "Quantiles"), tag("div", table, cls="scroll"))


def _grouped(split: str, figures: Mapping[str, Any]) -> Iterator[tuple[Html | None, tuple[str, Any]]]:
    """The figures of a split; with the first, the head of all their lines."""
    there = [(name, figures[name]) for name in WORDS if figures.get(name)]
    heads = chain([tag("th", split, scope="rowgroup", rowspan=len(there))], repeat(None))
    return zip(heads, there, strict=False)


def _spread(found: Mapping[str, Any], quantiles: Iterable[str]) -> list[Html]:
    return [
        tag("td", f"{found['mean']:,.1f}", cls="n"),
        *(tag("td", found["quantiles"][key], cls="n") for key in quantiles),
    ]


def _footer() -> Html:
    text = "Every figure is in report.json, every quarantined row with file, line and reason in quarantine.jsonl."
    return tag("footer", tag("p", text, cls="note"))
