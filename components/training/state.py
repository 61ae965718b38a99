"""What a training run knows besides its weights, as safetensors and JSON: optimizer, schedule, random numbers.

transformers writes these with torch.save. Here nothing that is read back can run code.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from components.core.artifacts import write_json
from components.core.errors import TrainingError


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """One safetensors file; tensors are copied to memory of their own, so none may share it."""
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, on the CPU."""
    found: dict[str, torch.Tensor] = load_file(path)
    return found


def trained_weights(network: Any) -> dict[str, torch.Tensor]:
    """Everything that training moves: parameters with a gradient, tied ones once, and the buffers that are saved."""
    weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    kept = network.state_dict().keys()
    return weights | {f"buffer:{name}": buffer for name, buffer in network.named_buffers() if name in kept}


def restore_weights(network: Any, saved: Mapping[str, torch.Tensor]) -> None:
    """Put saved weights back in place; a TrainingError if they are not the ones this network trains."""
    here = trained_weights(network)
    if here.keys() != saved.keys():
        odd = sorted(here.keys() ^ saved.keys())
        raise TrainingError(f"the checkpoint holds other weights than this run trains, for example '{odd[0]}'")
    with torch.no_grad():
        for name, tensor in saved.items():
            here[name].copy_(tensor)


def save_optimizer(optimizer: Any, folder: Path) -> None:
    """Moments as tensors, the rest (steps, learning rates) as JSON."""
    whole = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for number, state in whole["state"].items():
        for name, value in state.items():
            (tensors if torch.is_tensor(value) else plain)[f"{number}.{name}"] = value
    save_tensors(tensors, folder / "optimizer.safetensors")
    write_json(folder / "optimizer.json", {"param_groups": whole["param_groups"], "state": plain})


def load_optimizer(optimizer: Any, folder: Path) -> None:
    """The inverse of `save_optimizer`."""
    plain = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**load_tensors(folder / "optimizer.safetensors"), **plain["state"]}.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": plain["param_groups"]})


def random_state() -> dict[str, torch.Tensor]:
    """Where the generators of Python, numpy, torch and every visible GPU stand."""
    version, words, gauss = random.getstate()
    keys: Any
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([position, has_gauss, *keys.tolist()], dtype=torch.int64),
        "numpy.gauss": torch.tensor([cached], dtype=torch.float64),
        "torch": torch.random.get_rng_state(),
    }
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return state | {f"cuda.{device}": torch.cuda.get_rng_state(device) for device in devices}


def restore_random_state(state: Mapping[str, torch.Tensor]) -> None:
    """Set every generator back to where it stood."""
    version, *words = state["python"].tolist()
    gauss = state["python.gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    position, has_gauss, *keys = state["numpy"].tolist()
    cached = state["numpy.gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.random.set_rng_state(state["torch"])
    for name, tensor in state.items():
        if name.startswith("cuda."):
            torch.cuda.set_rng_state(tensor, int(name.removeprefix("cuda.")))
