"""What the parts of the lifecycle benchmark share: a small model, its recipe, a root of its own, runs as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TRIAGE = ROOT / "data" / "triage"
NOT_OURS = ("POSTMILL_", "PREFECT_", "MLFLOW_")
SHAPE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}


@dataclass(frozen=True)
class Bench:
    """A folder to work in."""

    folder: Path

    def place(self, name: str) -> Path:
        """A new folder below it."""
        place = self.folder / name
        place.mkdir(parents=True)
        return place

    def model(self) -> Path:
        """The small model: random weights, a vocabulary of the triage rows."""
        target = self.folder / "model"
        if not target.exists():
            write_model(target)
        return target

    def recipe(self, name: str, **changes: Any) -> Path:
        """The whole way from rows to a registered version, with the small model."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**whole(name, self.model()), **changes}, sort_keys=False), encoding="utf-8")
        return path


def write_model(target: Path) -> None:
    """A Llama of random weights with a byte-level tokenizer, trained on the rows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    rows = [json.loads(line) for line in (TRIAGE / "train.jsonl").open(encoding="utf-8")][:500]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2048, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator((json.dumps(row, ensure_ascii=False) for row in rows), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        **SHAPE,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(target)
    fast.save_pretrained(target)


def whole(name: str, model: Path) -> dict[str, Any]:
    """A recipe with every section."""
    return {
        "name": name,
        "model": {"type": "pretrained", "name": str(model)},
        "data": {split: {"type": "jsonl", "path": str(TRIAGE / f"{split}.jsonl")} for split in ("train", "eval")},
        "train": [{"type": "sft", "max_steps": 20, "batch_size": 4, "learning_rate": 1.0e-2, "lora": {"r": 8}}],
        "optimize": {
            "fp32": [{"type": "merge_adapter"}, {"type": "onnx", "precision": "fp32"}],
            "int8": [{"type": "merge_adapter"}, {"type": "onnx", "precision": "int8"}],
        },
        "benchmark": [
            {"type": "exact_match", "rows": 20, "max_new_tokens": 16},
            {"type": "agreement", "rows": 4},
            {"type": "latency", "rounds": 1, "new_tokens": 8},
        ],
        "gate": [{"type": "budget", "max": {"bytes": "1GB"}}],
        "register": {"model": name, "alias": "staging"},
    }


def surroundings(root: Path, **more: str) -> dict[str, str]:
    """The environment of a run with a root of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    return {**kept, "POSTMILL_ROOT": str(root), "PYTHONPATH": str(ROOT), **more}


def postmill(root: Path, *arguments: str, **more: str) -> tuple[float, str]:
    """Seconds of a whole `postmill` process, and what it printed; a RuntimeError if it failed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=ROOT,
        env=surroundings(root, **more),
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"postmill {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds, done.stdout
