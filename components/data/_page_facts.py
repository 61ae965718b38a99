"""What the data report says about the chat template, the cost, files and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.data._page_html import Html, Node, join, plural, short, tag

FILES = 40
"""Files that are listed by split; a folder may hold thousands."""
TRAINING = {
    "own": "The model's own template marks what the assistant says; training learns exactly that.",
    "trl": "The model's own template marks nothing. TRL has a variant of it that marks what the assistant says; "
    "training learns exactly that.",
    "difference": "The template marks nothing and TRL has no variant of it. Training learns what the template adds "
    "when an assistant turn is appended.",
}


def facts(pairs: Sequence[tuple[str, Node]]) -> Html:
    """Names and what they stand for."""
    return tag("dl", [join(tag("dt", name), tag("dd", value)) for name, value in pairs], cls="facts")


def model_section(report: Mapping[str, Any]) -> Html:
    """The chat template and what one pass over the rows costs; without a model, what it would have added."""
    model, template = report["model"], report["template"]
    if model is None:
        text = (
            "No model was given, so the rows were checked as text: there are no tokens, no chat template and no cost. "
            "The rules on tokens apply once the recipe's model is known."
        )
        return tag("section", tag("h2", "Model"), tag("p", text, cls="note"))
    return tag("section", tag("h2", "Model"), facts([*_template(template, report["shape"]), *_cost(model)]))


def _template(template: Mapping[str, str] | None, shape: str) -> list[tuple[str, Node]]:
    if template is None:
        text = "None is used: a document is trained on as it is." if shape == "text" else "No row went through it."
        return [("Chat template", text)]
    source, digest, training = template["training"], template["sha256"], template["training_sha256"]
    same = "the same template" if training == digest else tag("code", training)
    return [
        ("Chat template", tag("code", digest)),
        ("Trained on", join(TRAINING.get(source, source), " ", tag("span", source, cls="badge"))),
        ("Training template", same),
    ]


def _cost(model: Mapping[str, Any]) -> list[tuple[str, Node]]:
    weights, tokens, flops = model["weights"], model["tokens_per_epoch"], model["flops_per_epoch"]
    known: Node = f"{short(weights)} ({weights:,})" if weights else "not known"
    found: list[tuple[str, Node]] = [("Weights", known), ("Tokens an epoch", tokens)]
    if flops:
        text = f"about {short(flops)} floating-point operations: 6 for each weight and token"
        found.append(("Cost of an epoch", text))
    return [*found, ("Model", tag("code", model["digest"]))]


def files_section(report: Mapping[str, Any], splits: Sequence[str]) -> Html:
    """Where the rows come from, to the byte, and what they were checked with."""
    rows = [row for split in splits for row in _files(split, report["files"].get(split, {}))]
    head = tag("tr", [tag("th", name, scope="col") for name in ("Split", "File", "sha256")])
    versions = join(*(join(" · " if place else "", name, " ", tag("code", str(version)))
                      for place, (name, version) in enumerate(report["libraries"].items())))  # fmt: skip
    content: list[tuple[str, Node]] = [
        (f"Content of {split}", tag("code", digest)) for split, digest in report["content"].items() if digest
    ]
    return tag(
        "section",
        tag("h2", "Provenance"),
        tag("div", tag("table", tag("thead", head), tag("tbody", rows)), cls="scroll"),
        facts([*content, ("Libraries", versions)]),
        tag("p", "A content digest is that of the good rows, whatever their order.", cls="note"),
    )


def _files(split: str, files: Mapping[str, str]) -> list[Html]:
    if not files:
        return [_line(split, tag("td", "held out of train", cls="dim", colspan=2))]
    listed = list(files.items())
    found = [
        _line(split, tag("td", tag("code", name)), tag("td", tag("code", digest))) for name, digest in listed[:FILES]
    ]
    if len(listed) > FILES:
        text = f"and {plural(len(listed) - FILES, 'more file')}; all of them are in report.json"
        found.append(_line(split, tag("td", text, cls="dim", colspan=2)))
    return found


def _line(split: str, *cells: Html) -> Html:
    return tag("tr", tag("th", split, scope="row"), *cells)
