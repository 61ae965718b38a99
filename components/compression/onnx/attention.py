"""Attention nodes of a graph from GenAI's builder, where some layers have q, k and v in one product and some have not.

The builder (0.18) forgets, in a layer with one product, the keys and values of the last layer without: the node reads
both. Such layers are side by side where q, k and v of some have different bits.
"""

from __future__ import annotations

from pathlib import Path

from components.compression.onnx.graph import edited

KEY, VALUE = 1, 2
"""Inputs of GroupQueryAttention; both are left out where the first one, the query, holds all three."""


def drop_foreign_keys(path: Path) -> int:
    """Take keys and values out of attention nodes whose query holds them already; returns how many nodes had them."""
    with edited(path) as model:
        found = [each for each in model.graph if each.op_type == "GroupQueryAttention" and _reads_both(each)]
        for each in found:
            each.replace_input_with(KEY, None)
            each.replace_input_with(VALUE, None)
    return len(found)


def _reads_both(attention: object) -> bool:
    query, key = attention.inputs[0], attention.inputs[KEY]  # type: ignore[attr-defined]
    return key is not None and "/qkv_proj/" in query.name
