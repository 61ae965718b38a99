"""Reading and writing ONNX graphs whose weights stand in a file beside them, without holding the weights in memory.

Tensors are read when they are asked for, from the file, which is mapped and not loaded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir

from components.core.errors import ArtifactError

FILE = "model.onnx"
DOMAIN = "com.microsoft"
ONE_TENSOR = 1024
"""Bytes from which a tensor is written to the data file."""
QUANTIZED = frozenset(
    {"MatMulNBits", "GatherBlockQuantized", "QLinearMatMul", "MatMulInteger", "DynamicQuantizeMatMul"}
    | {"MatMulIntegerToFloat", "DynamicQuantizeLinear", "DequantizeLinear"}
)
"""Operators that only a graph with rounded weights has."""


def read_graph(path: Path) -> Any:
    """The model of a file (`onnx_ir.Model`), its weights where they are."""
    return ir.load(path)


def write_graph(model: Any, path: Path) -> None:
    """Write the model to `path` and its weights to `path` + ".data", which may be where they are read from."""
    model.graph.sort()
    with tempfile.TemporaryDirectory(prefix="graph-", dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        data = f"{path.name}.data"
        ir.save(model, made, external_data=data, size_threshold_bytes=ONE_TENSOR)
        for file in (made, made.with_name(data)):
            if file.is_file():
                file.replace(path.parent / file.name)


def move_graph(source: Path, target: Path) -> None:
    """Move a graph and its weights to another place, under another name."""
    write_graph(read_graph(source), target)


@contextmanager
def edited(path: Path) -> Iterator[Any]:
    """The model of a file, which is written back at the end of the block."""
    model = read_graph(path)
    yield model
    write_graph(model, path)


@contextmanager
def exact_copy(folder: Path) -> Iterator[Path]:
    """A runnable copy of an exported folder, whose MatMulNBits multiply in float32: what is left of rounding then is
    that of the weights. It shares the file of weights, and is gone after the block."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="exact-", dir=folder) as scratch:
        place = Path(scratch)
        for file in folder.iterdir():
            if file.is_file() and file.name != FILE:
                os.link(file, place / file.name)
        model = onnx.load(folder / FILE, load_external_data=False)
        for each in model.graph.node:
            for found in each.attribute if each.op_type == "MatMulNBits" else ():
                if found.name == "accuracy_level":
                    found.i = 1
        onnx.save(model, place / FILE)
        yield place


def check_graph(path: Path) -> None:
    """An ArtifactError if the file is not a sound ONNX model. Operators of ONNX Runtime alone are looked at by it."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    for each in model.graph.node:
        if not each.domain and not onnx.defs.has(each.op_type):
            each.domain = DOMAIN  # some of its operators stand in ONNX's own domain
    if DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    with tempfile.NamedTemporaryFile(suffix=".onnx", dir=path.parent) as copy:
        onnx.save(model, copy.name)
        try:
            onnx.checker.check_model(copy.name)
        except onnx.checker.ValidationError as error:
            raise ArtifactError(f"the exported graph is not sound ONNX: {' '.join(str(error).split())}") from error


def operators(path: Path) -> dict[str, int]:
    """How often each operator occurs."""
    found: dict[str, int] = {}
    for node in read_graph(path).graph:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def add_initializer(graph: Any, name: str, array: Any) -> Any:
    """A new constant of the graph, as a value that nodes can take; one of that name is replaced."""
    tensor = ir.tensor(array, name=name)
    known = graph.initializers.get(name)
    if known is not None:
        known.const_value = tensor
        known.shape, known.dtype = ir.Shape(array.shape), tensor.dtype
        return known
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def constant(value: Any) -> Any:
    """The numbers of a constant (numpy), or None for what is computed."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def node(
    graph: Any, before: Any, op: str, inputs: list[Any], name: str, attributes: Mapping[str, int] | None = None
) -> Any:
    """Insert a node with one output before another; returns the output."""
    domain = DOMAIN if op in ("GatherBlockQuantized", "MatMulNBits") else ""
    made = ir.node(op, inputs, dict(attributes or {}), domain=domain, name=name)
    made.outputs[0].name = f"{name}/output_0"
    graph.insert_before(before, made)
    return made.outputs[0]


def attribute(node: Any, name: str, default: int = 0) -> int:
    """An integer attribute of a node."""
    found = node.attributes.get(name)
    return default if found is None else int(found.value)


def drop_unused(graph: Any, value: Any) -> None:
    """Remove what nothing uses any more, and what only it was made of."""
    if value is None or any(True for _ in value.uses()) or value.is_graph_output():
        return
    if value.name in graph.initializers:
        del graph.initializers[value.name]
    elif value.producer() is not None:
        maker = value.producer()
        sources = list(maker.inputs)
        graph.remove(maker, safe=True)
        for source in sources:
            drop_unused(graph, source)
