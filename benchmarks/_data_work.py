"""One measurement of the data benchmark, in a process of its own: what it prints last is the result as JSON.

    python -m benchmarks._data_work validate --model DIR --train rows.jsonl --warm few.jsonl --root WORKSPACE --core 1

Starting up is timed apart from the work: libraries, the tokenizer, and whatever is made once, by doing the same with a
few rows first. `whole` leaves nothing out and is timed as a user meets it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGUN = time.perf_counter()
NEAR = {"near_duplicate": "quarantine", "near_overlap": "quarantine"}
FAR = {"near_duplicate": "ignore", "near_overlap": "ignore"}
PORTION = 2048


def peak_memory() -> float:
    """MB that this process held at most. getrusage would count what its parent held when it forked."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM"))


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """How long it took by the clock on the wall, how long a processor worked on it, and what it gave."""
    started, worked = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - started, time.process_time() - worked, found


def artifact(model: Path) -> Any:
    """A directory with a model as the data stage takes it."""
    from components.core.artifacts import Artifact

    manifest = json.loads((model / "manifest.json").read_text(encoding="utf-8"))
    identity = {key: manifest[key] for key in ("kind", "stage", "key", "digest")}
    return Artifact(path=model, parents={}, meta=manifest["meta"], size=0, **identity)


def validated(options: argparse.Namespace, train: Path) -> Any:
    """The data set of a file."""
    from components.core.recipe import DataSection
    from components.services.data import DataService
    from components.services.workspace import Workspace

    contract = {"max_bad_fraction": 0.05, "rules": NEAR if options.near else FAR}
    files = {name: {"type": "jsonl", "path": str(path)} for name, path in (("train", train), ("eval", options.eval))}
    section = DataSection.model_validate({**files, "contract": contract})
    return DataService(Workspace(options.root)).validate(section, artifact(options.model))


def counted(dataset: Any) -> dict[str, Any]:
    """Rows and tokens of the training split."""
    import pyarrow as pa

    with pa.memory_map(str(dataset.path / "train.arrow")) as source, pa.ipc.open_stream(source) as batches:
        tokens = sum(pa.compute.sum(pa.compute.list_value_length(b["input_ids"])).as_py() or 0 for b in batches)
    found = {name: dataset.meta[name] for name in ("rows", "quarantined", "rules")}
    return {**found, "tokens": tokens, "path": str(dataset.path)}


def validate(options: argparse.Namespace) -> dict[str, Any]:
    """The stage, with everything loaded."""
    import components.services.data as module

    loading, _, tokenizer = timed(lambda: module.load_tokenizer(options.model))
    module.load_tokenizer = lambda _: tokenizer
    warming, *_ = timed(lambda: validated(options, options.warm))
    spent, worked, dataset = timed(lambda: validated(options, options.train))
    return {"start": loading + warming, "seconds": spent, "cpu_seconds": worked, **counted(dataset)}


def tokenizer_alone(options: argparse.Namespace) -> dict[str, Any]:
    """Nothing but `encode_batch` on rendered rows: with the places of the tokens, as the stage needs, and without."""
    from components.core.chat import Template
    from components.core.frames import Frames
    from components.core.safeload import load_tokenizer

    tokenizer = load_tokenizer(options.model)
    frames, backend = Frames(Template(tokenizer)), tokenizer.backend_tokenizer
    lines = options.train.read_text(encoding="utf-8").splitlines()
    texts = [frames.spans(json.loads(line)["messages"])[0] for line in lines]
    portions = [texts[i : i + PORTION] for i in range(0, len(texts), PORTION)]

    def tokens(encode: Callable[..., Any]) -> int:
        return sum(len(one) for portion in portions for one in encode(portion, add_special_tokens=False))

    backend.encode_batch(texts[:200], add_special_tokens=False)
    spent, worked, count = timed(lambda: tokens(backend.encode_batch))
    without, *_ = timed(lambda: tokens(backend.encode_batch_fast))
    found = {"seconds": spent, "cpu_seconds": worked, "seconds_without_places": without}
    return {**found, "rows": len(texts), "tokens": count}


def whole(options: argparse.Namespace) -> dict[str, Any]:
    """The stage as a fresh process meets it."""
    import components.core.recipe
    import components.services.data  # noqa: F401

    imports = time.perf_counter() - BEGUN
    spent, _, dataset = timed(lambda: validated(options, options.train))
    return {"imports": imports, "seconds": spent, "rows": dataset.meta["rows"], "path": str(dataset.path)}


WORK = {"validate": validate, "tokenizer": tokenizer_alone, "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    for name in ("model", "train", "eval", "warm", "root"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--near", action="store_true", help="with the search for near-duplicates")
    parser.add_argument("--core", type=int, help="stay on this core")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    result = WORK[options.work](options)
    print(json.dumps({**result, "peak_mb": peak_memory()}))


if __name__ == "__main__":
    main()
