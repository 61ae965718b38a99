"""The graph that `transformers.exporters` makes of a decoder: what the exporter `transformers` writes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from components.compression.onnx.genai_config import GRAPH, write_genai_config
from components.compression.onnx.graph import move_graph
from components.compression.quiet import quiet
from components.core.safeload import explained

PAST = ("input.past_key_values.layers.%d.keys", "input.past_key_values.layers.%d.values")
PRESENT = ("output.past_key_values.layers.%d.keys", "output.past_key_values.layers.%d.values")
COMPONENT = "decode.onnx"


def export_traced(network: Any, out: Path) -> None:
    """Trace the network and write model.onnx, its data and genai_config.json."""
    from transformers.exporters import OnnxConfig, OnnxExporter

    ids = torch.arange(14).reshape(2, 7) % network.config.get_text_config().vocab_size
    mask = torch.ones_like(ids)
    mask[0, :2] = 0  # a padded row: a mask of ones would be traced away
    # beside the result, not in the system's folder for temporary files: the graph is as large as the model
    with (
        explained("exporter 'transformers' cannot trace this model"),
        tempfile.TemporaryDirectory(prefix="traced-", dir=out) as scratch,
        quiet(),
        torch.no_grad(),
    ):
        found = OnnxExporter().export_for_generation(
            network,
            {"input_ids": ids, "attention_mask": mask},
            config=OnnxConfig(dynamic=True),
            multi_token_decode=True,
        )
        found.save_pretrained(scratch)
        move_graph(Path(scratch) / COMPONENT, out / GRAPH)
    write_genai_config(out, network, PAST, PRESENT)
