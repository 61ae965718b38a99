"""Ten thousand preference pairs with twelve faults of each of twelve kinds (bar 6): exactly those are quarantined."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.core.recipe import DataSection
from components.services.data import DataService
from components.services.workspace import Workspace

ROWS, EACH = 10_000, 12
Plain = dict[str, Any]


def row(number: int) -> Plain:
    return {
        "id": number,
        "prompt": [{"role": "user", "content": f"How many apples are left of {number}?"}],
        "chosen": [{"role": "assistant", "content": f"There are {number - 1}."}],
        "rejected": [{"role": "assistant", "content": "I do not know."}],
    }


def dump(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def said(value: Plain, text: str) -> Plain:
    return {**value, "prompt": [{"role": "user", "content": text}]}


FAULTS: dict[str, tuple[str, Callable[[Plain], bytes]]] = {
    "bad JSON": ("parse", lambda r: dump(r)[:-9] + b"\n"),
    "invalid UTF-8": ("encoding", lambda r: dump(said(r, "caf?")).replace(b"caf?", b"caf\xe9")),
    "NUL": ("control_characters", lambda r: dump(said(r, "a\x00b"))),
    "lone surrogate": ("encoding", lambda r: dump(said(r, "a\ud83db"))),
    "wrong type": ("schema", lambda r: dump({**r, "chosen": 7})),
    "missing column": ("schema", lambda r: dump({k: v for k, v in r.items() if k != "rejected"})),
    "empty text": ("empty_text", lambda r: dump({**r, "chosen": [{"role": "assistant", "content": " \u200b"}]})),
    "5 MB row": ("too_big", lambda r: dump(said(r, "x" * 5_000_000))),
    "duplicate id": ("duplicate_id", lambda r: dump({**r, "id": 0})),
    "chosen equals rejected": ("same_answer", lambda r: dump({**r, "rejected": r["chosen"]})),
    "role order": ("schema", lambda r: dump({**r, "chosen": [{"role": "user", "content": "me again"}]})),
    "control tokens": ("special_tokens", lambda r: dump(said(r, "<|im_end|>\n<|im_start|>system"))),
}


def write(path: Path) -> dict[int, str]:
    """The file; line -> rule of every planted fault."""
    places = random.Random(6).sample(range(2, ROWS + 1), EACH * len(FAULTS))
    planted = {place: list(FAULTS.values())[n % len(FAULTS)] for n, place in enumerate(places)}
    with path.open("wb") as out:
        for number in range(1, ROWS + 1):
            value = {**row(number), "id": number - 1}
            out.write(planted[number][1](value) if number in planted else dump(value))
    return {place: rule for place, (rule, _) in planted.items()}


def warm_up(folder: Path) -> None:
    """Libraries are loaded before memory is measured."""
    folder.mkdir()
    (folder / "pairs.jsonl").write_bytes(b"".join(dump(said(row(n), f"Question {n}?")) for n in range(50)))
    source = {"type": "jsonl", "path": str(folder / "pairs.jsonl")}
    DataService(Workspace(folder)).validate(DataSection.model_validate({"train": source, "split": {"eval": 0.5}}))


def test_exactly_the_faults_are_quarantined(tmp_path: Path) -> None:
    """144 rows of 10,000, each with line, rule and reason; 9,856 rows keep their bytes; memory stays flat (bar 6)."""
    path = tmp_path / "pairs.jsonl"
    planted = write(path)
    held_out = tmp_path / "eval.jsonl"
    held_out.write_bytes(b"".join(dump(said(row(n), f"Held out {n}?")) for n in range(5)))
    readers = {"train": {"type": "jsonl", "path": str(path)}, "eval": {"type": "jsonl", "path": str(held_out)}}
    section = DataSection.model_validate({**readers, "contract": {"max_bad_fraction": 0.02}})
    warm_up(tmp_path / "warm")
    tracemalloc.start()
    artifact = DataService(Workspace(tmp_path)).validate(section)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    records = [json.loads(line) for line in (artifact.path / "quarantine.jsonl").read_text().splitlines()]
    assert {record["line"]: record["rule"] for record in records} == planted
    assert len(records) == 144
    assert all(record["reason"] and record["file"] == str(path) for record in records)
    assert artifact.meta["rules"] == dict(Counter(planted.values()))
    lines = path.read_bytes().splitlines(keepends=True)
    good = b"".join(line for number, line in enumerate(lines, start=1) if number not in planted)
    assert (artifact.path / "train.jsonl").read_bytes() == good
    assert artifact.meta["rows"]["train"] == 9_856
    assert artifact.meta["shape"] == "preference"
    assert peak < 40_000_000, f"{peak:,} bytes for a file of {path.stat().st_size:,}"
