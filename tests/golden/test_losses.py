"""Training must keep its numbers: the losses of five tiny steps, in float32 on one thread.

After a change that is meant to alter them: `python -m tests.golden.test_losses` writes the file anew.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.events import EventBus
from components.core.recipe import parse_recipe
from components.interfaces import StepContext
from components.services.data import DataService
from components.services.model import ModelService
from components.services.workspace import Workspace
from tests import tiny

FILE = Path(__file__).with_name("sft.loss.json")
MODES: dict[str, Any] = {"lora": {"r": 4, "alpha": 8}, "full": None}
TOLERANCE = 2e-5
ELSEWHERE = 2e-3
"""Another processor or library adds in another order; five steps at a high rate carry that along."""


def losses(root: Path, mode: str) -> list[float]:
    """Five steps on the tiny model."""
    model = tiny.write_model(root / "model")
    plain = tiny.recipe(root, model)
    plain["train"][0] |= {"max_steps": 5, "lora": MODES[mode]}
    if mode == "full":
        plain["optimize"] = {"fp32": [{"type": "onnx", "precision": "fp32"}]}
    plan, workspace = parse_recipe(plain), Workspace(root)
    base = ModelService(workspace).fetch(plan.model)
    dataset = DataService(workspace).validate(plan.data, base)
    (root / mode).mkdir()
    facts = plan.train[0].build().train(base, dataset, root / mode, StepContext(plan.seed, EventBus()))
    found: list[float] = facts["losses"]
    return found


def here() -> dict[str, str]:
    """What decides the last digits."""
    from components.core.machine import machine

    capability = torch.backends.cpu.get_cpu_capability()
    return {"processor": machine().processor, "capability": capability, "torch": torch.__version__}


@pytest.mark.parametrize("mode", MODES)
def test_losses_are_as_recorded(mode: str, tmp_path: Path, one_thread: None) -> None:
    """The losses are those of the file: to five digits on the same kind of machine, closely on any other (E14)."""
    recorded = json.loads(FILE.read_text(encoding="utf-8"))
    tolerance = TOLERANCE if recorded["machine"] == here() else ELSEWHERE
    assert losses(tmp_path, mode) == pytest.approx(recorded[mode], abs=tolerance)


def test_recorded_losses_fall() -> None:
    """The recorded runs learn: a golden file of a broken trainer would protect the wrong thing."""
    recorded = json.loads(FILE.read_text(encoding="utf-8"))
    assert all(recorded[mode][-1] < recorded[mode][0] - 0.5 for mode in MODES)


def write() -> None:
    """Record the losses of this machine."""
    torch.set_num_threads(1)
    recorded: dict[str, Any] = {"machine": here()}
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            recorded[mode] = losses(Path(folder), mode)
    FILE.write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
