"""One measurement of the GPU benchmark in a process of its own: a model of random weights, trained by one side.

    python -m benchmarks._training_gpu_work ours SHAPE_JSON FOLDER
    python -m benchmarks._training_gpu_work trl SHAPE_JSON FOLDER
    python -m benchmarks._training_gpu_work ceiling SHAPE_JSON FOLDER

FOLDER: `prepare` put the model's configuration, a tokenizer of bytes and rows there. The weights are made on the device
and never written. Prints the probe's report as JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._training_probe import install

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WORDS = (
    "order",
    "parcel",
    "refund",
    "invoice",
    "kettle",
    "tent",
    "lamp",
    "late",
    "broken",
    "please",
    "reply",
    "thanks",
)
LETTERS_A_WORD = 6
SEED = 17


# ---------------------------------------------------------------- what both sides get


def prepare(folder: Path, shape: dict[str, Any]) -> None:
    """Configuration, tokenizer and rows."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    model = folder / "model"
    model.mkdir(parents=True)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    LlamaConfig(**shape["model"], **special, max_position_embeddings=8192, dtype="bfloat16").save_pretrained(model)
    tokenizer().save_pretrained(model)
    save_file({"nothing": torch.zeros(1)}, model / "model.safetensors")  # a directory without weights is refused
    chance = random.Random(SEED)
    for name, count in (("train", shape["rows"]), ("eval", 16)):
        lines = [row(chance, shape["max_length"]) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def row(chance: random.Random, longest: int) -> str:
    """One conversation; lengths are spread like those of real chats, a few long ones among many short."""
    letters = min(longest - 120, max(80, int(longest * chance.lognormvariate(-1.6, 0.8))))
    words = [f"{chance.choice(WORDS)}{chance.randrange(1000)}" for _ in range(letters // (LETTERS_A_WORD + 3))]
    third = max(1, len(words) // 3)
    turns = (("user", words[third:] or words), ("assistant", words[:third]))
    return json.dumps({"messages": [{"role": role, "content": " ".join(said)} for role, said in turns]}) + "\n"


def tokenizer() -> Any:
    """One token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(symbols)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    pad, start, end = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token=pad, pad_token=pad, bos_token=start, eos_token=end, chat_template=TEMPLATE
    )


def network(model: Path, device: str, dtype: str) -> Any:
    """Random weights, made where they are used."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(SEED)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=getattr(torch, dtype))


# ---------------------------------------------------------------- the sides


def ours(folder: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """A recipe through `TrainingService`; only the loader of weights is another one."""
    import components.training.run as module
    from components.core.artifacts import Artifact
    from components.core.recipe import DataSection, Spec, default_spec
    from components.services.data import DataService
    from components.services.training import TrainingService
    from components.services.workspace import Workspace

    def load(path: Path, dtype: str = "float32", **_: Any) -> Any:
        return network(path, shape["device"], dtype)

    module.load_causal_lm = load
    workspace = Workspace(Path(tempfile.mkdtemp(dir=folder)))
    about = {"kind": "model", "stage": "model", "key": "random", "digest": "0" * 64, "parents": {}, "meta": {}}
    model = Artifact(path=folder / "model", size=0, **about)
    files = {name: {"type": "jsonl", "path": str(folder / f"{name}.jsonl")} for name in ("train", "eval")}
    near = {"near_duplicate": "ignore", "near_overlap": "ignore"}
    section = DataSection.model_validate({**files, "contract": {"max_bad_fraction": 0.2, "rules": near}})
    dataset = DataService(workspace).validate(section, model)
    known = default_spec("trainer", "sft")
    step = Spec(kind="trainer", type="sft", config=known.component.Config.model_validate(keys(shape)))
    artifact = TrainingService(workspace).train([step], model, dataset, SEED)
    return {"facts": {name: artifact.meta.get(name) for name in ("tokens_per_s", "speed", "adapted")}}


def keys(shape: dict[str, Any]) -> dict[str, Any]:
    """The recipe's step."""
    adapter = {"lora": {"r": 16, "alpha": 32, "target_modules": "all-linear"}} if shape["lora"] else {}
    size = {"batch_size": shape["batch"], "max_length": shape["max_length"], "max_steps": shape["steps"]}
    return {**size, "packing": True, "learning_rate": 1e-4, "checkpoint": {"every": None}, **adapter}


def trl(folder: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """What a user of TRL writes: packing, bfloat16, its defaults otherwise."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = load_dataset("json", data_files=str(folder / "train.jsonl"), split="train")
    rows = rows.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}, remove_columns=["messages"]
    )
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=network(folder / "model", shape["device"], "bfloat16"),
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(dir=folder),
            max_steps=shape["steps"],
            per_device_train_batch_size=shape["batch"],
            learning_rate=1e-4,
            max_length=shape["max_length"],
            packing=True,
            use_cpu=shape["device"] == "cpu",
            save_strategy="no",
            report_to="none",
            seed=SEED,
        ),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=adapter if shape["lora"] else None,
    )
    trainer.train()
    return {}


# ---------------------------------------------------------------- what the device can do


def ceiling(folder: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """FLOP/s of a large square product in bfloat16, and the operations that a token of this shape needs."""
    import torch
    from peft import LoraConfig, get_peft_model

    from components.training.flops import flops_per_token

    small = network(folder / "model", "meta", "bfloat16")
    if shape["lora"]:
        small = get_peft_model(small, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    length = sum(map(len, (folder / "train.jsonl").read_text().splitlines())) // shape["rows"]
    side, device = shape["square"], torch.device(shape["device"])
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    samples = []
    for _ in range(20):
        wait(device)
        started = time.perf_counter()
        for _ in range(5):
            left @ right
        wait(device)
        samples.append((time.perf_counter() - started) / 5)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = 2 * side**3 / min(samples)
    return {"peak": peak, "flops_per_token": flops_per_token(small, length), "row_tokens": length, "name": name}


def wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("prepare", "ours", "trl", "ceiling"))
    parser.add_argument("shape", type=json.loads)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.side == "prepare":
        prepare(options.folder, options.shape)
        print("{}")
        return
    if options.side == "ceiling":
        print(json.dumps(ceiling(options.folder, options.shape)))
        return
    probe = install()
    found = {"ours": ours, "trl": trl}[options.side](options.folder, options.shape)
    print(json.dumps({**probe.report(rows=False), **found}, default=str))


if __name__ == "__main__":
    main()
