"""Parts of a run's report: passes, examples, training, search, times and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.data._page_html import Html, Node, join, percent, plural, tag
from components.services.cost import cost_line, money
from components.services.evidence import show
from components.services.report import parts
from components.services.report.pareto import lead
from components.services.report.passes import pass_metrics, passes_of
from components.services.report.training import COLUMNS, happened
from components.services.search import search_cells
from components.services.timings import Timing, bottleneck

REPORT_STYLE = """
img{display:block;width:100%;max-width:56rem;height:auto;margin:.6rem 0;border-radius:6px;background:#fff}
.results{width:auto;min-width:0}
.results th.n .badge{display:block;width:fit-content;margin:.15rem 0 0 auto}
.results td,.results th{padding-left:.8rem}
.results th:first-child{padding-left:0}
.results td:last-child,.results th:last-child{padding-right:.8rem}
.results .chosen{background:var(--goodbg)}
.times{position:relative;display:block;width:13rem;height:.6rem;margin-top:.4rem;background:var(--soft);border-radius:3px}
.times i{position:absolute;top:0;bottom:0;background:var(--bar);border-radius:3px;min-width:2px}
tr.slowest .times i{background:var(--bad)}
tr.reused th,tr.reused td{color:var(--dim);font-weight:400}
.example{margin:.7rem 0;padding:.7rem .9rem;border:1px solid var(--line);border-radius:6px;break-inside:avoid}
.example>p{margin:0 0 .4rem}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(12.5rem,1fr));gap:.6rem}
.answers h4{margin:0 0 .2rem;font-size:.78rem;font-weight:600;color:var(--dim)}
.answers pre{margin:0;padding:.45rem .6rem;background:var(--soft);border-radius:4px;white-space:pre-wrap;
max-height:16rem;overflow:auto;contain:paint;unicode-bidi:isolate}
details.all>section>h2{display:none}
@media print{.answers pre{max-height:none}}
"""
SMALL = 0.01
"""Stages that took less of the whole are told together."""
SHOWN = 12
"""Stages that are shown however little they took."""


# ---------------------------------------------------------------- after every pass


def passes_section(notes: Sequence[Mapping[str, Any]]) -> Node:
    """A row a pass of every variant's chain; one that changed what the model is asked is marked."""
    found = passes_of(notes)
    if not found:
        return None
    metrics = pass_metrics(found[0][1])
    rows: list[tuple[str | None, list[Node]]] = []
    for variant, made in found:
        wrong = made["prompt_mismatches"] or made["token_mismatches"]
        figures = [show(metric, made[metric.name]) for metric in metrics]
        rows.append(("failed" if wrong else None, [variant, made["pass"], *figures]))
    head = {"Variant": False, "Pass": False, **dict.fromkeys((metric.title for metric in metrics), True)}
    note = "the same prompts, asked again after each step of a variant's chain"
    return parts.section("After every pass", parts.table(head, rows), note=note)


# ---------------------------------------------------------------- before and after


def examples_section(
    examples: Sequence[Mapping[str, Any]], training: Sequence[Mapping[str, Any]], chosen: str | None
) -> Node:
    """Answers before and after training: of benchmarked rows, else what training wrote down on the way."""
    if examples:
        note = "held-out rows: some that training taught, some that are still wrong"
        return parts.section("Before and after training", [_example(each) for each in examples], note=note)
    found = [_sampled(step) for step in training if step.get("samples")]
    return parts.section("Samples while training", found, note="the first and the last") if found else None


def _example(example: Mapping[str, Any]) -> Html:
    answers = [
        _answer(subject, said["answer"], parts.badge(*_look(said["right"])) if said["right"] is not None else None)
        for subject, said in example["answers"].items()
    ]
    expected = _answer("expected", example["expected"]) if example.get("expected") else None
    return tag("div", tag("p", example["question"]), tag("div", expected, answers, cls="answers"), cls="example")


def _look(right: bool) -> tuple[str, str]:
    return ("right", "good") if right else ("wrong", "bad")


def _sampled(step: Mapping[str, Any]) -> Html:
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for sample in step["samples"]:
        by_prompt.setdefault(str(sample["prompt"]), []).append(sample)
    shown = []
    for prompt, samples in by_prompt.items():
        ends = [samples[0], samples[-1]] if len(samples) > 1 else samples
        answers = [_answer(f"{step['type']}, step {sample['step']}", sample["answer"]) for sample in ends]
        shown.append(tag("div", tag("p", prompt), tag("div", answers, cls="answers"), cls="example"))
    return join(shown)


def _answer(who: str, text: Any, word: Node = None) -> Html:
    return tag("div", tag("h4", who, " ", word), tag("pre", str(text) if str(text).strip() else "(nothing)"))


# ---------------------------------------------------------------- training and search


def training_section(steps: Sequence[Mapping[str, Any]], folder: Path) -> Node:
    """What every step recorded, and its curve."""
    if not steps:
        return None
    names = list(COLUMNS)
    head = {name[0].upper() + name[1:]: name not in ("step", "determinism", "speed") for name in names}
    rows: list[tuple[str | None, list[Node]]] = [
        (None, [COLUMNS[name](step).replace("\\|", "|") for name in names]) for step in steps
    ]
    told: list[Node] = []
    for step in steps:
        lines = [line.replace("\\|", "|") for line in happened(step) if not line.startswith("curve in")]
        told += [tag("p", f"{step['type']}: {line}", cls="note") for line in lines]
        curve = folder / str(step.get("curve") or "")
        if step.get("curve") and curve.is_file():
            told.append(tag("figure", parts.picture(curve, f"loss of {step['type']} by step")))
    return parts.section("Training", parts.table(head, rows), told)


def search_section(found: Mapping[str, Any] | None, folder: Path) -> Node:
    """The front as a picture, and every trial."""
    if not found:
        return None
    picture, page = folder / "pareto.png", folder / "pareto.html"
    titles = [objective["title"] for objective in found["objectives"]]
    head = {"Trial": True, "Passes": False, **dict.fromkeys(titles, True), "What became of it": False}
    rows: list[tuple[str | None, list[Node]]] = [(None, list(cells)) for cells in search_cells(found)]
    return parts.section(
        "Search",
        tag("figure", parts.picture(picture, lead(found))) if picture.is_file() else tag("p", lead(found)),
        tag("p", tag("a", "The same to look around in", href=page.name), cls="note") if page.is_file() else None,
        tag("details", tag("summary", f"All {plural(len(rows), 'trial')}"), parts.table(head, rows)),
    )


# ---------------------------------------------------------------- times and cost


def timings_section(timings: Sequence[Timing], path: Sequence[Timing], cost: Mapping[str, Any] | None) -> Node:
    """Every stage on one time line. `path`: those that had to wait for each other."""
    timings = [timing for timing in timings if timing.outcome != "skipped"]
    slowest, work = bottleneck(timings), sum(timing.seconds for timing in timings)
    if slowest is None:
        return None
    begin = min(timing.end - timing.seconds for timing in timings)
    span = max(max(timing.end for timing in timings) - begin, 1e-9)
    costs = (
        {each["stage"]: money(each["cost"], cost["currency"]) for each in (cost or {}).get("stages", ())}
        if cost
        else {}
    )
    long = [timing for timing in timings if timing.seconds >= SMALL * work or timing.outcome == "failed"]
    shown = timings if len(timings) <= SHOWN else long
    rows = [_timing(timing, (begin, span, work), slowest, path, costs) for timing in shown]
    rest = [timing for timing in timings if timing not in shown]
    head = {"Stage": False, "Took": True, "Share": True, "When": False, "Peak memory": True, "CPU": True}
    head |= {"Cost": True} if costs else {}
    more = f"{plural(len(rest), 'more stage')} took {parts.seconds(sum(each.seconds for each in rest))} together."
    waited = f"Stages that wait for each other (•) take {parts.seconds(sum(t.seconds for t in path))}: more machines "
    return parts.section(
        "Where the time went",
        tag(
            "p",
            "The bottleneck is ",
            tag("b", slowest.title),
            f": {parts.seconds(slowest.seconds)}, {percent(slowest.seconds, work)} of {parts.seconds(work)} of work "
            f"in {parts.seconds(span)}. ",
            f"{waited}cannot make the run shorter than that." if path else "",
        ),
        parts.table(head, rows),
        tag("p", more, cls="note") if rest else None,
    )


def _timing(
    timing: Timing,
    whole: tuple[float, float, float],
    slowest: Timing,
    path: Sequence[Timing],
    costs: Mapping[str, str],
) -> tuple[str | None, list[Node]]:
    begin, span, work = whole
    left = (timing.end - timing.seconds - begin) / span
    bar = Html(f'<i style="left:{left:.2%};width:{min(timing.seconds / span, 1 - left):.2%}"></i>')
    name: list[Node] = [timing.title, " •" if timing in path else ""]
    if timing.outcome == "failed":
        name.append(parts.badge("failed", "bad"))
    reused = timing.outcome == "reused"
    cells: list[Node] = [
        name,
        "from the store" if reused else parts.seconds(timing.seconds),
        "" if reused else percent(timing.seconds, work),
        None if reused else tag("span", bar, cls="times"),
        parts.shown("memory", timing.peak_memory) if timing.peak_memory else "",
        f"{timing.cpu:.0%}" if timing.cpu else "",
    ]
    look = "slowest" if timing is slowest else "reused" if reused else None
    return look, cells + ([costs.get(timing.title, "")] if costs else [])


def cost_section(cost: Mapping[str, Any] | None) -> Node:
    """What the run cost in all, and what a thousand tokens cost."""
    if not cost:
        return None
    each = {
        f"1,000 tokens {kind}, {name}": money(value, cost["currency"])
        for kind, values in cost.get("per_1k_tokens", {}).items()
        for name, value in values.items()
    }
    return parts.section(
        "Cost", tag("p", f"{cost_line(cost).removeprefix('cost: ')}."), parts.facts(each) if each else None
    )
