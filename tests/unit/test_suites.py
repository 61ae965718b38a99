"""Suites: one name for several benchmarks, with questions that are sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.suite_questions import FILE, text
from components.benchmarks._questions import read_questions
from components.benchmarks.generative import Open
from components.benchmarks.multiple_choice import Choice
from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.recipe import parse_recipe
from components.core.spec import OfKind, Spec
from components.core.suites import SUITES, reported_twice, suite_names, with_suites
from tests import tiny


def steps(*written: Any) -> list[Spec]:
    """The benchmarks of a recipe's section."""
    return [spec for plain in with_suites(list(written)) if (spec := OfKind("benchmark").parse(plain))]


def test_shipped_suites() -> None:
    """The suites maths, code, chat and speed are there (D23)."""
    assert suite_names() == ["chat", "code", "maths", "speed"]


@pytest.mark.parametrize("name", suite_names())
def test_a_suite_is_sound(name: str, lab: Any) -> None:
    """Every benchmark of a shipped suite is valid, finds its questions, and names its metrics after the suite (D23)."""
    for spec in steps(name):
        assert spec.build().problem(lab.dataset) is None
        metrics = spec.component.reports(spec.config)
        assert metrics
        assert name == "speed" or all(metric.name.startswith(f"{name}_") for metric in metrics)


def test_all_suites_fit_into_one_recipe() -> None:
    """They may stand beside each other and beside single benchmarks: no metric is reported twice."""
    several = steps(*suite_names(), {"type": "exact_match"}, {"type": "agreement"}, {"type": "parity"})
    assert list(reported_twice(several)) == []


def test_the_same_metric_twice() -> None:
    """Two benchmarks that would report one metric are told, with the remedy; one that is off does not count."""
    (problem,) = reported_twice(steps({"type": "generative"}, {"type": "latency"}, {"type": "generative", "rows": 5}))
    assert problem.startswith(
        "benchmark.2: 'score' is measured by benchmark.0 already; give one of them another 'name'"
    )
    assert not list(reported_twice(steps({"type": "generative"}, {"type": "generative", "enabled": False})))


def test_a_recipe_names_a_suite(tmp_path: Path, tiny_model: Path) -> None:
    """One word in a recipe stands for the benchmarks of the suite, and gates may read their metrics."""
    gate = [{"type": "budget", "min": {"maths_score": 0.1}}]
    plain = tiny.recipe(tmp_path, tiny_model, benchmark=["maths", {"type": "latency"}], gate=gate)
    recipe = parse_recipe(plain)
    assert [spec.type for spec in recipe.benchmark] == ["generative", "multiple_choice", "latency"]
    assert parse_recipe(recipe.dump()) == recipe


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    """A path names a suite that lies anywhere."""
    file = tmp_path / "own.yaml"
    file.write_text("benchmark: [{type: latency, rounds: 2}]\n")
    (spec,) = steps(str(file))
    assert (spec.type, spec.config.rounds) == ("latency", 2)


@pytest.mark.parametrize("content", ["benchmark: 5\n", "benchmark: [maths]\n", "benchmark: []\nrows: 5\n", "{}\n"])
def test_a_file_that_is_no_suite(tmp_path: Path, content: str) -> None:
    """A suite has one key with a list of benchmarks, and no suites in it."""
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"own\.yaml: a suite has one key, 'benchmark'"):
        with_suites([str(file)])


def test_an_unknown_suite() -> None:
    """A name that no suite has is an error with the nearest one; a file that is not there, with its path."""
    with pytest.raises(ConfigError, match=r"unknown suite 'math'; did you mean 'maths'\? \(known: chat, code"):
        with_suites(["math"])
    with pytest.raises(ConfigError, match=r"file 'gone\.yaml' does not exist"):
        with_suites(["gone.yaml"])


def test_what_is_no_list_is_left_alone() -> None:
    """Whoever reads the section says what is wrong with it."""
    assert with_suites(5) == 5
    assert with_suites([{"type": "latency"}, 5]) == [{"type": "latency"}, 5]


def test_maths_questions_are_the_generated_ones() -> None:
    """The file holds what the seeded generator makes; `python -m benchmarks.suite_questions` rewrites it."""
    assert FILE.read_text(encoding="utf-8") == text()


def test_maths_answers_are_right() -> None:
    """Of the questions that are plain sums, the answer is what the sum is; it stands once among four choices."""
    asked = read_questions("maths.jsonl", Choice)
    assert len(asked) == 48
    for question in asked:
        assert len(set(question.choices)) == 4
        said = question.question.removeprefix("What is ").removesuffix("?")
        if set(said) <= set("0123456789 +-*"):
            assert eval(said, {"__builtins__": {}}) == int(question.answer)  # noqa: S307  a sum, as the line above says


@pytest.mark.parametrize("file", ["code.jsonl", "chat.jsonl"])
def test_expected_answers_are_right_by_their_own_scorer(file: str) -> None:
    """Every expected answer has the full score with its scorer, and an empty answer has none."""
    default = registry.create("scorer", "contains")
    for question in read_questions(file, Open):
        scorer = question.scorer.build() if question.scorer else default
        assert scorer.score("", question.expected) == 0.0
        if question.expected is not None:
            assert scorer.score(question.expected, question.expected) == 1.0


def test_nothing_else_lies_there() -> None:
    """Every file of questions is used by a suite."""
    used = {
        spec.config.questions for name in suite_names() for spec in steps(name) if hasattr(spec.config, "questions")
    }
    assert used == {file.name for file in SUITES.glob("*.jsonl")}
