"""What the two int8 passes on graphs share: a float graph to round, how it is rounded, and the distance after that.

with rounding(source, out, config.embedding) as graph:
    quantize_dynamic(graph, out / FILE, **options(source, config))
facts = finish(source, out, seed, config.max_kl)
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxruntime.quantization import CalibrationDataReader, QuantType

from components.compression.onnx.embedding import quantize_embedding
from components.compression.onnx.genai_config import NAME
from components.compression.onnx.graph import FILE, QUANTIZED, check_graph, operators, read_graph, write_graph
from components.compression.onnx.parity import compare, probe_rows, reference_graph, require_close
from components.compression.onnx.weights import linears
from components.compression.quiet import quiet
from components.core.errors import ArtifactError, ConfigError
from components.core.safeload import check_model_directory, load_tokenizer

STEPS = 8
BLOCK = 64
"""Numbers of the embedding that share a scale."""


def options(source: Path, config: Any) -> dict[str, Any]:
    """Arguments of ONNX Runtime's quantizers; `config` says what both passes ask for."""
    return {
        "op_types_to_quantize": ["MatMul"],
        "per_channel": config.per_channel,
        "reduce_range": config.reduce_range,
        "weight_type": QuantType.QInt8,
        "nodes_to_exclude": kept_float(source, config.head, config.keep_float),
        "use_external_data_format": True,
        # products of two activations stay in float
        "extra_options": {"MatMulConstBOnly": True, "WeightSymmetric": True, "ActivationSymmetric": False},
    }


def require_float(folder: Path) -> None:
    """An ArtifactError if the graph has rounded weights already, whatever its history says."""
    check_model_directory(folder)
    found = sorted(QUANTIZED & set(operators(folder / FILE)))
    if found:
        raise ArtifactError(
            f"the graph is quantized already ({', '.join(found)}); quantize an export with 'precision: fp32'"
        )


def take_over(source: Path, out: Path) -> None:
    """Copy what stays as it is: tokenizer and settings."""
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.name.startswith(FILE) and file.name != "manifest.json":
            shutil.copyfile(file, out / file.name)


def finish(source: Path, out: Path, seed: int, max_kl: float) -> dict[str, Any]:
    """Check the graph, and measure how far it is from its source."""
    check_graph(out / FILE)
    tokenizer = load_tokenizer(source)
    expected = reference_graph(source, probe_rows(tokenizer, len(tokenizer), seed), STEPS)
    found = compare(expected, out)
    require_close(found, expected, max_kl)
    figures = found.facts()
    del figures["batch_tokens"]
    return {"precision": "int8", "distance": {"limit_kl": max_kl, **figures}}


def kept_float(folder: Path, head: str, patterns: Sequence[str]) -> list[str]:
    """Names of the matrix products that stay in float: the head's if it is to, and those that a pattern fits."""
    found = list(linears(read_graph(folder / FILE).graph))
    names = [linear.node.name for linear in found]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(f"keep_float: '{pattern}' fits none of the graph's products, such as {names[0]}")
    return [
        linear.node.name
        for linear in found
        if (linear.head and head == "float") or any(fnmatch.fnmatchcase(linear.node.name, each) for each in patterns)
    ]


@contextmanager
def rounding(source: Path, out: Path, embedding: str) -> Iterator[Path]:
    """A float graph that may be changed, in a folder that is gone after the block; what ONNX Runtime says is kept
    from the terminal. Its embedding is a table of its own, rounded if `embedding` is "int8": a table that the head
    rounds too would be turned back into floats at every step. What stays as it is is in `out` already."""
    require_float(source)
    take_over(source, out)
    # beside the result, not in the system's folder for temporary files: the graph is as large as the model
    with tempfile.TemporaryDirectory(prefix="float-", dir=out) as scratch, quiet():
        graph = Path(scratch) / FILE
        write_graph(read_graph(source / FILE), graph)
        shutil.copyfile(source / NAME, graph.with_name(NAME))
        quantize_embedding(graph, 8 if embedding == "int8" else None, BLOCK, tied=False)
        yield graph


class Rows(CalibrationDataReader):  # type: ignore[misc]
    """Calibration rows as ONNX Runtime's calibration asks for them: one prompt at a time, with no past."""

    def __init__(self, graph: Path, rows: Sequence[Any]) -> None:
        feeder = Feeder(graph)
        self._feeds = map(feeder.feed, rows)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


class Feeder:
    """Inputs of a graph beside its genai_config.json, for a whole row of token ids at once."""

    def __init__(self, graph: Path) -> None:
        self.inputs = [(value.name, value.dtype.numpy()) for value in read_graph(graph).graph.inputs]
        told = json.loads((graph.parent / NAME).read_text(encoding="utf-8"))["model"]["decoder"]
        self.past = (1, told["num_key_value_heads"], 0, told["head_size"])

    def feed(self, row: Any) -> dict[str, Any]:
        """The row, and keys and values of nothing before it."""
        import numpy as np

        ids = np.asarray(row, np.int64)[None]
        known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}
        return {
            name: known[name].astype(dtype) if name in known else np.zeros(self.past, dtype)
            for name, dtype in self.inputs
        }
