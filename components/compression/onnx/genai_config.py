"""genai_config.json for graphs that ONNX Runtime GenAI's own builder did not write: how inputs and outputs are called.

The builder writes this file for its graphs; the runtime runs any decoder whose tensors it can find.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.core.artifacts import write_json
from components.core.safeload import load_tokenizer

NAME = "genai_config.json"
GRAPH = "model.onnx"
INPUTS = {"input_ids": "input_ids", "attention_mask": "attention_mask", "position_ids": "position_ids"}


def write_genai_config(out: Path, network: Any, past: tuple[str, str], present: tuple[str, str]) -> None:
    """Describe the graph in `out` to the runtime. `past`, `present`: names of keys and values, `%d` for the layer."""
    config = network.config.get_text_config()
    heads = config.num_attention_heads
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": GRAPH,
        "head_size": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "hidden_size": config.hidden_size,
        "inputs": {**INPUTS, "past_key_names": past[0], "past_value_names": past[1]},
        "outputs": {"logits": "logits", "present_key_names": present[0], "present_value_names": present[1]},
        "num_attention_heads": heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
    }
    length = config.max_position_embeddings
    tokens = {key: _token(network, config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = {"type": "decoder", "vocab_size": config.vocab_size, "context_length": length, "decoder": decoder}
    model |= {key: value for key, value in tokens.items() if value is not None}
    search = {"do_sample": False, "max_length": length, "past_present_share_buffer": False}
    write_json(out / NAME, {"model": model, "search": search})


def _token(network: Any, config: Any, key: str) -> Any:
    """A special token, of generation if that says something: chat models end a turn with a token of their own."""
    found = getattr(network.generation_config, key, None)
    return found if found is not None else getattr(config, key, None)


def separate_padding(out: Path) -> None:
    """Tell the runtime the tokenizer's own padding token: it masks every padding token at the end of a row."""
    path = out / NAME
    config = json.loads(path.read_text(encoding="utf-8"))
    pad = load_tokenizer(out).pad_token_id
    if pad is not None:
        config["model"]["pad_token_id"] = pad
        write_json(path, config)
