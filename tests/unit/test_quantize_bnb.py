"""Weights in few bits by bitsandbytes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from components.core.chat import encode_prompt
from components.core.errors import ConfigError, MissingExtraError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.recipe import OfKind
from components.interfaces import StepContext, Subject
from components.runtime import opened
from components.services.model import ModelService
from components.services.workspace import Workspace
from tests import tiny


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Any:
    """The tiny model as an artifact."""
    workspace = Workspace(tmp_path_factory.mktemp("plain"))
    return ModelService(workspace).fetch(OfKind("model").parse({"type": "pretrained", "name": str(tiny_model)}))


def applied(source: Any, out: Path, **config: Any) -> dict[str, Any]:
    """The pass on a model."""
    out.mkdir()
    return registry.create("pass", "quantize_bnb", **config).apply(source, {}, out, StepContext(17, EventBus()))


@pytest.mark.parametrize("config", [{"bits": 8}, {"bits": 4}, {"bits": 4, "type_4bit": "fp4", "double": False}])
@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_smaller_and_near_when_loaded_again(config: dict[str, Any], plain: Any, tmp_path: Path) -> None:
    """The directory is smaller, opens in the backend of its kind, and is near its source (E28)."""
    pytest.importorskip("bitsandbytes")
    facts = applied(plain, tmp_path / "out", **config)
    assert 0 < facts["mean_kl"] < (0.05 if config["bits"] == 8 else 2)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert size < (plain.path / "model.safetensors").stat().st_size * 0.6
    artifact = plain.model_copy(update={"path": tmp_path / "out", "kind": "packed"})
    with opened(Subject(name="bnb", artifact=artifact)) as backend:
        assert backend.health().detail.endswith("through bitsandbytes")
        assert backend.generate([encode_prompt(backend.tokenizer, tiny.conversation(1))], 3)[0].tokens


def test_missing_package_is_named(plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bitsandbytes the error names the extra that brings it (A22)."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'postmill\[qlora\]'"):
        applied(plain, tmp_path / "out")


def test_no_code_for_this_device(plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bitsandbytes cannot compute, that is said once, before the model is loaded."""
    library = pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(library, "supported_torch_devices", {"mps"})
    with pytest.raises(ConfigError, match="quantize_bnb: bitsandbytes .* has no code for the device"):
        applied(plain, tmp_path / "out")


def test_not_twice() -> None:
    """What is quantized is not quantized again (C39)."""
    cls = registry.get("pass", "quantize_bnb")
    assert "cannot follow" in cls.refusal(cls.Config(), "model", frozenset({"quantized"}))
