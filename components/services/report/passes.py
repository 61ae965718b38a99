"""What every pass of a variant's chain changed, as the benchmark `parity` found it: a table of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.core.kinds import registry
from components.interfaces import Metric

PARITY = "parity"


def passes_of(notes: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Variant and figures of each pass, in order; `notes`: those of all measurements."""
    own = (each for each in notes if each["benchmark"] == PARITY)  # another benchmark's notes are its own affair
    return [(each["subject"], made) for each in own for made in each["notes"].get("passes", ())]


def pass_metrics(made: Mapping[str, Any]) -> list[Metric]:
    """What is said of a pass, with titles and units."""
    return [metric for metric in registry.get("benchmark", PARITY).metrics if metric.name in made]


def passes_markdown(notes: Sequence[Mapping[str, Any]], show: Any) -> list[str]:
    """The section `## after every pass`; nothing where nothing was replayed. `show`: a metric and its value."""
    found = passes_of(notes)
    if not found:
        return []
    metrics = pass_metrics(found[0][1])
    rows = [
        [variant, made["pass"], *(show(metric, made[metric.name]) for metric in metrics)] for variant, made in found
    ]
    head = ["variant", "pass", *(metric.title for metric in metrics)]
    lines = [head, ["---"] * len(head), *rows]
    return ["", "## after every pass", "", *("| " + " | ".join(line) + " |" for line in lines)]
