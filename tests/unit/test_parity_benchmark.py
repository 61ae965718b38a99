"""Parity: what a transformation may not change is seen when it does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.spec import OfKind
from components.interfaces import Measurement, Scoreboard, StepContext, Subject
from components.services.data import load_rows
from components.services.evidence import show
from components.services.judging import decide
from components.services.optimization import OptimizationService
from components.services.report.passes import passes_markdown
from components.services.report.sections import passes_section
from tests import tiny


def measured(lab: Any, *subjects: Subject, **config: Any) -> Scoreboard:
    """The trained model and these subjects."""
    benchmark = registry.create("benchmark", "parity", rows=2, max_new_tokens=3, **config)
    found: list[Measurement] = benchmark.measure(subjects, load_rows(lab.dataset), StepContext(17, lab.workspace.bus))
    return Scoreboard(found)


def changed(lab: Any, place: Path, change: Any) -> Subject:
    """A copy of the merged model whose tokenizer or weights were changed."""
    shutil.copytree(lab.merged.path, place)
    change(place)
    return Subject(name="changed", artifact=lab.merged.model_copy(update={"path": place}))


def other_template(place: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("'\\n' + message['content']", "' ' + message['content']")
    for file in place.glob("*template*"):
        file.unlink()
    tokenizer.save_pretrained(place)


def test_exported_in_float32(lab: Any) -> None:
    """A float32 export is asked the same and says the same, to rounding; the rounded one says it less exactly."""
    board = measured(lab, lab.subject("base"), lab.subject("int4"), lab.subject("trained"), lab.subject("fp32"))
    fp32, int4 = board.metrics("fp32"), board.metrics("int4")
    assert fp32["prompt_mismatches"] == fp32["token_mismatches"] == 0
    assert fp32["max_logit_difference"] < 1e-3 < int4["max_logit_difference"]
    assert board.metrics("trained")["max_logit_difference"] == 0
    assert board.subjects() == ["base", "int4", "trained", "fp32"]


def test_hashes_travel_with_the_result(lab: Any) -> None:
    """The notes hold the hashes of template, tokenizer and rendered prompts, equal where nothing changed."""
    board = measured(lab, lab.subject("trained"), lab.subject("fp32"))
    trained, fp32 = (measurement.notes for measurement in board.measurements)
    assert {len(fp32[name]) for name in ("template", "tokenizer", "prompts")} == {64}
    assert trained == fp32


def test_another_template_is_seen(lab: Any, tmp_path: Path) -> None:
    """A template that was changed on the way gives other bytes and other tokens, and a budget can refuse that."""
    board = measured(lab, lab.subject("trained"), changed(lab, tmp_path / "m", other_template))
    found = board.metrics("changed")
    assert found["prompt_mismatches"] == found["token_mismatches"] == 8  # six fixed texts and two rows
    gate = OfKind("gate").parse({"type": "budget", "max": {"prompt_mismatches": 0}})
    assert gate
    verdict = decide([gate], ["changed"], board, "smallest")
    assert verdict.accepted == []
    assert "prompt_mismatches 8" in verdict.variants[0].checks[0].summary


def test_a_model_that_always_ends(lab: Any, tmp_path: Path) -> None:
    """The end-of-turn rate is the share of held-out prompts whose answer ends by itself."""
    silent = tiny.write_silent_model(tmp_path / "silent")
    subject = Subject(name="silent", artifact=lab.base.model_copy(update={"path": silent}))
    board = measured(lab, lab.subject("trained"), subject)
    assert board.metrics("silent")["end_of_turn_rate"] == 1.0
    assert set(board.rows("silent", "end_of_turn_rate")) <= set(load_rows(lab.dataset).ids)


def test_parity_without_its_reference(lab: Any) -> None:
    """A reference that is no subject is refused with the subjects there are."""
    with pytest.raises(ConfigError, match="reference='techer' is none of base, fp32"):
        measured(lab, lab.subject("base"), lab.subject("fp32"), reference="techer")


def test_every_pass_is_replayed(lab: Any, tmp_path: Path) -> None:
    """Each pass of a chain is asked the same prompts: the one that changed them is found, even if a later one changed
    them back (C39)."""
    harmed = changed(lab, tmp_path / "m", other_template).model_copy(update={"name": "harming_pass"})
    harmed = harmed.model_copy(update={"artifact": harmed.artifact.model_copy(update={"digest": "other"})})
    merged = Subject(name="merge_adapter", artifact=lab.merged)
    whole, broken = (
        lab.subject("fp32").model_copy(update={"name": name, "passes": passes})
        for name, passes in (("whole", [merged]), ("broken", [merged, harmed, merged]))
    )
    board = measured(lab, lab.subject("trained"), whole, broken)
    assert [board.metrics(name)["passes_with_mismatches"] for name in ("trained", "whole", "broken")] == [0, 0, 1]
    (notes,) = (m.notes["passes"] for m in board.measurements if m.subject == "broken")
    assert [(each["pass"], each["token_mismatches"]) for each in notes] == [
        ("merge_adapter", 0),
        ("harming_pass", 8),
        ("merge_adapter", 0),
    ]
    lines = passes_markdown([vars(m) for m in board.measurements], show)
    assert [line.split(" | ")[:4] for line in lines[-2:]] == [
        ["| broken", "harming_pass", "8.00", "8.00"],
        ["| broken", "merge_adapter", "0", "0"],
    ]
    assert "harming_pass" in str(passes_section([vars(m) for m in board.measurements]))


def test_the_passes_of_a_variant(lab: Any) -> None:
    """A variant knows what every pass of its chain made, in order; the trained model went through none (C39)."""
    passes = OptimizationService(lab.workspace)
    trained, int4 = passes.subjects({"trained": lab.trained, "int4": lab.subject("int4").artifact})
    assert trained.passes == []
    assert [made.name for made in int4.passes] == ["merge_adapter", "onnx"]
    assert int4.passes[-1].artifact == int4.artifact
