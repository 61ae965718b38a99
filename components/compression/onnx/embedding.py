"""The embedding of an exported graph in few bits: a GatherBlockQuantized that shares the head's numbers where it can.

A tied model has one table for words coming in and going out. Where the head is a MatMulNBits, the embedding looks up
the same bytes, seen as rows by a Reshape, so that the table is in the file once. Else the table is rounded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from components.compression.onnx.graph import add_initializer, attribute, constant, drop_unused, edited, node
from components.compression.quantization.checkpoint import packed
from components.compression.quantization.grid import Grid, round_to_nearest
from components.core.errors import ArtifactError


def quantize_embedding(path: Path, bits: int | None, block: int, tied: bool, any_bits: bool = False) -> dict[str, Any]:
    """Round the embedding of the graph in `path` to `bits`, None for float, in groups of `block`.

    `tied`: it is the head's table, whose numbers are shared where the bits are the same, or with `any_bits` whatever
    they are. Returns what came of it.
    """
    with edited(path) as model:
        lookup, head = _lookup(model.graph), _head(model.graph)
        head_bits = attribute(head, "bits", 4) if head is not None else None
        if lookup.op_type == "GatherBlockQuantized" or (tied and head_bits and (any_bits or head_bits == bits)):
            _share(model, lookup, head)
            return {"bits": head_bits, "shared_with_head": True}
        if bits is not None:
            _round(model, lookup, bits, block)
        elif constant(lookup.inputs[0]) is None and not tied:
            _separate(model.graph, lookup)
        return {"bits": bits or 32, "shared_with_head": False}


def _lookup(graph: Any) -> Any:
    """The node that turns token ids into rows of the embedding."""
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    found = [user for user, place in ids.uses() if user.op_type in ("Gather", "GatherBlockQuantized") and place == 1]
    if len(found) != 1:
        raise ArtifactError(f"the graph looks token ids up in {len(found)} tables, one was expected; embedding: float")
    return found[0]


def _head(graph: Any) -> Any:
    """The MatMulNBits that the logits come from, through element-wise operators at most; None if there is none."""
    value = next(output for output in graph.outputs if output.name == "logits")
    producer = value.producer()
    while producer is not None and producer.op_type in ("Cast", "Mul", "Add", "Where", "Tanh", "Div"):
        producer = next((each.producer() for each in producer.inputs if each and each.producer() is not None), None)
    return producer if producer is not None and producer.op_type == "MatMulNBits" else None


def _share(model: Any, lookup: Any, head: Any) -> None:
    """Let the embedding look up what the head multiplies with."""
    if head is None:
        raise ArtifactError("the graph shares its embedding with a head that is not quantized")
    graph = model.graph
    bits, block, width = (attribute(head, key) for key in ("bits", "block_size", "K"))
    weight, rows = head.inputs[1], attribute(head, "N")
    # one row a word, for scales and zeros too: the head takes both shapes, the embedding this one
    for value in head.inputs[2:4]:
        if value is not None:
            add_initializer(graph, value.name, constant(value).reshape(rows, -1))
    whole = -(-width // block) * block
    shape = add_initializer(graph, "embedding.rows", np.array([rows, whole * bits // 8], np.int64))
    table = node(graph, lookup, "Reshape", [weight, shape], "/embedding/rows")
    _gather(model, lookup, [table, _ids(lookup), *head.inputs[2:4]], bits, block, (whole, width))


def _round(model: Any, lookup: Any, bits: int, block: int) -> None:
    """Replace a float table by its rounded one."""
    import torch

    table = _table(lookup)
    width = table.shape[1]
    while width % block:
        block //= 2
    if block < 16:
        raise ArtifactError(f"rows of the embedding have {width} numbers, not a multiple of 16; embedding: float")
    parts = packed(round_to_nearest(torch.from_numpy(np.array(table, np.float32)), Grid(bits, block)))
    values = [add_initializer(model.graph, f"embedding.{name}", part.numpy()) for name, part in parts.items()]
    _gather(model, lookup, [values[0], _ids(lookup), *values[1:]], bits, block, (width, width))


def _separate(graph: Any, lookup: Any) -> None:
    """Give the embedding a table of its own, in float."""
    shared = lookup.inputs[0]
    lookup.replace_input_with(0, add_initializer(graph, "embedding.table", np.ascontiguousarray(_table(lookup))))
    drop_unused(graph, shared)


def _table(lookup: Any) -> Any:
    """The numbers of the embedding, a row for each token; a head in float holds them the other way round."""
    table, maker = constant(lookup.inputs[0]), lookup.inputs[0].producer()
    if table is None and maker is not None and maker.op_type == "Transpose":
        table = constant(maker.inputs[0])
        table = None if table is None else table.T
    if table is None:
        raise ArtifactError("the embedding is not a constant of the graph, so it cannot be rounded or set apart")
    return table


def _ids(lookup: Any) -> Any:
    return lookup.inputs[1]


def _gather(model: Any, lookup: Any, inputs: list[Any], bits: int, block: int, widths: tuple[int, int]) -> None:
    """Put a GatherBlockQuantized in the place of the lookup; `widths`: of its rows with the padding, and without."""
    graph = model.graph
    model.opset_imports.setdefault("com.microsoft", 1)
    settings = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    found = node(graph, lookup, "GatherBlockQuantized", inputs, "/embedding/GatherBlockQuantized", settings)
    if widths[0] != widths[1]:
        ends = [np.array([number], np.int64) for number in (0, widths[1], -1)]
        limits = [add_initializer(graph, f"embedding.cut.{place}", end) for place, end in enumerate(ends)]
        found = node(graph, lookup, "Slice", [found, *limits], "/embedding/Slice")
    table = lookup.inputs[0]
    old = lookup.outputs[0]
    found.shape, found.type = old.shape, old.type
    old.replace_all_uses_with(found, replace_graph_outputs=True)
    graph.remove(lookup, safe=True)
    drop_unused(graph, table)
