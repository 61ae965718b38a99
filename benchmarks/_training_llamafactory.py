"""The same job given to LLaMA-Factory as its YAML would: its defaults, and bf16 as in all of its own examples.

    LF/bin/python -m benchmarks._training_llamafactory MODEL rows.jsonl OUT STEPS [--no-bf16]

Runs under LLaMA-Factory's own Python. Prints the probe's report as JSON.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks._training_probe import install

SCRATCH = tempfile.mkdtemp(prefix="postmill-bench-lf-")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": SCRATCH, "CUDA_VISIBLE_DEVICES": ""}
# LLaMA-Factory's own text ends with a full stop that the model's chat template has not
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def arguments(model: str, file: str, out: str, steps: str) -> dict:
    """What a user would write into the YAML file, and the entry of the rows in `dataset_info.json`."""
    folder = Path(tempfile.mkdtemp(dir=SCRATCH))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    about = {"file_name": str(Path(file).absolute()), "formatting": "sharegpt", "columns": {"messages": "messages"}}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {**about, "tags": {**tags, "system_tag": "system"}}}))
    return {
        "stage": "sft", "do_train": True, "model_name_or_path": model, "finetuning_type": "lora", "lora_rank": 16,
        "lora_alpha": 32, "lora_target": "all", "dataset": "rows", "dataset_dir": str(folder), "template": "smollm2",
        "default_system": SYSTEM, "output_dir": out, "max_steps": int(steps), "per_device_train_batch_size": 4,
        "learning_rate": 2e-3, "bf16": "--no-bf16" not in sys.argv, "use_cpu": True, "seed": 17, "report_to": "none",
    }  # fmt: skip


def main() -> None:
    probe = install()
    from llamafactory.train.tuner import run_exp

    run_exp(arguments(*sys.argv[1:5]))
    print(json.dumps(probe.report()))


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
