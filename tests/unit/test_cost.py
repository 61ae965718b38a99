"""A run is told in money: seconds of a machine times its price, by stage, in all, and for a thousand tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.events import (
    BenchmarkMeasured,
    Event,
    EventBus,
    MetricLogged,
    StageCached,
    StageFailed,
    StageFinished,
    StageStarted,
    TrainingFinished,
)
from components.core.recipe import parse_recipe
from components.core.search import TRIAL
from components.core.settings import Price, Settings
from components.services.application import Application
from components.services.cost import COST, CostService, Used, add_cost, cost_line, device_seconds, money
from components.services.tracking import RunTracking
from components.services.workspace import Workspace
from tests import tiny

PRICE = Price(per_hour=3.6, currency="EUR")
"""A thousandth a second."""


def finished(stage: str, name: str, end: float, seconds: float) -> StageFinished:
    return StageFinished(stage=stage, name=name, key="k", size=1, seconds=seconds, time=end)


def told(*events: Event, price: Price | None = PRICE) -> tuple[dict[str, Any] | None, list[MetricLogged]]:
    """What the service reports after these events, and the figures it gave to the tracker."""
    bus, figures = EventBus(), list[MetricLogged]()
    bus.on(MetricLogged, figures.append)
    with CostService(Workspace(Path(), bus), Settings(cost=price)) as costs:
        for event in events:
            bus.emit(event)
    bus.emit(finished("train", "late", 1e6, 10))
    return costs.report(), figures


RUN = (
    StageCached(stage="fetch", name="base", key="k"),
    TrainingFinished(trainer="sft", figures={"tokens": 50_000}),
    finished("train", "sft", 200, 100),
    StageStarted(stage="optimize", name="int8/onnx", time=200),
    StageFailed(stage="optimize", name="int8/onnx", error="no", time=207),
    finished("optimize", "int4/onnx", 220, 10),
    BenchmarkMeasured(benchmark="latency", subject="int4", metrics={"tokens_per_s": 40.0}),
    BenchmarkMeasured(benchmark="latency", subject=TRIAL, metrics={"tokens_per_s": 99.0}),
)


def test_stages_are_told_in_money() -> None:
    """A stage costs its seconds, a failed one what it used, one from the store nothing; these make the total (C65)."""
    found, figures = told(*RUN)
    assert found is not None
    costs = {each["stage"]: round(each["cost"], 9) for each in found["stages"]}
    assert costs == {"train sft": 0.1, "optimize int8/onnx": 0.007, "optimize int4/onnx": 0.01}
    assert [each["failed"] for each in found["stages"]] == [False, True, False]
    assert found["total"] == pytest.approx(0.117)
    assert (found["device_seconds"], found["from_the_store"]) == (117, 1)
    totals = [event.values["cost/total"] for event in figures if "cost/total" in event.values]
    assert totals == pytest.approx([0.1, 0.107, 0.117])
    names = {name for event in figures for name in event.values}
    assert {"cost/train.sft", "cost/optimize.int8.onnx", "cost/optimize.int4.onnx"} <= names


def test_a_thousand_tokens_are_told_in_money() -> None:
    """Training tokens by what their stage cost, generated ones by the measured speed; trials are left out (C65)."""
    found, figures = told(*RUN)
    assert found is not None
    assert found["per_1k_tokens"]["trained"] == pytest.approx({"sft": 0.1 * 1000 / 50_000})
    assert found["per_1k_tokens"]["generated"] == pytest.approx({"int4": 0.001 * 1000 / 40})
    names = {name for event in figures for name in event.values}
    assert {"cost/per_1k_trained/sft", "cost/per_1k_generated/int4"} <= names


def test_without_a_price_nothing_is_told() -> None:
    """Without a price there is no report and no figure."""
    assert told(*RUN, price=None) == (None, [])


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0),
        ([("a", 0, 10), ("a", 20, 25)], 15),
        ([("a", 0, 10), ("a", 5, 12)], 12),
        ([("a", 0, 10), ("a", 2, 3), ("a", 4, 11)], 11),
        ([("a", 0, 10), ("b", 0, 10)], 20),
        ([("b", 5, 6), ("a", 0, 10), ("b", 0, 5)], 16),
    ],
)
def test_a_machine_is_paid_once(spans: list[tuple[str, float, float]], seconds: float) -> None:
    """Stages that run at the same time on one machine share it; two machines are two."""
    assert device_seconds(Used("x", machine, begin, end) for machine, begin, end in spans) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00 EUR"), (1234.5, "1,234.50 EUR"), (0.5, "0.50 EUR"), (0.00234, "0.0023 EUR"), (9.6e-7, "0.00000096 EUR")],
)
def test_small_amounts_are_readable(value: float, text: str) -> None:
    """Two decimals, and more where they would say nothing; never an exponent."""
    assert money(value, "EUR") == text


def test_the_evidence_tells_the_cost(tmp_path: Path) -> None:
    """`cost.json` holds every figure, the report a table, and the end of a run one sentence (C65)."""
    found, _ = told(*RUN)
    assert found is not None
    (tmp_path / "report.md").write_text("# tiny\n", encoding="utf-8")
    add_cost(tmp_path, found)
    assert json.loads((tmp_path / COST).read_text(encoding="utf-8")) == found
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert page.startswith("# tiny\n\n## cost\n")
    assert "| optimize int8/onnx (failed) | 7.0 | 0.0070 EUR |" in page
    assert "- a thousand tokens generated, int4: 0.025 EUR" in page
    assert cost_line(found) == (
        "cost: 0.12 EUR for 117 s of a machine at 3.60 EUR an hour; 1 stage from the store cost nothing"
    )


def test_the_tracker_gets_it(tmp_path: Path, tiny_model: Path) -> None:
    """In a run with a price the figures arrive in the tracker as those of any component do (C65)."""
    service = {"tracking": {"type": "tracking", "tracker": "tensorboard"}}
    plan = parse_recipe(tiny.recipe(tmp_path, tiny_model, services=service, register=None))
    heard: list[MetricLogged] = []
    with Application(Settings(root=tmp_path, cost=PRICE)) as app, app.run(plan) as run:
        run.get(RunTracking)
        assert run.get(CostService) is run.get(CostService)
        bus = run.get(Workspace).bus
        bus.on(MetricLogged, heard.append)
        bus.emit(finished("train", "sft", 200, 100))
        assert not bus.failures
    assert heard[0].values == pytest.approx({"cost/train.sft": 0.1, "cost/total": 0.1})
