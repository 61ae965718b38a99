"""One judge for the adapters of every side: mean loss of the answers' tokens on the same rows, in float32.

    python -m benchmarks._training_judge MODEL DATASET ADAPTER...

DATASET: what the data stage made of the rows, tokens included. Prints `{adapter: {"train": nll, "eval": nll}}`; the
base model alone goes by the name "base".
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
EVAL_ROWS = 32


def answers(dataset: Path, split: str, most: int | None = None) -> list[tuple[list[int], list[int]]]:
    """Tokens and labels of rows."""
    from datasets import Dataset

    from components.core.dataset import _labelled

    rows = Dataset.from_file(str(dataset / f"{split}.arrow"))
    found = _labelled(rows[: most or len(rows)])
    return list(zip(found["input_ids"], found["labels"], strict=True))


def mean_loss(model: Any, rows: list[tuple[list[int], list[int]]]) -> float:
    """Negative log-likelihood of a labelled token, on average over all of them."""
    import torch

    total, count = 0.0, 0
    for ids, labels in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        wanted = torch.tensor(labels[1:])
        total += float(torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum"))
        count += int((wanted != -100).sum())
    return total / count


def main() -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, dataset, *adapters = sys.argv[1:]
    rows = {"train": answers(Path(dataset), "train"), "eval": answers(Path(dataset), "eval", EVAL_ROWS)}
    found = {}
    for adapter in ("base", *adapters):
        network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        if adapter != "base":
            network = PeftModel.from_pretrained(network, adapter)
        network.eval()
        found[adapter] = {split: mean_loss(network, some) for split, some in rows.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
