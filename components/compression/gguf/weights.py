"""Weights and sizes of a network in GGUF's terms: names, order of rows, and blocks of 32 weights with their scale.

llama.cpp turns pairs of neighbouring rows by an angle where transformers turns row i and row i + half: query and key
rows of Llama networks are put in its order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from components.core.errors import ModelLoadError

Type = Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]
BLOCK = 32
"""Weights of a row that share a scale in the types that the `gguf` package can write."""


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp calls a family, and whether its query and key rows stand in llama.cpp's order."""

    name: str
    interleaved: bool


ARCHITECTURES = {
    "llama": Architecture("llama", True),
    "mistral": Architecture("llama", True),
    "qwen2": Architecture("qwen2", False),
    "qwen3": Architecture("qwen3", False),
}
"""By `model_type` of config.json. Each of these is read back by transformers, which proves what was written."""


class Tensor(NamedTuple):
    """A tensor as it is written: its name, its bytes or floats, its type, and the name it has in the network."""

    name: str
    data: Any
    type: str
    source: str


def architecture_of(config: Any) -> Architecture:
    """A ModelLoadError names an architecture, or a detail of one, that is not covered."""
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise ModelLoadError(
            f"architecture '{kind}' is not covered by the gguf pass; it writes {', '.join(sorted(ARCHITECTURES))}"
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope != "default":
        raise ModelLoadError(f"positions of type '{rope}' are not covered by the gguf pass, only 'default'")
    # a file has no room for it: llama.cpp would look at every earlier token
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise ModelLoadError(f"sliding-window attention of '{kind}' is not covered by the gguf pass")
    return ARCHITECTURES[kind]


def write_sizes(writer: Any, config: Any) -> None:
    """What llama.cpp has to know of the network besides its weights."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)


def tensors(network: Any, codes: Mapping[str, Any], kind: Type, embedding: Type) -> Iterator[Tensor]:
    """Every tensor of the network, packed; `codes`: matrices that are in few bits already, by module name."""
    import gguf

    config = network.config
    architecture = architecture_of(config)
    number = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture.name]
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for source, value in network.state_dict().items():
        if source == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp takes the embedding where there is no head
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelLoadError(f"tensor '{source}' has no name in GGUF's '{architecture.name}'")
        rows = _row_order(source, value.shape[0], config) if architecture.interleaved else slice(None)
        wanted = embedding if name in ("token_embd.weight", "output.weight") else kind
        found = codes.get(source.removesuffix(".weight"))
        if name == "token_embd.weight" and config.tie_word_embeddings:
            found = codes.get("lm_head")  # one matrix, packed under the head's name
        data, written = _written(value, found, rows, wanted)
        yield Tensor(name, data, written, source)


def _row_order(source: str, rows: int, config: Any) -> Any:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    layer = source.split(".")[-2]
    if layer not in heads:
        return slice(None)
    # (head, half, place) -> (head, place, half)
    return np.arange(rows).reshape(heads[layer], 2, -1).swapaxes(1, 2).reshape(-1)


def _written(value: Any, codes: Any, rows: Any, wanted: Type) -> tuple[Any, str]:
    """The bytes of a tensor and their type. Vectors stay float32; rows that are no whole blocks become float16."""
    if codes is not None and codes.grid.bits == 4 and codes.grid.group % BLOCK == 0:
        return blocks_of(codes, rows), "Q4_1"
    weight = value.detach().float().numpy()[rows]
    if weight.ndim == 1:
        return weight, "F32"
    if codes is not None:
        wanted = "Q8_0" if codes.grid.bits == 8 else wanted
    if wanted.startswith("Q") and weight.shape[1] % BLOCK:
        wanted = "F16"
    from gguf import GGMLQuantizationType, quants

    return quants.quantize(weight, GGMLQuantizationType[wanted]), wanted


def blocks_of(codes: Any, rows: Any) -> Any:
    """Codes of 4 bits as Q4_1 blocks, the same points: weight = d * code + m with d = scale, m = -scale * zero."""
    repeats = codes.grid.group // BLOCK
    scales = codes.scales.float().numpy()[rows].repeat(repeats, axis=1)
    zeros = codes.zeros.float().numpy()[rows].repeat(repeats, axis=1)
    values = codes.codes.numpy()[rows].reshape(*scales.shape, BLOCK)
    packed = values[..., : BLOCK // 2] | (values[..., BLOCK // 2 :] << 4)
    parts = [scales.astype(np.float16), (-scales * zeros).astype(np.float16)]
    header = np.stack(parts, -1).view(np.uint8)
    return np.concatenate([header, packed.astype(np.uint8)], -1).reshape(scales.shape[0], -1)


def unpacked(tensor: Tensor, config: Any) -> Any:
    """What the bytes of a tensor stand for, float32, in the order of rows that the network has."""
    from gguf import GGMLQuantizationType, quants

    weight = quants.dequantize(tensor.data, GGMLQuantizationType[tensor.type])
    order = (
        _row_order(tensor.source, len(weight), config) if ARCHITECTURES[config.model_type].interleaved else slice(None)
    )
    back = np.empty_like(weight)
    back[order] = weight
    return back
