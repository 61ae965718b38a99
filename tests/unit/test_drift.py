"""Drift: rows like those trained on raise no alarm, rows that moved do, and the finding says where (C39)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from components.services.drift import Finding, Limits, Profile, chance, compare, stability

CATEGORIES = ("damage", "refund", "delivery", "question")


def request(random: Random, words: int = 12, labels: tuple[str, ...] = CATEGORIES) -> dict[str, Any]:
    """A row with an answer in JSON; `words` is the middle of its length."""
    asked = " ".join("word" for _ in range(max(1, round(random.gauss(words, 3)))))
    answer = json.dumps({"category": random.choice(labels), "order": str(random.random())})
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., Profile]:
    """The profile of rows, of which some were bad and some repeated when they were checked."""

    def make(rows: list[dict[str, Any]], bad: int = 0, repeated: int = 0) -> Profile:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "train.rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        report = {"contract": [{"rule": "duplicate", "broken": {"train": repeated} if repeated else {}}]}
        meta = {"rows": {"train": len(rows)}, "quarantined": {"train": bad}, "tokenizer": None}
        return Profile(SimpleNamespace(path=folder, key="k", meta=meta, read_json=lambda name: report))  # type: ignore[arg-type]

    return make


def moved(findings: list[Finding]) -> set[str]:
    return {finding.feature for finding in findings if finding.drifted}


def rows(count: int, seed: int, **kind: Any) -> list[dict[str, Any]]:
    random = Random(seed)
    return [request(random, **kind) for _ in range(count)]


def test_the_index_of_equal_and_of_known_counts() -> None:
    """Equal shares are 0; a known pair of distributions gives the figure worked out by hand."""
    assert stability([50, 50], [500, 500]) == pytest.approx(0, abs=1e-9)
    # (0.75 - 0.5) ln 1.5 + (0.25 - 0.5) ln 0.5
    assert stability([50_000, 50_000], [75_000, 25_000]) == pytest.approx(0.2746, abs=1e-3)


@pytest.mark.parametrize("size", [30, 300])
def test_samples_of_the_same_rows_raise_no_alarm(size: int) -> None:
    """Of samples from one distribution no more than the promised share passes for moved, few rows or many."""
    random, alarms = Random(5), 0
    limits = [chance(500, size, 10, 0.01) for _ in range(400)]
    for limit in limits:
        before, now = ([0] * 10 for _ in range(2))
        for counts, draws in ((before, 500), (now, size)):
            for _ in range(draws):
                counts[random.randrange(10)] += 1
        alarms += stability(before, now) > limit
    assert alarms <= 12  # 4 are expected, 12 or more happen once in a thousand times


def test_the_same_kind_of_rows(profile: Callable[..., Profile]) -> None:
    """New rows from the same source have not drifted."""
    assert not moved(compare(profile(rows(400, 1)), profile(rows(200, 2)), Limits()))


def test_longer_rows(profile: Callable[..., Profile]) -> None:
    """Rows twice as long are found, with both medians."""
    findings = compare(profile(rows(400, 1)), profile(rows(200, 2, words=24)), Limits())
    assert moved(findings) == {"characters asked"}
    assert "-> 119" in next(finding.detail for finding in findings if finding.drifted)


def test_a_label_that_took_over(profile: Callable[..., Profile]) -> None:
    """A label's share that moved is found; what an answer copies (order numbers) is not taken for a label."""
    findings = compare(profile(rows(400, 1)), profile(rows(200, 2, labels=("refund",))), Limits())
    assert "category" in moved(findings)
    assert not any(finding.feature.startswith("order") for finding in findings)


def test_a_label_that_was_never_seen(profile: Callable[..., Profile]) -> None:
    """A value that nothing was trained on is found and named."""
    findings = compare(profile(rows(400, 1)), profile(rows(200, 2, labels=(*CATEGORIES, "spam"))), Limits())
    new = next(finding for finding in findings if finding.feature == "category: new values")
    assert new.drifted
    assert new.detail.startswith('"spam" (')


def test_answers_that_stopped_being_json(profile: Callable[..., Profile]) -> None:
    """Answers in prose where JSON was trained are found."""
    prose = [{"messages": [row["messages"][0], {"role": "assistant", "content": "sorry"}]} for row in rows(200, 2)]
    assert "answers that are no JSON" in moved(compare(profile(rows(400, 1)), profile(prose), Limits()))


def test_bad_and_repeated_rows(profile: Callable[..., Profile]) -> None:
    """More rows that break the contract, and more that repeat, are found; as many as ever are not."""
    usual = profile(rows(400, 1), bad=20)
    assert not moved(compare(usual, profile(rows(200, 2), bad=10), Limits()))
    assert moved(compare(usual, profile(rows(200, 2), bad=50, repeated=50), Limits())) == {"bad rows", "repeated rows"}


def test_texts_have_lengths_only(profile: Callable[..., Profile]) -> None:
    """Rows without answers are compared by what they have."""
    texts = [[{"text": "word " * (number % 40)} for number in range(200)] for _ in range(2)]
    findings = compare(profile(texts[0]), profile(texts[1]), Limits())
    assert [finding.feature for finding in findings] == ["characters asked", "bad rows", "repeated rows"]
    assert not moved(findings)


def test_a_handful_of_rows_proves_nothing(profile: Callable[..., Profile]) -> None:
    """Three new rows are too few to say that anything moved."""
    assert not moved(compare(profile(rows(400, 1)), profile(rows(3, 9)), Limits()))
