"""The report of a run as one HTML page: the verdict and what it rests on, from the files of its folder of evidence.

    write_page(Path("reports/quickstart"))         # report.html; `postmill report FOLDER`

The page needs nothing else: no script, no font, no request; pictures are inside. What the folder does not have (a run
without a search, without a price, from before there were times) is left out, and so is its heading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from components.core.artifacts import Artifact, write_json
from components.core.secret import masked
from components.data._page_html import Html, Node, percent, plural, tag
from components.interfaces import Metric
from components.services.cost import COST, money
from components.services.evidence import NOTES, ruling, show
from components.services.provenance.drawing import GRAPH_STYLE, drawing
from components.services.provenance.graph import Graph
from components.services.provenance.page import parts_section
from components.services.report import parts
from components.services.report.examples import EXAMPLES, find_examples
from components.services.report.run_evidence import LINEAGE, RECIPE, Evidence, require_evidence
from components.services.report.sections import (
    REPORT_STYLE,
    cost_section,
    examples_section,
    passes_section,
    search_section,
    timings_section,
    training_section,
)
from components.services.search import REPORT as SEARCH
from components.services.timings import TIMINGS, Timing, bottleneck, critical_path

PAGE = "report.html"
MACHINE, DATA, SKIPPED = "machine.json", "data.json", "skipped.json"
LOOKS = {"chosen": "good", "accepted": "good", "rejected": "bad"}


def write_page(
    folder: Path,
    lineage: Graph | None = None,
    timings: Sequence[Timing] | None = None,
    dataset: Artifact | None = None,
) -> Path:
    """Write `report.html` into a folder of evidence; returns its path.

    What is given besides is kept in the folder first (`lineage.json`, `timings.json`, `examples.json`), so that the
    page can be written again from the folder alone.
    """
    require_evidence(folder)
    if lineage is not None:
        write_json(folder / LINEAGE, lineage.plain())
    if timings is not None:
        write_json(folder / TIMINGS, [timing.model_dump() for timing in timings])
    evidence = Evidence(folder)
    if dataset is not None:
        write_json(folder / EXAMPLES, find_examples(folder / "rows.jsonl", dataset, evidence.chosen))
    page = folder / PAGE
    page.write_text(render(evidence), encoding="utf-8")
    return page


def render(found: Evidence) -> str:
    """The whole page."""
    path = critical_path(found.timings, found.lineage) if found.lineage else []
    return parts.page(
        f"{found.name}: report of a run",
        GRAPH_STYLE + REPORT_STYLE,
        tag("h1", "Report of a run"),
        _verdict(found),
        _tiles(found),
        _results(found),
        _gates(found),
        passes_section(found.read(NOTES, [])),
        examples_section(found.read(EXAMPLES, []), found.training, found.chosen),
        training_section(found.training, found.folder),
        search_section(found.read(SEARCH), found.folder),
        timings_section(found.timings, path, found.read(COST)),
        cost_section(found.read(COST)),
        _lineage(found),
        _data(found),
        _skipped(found),
        _recipe(found),
        _machine(found),
    )


def _verdict(found: Evidence) -> Html:
    run = found.lineage.of_kind("run") if found.lineage else []
    told = [f"run {node.digest[:12]}" for node in run]
    told += [f"commit {node.facts['git.commit'][:12]}" for node in run if node.facts.get("git.commit")]
    told += ["with uncommitted changes" for node in run if node.facts.get("git.dirty") == "true"]
    line = ", ".join(told)
    if found.verdict is None:
        return parts.banner("warn", f"{found.name}: trained, nothing to judge", line)
    judged = len(found.verdict.variants)
    if found.chosen is None:
        why = f"None of {plural(judged, 'variant')} passed its gates; the reasons stand below."
        return parts.banner("bad", f"{found.name}: not accepted", why, line)
    passed = f"{len(found.verdict.accepted)} of {plural(judged, 'variant')} passed; {found.chosen} was chosen."
    return parts.banner("good", f"{found.name}: accepted, {found.chosen}", passed, line)


# ---------------------------------------------------------------- figures at a glance


def _tiles(found: Evidence) -> Html:
    """What the chosen variant, or what was trained, is good for, and what it took."""
    subject = found.chosen or ("trained" if "trained" in found.figures else next(iter(found.figures), ""))
    own = found.figures.get(subject, {})
    tiles = [_quality(found, own)] if own else []
    for name, title, more, less in (
        ("bytes", "Size", "larger", "smaller"),
        ("tokens_per_s", "Speed", "faster", "slower"),
    ):
        metric = next((metric for metric in found.metrics if metric.name == name), None)
        if metric and name in own:
            unit = " tokens/s" if name == "tokens_per_s" else ""
            other = {"trained": "base"}.get(subject, "trained")
            than = _times(own[name], found.figures.get(other, {}).get(name), other, more, less)
            tiles.append(_tile(title, show(metric, own[name]) + unit, than or subject))
    trained = sum(step.get("tokens") or 0 for step in found.training)
    if trained:
        steps = sum(step.get("steps") or 0 for step in found.training)
        tiles.append(_tile("Trained on", f"{trained:,} tokens", f"in {plural(steps, 'step')}"))
    slowest = bottleneck(found.timings)
    if slowest:
        whole = sum(timing.seconds for timing in found.timings)
        tiles.append(
            _tile("Work", parts.seconds(whole), f"longest: {slowest.title}, {percent(slowest.seconds, whole)}")
        )
    cost = found.read(COST)
    if cost:
        tiles.append(
            _tile("Cost", money(cost["total"], cost["currency"]), f"{cost['device_seconds']:,.0f} s of a machine")
        )
    return tag("dl", tiles, cls="tiles")


def _quality(found: Evidence, own: Mapping[str, float]) -> Node:
    """The first figure that the recipe measures, against that of the base model."""
    metric = next((metric for metric in found.metrics if metric.name in own), None)
    if metric is None:
        return None
    base = found.figures.get("base", {}).get(metric.name)
    beside = f"base model: {show(metric, base)}" if base is not None else metric.name
    return _tile(metric.title[0].upper() + metric.title[1:], show(metric, own[metric.name]), beside)


def _times(value: float, other: float | None, name: str, more: str, less: str) -> str:
    """`5.1 times smaller than trained`; nothing without another value."""
    if not other or not value:
        return ""
    factor = value / other
    if 0.95 < factor < 1.05:
        return f"about that of {name}"
    return f"{factor:.1f} times {more} than {name}" if factor >= 1 else f"{1 / factor:.1f} times {less} than {name}"


def _tile(name: str, value: str, small: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", small)))


# ---------------------------------------------------------------- results and gates


def _results(found: Evidence) -> Node:
    if not found.figures:
        return None
    head = [tag("th", "", scope="col"), tag("th", "better", scope="col")]
    for subject in found.figures:
        word = ruling(found.verdict, subject)
        head.append(
            tag(
                "th",
                tag("span", subject, cls="name"),
                parts.badge(word, LOOKS[word]) if word else None,
                scope="col",
                cls="n chosen" if subject == found.chosen else "n",
            )
        )
    body = [tag("tr", _metric_row(found, metric)) for metric in found.metrics]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), cls="results")
    unknown = [metric.name for metric in found.metrics if not metric.unit]
    note = f"No benchmark that is installed here knows the unit of {', '.join(unknown)}." if unknown else None
    return parts.section("Results", tag("div", table, cls="scroll"), tag("p", note, cls="note") if note else None)


def _metric_row(found: Evidence, metric: Metric) -> list[Html]:
    told = metric.unit in ("", "share", "bytes", *metric.title.split())
    unit = "" if told else tag("span", f" {metric.unit}", cls="dim")
    values = {subject: metrics.get(metric.name) for subject, metrics in found.figures.items()}
    known = [value for value in values.values() if value is not None]
    best = (max if metric.better == "higher" else min)(known) if len(set(known)) > 1 and metric.unit else None
    cells = [
        tag(
            "td",
            tag("b", show(metric, value)) if value == best and value is not None else show(metric, value),
            cls="n chosen" if subject == found.chosen else "n",
        )
        for subject, value in values.items()
    ]
    better = tag("td", metric.better if metric.unit else "", cls="dim")
    return [tag("th", metric.title, unit, scope="row"), better, *cells]


def _gates(found: Evidence) -> Node:
    """Every check of every variant; its name stands before the first."""
    if found.verdict is None or not found.verdict.variants:
        return None
    rows: list[tuple[str | None, list[Node]]] = []
    for judged in found.verdict.variants:
        word = ruling(found.verdict, judged.variant)
        name: Node = [judged.variant, " ", parts.badge(word, LOOKS[word])]
        for check in judged.checks:
            mark = parts.badge("pass", "good") if check.passed else parts.badge("fail", "bad")
            rows.append((None if check.passed else "failed", [name, mark, check.gate, check.summary]))
            name = ""
        if not judged.checks:
            rows.append((None, [name, "", "", "no gate has anything to say of it"]))
    head = {"Variant": False, "": False, "Gate": False, "What was found": False}
    return parts.section("Gates", parts.table(head, rows))


# ---------------------------------------------------------------- where it comes from


def _lineage(found: Evidence) -> Node:
    if found.lineage is None:
        return None
    every = tag(
        "details", tag("summary", f"All {len(found.lineage.nodes)} parts"), parts_section(found.lineage), cls="all"
    )
    return parts.section("Lineage", drawing(found.lineage), every)


def _data(found: Evidence) -> Node:
    data = found.read(DATA)
    if not data:
        return None
    rows: list[tuple[str | None, list[Node]]] = [
        (
            None,
            [
                split,
                f"{count:,}",
                f"{data.get('quarantined', {}).get(split, 0):,}",
                ", ".join(data.get("sources", {}).get(split, [])[:5]),
            ],
        )
        for split, count in sorted(data.get("rows", {}).items(), reverse=True)
    ]
    table = parts.table({"Split": False, "Rows": True, "Quarantined": True, "From": False}, rows)
    whole = tag("p", tag("a", "The whole report on the data", href="data.html"), cls="note")
    return parts.section("Data", table, whole if (found.folder / "data.html").is_file() else None)


def _skipped(found: Evidence) -> Node:
    skipped = found.read(SKIPPED, {})
    return parts.section("Skipped", parts.facts(skipped)) if skipped else None


def _recipe(found: Evidence) -> Node:
    path = found.folder / RECIPE
    if not path.is_file():
        return None
    text = masked(path.read_text(encoding="utf-8"))
    summary = tag("summary", f"{RECIPE}, with every default written out")
    return parts.section("Recipe", tag("details", summary, tag("div", tag("pre", text), cls="row")))


def _machine(found: Evidence) -> Node:
    machine = found.read(MACHINE)
    return parts.section("Machine", parts.facts(machine)) if machine else None
