"""LLaMA-Factory's preprocessing of a file, timed the way ours is. Runs under LLaMA-Factory's own Python, alone:

    LF/bin/python benchmarks/_data_llamafactory.py MODEL_DIRECTORY rows.jsonl few.jsonl CORE

It loads the file, aligns it, renders it with the template of the same model, tokenises, masks, and writes Arrow. Asked
for one process and no reuse of its caches; the tokenizer is loaded and a few rows are done before the clock starts.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

MODEL, TRAIN, WARM, CORE = sys.argv[1:]
os.sched_setaffinity(0, {int(CORE)})
SCRATCH = tempfile.mkdtemp(prefix="postmill-bench-lf-")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": SCRATCH, "CUDA_VISIBLE_DEVICES": ""}
# LLaMA-Factory's own text ends with a full stop that the model's chat template has not
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def arguments(file: str) -> dict:
    """What a user would write into the YAML file."""
    folder = Path(tempfile.mkdtemp(dir=SCRATCH))
    roles = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    about = {"file_name": str(Path(file).absolute()), "formatting": "sharegpt", "columns": {"messages": "messages"}}
    (folder / "dataset_info.json").write_text(
        json.dumps({"rows": {**about, "tags": {**roles, "system_tag": "system"}}})
    )
    return {
        "stage": "sft", "do_train": True, "finetuning_type": "lora", "model_name_or_path": MODEL, "template": "smollm2",
        "default_system": SYSTEM, "dataset": "rows", "dataset_dir": str(folder), "cutoff_len": 100_000,
        "overwrite_cache": True, "preprocessing_num_workers": 1, "output_dir": str(folder / "out"), "report_to": "none",
        "use_cpu": True,
    }  # fmt: skip


def main() -> None:
    begun = time.perf_counter()
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    def prepared(file: str):
        model_args, data_args, training_args, _, _ = get_train_args(arguments(file))
        loaded = load_tokenizer(model_args)
        template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
        return lambda: get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)

    prepared(WARM)()
    work = prepared(TRAIN)
    started, worked = time.perf_counter(), time.process_time()
    rows = work()["train_dataset"]
    spent, cpu = time.perf_counter() - started, time.process_time() - worked
    lengths = sum(map(len, rows.with_format("numpy")["input_ids"]))
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM"))
    found = {"start": started - begun, "seconds": spent, "cpu_seconds": cpu, "rows": len(rows), "tokens": lengths}
    print(json.dumps({**found, "peak_mb": peak}))


if __name__ == "__main__":
    try:
        main()
    finally:
        __import__("shutil").rmtree(SCRATCH, ignore_errors=True)
