"""Rounding the matrices of a float32 graph to few bits: each MatMul with a constant becomes a MatMulNBits.

For graphs of exporters that do not round by themselves. The grid is fitted to the weights (`components.compression.
grid`), with a search for the range of each group that loses least if that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.compression.onnx.graph import add_initializer, constant, drop_unused, edited, node
from components.compression.quantization.checkpoint import packed
from components.compression.quantization.grid import Grid, round_to_nearest
from components.core.errors import ArtifactError

SMALLEST_BLOCK = 16


class Rounding(NamedTuple):
    """How weights are rounded: bits of the body and of the head (None: float), weights that share a scale, whether
    the best range is searched, and the accuracy level of the runtime's kernel."""

    bits: int
    head_bits: int | None
    block: int
    search: bool
    accuracy: int


class Linear(NamedTuple):
    """A MatMul with a constant: `table` holds it, the other way round if `transposed`; `head`: it gives the logits."""

    node: Any
    table: Any
    transposed: bool
    head: bool


def linears(graph: Any) -> Iterator[Linear]:
    """Every matrix product of the graph with a constant of two dimensions, in order."""
    for each in list(graph):
        if each.op_type != "MatMul" or each.domain:
            continue
        table, transposed = each.inputs[1], False
        maker = table.producer()
        if maker is not None and maker.op_type == "Transpose" and constant(maker.inputs[0]) is not None:
            table, transposed = maker.inputs[0], True
        if table.const_value is not None and len(table.const_value.shape) == 2:
            yield Linear(each, table, transposed, _gives_logits(graph, each))


def _gives_logits(graph: Any, product: Any) -> bool:
    value = product.outputs[0]
    while not value.is_graph_output():
        users = [user for user, _ in value.uses()]
        if len(users) != 1 or users[0].op_type not in ("Cast", "Mul", "Add", "Where", "Tanh", "Div"):
            return False
        value = users[0].outputs[0]
    return bool(value.name == "logits")


def round_matrices(path: Path, how: Rounding) -> int:
    """Round the matrices of the graph in `path`; returns how many."""
    done = 0
    with edited(path) as model:
        model.opset_imports.setdefault("com.microsoft", 1)
        for linear in linears(model.graph):
            bits = how.head_bits if linear.head else how.bits
            if bits is not None:
                _round(model.graph, linear, bits, how)
                done += 1
    if not done:
        raise ArtifactError("the graph has no matrix product with a constant, so there is nothing to round")
    return done


def _round(graph: Any, linear: Linear, bits: int, how: Rounding) -> None:
    import torch

    array = np.array(constant(linear.table), np.float32)
    weight = torch.from_numpy(array if linear.transposed else np.ascontiguousarray(array.T))
    outputs, inputs = weight.shape
    block = how.block
    while inputs % block and block > SMALLEST_BLOCK:
        block //= 2
    spare = -inputs % block
    padded = torch.nn.functional.pad(weight, (0, spare))
    importance = torch.ones(inputs + spare) if how.search else None
    parts = packed(round_to_nearest(padded, Grid(bits, block), importance))
    product = linear.node
    shape = (outputs, (inputs + spare) // block, block * bits // 8)
    # named after the node: the table itself may be shared
    name = f"{product.name}.{bits}bit"
    arrays = {key: part.numpy() for key, part in parts.items()} | {"qweight": parts["qweight"].numpy().reshape(shape)}
    values = [add_initializer(graph, f"{name}.{key}", arrays[key]) for key in ("qweight", "scales", "qzeros")]
    settings = {"bits": bits, "block_size": block, "K": inputs, "N": outputs, "accuracy_level": how.accuracy}
    found = node(graph, product, "MatMulNBits", [product.inputs[0], *values], f"{name}.MatMulNBits", settings)
    old, used = product.outputs[0], product.inputs[1]
    found.shape, found.type, wanted = old.shape, old.type, old.name
    old.replace_all_uses_with(found, replace_graph_outputs=True)
    graph.remove(product, safe=True)
    found.name = wanted
    drop_unused(graph, used)
