"""What this machine multiplies at best: GFLOP/s of matrix products of a model's own shapes, and of large square ones.

    python -m benchmarks._training_ceiling MODEL TOKENS

TOKENS: rows of the left matrix, as many as a training batch has. Prints GFLOP/s by dtype as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

SQUARE = 1024
ROUNDS = 7
ROUND_S = 0.08


def shapes(config: dict[str, Any]) -> dict[tuple[int, int], int]:
    """(inputs, outputs) of every weight matrix of a Llama-like model below its head, and how many there are."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, key = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    found: dict[tuple[int, int], int] = {}
    for shape in (
        (hidden, query),
        (hidden, key),
        (hidden, key),
        (query, hidden),
        *[(hidden, inner)] * 2,
        (inner, hidden),
    ):
        found[shape] = found.get(shape, 0) + layers
    return found


def seconds(work: Callable[[], object]) -> float:
    """Seconds of a call: median over rounds of the mean."""
    for _ in range(3):
        work()
    samples = []
    for _ in range(ROUNDS):
        started, calls = time.perf_counter(), 0
        while time.perf_counter() - started < ROUND_S:
            work()
            calls += 1
        samples.append((time.perf_counter() - started) / calls)
    return median(samples)


def measure(model: Path, tokens: int) -> dict[str, Any]:
    """GFLOP/s in float32 and bfloat16."""
    import torch

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "tokens": tokens}
    for dtype in (torch.float32, torch.bfloat16):

        def product(rows: int, inputs: int, outputs: int, dtype: Any = dtype) -> float:
            left, right = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
            return seconds(lambda: torch.nn.functional.linear(left, right))

        spent = {shape: product(tokens, *shape) for shape in shapes(config)}
        flops = sum(2 * tokens * a * b * count for (a, b), count in shapes(config).items())
        whole = sum(spent[shape] * count for shape, count in shapes(config).items())
        found[str(dtype).removeprefix("torch.")] = {
            "model": flops / whole / 1e9,
            "square": 2 * SQUARE**3 / product(SQUARE, SQUARE, SQUARE) / 1e9,
            **{f"{tokens} x {a} x {b}": 2 * tokens * a * b / s / 1e9 for (a, b), s in spent.items()},
        }
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
