"""What a component finds by name while it works is part of what decides its result."""

from __future__ import annotations

import pytest

from components.core.kinds import registry
from components.core.recipe import OfKind, Spec


def spec(kind: str, **plain: object) -> Spec:
    found = OfKind(kind).parse(plain)
    assert found is not None
    return found


def test_an_edit_to_an_exporter_makes_graphs_stale() -> None:
    """The onnx pass counts the exporters that it may take among its parts (A28)."""
    every = [registry.get("exporter", name) for name in registry.names("exporter")]
    assert set(spec("pass", type="onnx").parts()) >= set(every)
    builder = registry.get("exporter", "builder")
    assert set(spec("pass", type="onnx", exporter="builder").parts()) & set(every) == {builder}


@pytest.mark.parametrize("benchmark", ["exact_match", "agreement", "latency", "perplexity"])
def test_an_edit_to_a_backend_makes_measurements_stale(benchmark: str) -> None:
    """A benchmark counts the backends that open its subjects among its parts (A28)."""
    backends = {registry.get("backend", name) for name in registry.names("backend")}
    assert set(spec("benchmark", type=benchmark).parts()) >= backends
