"""Rows that show what training changed: the question, what was expected, and what each model answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact
from components.services.data import load_rows

EXAMPLES = "examples.json"
LEARNED, WRONG = 3, 2
"""Rows that are shown of what training taught, and of what the model still has wrong."""
WHO = ("base", "trained")


def find_examples(rows: Path, dataset: Artifact, chosen: str | None) -> list[dict[str, Any]]:
    """A few rows of the first benchmark that keeps answers, each with the answers of the base model, the trained one
    and the chosen variant; both what was learned and what is still wrong, so that nobody sees the best of it only."""
    answered = _answers(rows, [*WHO, *([chosen] if chosen else [])])
    questions = _questions(dataset) if answered else {}
    told = [{"id": row, **questions[row], "answers": answers} for row, answers in answered.items() if row in questions]
    learned = [each for each in told if _right(each, WHO[1]) and not _right(each, WHO[0])]
    last = chosen or WHO[1]
    wrong = [each for each in told if not _right(each, last) and last in each["answers"]]
    picked = [*learned[:LEARNED], *wrong[:WRONG]]
    return picked + [each for each in told if each not in picked][: LEARNED + WRONG - len(picked)]


def _answers(rows: Path, subjects: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Row -> subject -> its answer, and whether it is right, of one benchmark."""
    found: dict[str, dict[str, Any]] = {}
    first = ""
    for line in rows.read_text(encoding="utf-8").splitlines() if rows.is_file() else ():
        row = json.loads(line)
        if "answer" not in row or row["subject"] not in subjects or row["benchmark"] != (first or row["benchmark"]):
            continue
        first = row["benchmark"]
        score = row.get(first)
        right = None if not isinstance(score, int | float) else score >= 1
        found.setdefault(row["id"], {})[row["subject"]] = {"answer": str(row["answer"]), "right": right}
    return {row: {name: found[row][name] for name in subjects if name in found[row]} for row in found}


def _questions(dataset: Artifact) -> dict[str, dict[str, str]]:
    """Row -> what the user says last, and what the data set answers."""
    held_out = load_rows(dataset)
    return {
        row: {
            "question": next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), ""),
            "expected": turns[-1]["content"],
        }
        for row, turns in zip(held_out.ids, held_out.conversations, strict=False)
    }


def _right(example: Mapping[str, Any], subject: str) -> bool:
    return bool(example["answers"].get(subject, {}).get("right"))
