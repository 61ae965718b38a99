"""Olive's GPTQ and export to 4 bits, run by the Python of its environment: MODEL CALIBRATION OUT.

Its command `olive optimize` calibrates on a data set from a hub; here it is given the rows that ours calibrates on.
Printed are the seconds it took and the folder for the generator, as JSON. Nothing of Postmill is imported. The model
directory was written by newer libraries than Olive works with; what they call differently is written under both names,
so that both read the same network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def readable(model: Path, out: Path) -> Path:
    """A copy whose configuration transformers 4 understands."""
    shutil.copytree(model, out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    config |= {"rope_theta": rope.get("rope_theta", 10000.0), "torch_dtype": config.get("dtype", "float32")}
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = out / "tokenizer_config.json"
    described = json.loads(tokenizer.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    tokenizer.write_text(json.dumps(described), encoding="utf-8")
    return out


def as_text(rows: Path, source: Path, out: Path) -> Path:
    """Conversations in the words of the model's template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    chats = [json.loads(line)["messages"] for line in rows.read_text(encoding="utf-8").splitlines()]
    texts = (tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats)
    out.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return out


def recipe(source: Path, rows: Path, out: Path) -> dict[str, Any]:
    """GPTQ on the finest grid that it shares with ours, and the builder."""
    load = {"data_name": "json", "data_files": str(rows), "split": "train"}
    cut = {"text_cols": ["text"], "strategy": "line-by-line", "max_seq_len": 512, "max_samples": 96}
    data = {
        "name": "rows",
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"type": "huggingface_dataset", "params": load},
        "pre_process_data_config": {
            "type": "text_generation_huggingface_pre_process",
            "params": {**cut, "add_special_tokens": False},
        },
    }
    accelerators = [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]
    return {
        "input_model": {"type": "HfModel", "model_path": str(source)},
        "data_configs": [data],
        "systems": {"local": {"type": "LocalSystem", "accelerators": accelerators}},
        "target": "local",
        "host": "local",
        "passes": {
            "gptq": {"type": "Gptq", "bits": 4, "group_size": 32, "sym": False, "data_config": "rows"},
            "build": {"type": "ModelBuilder", "precision": "int4"},
        },
        "output_dir": str(out),
        "no_artifacts": True,
    }


def main() -> None:
    model, rows, out = map(Path, sys.argv[1:4])
    source = readable(model, out.with_name(out.name + "-source"))
    config = source / "olive.json"
    config.write_text(json.dumps(recipe(source, as_text(rows, source, source / "rows.jsonl"), out)), encoding="utf-8")
    command = [sys.executable, "-m", "olive", "run", "--config", str(config), "--disable_telemetry"]
    started = time.perf_counter()
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    # from a folder of its own: it takes a word that is also the name of a file here for a path
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=offline, cwd=source)
    found = sorted(out.rglob("genai_config.json"))
    if done.returncode or not found:
        sys.exit((done.stderr or done.stdout)[-3000:] or "olive wrote no model for the generator")
    print(json.dumps({"seconds": time.perf_counter() - started, "model": str(found[0].parent)}))


if __name__ == "__main__":
    main()
