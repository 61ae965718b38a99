"""Fine-tuning on a GPU: tokens a second and model FLOPs utilisation for Llama shapes of 1B to 8B, beside plain TRL.

    make bench-gpu-training                                  # unattended; about twenty minutes on one large GPU
    make bench-gpu-training ARGS="--only 1b-lora 8b-lora"
    make bench-gpu-training ARGS="--device cpu --tiny"       # the whole path with a toy shape, to see that it works

Random weights, made on the device; rows of mixed length, one token a byte; bfloat16, packing. Every measurement is a
fresh process, ours and TRL's in turn; the first steps do not count. Utilisation: operations that training needs (as
`components.training.flops` counts them, without recomputation) by what a large bfloat16 product reaches here. Packed
rows see only themselves on our side; plain TRL keeps them apart with FlashAttention only, so what it does without is
less work. Exit code 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._training_bench import tidy
from benchmarks.report import Figure, publish

WARM = 5
HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8}
MODELS: dict[str, dict[str, Any]] = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, **HEADS, "head_dim": 64},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, **HEADS, "num_attention_heads": 24},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, **HEADS},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
CASES = {"1b-full": ("1b", 8), "1b-lora": ("1b", 8), "3b-lora": ("3b", 8), "8b-lora": ("8b", 4)}
"""Model and packs in a batch."""
FIGURES = 5
"""Of each shape, if both sides could be measured."""
TINY = {"tiny-full": ("tiny", 2), "tiny-lora": ("tiny", 2)}


def shape_of(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """All that a worker must know."""
    name, batch = (TINY if options.tiny else CASES)[case]
    small = name == "tiny"
    steps, longest = (3, 256) if small else (WARM + options.steps, 2048)
    model = {**MODELS[name], "vocab_size": 512 if small else 128256, "tie_word_embeddings": name != "8b"}
    size = {"batch": batch, "steps": steps, "max_length": longest, "rows": steps * batch * (6 if small else 5)}
    return {
        "model": model,
        **size,
        "lora": case.endswith("lora"),
        "device": options.device,
        "square": 512 if small else 8192,
    }


def work(side: str, shape: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One measurement, or `{"error": why not}`: a shape that does not fit must not stop the others."""
    command = [sys.executable, "-m", "benchmarks._training_gpu_work", side, json.dumps(shape), str(folder)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if shape["device"] == "cpu" else {}
    own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "TQDM_DISABLE": "1", **hidden}
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": lines[-1][:300] if lines else "no message"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def speed(run: dict[str, Any], warm: int) -> float:
    """Tokens a second without padding, after the first steps."""
    return float(sum(run["pass_tokens"][warm:]) / sum(run["step_seconds"][warm:]))


def measure(case: str, options: argparse.Namespace, folder: Path) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Both sides in turn on one shape."""
    shape = shape_of(case, options)
    prepared = work("prepare", shape, folder)
    ceiling = work("ceiling", shape, folder)
    if error := prepared.get("error") or ceiling.get("error"):
        return {}, {"error": error}
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for _ in range(options.rounds):
        for side, kept in runs.items():
            run = work(side, shape, folder)
            print(f"{case} {side}: {run.get('error') or f'{speed(run, warm_of(shape)):,.0f} tokens/s'}", flush=True)
            kept.append(run)
    notes = {"shape": shape, "ceiling": ceiling, "runs": runs}
    whole = {side: [run for run in kept if "error" not in run] for side, kept in runs.items()}
    return figures(case, shape, ceiling, whole), notes


def warm_of(shape: dict[str, Any]) -> int:
    return min(WARM, shape["steps"] - 1)


def figures(
    case: str, shape: dict[str, Any], ceiling: dict[str, Any], runs: dict[str, list[dict[str, Any]]]
) -> dict[str, Figure]:
    """A line each for speed and utilisation, ours beside TRL's."""
    found, warm = {}, warm_of(shape)
    middle = {side: median(speed(run, warm) for run in kept) for side, kept in runs.items() if kept}
    for side, value in middle.items():
        name = {"ours": "ours", "trl": "plain TRL"}[side]
        used = value * ceiling["flops_per_token"] / ceiling["peak"] * 100
        memory = max(run["gpu_peak_mb"] or run["peak_mb"] for run in runs[side]) / 1000
        found[f"{case} tokens, {name}"] = Figure(value, "tokens/s", "", f"{memory:,.1f} GB at most")
        peak = f"of {ceiling['peak'] / 1e12:,.3g} TFLOP/s"
        found[f"{case} utilisation, {name}"] = Figure(used, "%", "", peak)
    if len(middle) == 2:
        pairs = zip(runs["ours"], runs["trl"], strict=False)
        ratio = median(speed(mine, warm) / speed(theirs, warm) for mine, theirs in pairs)
        found[f"{case} against plain TRL"] = Figure(ratio, "times as fast", "", "")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a toy shape; results/gpu_training-tiny.json")
    parser.add_argument("--only", nargs="+", choices=CASES, help="these shapes")
    parser.add_argument("--steps", type=int, default=20, help="that count, after the first ones (20)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side (2)")
    options = parser.parse_args()
    if options.device == "cuda" and not _has_gpu():
        print("no GPU here: torch finds no CUDA device; --device cpu --tiny shows that the program works")
        sys.exit(2)
    found: dict[str, Figure] = {}
    notes: dict[str, object] = {"device": options.device}
    for case in TINY if options.tiny else options.only or CASES:
        folder = Path(tempfile.mkdtemp(prefix="postmill-bench-gpu-"))
        try:
            some, notes[case] = measure(case, options, folder)
        finally:
            tidy(folder)
        found |= some
    holds = publish("gpu_training-tiny" if options.tiny else "gpu_training", found, notes)
    wanted = len(found) == FIGURES * (len(notes) - 1)
    sys.exit(0 if holds and wanted else 1)


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    main()
