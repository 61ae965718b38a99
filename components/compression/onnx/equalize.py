"""SmoothQuant-style equalisation in an exported graph: large channels made smaller, the weights that read them larger.

A group is one value and the matrix products that read it. Its channels are divided by
`(largest activation)^a / (largest weight)^(1-a)`, in the constant of the norm or the columns of the projection that
made them; nothing else may read the value. In float the graph computes what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.compression.onnx.graph import add_initializer, constant, drop_unused, edited, read_graph, write_graph
from components.compression.onnx.int8 import Feeder
from components.compression.onnx.weights import Linear, linears
from components.core.errors import ArtifactError

NORMS = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2, "LayerNormalization": 1}
"""Norms, and which of their inputs is the weight; what follows it is a bias."""
RANGE = (1e-2, 1e2)
"""Factors are kept within: a channel that calibration rows hardly touch must not blow up."""


class Group(NamedTuple):
    """A value, the products that read it, and what divides its channels by factors."""

    value: Any
    readers: list[Linear]
    divide: Callable[[Any], None]


def equalize(graph: Path, rows: Sequence[Any], strength: float) -> int:
    """Equalise the graph in a file, with the rows of token ids; returns how many groups."""
    largest = _largest(graph, rows)
    with edited(graph) as model:
        found = list(groups(model.graph))
        if not found:
            raise ArtifactError("the graph has no norm whose channels could be equalised; write 'equalize: null'")
        for group in found:
            _apply(model.graph, group, largest[group.value.name], strength)
    return len(found)


def groups(graph: Any) -> Iterator[Group]:
    """What can be equalised in a graph."""
    readers: dict[str, list[Linear]] = {}
    values: dict[str, Any] = {}
    # the head's table may be the embedding's too
    for linear in linears(graph):
        value = linear.node.inputs[0]
        readers.setdefault(value.name, []).append(linear)
        values[value.name] = value
    for name, value in values.items():
        alone = {user for user, _ in value.uses()} == {linear.node for linear in readers[name]}
        divide = _divider(graph, value) if alone and not value.is_graph_output() else None
        if divide is not None and not any(_shared(linear) for linear in readers[name]):
            yield Group(value, readers[name], divide)


def _shared(linear: Linear) -> bool:
    return linear.transposed or len(list(linear.table.uses())) > 1


def _divider(graph: Any, value: Any) -> Callable[[Any], None] | None:
    """What divides the channels of this value by factors, where that is possible without a new node."""
    maker = value.producer()
    if maker is None:
        return None
    if maker.op_type in NORMS and value is maker.outputs[0]:
        return _vectors(graph, maker, [place for place in _given(maker) if place >= NORMS[maker.op_type]])
    if maker.op_type == "Mul":
        places = [place for place in _given(maker) if _is_vector(maker.inputs[place])]
        return _vectors(graph, maker, places) if places else _columns(graph, maker)
    return None


def _given(node: Any) -> list[int]:
    return [place for place, value in enumerate(node.inputs) if value is not None]


def _is_vector(value: Any) -> bool:
    return value.const_value is not None and len(value.const_value.shape) == 1


def _vectors(graph: Any, maker: Any, places: Sequence[int]) -> Callable[[Any], None] | None:
    """Divide the weights of a norm. They become its own: an exporter keeps equal constants once."""
    if not places or not all(_is_vector(maker.inputs[place]) for place in places):
        return None

    def divide(factors: Any) -> None:
        for place in places:
            old = maker.inputs[place]
            array = constant(old)
            own = add_initializer(graph, f"{maker.name}.equalized.{place}", (array / factors).astype(array.dtype))
            maker.replace_input_with(place, own)
            drop_unused(graph, old)

    return divide


def _columns(graph: Any, maker: Any) -> Callable[[Any], None] | None:
    """Divide the outputs of the projection that is multiplied with a gate: of the two, it is a product as it stands."""
    up = [linear for linear in linears(graph) if linear.node.outputs[0] in maker.inputs]
    if len(up) != 1 or len(list(up[0].node.outputs[0].uses())) != 1 or _shared(up[0]):
        return None
    table = up[0].table

    def divide(factors: Any) -> None:
        array = constant(table)
        add_initializer(graph, table.name, (array / factors[None]).astype(array.dtype))

    return divide


def _apply(graph: Any, group: Group, activation: Any, strength: float) -> None:
    weights = [np.array(constant(linear.table)) for linear in group.readers]
    weight = np.max([np.abs(each).max(1) for each in weights], 0)
    factors = np.maximum(activation, 1e-5) ** strength / np.maximum(weight, 1e-5) ** (1 - strength)
    factors = (factors / np.exp(np.log(factors).mean())).clip(*RANGE)
    group.divide(factors)
    for linear, each in zip(group.readers, weights, strict=True):
        add_initializer(graph, linear.table.name, (each * factors[:, None]).astype(each.dtype))


def _largest(graph: Path, rows: Sequence[Any]) -> dict[str, Any]:
    """The largest absolute value of each channel of what can be equalised, over all rows."""
    import onnx_ir as ir
    import onnxruntime as ort

    probe = graph.with_name("probe.onnx")
    model = read_graph(graph)
    names = {}
    for place, group in enumerate(groups(model.graph)):
        axes = add_initializer(model.graph, f"probe.axes.{place}", np.array([0, 1], np.int64))
        size = ir.node("Abs", [group.value])
        top = ir.node("ReduceMax", [size.outputs[0], axes], {"keepdims": 0})
        top.outputs[0].name = f"probe.{place}"
        top.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.extend([size, top])
        model.graph.outputs.append(top.outputs[0])
        names[group.value.name] = f"probe.{place}"
    write_graph(model, probe)
    session = ort.InferenceSession(str(probe), providers=["CPUExecutionProvider"])
    feeder = Feeder(graph)
    found: dict[str, Any] = {}
    for row in rows:
        for name, top in zip(names, session.run(list(names.values()), feeder.feed(row)), strict=True):
            found[name] = np.maximum(found.get(name, 0), top)
    for file in (probe, probe.with_name(f"{probe.name}.data")):
        file.unlink(missing_ok=True)
    return found
