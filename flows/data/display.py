"""Data sets on a terminal: what a validation found, and rows as the model sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from components.core.artifacts import Artifact
from components.core.errors import DataError
from components.core.kinds import registry
from components.interfaces import Row

PREFIXES = ("", "chosen_", "rejected_")
ORDER = ("train", "eval", "test")
BRACKETS = ("⟦", "⟧")
"""Around what is trained on, where there are no colours to tell."""
SHOWN = 600
"""Characters of a message that are shown as a conversation."""
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Text from data as it may be printed: control characters, which could drive a terminal, are written out."""
    return _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def splits_of(report: Mapping[str, Any]) -> list[str]:
    """The splits of a report, training rows first."""
    return sorted(report["rows"], key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def print_data(console: Console, dataset: Artifact) -> None:
    """Counts by split, the rules that are broken, and a few bad rows."""
    report = dataset.read_json("report.json")
    console.print(splits_table(report))
    print_rules(console, report)


def print_rules(console: Console, report: Mapping[str, Any]) -> None:
    """The rules that rows broke, with examples; the names of the others."""
    broken = sorted(
        (rule for rule in report["contract"] if rule["broken"]), key=lambda rule: -sum(rule["broken"].values())
    )
    if broken:
        console.print(rules_table(report, broken))
    print_examples(console, report)
    kept = [rule["rule"] for rule in asked(report)[0] if not rule["broken"]]
    if kept:
        console.print(f"kept by every row: {', '.join(kept)}", style="dim", highlight=False)
    print_ignored(console, report)
    if report["ignored_columns"]:
        names = ", ".join(map(visible, report["ignored_columns"]))
        console.print(f"columns that are not read: {names}", style="dim", highlight=False, markup=False)


def splits_table(report: Mapping[str, Any]) -> Table:
    """Good and bad rows of every split, their lengths, and what is trained on."""
    numbers = (
        Column(name, justify="right") for name in ("good", "bad", "characters", "tokens", "longest", "trained on")
    )
    table = Table("split", *numbers, caption="characters, tokens: median of the good rows", caption_justify="left")
    for split in splits_of(report):
        figures, bad = report["splits"][split], report["quarantined"][split]
        tokens, characters = figures.get("tokens"), figures["characters"]
        table.add_row(
            split,
            f"{report['rows'][split]:,}",
            Text(f"{bad:,}", style="red" if bad else ""),
            f"{characters['quantiles']['p50']:,}" if characters else "-",
            f"{tokens['quantiles']['p50']:,}" if tokens else "-",
            f"{tokens['quantiles']['p100']:,}" if tokens else "-",
            f"{tokens['trained_fraction']:.0%}" if tokens else "-",
        )
    return table


def rules_table(report: Mapping[str, Any], rules: Sequence[Mapping[str, Any]]) -> Table:
    """How many rows of every split break each of the rules."""
    splits = splits_of(report)
    counts = (Column(split, justify="right") for split in splits)
    table = Table(Column("rule", no_wrap=True), *counts, Column("action", no_wrap=True), "what it asks")
    for rule in rules:
        broken = rule["broken"]
        cells = [f"{broken[split]:,}" if broken.get(split) else "-" for split in splits]
        style = "bold" if broken else "dim"
        table.add_row(Text(rule["rule"]), *cells, rule["action"], Text(rule["about"]), style=style)
    return table


def print_examples(console: Console, report: Mapping[str, Any], most: int = 2) -> None:
    """The first bad rows of every rule: where, why, and how they begin."""
    for rule in report["contract"]:
        for example in rule["examples"][:most]:
            where = f"{example['file']}:{example['line']}: {example['rule']}: {example['reason']}"
            console.print(Text(visible(where)), soft_wrap=True)
            console.print(Text(f"    {shorten(example['row'], console.width - 6)}", style="dim"), soft_wrap=True)


def asked(report: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """The rules that could say something about these rows; and names of those that wait for a model's tokens."""
    could, waiting = [], []
    for rule in report["contract"]:
        name = rule["rule"]
        cls = registry.get("rule", name) if name in registry.names("rule") else None
        if cls is not None and cls.on_tokens and not report["model"]:
            waiting.append(name)
        elif (cls is None or report["shape"] in cls.shapes) and (name != "template" or report["model"]):
            could.append(rule)
    return could, waiting


def print_ignored(console: Console, report: Mapping[str, Any]) -> None:
    """The rules that were not asked, and why."""
    notes = {"asked only with a model": asked(report)[1], "switched off": report["ignored"]}
    for why, names in notes.items():
        if names:
            console.print(f"{why}: {', '.join(names)}", style="dim", highlight=False)


def shorten(text: str, most: int) -> str:
    """The beginning of a text on one line."""
    line = " ".join(visible(text[: 4 * most]).split())
    return line if len(line) <= most and len(text) <= 4 * most else line[: max(most - 1, 0)] + "…"


def print_conversation(console: Console, row: Row) -> None:
    """A row as its model gets it: who says what."""
    for part, content in row.items():
        if part in ("text", "label", "tools"):
            _print_said(console, part, str(content))
            continue
        for message in content:
            who = message["role"] if part == "messages" else f"{part} {message['role']}"
            calls = f" calls {message['tool_calls']}" if message.get("tool_calls") else ""
            _print_said(console, who, f"{message.get('content') or ''}{calls}")


def _print_said(console: Console, who: str, text: str) -> None:
    """One message, its later lines set in so that the speakers stand out."""
    lines = re.sub(r"\n(?=[^\n])", "\n    ", cut(visible(text)))
    console.print(Text(f"  {who}: ", style="cyan").append(lines, style="default"), soft_wrap=True)


def cut(text: str) -> str:
    """The beginning of a text, and how long it is."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def print_rows(
    console: Console, dataset: Artifact, tokenizer: Any, split: str, count: int, start: int = 0, listed: bool = False
) -> None:
    """Rows as tokens; `listed`: one token a line. What is trained on is green, or in brackets without colours."""
    plain = not console.is_terminal or console.no_color
    for number, row in indexed(dataset, split, start, count):
        for prefix in PREFIXES:
            if f"{prefix}input_ids" not in row:
                continue
            ids, spans = row[f"{prefix}input_ids"], row[f"{prefix}spans"]
            console.print(_heading(dataset, split, number, row, prefix, ids, spans), style="bold", soft_wrap=True)
            if listed:
                _print_tokens(console, tokenizer, ids, spans)
            else:
                console.print(coloured(tokenizer, ids, spans, plain), soft_wrap=True)


def indexed(dataset: Artifact, split: str, start: int, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Some rows of a split's index, from the position `start`, with their positions."""
    from components.core.dataset import index

    if not (dataset.path / f"{split}.arrow").is_file():
        there = sorted(file.stem for file in dataset.path.glob("*.arrow"))
        raise DataError(f"the data set has no split '{split}' with rows; it has {', '.join(there) or 'none'}")
    table = index(dataset, split)
    if start >= len(table):
        raise DataError(f"{split} has {len(table):,} good rows, counted from 0; there is none at {start:,}")
    yield from enumerate(table.select(range(start, min(start + count, len(table)))), start)


def _heading(
    dataset: Artifact, split: str, number: int, row: Mapping[str, Any], prefix: str, ids: list[int], spans: list[int]
) -> Text:
    trained = sum(end - first for first, end in zip(spans[::2], spans[1::2], strict=True))
    what = f"{prefix.rstrip('_')}, " if prefix else ""
    place = f"{dataset.meta['sources'][split][row['file']]}:{row['line']}"
    return Text(
        f"── {split} {number}  {place}  {what}{len(ids):,} tokens, {trained:,} trained on "
        f"({trained / max(len(ids), 1):.0%})  {row['digest'].hex()[:16]}"
    )


def coloured(tokenizer: Any, ids: list[int], spans: list[int], plain: bool = False) -> Text:
    """The text of the tokens. Those inside the spans (first, end, first, end, ...) are marked, special ones show."""
    text, special = Text(), set(tokenizer.all_special_ids)
    for first, end, trained in _stretches(len(ids), spans):
        if plain:
            piece = _said(tokenizer, ids, first, end)
            text.append(piece.join(BRACKETS) if trained else piece)
            continue
        begin = first
        for at in range(first, end + 1):
            # special tokens have a colour of their own
            if at == end or ids[at] in special:
                text.append(_said(tokenizer, ids, begin, at), style="bold green" if trained else "")
                if at < end:
                    text.append(_said(tokenizer, ids, at, at + 1), style="green reverse" if trained else "cyan")
                begin = at + 1
    return text


def _stretches(length: int, spans: list[int]) -> list[tuple[int, int, bool]]:
    """(first, end, whether trained on) of all tokens in order."""
    found, done = [], 0
    for first, end in zip(spans[::2], spans[1::2], strict=True):
        found += [(done, first, False), (first, end, True)]
        done = end
    return [stretch for stretch in [*found, (done, length, False)] if stretch[0] < stretch[1]]


def _said(tokenizer: Any, ids: list[int], first: int, end: int) -> str:
    """Text of some tokens in their place: what they add to the tokens before, so that no leading space is lost."""
    if first >= end:
        return ""
    lead = max(first - 8, 0)
    before = tokenizer.decode(ids[lead:first], clean_up_tokenization_spaces=False)
    both = tokenizer.decode(ids[lead:end], clean_up_tokenization_spaces=False)
    return visible(both[len(before) :])


def _print_tokens(console: Console, tokenizer: Any, ids: list[int], spans: list[int]) -> None:
    """One token a line: its place, `>` if it is trained on, its id, its text."""
    special = set(tokenizer.all_special_ids)
    trained = {at for first, end in zip(spans[::2], spans[1::2], strict=True) for at in range(first, end)}
    for at, token in enumerate(ids):
        piece = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        # a part of a character has no text of its own
        shown = tokenizer.convert_ids_to_tokens(token) if "\ufffd" in piece else repr(piece)[1:-1]
        line = Text(f"{at:6} {'>' if at in trained else ' '} {token:>7}  ")
        line.append(visible(f"{shown}"), style="green" if at in trained else "")
        line.append("  special" if token in special else "", style="cyan")
        console.print(line, soft_wrap=True)
