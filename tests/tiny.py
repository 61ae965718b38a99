"""A tiny model, tiny rows and a tiny recipe, all made here: no network, no download, about a second.

The model is a random two-layer Llama with one token a byte. It learns nothing worth having, but everything that a
real model goes through (training, merging, export, serving, registration) works on it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

SYSTEM = "Triage as JSON: category, priority."
CATEGORIES = ("damage", "refund", "delivery", "account", "question")
THINGS = ("kettle", "lamp", "tent", "yoga mat", "hair dryer", "toaster", "desk", "bicycle")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tokenizer() -> Any:
    """One token for each byte, three special tokens, and the ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    core.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def network(seed: int = 0, **changes: Any) -> Any:
    """A random Llama with clear preferences (wide weights), so that greedy answers do not hang on rounding."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": len(SPECIAL) + 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.15,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


def write_model(directory: Path, seed: int = 0) -> Path:
    """The tiny model as a directory of safetensors, config and tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    network(seed).save_pretrained(directory, safe_serialization=True)
    tokenizer().save_pretrained(directory)
    return directory


def write_silent_model(directory: Path) -> Path:
    """A model that always says the end of turn: constant hidden states under a head that knows only that token."""
    import torch

    model = network()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight.zero_()
        model.lm_head.weight[model.config.eos_token_id] = 1.0
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, safe_serialization=True)
    tokenizer().save_pretrained(directory)
    return directory


def conversation(number: int) -> list[dict[str, str]]:
    """A request and its answer; the number appears in the text, so no two are alike."""
    category, thing = CATEGORIES[number % len(CATEGORIES)], THINGS[number % len(THINGS)]
    priority = ("low", "normal", "high")[number % 3]
    extra = " Please hurry." * (number % 4)
    answer = json.dumps({"category": category, "priority": priority}, separators=(",", ":"))
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"My {thing}, order {number}: {category}.{extra}"},
        {"role": "assistant", "content": answer},
    ]


def row(number: int) -> bytes:
    """One line of a data file."""
    return json.dumps({"messages": conversation(number)}, ensure_ascii=False).encode() + b"\n"


def write_rows(path: Path, numbers: range) -> Path:
    """A JSON Lines file with one row a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(row(number) for number in numbers))
    return path


def shaped(number: int, shape: str) -> dict[str, Any]:
    """One row of a shape, made of the request and the answer of that number; a bad answer is that of the next one."""
    *prompt, answer = conversation(number)
    worse = conversation(number + 1)[-1]
    forms: dict[str, dict[str, Any]] = {
        "conversation": {"messages": [*prompt, answer]},
        "text": {"text": f"{prompt[-1]['content']} {answer['content']}"},
        "preference": {"prompt": prompt, "chosen": [answer], "rejected": [worse]},
        "unpaired": {"prompt": prompt, "completion": [worse if number % 3 == 0 else answer], "label": number % 3 != 0},
        "prompt": {"prompt": prompt},
    }
    return forms[shape]


def write_shape(path: Path, shape: str, numbers: range) -> Path:
    """A JSON Lines file with one row of a shape a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(shaped(number, shape)) + "\n" for number in numbers), encoding="utf-8")
    return path


def recipe(root: Path, model: Path, **changes: Any) -> dict[str, Any]:
    """A whole recipe that runs in seconds; its rows are written below `root`. Train and eval share no row."""
    train = write_rows(root / "rows" / "train.jsonl", range(24))
    held_out = write_rows(root / "rows" / "eval.jsonl", range(100, 106))
    chain = [{"type": "merge_adapter"}]
    plain: dict[str, Any] = {
        "name": "tiny",
        "seed": 17,
        "model": {"type": "pretrained", "name": str(model)},
        "data": {"train": {"type": "jsonl", "path": str(train)}, "eval": {"type": "jsonl", "path": str(held_out)}},
        "train": [
            {
                "type": "sft",
                "max_steps": 3,
                "batch_size": 2,
                "learning_rate": 1.0e-2,
                "warmup_steps": 0,
                "dtype": "float32",
                "lora": {"r": 4, "alpha": 8, "target_modules": "all-linear"},
            }
        ],
        "optimize": {
            "fp32": [*chain, {"type": "onnx", "precision": "fp32"}],
            "int4": [*chain, {"type": "onnx", "precision": "int4", "extra": {"int4_block_size": 32}}],
        },
        "benchmark": [
            {"type": "exact_match", "rows": 3, "max_new_tokens": 6, "batch_size": 3, "dtype": "float32"},
            {"type": "agreement", "rows": 2},
            {"type": "latency", "rounds": 1, "new_tokens": 4},
        ],
        "gate": [{"type": "budget", "max": {"bytes": "1GB"}}],
        "register": {"model": "tiny", "alias": "staging"},
    }
    return plain | changes


def failing_gate() -> list[dict[str, Any]]:
    """A gate that no variant can pass: nothing fits into one byte."""
    return [{"type": "budget", "max": {"bytes": 1}}]


def write_recipe(path: Path, plain: dict[str, Any]) -> Path:
    """The recipe as a YAML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unshared = json.loads(json.dumps(plain))  # what stands twice would become a YAML alias, which recipes refuse
    path.write_text(yaml.safe_dump(unshared, sort_keys=False), encoding="utf-8")
    return path
