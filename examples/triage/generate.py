"""Writes the sample task's data set: train, evaluation, preferences and a README.

The same seed gives the same bytes.  Nothing is written unless all checks pass.  Try::

    python -m examples.triage.generate --out data/triage --seed 17
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

from .checks import check_anchors, check_pools, check_preferences, check_samples, check_wording
from .compose import Sample, compose
from .pools import Split
from .preferences import preferences
from .readme import readme
from .schema import SYSTEM, to_line

TRAIN_ROWS = 2400
EVAL_ROWS = 400
PREFERENCE_ROWS = 800
MAX_WORDS = 60  # about 90 tokens


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, build everything, check it, write it."""
    parser = argparse.ArgumentParser(description="Generate the support triage data set.")
    parser.add_argument("--out", type=Path, default=Path("data/triage"))
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args(argv)
    write_dataset(args.out, args.seed)


def write_dataset(out: Path, seed: int) -> None:
    """Generate, check and write the four files."""
    rng = Random(seed)
    train = draw_samples(rng, "train", TRAIN_ROWS)
    held_out = draw_samples(rng, "held_out", EVAL_ROWS)
    pairs = preferences(train, PREFERENCE_ROWS, rng)
    check_pools()
    check_wording()
    check_anchors()
    check_samples(train, held_out)
    check_preferences(pairs, train)
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / "train.jsonl", map(as_row, train))
    write_jsonl(out / "eval.jsonl", map(as_row, held_out))
    write_jsonl(out / "preferences.jsonl", pairs)
    write_text(out / "README.md", readme(seed, len(train), len(held_out), len(pairs)))


def draw_samples(rng: Random, split: Split, count: int) -> list[Sample]:
    """Draw until there are ``count`` different messages of acceptable length."""
    samples: dict[str, Sample] = {}
    while len(samples) < count:
        sample = compose(rng, split)
        key = " ".join(sample.message.lower().split())
        if len(key.split()) <= MAX_WORDS:
            samples.setdefault(key, sample)
    return list(samples.values())


def as_row(sample: Sample) -> dict[str, object]:
    """The chat form in which models are trained."""
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": sample.message},
            {"role": "assistant", "content": to_line(sample.record)},
        ]
    }


def write_jsonl(path: Path, rows: Iterable[dict[str, object]]) -> None:
    """One JSON object per line, with readable characters."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """UTF-8 with Unix line ends, so that the bytes do not depend on the machine."""
    path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
