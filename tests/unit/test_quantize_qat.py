"""Quantization-aware training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from components.compression.quantization.checkpoint import load_quantized, read_codes
from components.core.errors import ArtifactError, ConfigError, DataError, MissingExtraError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.recipe import DataSection, OfKind
from components.interfaces import StepContext
from components.services.data import DataService
from components.services.model import ModelService
from components.services.workspace import Workspace
from tests import tiny

SHORT = {"steps": 12, "batch_size": 4, "learning_rate": 1e-3, "rows": 20, "max_length": 96, "measure": 4}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Any, Any]:
    """The tiny model and its rows."""
    root = tmp_path_factory.mktemp("given")
    workspace = Workspace(root)
    base = ModelService(workspace).fetch(OfKind("model").parse({"type": "pretrained", "name": str(tiny_model)}))
    files = {
        name: {"type": "jsonl", "path": str(tiny.write_rows(root / f"{name}.jsonl", numbers))}
        for name, numbers in (("train", range(24)), ("eval", range(100, 130)))
    }
    return base, DataService(workspace).validate(DataSection.model_validate(files), base)


def applied(given: tuple[Any, Any], out: Path, **config: Any) -> dict[str, Any]:
    """The pass on the tiny model."""
    out.mkdir()
    base, dataset = given
    step = registry.create("pass", "quantize_qat", **(SHORT | config))
    return step.apply(base, {}, out, StepContext(17, EventBus(), dataset=dataset))


@pytest.mark.filterwarnings("ignore")  # torchao's own, of compiled parts that do not load
def test_nearer_than_rounding(given: Any, tmp_path: Path) -> None:
    """A short training ends nearer to the float model than rounding, and is packed as trained (E28)."""
    pytest.importorskip("torchao")
    facts = applied(given, tmp_path / "out")
    assert facts["mean_kl"] < facts["mean_kl_round_to_nearest"]
    assert facts["loss_last"] < facts["loss_first"]
    assert facts["max_logit_difference"] < 1e-3
    codes, _ = read_codes(tmp_path / "out")
    assert {(found.grid.bits, found.grid.group) for found in codes.values()} == {(4, 32)}
    assert load_quantized(tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_training_that_brings_nothing_fails(given: Any, tmp_path: Path) -> None:
    """Where training ends no nearer than rounding, the pass fails with both figures (C27)."""
    pytest.importorskip("torchao")
    with pytest.raises(ArtifactError, match="training ends .* nats from the float model, rounding to nearest"):
        applied(given, tmp_path / "out", steps=2, learning_rate=0.5)


def test_missing_package_is_named(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchao the error names the extra that brings it (A22)."""
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'postmill\[qat\]'"):
        applied(given, tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_bad_input(given: Any, tmp_path: Path) -> None:
    """No rows, or a group that does not divide: one sentence each (C29)."""
    pytest.importorskip("torchao")
    with pytest.raises(DataError, match="was given no data set"):
        applied((given[0], None), tmp_path / "a")
    with pytest.raises(ConfigError, match="group: 128 does not divide the 64 inputs"):
        applied(given, tmp_path / "b", group=128)


def test_not_twice() -> None:
    """What is quantized is not quantized again (C39)."""
    cls = registry.get("pass", "quantize_qat")
    assert "cannot follow" in cls.refusal(cls.Config(), "model", frozenset({"quantized"}))
