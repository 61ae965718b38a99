"""What the optimization benchmark works with: rows, exported models, speeds, and the arithmetic of paired runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._training_bench import LORA, Bench
from components.core.artifacts import Artifact
from components.core.safeload import load_tokenizer
from components.services.optimization import OptimizationService
from components.services.workspace import Workspace

PROMPTS = Path(__file__).with_name("_optimization_prompts.txt")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "postmill" / "bench-optimization"
QUESTION = "Write a short story about a lighthouse keeper who finds a letter in a bottle."
Chain = Sequence[Mapping[str, Any]]
Spoken = dict[str, Any]


# ---------------------------------------------------------------- rows


def chat_rows(bench: Bench, given: Path | None) -> list[Spoken]:
    """Conversations: those of the user's file, or what the base model says to this project's prompts (kept)."""
    if given:
        return [_conversation(row) for row in _parsed(given)]
    kept = CACHE / f"{bench.model.digest[:16]}.jsonl"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(".new")
        bench.work("text", "_optimization_text", bench.model.path, PROMPTS, fresh, keep=False)
        fresh.rename(kept)
    return _parsed(kept)


def _parsed(path: Path) -> list[Spoken]:
    text = path.read_text(encoding="utf-8")
    rows: list[Spoken] = (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines()]
    )
    return rows


def _conversation(row: Spoken) -> Spoken:
    if "messages" in row:
        return {"messages": row["messages"]}
    asked = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]}


def split_rows(rows: list[Spoken], folder: Path, most: int) -> tuple[Path, Path]:
    """Files for evaluation (the first third, at most so many) and calibration (everything after that third)."""
    third = len(rows) // 3
    paths = folder / "evaluation.jsonl", folder / "calibration.jsonl"
    for path, chosen in zip(paths, (rows[: min(third, most)], rows[third:]), strict=True):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen), encoding="utf-8")
    return paths


def dataset(bench: Bench, calibration: Path) -> Artifact:
    """The rows as passes get them. What they hold out for their own judgement comes from calibration, too."""
    data: dict[str, Any] = {"train": {"type": "jsonl", "path": str(calibration)}, "eval": None, "split": {"eval": 0.1}}
    data["contract"] = {"max_bad_fraction": 0.1}  # a few rows of a file stand in it twice
    return bench.dataset(
        bench.recipe("optimization", calibration, {"type": "sft", "max_steps": 1, "lora": LORA}, data=data)
    )


# ---------------------------------------------------------------- models


def compress(bench: Bench, name: str, chain: Chain, rows: Artifact | None, source: Artifact | None = None) -> Spoken:
    """The artifact at the end of a chain, and the seconds that it took."""
    print(f"{name}: {' -> '.join(str(step['type']) for step in chain)}", flush=True)
    started = time.perf_counter()
    service = OptimizationService(Workspace(bench.folder / "optimized"))
    made = service.named(list(chain), source or bench.model, 17, rows)
    return {
        "path": str(made.path),
        "seconds": time.perf_counter() - started,
        "bytes": made.size,
        "meta": dict(made.meta),
    }


def size(folder: Path) -> int:
    """Bytes of everything in it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# ---------------------------------------------------------------- speed


def prompt(bench: Bench) -> list[int]:
    tokenizer = load_tokenizer(bench.model.path)
    chat = [{"role": "user", "content": QUESTION}]
    ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    return ids


def speed(
    bench: Bench, name: str, side: str, model: Path, count: int, python: Path | None = None, **options: Any
) -> Spoken:
    """One process that says `count` tokens three times; kept under `name`."""
    words = (side, model, count, bench.cores, json.dumps(prompt(bench)), json.dumps(options))
    found: Spoken = bench.work(name, "_optimization_decode", *words, python=python, keep=False)
    bench.runs.setdefault(name, []).append(found)
    print(f"{name}: {np.median(found['speeds']):,.1f} tokens/s", flush=True)
    return found


def middle(bench: Bench, name: str) -> float:
    """Tokens a second, the median over all answers."""
    return float(np.median([speed for run in bench.runs[name] for speed in run["speeds"]]))


def times_as_fast(bench: Bench, above: str, below: str) -> tuple[float, str]:
    """Median over rounds of the ratio of medians, and its bootstrap interval over rounds."""
    pairs = zip(bench.runs[above], bench.runs[below], strict=True)
    ratios = np.array([np.median(mine["speeds"]) / np.median(theirs["speeds"]) for mine, theirs in pairs])
    picks = np.random.default_rng(17).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=-1), (2.5, 97.5))
    return float(np.median(ratios)), f"95 % {low:.2f} to {high:.2f}"


def same_tokens(one: Spoken, other: Spoken) -> float:
    """Share of tokens before the first that differs."""
    pairs = list(zip(one["tokens"], other["tokens"], strict=True))
    return next((at for at, (a, b) in enumerate(pairs) if a != b), len(pairs)) / len(pairs)
