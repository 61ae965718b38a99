"""A decoder as a function of plain tensors, and its graph: what the exporter `flat` writes."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.compression.onnx.genai_config import GRAPH, INPUTS, write_genai_config
from components.compression.quiet import quiet
from components.core.safeload import explained

SAMPLE = (2, 5, 3)
"""Rows, new tokens and earlier tokens of the sample. None is 0 or 1: tracing takes these for constants."""
PAST = ("past_key_values.%d.key", "past_key_values.%d.value")
PRESENT = ("present.%d.key", "present.%d.value")


class Flat(nn.Module):  # type: ignore[misc]
    """(ids, mask, positions, key 0, value 0, key 1 ...) -> (logits, key 0, value 0, ...)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any) -> tuple[Any, ...]:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.network.config)
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        found = self.network(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        states = chain.from_iterable((layer.keys, layer.values) for layer in found.past_key_values.layers)
        return (found.logits, *states)


def export_flat(network: Any, out: Path) -> None:
    """Trace the network and write model.onnx, its data and genai_config.json."""
    dynamic = torch.export.Dim.DYNAMIC
    sample = _sample(network)
    flat = {0: dynamic, 1: dynamic}
    layers = range(network.config.get_text_config().num_hidden_layers)
    # with a padded row, and fed past states: a mask of ones would be traced away
    with explained("exporter 'flat' cannot trace this model"), quiet(), torch.no_grad():
        program = torch.onnx.export(
            Flat(network).eval(),
            sample,
            dynamo=True,
            verbose=False,
            input_names=[*INPUTS, *(name % layer for layer in layers for name in PAST)],
            output_names=["logits", *(name % layer for layer in layers for name in PRESENT)],
            dynamic_shapes=(flat, flat, flat, tuple({0: dynamic, 2: dynamic} for _ in sample[3:])),
        )
        program.save(str(out / GRAPH), external_data=True)
    write_genai_config(out, network, PAST, PRESENT)


def _sample(network: Any) -> tuple[Any, ...]:
    rows, new, earlier = SAMPLE
    config = network.config.get_text_config()
    ids = torch.arange(rows * new).reshape(rows, new) % config.vocab_size
    mask = torch.ones(rows, earlier + new, dtype=torch.long)
    mask[0, 0] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, earlier:]
    with torch.no_grad():  # how the states of this network are shaped, it knows best itself
        cache = network(ids[:, :earlier], use_cache=True).past_key_values
    states = chain.from_iterable((layer.keys, layer.values) for layer in cache.layers)
    return (ids, mask, positions, *states)
