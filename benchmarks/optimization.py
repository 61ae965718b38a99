"""How small, how fast and how faithful exported models are, beside the builder as it comes, llama.cpp and Olive.

    make bench-optimization                                # everything
    make bench-optimization ARGS="--quick"                 # few rows, one round: to see that it works
    make bench-optimization ARGS="--only quality decode"   # these parts; the others' figures stay as they were
    make bench-optimization ARGS="--rows chats.jsonl"      # on your own conversations; results in a file of their own

Every figure is taken through the runtime that serves the model. Speeds: each measurement a fresh process with as many
threads as there are cores, sides in turn, medians of ratios with bootstrap intervals over rounds. They want a machine
that does nothing else: two threads that wait for each other are the first to suffer.

The text: what the base model itself says to 150 prompts, sampled once from a fixed seed and kept; the first third is
for evaluation, calibration sees the rest only.

quality  distance to float32 and bytes: the builder as it comes, our int8 and our calibrated int4
decode   tokens a second at batch 1: ours, PyTorch in float32, llama.cpp at its 4-bit format
levers   what each option of the runtime brings on its own, and whether the tokens stay the same
olive    the same model through Olive's own way to 4 bits
pruning  the quickstart's model without a quarter of its layers, healed: score and speed
task     the quickstart's model in plain and in calibrated int4: score
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _optimization_setup as setup
from benchmarks._optimization_bench import (
    Chain,
    chat_rows,
    compress,
    dataset,
    middle,
    same_tokens,
    size,
    speed,
    split_rows,
    times_as_fast,
)
from benchmarks._optimization_task import Task
from benchmarks._parts import Measured, run_parts
from benchmarks._training_bench import Bench, prepare, tidy
from benchmarks.report import Figure

CHAINS: dict[str, Chain] = {
    "fp32": [{"type": "onnx", "precision": "fp32"}],
    "round to nearest int4": [{"type": "onnx", "precision": "int4", "method": "rtn"}],
    "default int4": [{"type": "onnx", "precision": "int4"}],
    "k_quant int4": [{"type": "onnx", "precision": "int4", "method": "k_quant"}],
    "builder int8": [{"type": "onnx", "precision": "int8", "embedding": "float", "block_size": 32}],
    "int8": [{"type": "onnx", "precision": "int8"}],
    "awq int4": [{"type": "quantize_awq"}, {"type": "onnx"}],
    "int4": [{"type": "quantize_gptq", "size": "93MB"}, {"type": "onnx"}],
}
"""What is measured, by name. Those with targets are what we recommend."""
LEVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "one thread": ("genai", {"intra_op_num_threads": 1}),
    "threads sleep while they wait": ("genai", {"session.intra_op.allow_spinning": "0"}),
    "buffer of 1,024 positions": ("genai", {"search.max_length": 1024}),
    "no shared key-value buffer": ("genai", {"search.past_present_share_buffer": False}),
    "basic graph optimization": ("genai", {"graph_optimization_level": "ORT_ENABLE_BASIC"}),
    "prompt lookup": ("lookup", {}),
}
"""Ways to decode, each against the runtime's own: a side of `_optimization_decode`, and its options."""
TARGETS = {
    "int8": {"MB": "<= 150", "mean_kl": "<= 0.01"},
    "int4": {"MB": "<= 100", "mean_kl": "<= 0.09", "top1": ">= 0.86", "ratio": "<= 1.06", "seconds": "<= 600"},
}


class Work:
    """The bench with its rows and the models made so far, so that parts share them."""

    def __init__(self, bench: Bench, options: argparse.Namespace) -> None:
        self.bench, self.options = bench, options
        rows = chat_rows(bench, options.rows)
        self.evaluation, self.calibration = split_rows(rows, bench.folder, 6 if options.quick else 40)
        self.rows = dataset(bench, self.calibration)
        self.made: dict[str, dict[str, Any]] = {}
        self.rounds, self.tokens = (1, 32) if options.quick else (options.rounds, 128)

    def model(self, name: str, chain: Chain | None = None) -> dict[str, Any]:
        if name not in self.made:
            self.made[name] = compress(self.bench, name, chain or CHAINS[name], self.rows)
        return self.made[name]

    def quality(self, folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = self.bench.work(
            "quality", "_optimization_quality", self.bench.model.path, folder, self.evaluation, keep=False
        )
        return {**found, "MB": size(folder) / 1e6}


def quality_figures(name: str, found: dict[str, Any], seconds: float | None = None) -> dict[str, Figure]:
    """The lines of one model."""
    goal = TARGETS.get(name, {})
    low, high = found["interval"]
    figures = {
        f"{name}: size": Figure(found["MB"], "MB", goal.get("MB", ""), "the whole directory"),
        f"{name}: mean KL": Figure(found["mean_kl"], "nats", goal.get("mean_kl", ""), f"p99 {found['p99_kl']:.3g}"),
        f"{name}: top-1 agreement": Figure(found["top1"], "share", goal.get("top1", "")),
        f"{name}: perplexity": Figure(
            found["ratio"],
            "of fp32's",
            goal.get("ratio", ""),
            f"95 % {low:.3f} to {high:.3f}; fp32 {found['reference_perplexity']:.3f}",
        ),
    }
    if seconds is not None:
        figures[f"{name}: compression"] = Figure(seconds, "s", goal.get("seconds", ""), "the whole chain")
    return figures


def quality(work: Work) -> Measured:
    """Every chain of the table on the same evaluation text."""
    figures: dict[str, Figure] = {}
    notes: dict[str, object] = {}
    for name in work.options.models:
        made = work.model(name)
        notes[name] = found = work.quality(Path(made["path"]))
        print(f"{name}: KL {found['mean_kl']:.4f}, top-1 {found['top1']:.3f}, {found['MB']:.1f} MB", flush=True)
        figures |= quality_figures(name, found, made["seconds"])
    return figures, {"chains": CHAINS, "found": notes}


def decode(work: Work) -> Measured:
    """Ours, PyTorch and llama.cpp in turn."""
    bench, other = work.bench, setup.find(setup.LLAMA, work.options.llama, install=not work.options.quick)
    ours = Path(work.model("int4")["path"])
    if other.python:
        gguf = Path(work.model("llama.cpp", [{"type": "gguf", "weights": "Q4_1"}])["path"]) / "model.gguf"
    else:
        print(f"without llama.cpp: {other.why_not}")
    for _ in range(work.rounds):
        speed(bench, "ours int4", "genai", ours, work.tokens)
        if other.python:
            speed(bench, "llama.cpp", "llama", gguf, work.tokens, python=other.python)
        speed(bench, "torch", "torch", bench.model.path, work.tokens // 4)
    mine = middle(bench, "ours int4")
    eager, spread = times_as_fast(bench, "ours int4", "torch")
    figures = {
        "int4 decode": Figure(mine, "tokens/s", "", f"{bench.cores} threads, batch 1"),
        "against PyTorch": Figure(eager, "times as fast", ">= 8", f"{spread}; {middle(bench, 'torch'):.1f} tokens/s"),
    }
    if other.python:
        ratio, spread = times_as_fast(bench, "ours int4", "llama.cpp")
        beside = f"{spread}; {middle(bench, 'llama.cpp'):.1f} tokens/s"
        figures["against llama.cpp"] = Figure(ratio, "times as fast", ">= 1.2", beside)
    about = setup.LLAMA.version if other.python else f"not installed: {other.why_not}"
    return figures, {"rounds": work.rounds, "tokens": work.tokens, "llama.cpp": about, "format": "Q4_1"}


def levers(work: Work) -> Measured:
    """Each lever in turn with the runtime's own choice."""
    bench, ours = work.bench, Path(work.model("int4")["path"])
    figures, notes = {}, {}
    for name, (side, options) in LEVERS.items():
        plain = f"{name}: without"
        for _ in range(min(work.rounds, 3)):  # each is read for its size, none has a target
            usual = speed(bench, plain, "genai", ours, work.tokens)
            tried = speed(bench, name, side, ours, work.tokens, **options)
        gain, spread = times_as_fast(bench, name, plain)
        notes[name] = same = same_tokens(usual, tried)
        said = "same tokens" if same == 1 else f"tokens part after {same:.0%}"
        figures[f"lever: {name}"] = Figure(gain, "times as fast", "", f"{spread}; {said}")
    return figures, {"levers": LEVERS, "same tokens": notes}


def pruning(work: Work) -> Measured:
    """A trained model without a quarter of its layers, healed; against the same export of all layers."""
    bench, task = work.bench, Task(work.bench, "prune_depth.yaml")
    whole, small = task.variants["int8"], task.variants["shallow"]
    for _ in range(work.rounds):
        speed(bench, "all layers", "genai", whole.path, work.tokens)
        speed(bench, "pruned", "genai", small.path, work.tokens)
    gain, spread = times_as_fast(bench, "pruned", "all layers")
    scores = f"{task.score('shallow'):.3f} of {task.score('trained'):.3f}; all layers {task.score('int8'):.3f}"
    figures = {
        "pruned: task score kept": Figure(
            task.score("shallow") / task.score("trained"), "share", ">= 0.9", f"exact match {scores}"
        ),
        "pruned: decode": Figure(gain, "times as fast", ">= 1.25", spread),
        "pruned: size": Figure(small.size / 1e6, "MB", "", f"all layers {whole.size / 1e6:.1f}"),
    }
    return figures, {"recipe": "configs/prune_depth.yaml", "found": task.figures}


def task(work: Work) -> Measured:
    """A trained model in calibrated and in plain int4: what it keeps of its gain, judged as in the quickstart."""
    made = Task(work.bench, "calibrated.yaml")
    figures = {
        f"trained, {label}: gain kept": Figure(
            made.kept(name), "share", target, f"exact match {made.score(name):.3f} of {made.score('trained'):.3f}"
        )
        for name, label, target in (("int4", "plain int4", ""), ("calibrated", "calibrated int4", ">= 0.97"))
    }
    for name, label in (("int4", "plain int4"), ("calibrated", "calibrated int4")):
        figures[f"trained, {label}: mean KL"] = Figure(made.figures[name]["mean_kl"], "nats", "")
    return figures, {"recipe": "configs/calibrated.yaml", "found": made.figures}


def olive(work: Work) -> Measured:
    """Olive's model through the same evaluation and the same runtime."""
    bench, other = work.bench, setup.find(setup.OLIVE, work.options.olive, install=not work.options.quick)
    if not other.python:
        print(f"without Olive: {other.why_not}")
        return {}, {"olive": f"not installed: {other.why_not}"}
    words = (bench.model.path, work.calibration, bench.place("olive"))
    theirs = bench.work("olive", "_optimization_olive", *words, python=other.python, keep=False)
    folder, ours = Path(theirs["model"]), Path(work.model("int4")["path"])
    for _ in range(work.rounds):
        speed(bench, "beside olive", "genai", ours, work.tokens)
        speed(bench, "olive int4", "genai", folder, work.tokens)
    figures = quality_figures("olive int4", work.quality(folder), theirs["seconds"])
    gain, spread = times_as_fast(bench, "beside olive", "olive int4")
    beside = f"{spread}; {middle(bench, 'olive int4'):.1f} tokens/s"
    return {**figures, "decode against Olive": Figure(gain, "times as fast", "", beside)}, {
        "olive": setup.OLIVE.version
    }


PARTS: dict[str, Callable[[Work], Measured]] = {
    "quality": quality,
    "decode": decode,
    "levers": levers,
    "olive": olive,
    "pruning": pruning,
    "task": task,
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, one round; results/optimization-quick.json")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="run these parts")
    parser.add_argument(
        "--rows",
        type=Path,
        metavar="FILE",
        help="conversations: alpaca JSON or messages by the line; results/optimization-rows.json",
    )
    parser.add_argument("--models", nargs="+", choices=CHAINS, default=list(CHAINS), help="of the part quality")
    parser.add_argument("--rounds", type=int, default=5, help="of the speeds (5)")
    parser.add_argument("--llama", type=Path, metavar="PYTHON", help="a Python that has llama-cpp-python")
    parser.add_argument("--olive", type=Path, metavar="PYTHON", help="a Python that has Olive")
    parser.add_argument("--keep", action="store_true", help="keep the files")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    name = "optimization" + "-rows" * bool(options.rows) + "-quick" * options.quick
    folder = Path(tempfile.mkdtemp(prefix="postmill-bench-optimization-"))
    try:
        work = Work(prepare(folder), options)
        parts = {part: partial(measure, work) for part, measure in PARTS.items()}
        text = "rows of a file" if options.rows else "what the base model says"
        status = run_parts(name, parts, options.only, {"cores": work.bench.cores, "text": text})
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            tidy(folder)
    sys.exit(status)


if __name__ == "__main__":
    main()
