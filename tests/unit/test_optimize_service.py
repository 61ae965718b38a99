"""`ModelService.optimize`: exactly the passes that were named, and what each of them did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError, ModelLoadError
from components.core.kinds import registry
from components.services.model import ModelService
from components.services.optimized import expanded
from components.services.workspace import Workspace
from tests import tiny

CACHE = {"type": "kv_cache", "cache": "static", "length": 8, "rounds": 1, "tokens": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelService:
    return ModelService(Workspace(tmp_path_factory.mktemp("optimize")))


def test_every_step_is_reported(models: ModelService, tiny_model: Path) -> None:
    """What was named runs in that order, and each step tells sizes, weights, time and what it measured (B14, C27)."""
    result = models.optimize(str(tiny_model), ["cast", CACHE])
    assert [step.type for step in result.steps] == ["cast", "kv_cache"]
    cast, cache = result.steps
    assert cast.bytes_after < 0.6 * cast.bytes_before
    assert (cast.bytes_before, cast.bytes_after) == (result.before.size, cache.bytes_before)
    assert cast.parameters_before == cast.parameters_after > 0
    assert cast.seconds > 0
    assert cast.facts["dtype"] == "bfloat16"
    assert cache.facts["cache"] == "static"
    assert result.artifact == cache.artifact
    assert result.bytes_saved == result.before.size - result.artifact.size > 0
    assert str(cast).startswith("cast: 438 kB -> ")


def test_again_is_from_the_store(models: ModelService, tiny_model: Path) -> None:
    """The same again does no work and reports the same."""
    first = models.optimize(str(tiny_model), ["cast"])
    told: list[str] = []
    off = models.workspace.bus.on_any(lambda event: told.append(event.topic))
    assert models.optimize(str(tiny_model), ["cast"]) == first
    off()
    assert "pass.started" not in told


@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        (["cast", "quantise"], ConfigError, "unknown pass 'quantise'"),
        ([], ConfigError, "name at least one pass"),
        ([CACHE, "onnx"], ConfigError, "pass 'onnx' would lose how a pass before it has the model opened"),
        (["merge_adapter"], ConfigError, "pass 'merge_adapter' takes adapter"),
        (["cast", CACHE | {"cache": "offloaded"}], ModelLoadError, "there is no GPU"),
    ],
    ids=["unknown", "none", "order", "kind", "fails"],
)
def test_nothing_is_swallowed(
    models: ModelService, tiny_model: Path, names: Any, error: type[Exception], said: str
) -> None:
    """A pass that is unknown, does not fit or fails raises, and names itself (B14)."""
    with pytest.raises(error, match=said):
        models.optimize(str(tiny_model), names)


def test_equal_models_under_two_names(models: ModelService) -> None:
    """Models of equal files share what passes make of them, and each result begins with the model it was asked for
    (B14)."""
    one, other = (models.save(tiny.network(seed=5), tiny.tokenizer(), name) for name in ("one", "other"))
    assert (one.key != other.key, one.digest == other.digest) == (True, True)
    results = [models.optimize(model, ["cast"]) for model in (one, other)]
    assert [result.before for result in results] == [one, other]
    assert results[0].artifact == results[1].artifact
    assert [len(result.steps) for result in results] == [1, 1]


@pytest.mark.parametrize("level", ["basic", "enhanced", "advanced", "O1", "O2", "O3"])
def test_levels(level: str) -> None:
    """A level is a documented list of passes; a whole model needs no merging, an adapter does (A8, E23)."""
    of_adapter, of_model = (expanded([level], kind) for kind in ("adapter", "model"))
    assert of_adapter == list(registry.get("preset", level.lower()).chain)
    assert of_model == of_adapter[1:]
    types = [step["type"] for step in of_adapter]
    assert types[0] == "merge_adapter"
    assert ("runtime_options" in types) == level.startswith("O")
    assert registry.get("preset", level.lower()).summary()


def test_a_level_may_follow_a_pass() -> None:
    """After passes of one's own a level goes on with what they gave (A8)."""
    assert expanded(["cast", "basic"], "model")[0] == "cast"
    assert [step["type"] for step in expanded(["merge_adapter", "basic"], "adapter")[1:]] == ["onnx"]
