"""The average of the weights: where it is kept, and what it does not go with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.core.errors import ConfigError
from components.core.kinds import registry


def test_a_restored_average_goes_where_the_weights_are() -> None:
    """Checkpoints are read into memory; the average follows the weights to their device at the next step."""
    hook = registry.create("callback", "ema", decay=0.5).hook()
    network = torch.nn.Linear(2, 2, device="meta")  # stands for a GPU: arithmetic with tensors elsewhere fails
    hook.restore({name: torch.ones(weight.shape) for name, weight in network.named_parameters()})
    hook.on_step_end(None, SimpleNamespace(global_step=1), None, model=network)
    assert {average.device.type for average in hook.tensors().values()} == {"meta"}


def test_a_restored_average_goes_on() -> None:
    """The average after a resume is that of a run that was never stopped."""

    def averaged(stop: bool) -> Any:
        hook = registry.create("callback", "ema", decay=0.75).hook()
        network = torch.nn.Linear(2, 2)
        for step in range(4):
            with torch.no_grad():
                network.weight.fill_(step)
            if stop and step == 2:
                saved = {name: average.clone() for name, average in hook.tensors().items()}
                hook = registry.create("callback", "ema", decay=0.75).hook()
                hook.restore(saved)
            hook.on_step_end(None, None, None, model=network)
        hook.on_train_end(None, None, None, model=network)
        return network.weight

    assert torch.equal(averaged(stop=True), averaged(stop=False))


@pytest.mark.parametrize("trainer", ["sft", "dpo"])
def test_one_result_only(trainer: str) -> None:
    """An average and the best weights are two results; the recipe is told to choose one. Either alone is fine."""
    average, best = {"callbacks": [{"type": "ema"}]}, {"evaluate": {"every": 2, "keep": "best"}}
    with pytest.raises(ConfigError, match=r"callbacks: ema makes a result of its own, and evaluate.keep: best another"):
        registry.create("trainer", trainer, **average, **best)
    registry.create("trainer", trainer, **average, evaluate={"every": 2})
    registry.create("trainer", trainer, **best)
