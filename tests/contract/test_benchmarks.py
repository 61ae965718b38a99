"""What every benchmark promises."""

from __future__ import annotations

from typing import Any

import pytest

from components.core.errors import ConfigError
from components.core.events import EventBus
from components.core.kinds import registry
from components.interfaces import Measurement, Scoreboard, StepContext
from components.services.benchmarking import BenchmarkService
from components.services.data import load_rows
from tests.contract.common import check_component, config_of, named

SMALL = {
    "exact_match": {"rows": 2, "max_new_tokens": 4, "batch_size": 2, "dtype": "float32"},
    "agreement": {"rows": 2},
    "latency": {"rounds": 1, "new_tokens": 4},
    "perplexity": {"rows": 2},
    "multiple_choice": {"rows": 2, "questions": "maths.jsonl"},
    "generative": {"rows": 2, "max_new_tokens": 4, "dtype": "float32"},
    "throughput": {"batch_sizes": [1, 2], "prompt_tokens": [4], "new_tokens": 3, "rounds": 1},
    "parity": {"rows": 2, "max_new_tokens": 4},
}
SUBJECTS = ("base", "trained", "fp32", "int4")


@pytest.fixture(scope="module")
def measured(lab: Any) -> dict[str, list[Measurement]]:
    """Every benchmark on every subject, small and once."""
    context, rows = StepContext(17, EventBus()), load_rows(lab.dataset)
    subjects = [lab.subject(name) for name in SUBJECTS]
    return {
        name: registry.create("benchmark", name, **config).measure(subjects, rows, context)
        for name, config in SMALL.items()
    }


def test_all_benchmarks_are_covered() -> None:
    """A new benchmark has to be added to this file's table; lm_eval, an extra, has a file of its own."""
    assert set(SMALL) == set(registry.names("benchmark")) - {"lm_eval"}


@named("benchmark")
def test_component(name: str) -> None:
    """Every benchmark is described, strictly configured, and names what it measures (A27, A45)."""
    check_component("benchmark", name)
    metrics = registry.get("benchmark", name).reports(config_of("benchmark", name))
    assert metrics
    assert all(metric.better in ("higher", "lower") and metric.unit and metric.title for metric in metrics)


def test_metric_names_are_unique() -> None:
    """No two benchmarks report a metric of one name: gates read metrics by name."""
    classes = {name: registry.get("benchmark", name) for name in registry.names("benchmark")}
    names = [m.name for name, cls in classes.items() for m in cls.reports(config_of("benchmark", name))]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", SMALL)
def test_reports_exactly_what_it_declares(name: str, measured: dict[str, list[Measurement]]) -> None:
    """Measured metrics are the declared ones, and finite; only what this machine has no counter for may lack (A45)."""
    cls = registry.get("benchmark", name)
    declared = {metric.name: metric for metric in cls.reports(cls.Config(**SMALL[name]))}
    assert measured[name]
    for measurement in measured[name]:
        assert set(measurement.metrics) <= set(declared)
        assert all(name in measurement.metrics for name, metric in declared.items() if metric.always)
        assert all(0 <= value < 1e12 for value in measurement.metrics.values())


@pytest.mark.parametrize("name", SMALL)
def test_rows_have_ids(name: str, measured: dict[str, list[Measurement]], lab: Any) -> None:
    """Per-row results carry the ids of rows or questions, the same ones for every subject, and each metric by row."""
    known = {*load_rows(lab.dataset).ids, *(f"maths-{n}" for n in range(1, 49)), *(f"probe-{n}" for n in range(6))}
    ids = [[row["id"] for row in measurement.rows] for measurement in measured[name]]
    assert all(found == ids[0] for found in ids)
    assert set(ids[0]) <= known
    assert len(set(ids[0])) == len(ids[0]) == SMALL[name].get("rows", 0) + 6 * (name == "parity")


@pytest.mark.parametrize("name", SMALL)
def test_measurement_survives_json(name: str, measured: dict[str, list[Measurement]]) -> None:
    """Results are plain data."""
    for measurement in measured[name]:
        assert Measurement.model_validate_json(measurement.model_dump_json()) == measurement


def test_subjects(measured: dict[str, list[Measurement]]) -> None:
    """Accuracy and speed are measured on all subjects, agreement on the variants only."""
    found = {name: tuple(m.subject for m in measurements) for name, measurements in measured.items()}
    assert found == {**dict.fromkeys(SMALL, SUBJECTS), "agreement": ("fp32", "int4")}


def test_agreement_of_float32_is_total(measured: dict[str, list[Measurement]]) -> None:
    """A float32 export agrees with the trained model; a rounded one less (A45)."""
    board = Scoreboard(measured["agreement"])
    fp32, int4 = board.metrics("fp32"), board.metrics("int4")
    assert fp32["top1_agreement"] > 0.99
    assert fp32["mean_kl"] < 1e-4 < int4["mean_kl"]
    assert fp32["p99_kl"] >= fp32["mean_kl"]


def test_agreement_without_reference(lab: Any) -> None:
    """A reference that is no subject is refused with the subjects there are."""
    benchmark = registry.create("benchmark", "agreement", reference="techer")
    with pytest.raises(ConfigError, match="reference='techer' is none of base, fp32"):
        benchmark.measure(
            [lab.subject("base"), lab.subject("fp32")], load_rows(lab.dataset), StepContext(1, EventBus())
        )


def test_sizes(measured: dict[str, list[Measurement]], lab: Any) -> None:
    """Bytes are those on disk; an adapter counts with its base (E34)."""
    board = Scoreboard(measured["latency"])
    assert board.metrics("int4")["bytes"] == lab.int4.size
    assert board.metrics("trained")["bytes"] == lab.trained.size + lab.base.size
    assert board.metrics("int4")["tokens_per_s"] == pytest.approx(1000 / board.metrics("int4")["tpot_ms"])


def test_service_stores_results(lab: Any) -> None:
    """Through the service every result is an artifact, and an equal question is not asked again (A28)."""
    service, spec = BenchmarkService(lab.workspace), lab.plan.benchmark[0]
    subjects = [lab.subject("base"), lab.subject("fp32")]
    first = service.measure([spec], subjects, lab.dataset, 17)
    events: list[str] = []
    off = lab.workspace.bus.on_any(lambda event: events.append(event.topic))
    assert service.measure([spec], subjects, lab.dataset, 17) == first
    off()
    assert events == ["stage.cached", "benchmark.measured"] * 2
    assert len(first) == 2
