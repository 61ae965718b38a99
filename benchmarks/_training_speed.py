"""Speed, loss and memory of fine-tuning beside plain TRL and LLaMA-Factory: every side sees the same rows once.

One pass over the rows makes the number of trained tokens the same on all sides, whatever order each of them takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks._data_llamafactory_setup import Installed
from benchmarks._training_bench import BATCH, LORA, Bench, first_lines, in_order, order_of
from benchmarks.report import Figure
from components.core.artifacts import Artifact
from components.core.dataset import index, token_lengths, tokens
from components.core.safeload import load_tokenizer

TRIAGE = Path("data/triage")
SMOOTHED = 5
"""Losses of so many last steps are averaged where training losses are compared."""
SFT = {"type": "sft", "batch_size": BATCH, "learning_rate": 2.0e-3, "lora": LORA}
"""The quickstart's step; schedule and warm-up are set to TRL's defaults, so that all sides train alike."""
LIKE_TRL = {"scheduler": "linear", "warmup_steps": 0}
DPO = {"type": "dpo", "batch_size": BATCH, "learning_rate": 5.0e-5, "beta": 0.1, "lora": LORA}

Run = dict[str, Any]


# ---------------------------------------------------------------- supervised fine-tuning


def measure_sft(bench: Bench, steps: int, rounds: int, other: Installed) -> tuple[dict[str, Figure], dict[str, object]]:
    """All sides in turn, then one run of plain TRL on our order of rows, and one judge for all adapters."""
    rows = first_lines(TRIAGE / "train.jsonl", steps * BATCH, bench.folder / "sft.jsonl")
    recipe = bench.recipe("sft", rows, {**SFT, **LIKE_TRL, "max_steps": steps})
    dataset = bench.dataset(recipe)
    count = sum(token_lengths(index(dataset, "train")))
    for _ in range(rounds):
        bench.work("ceiling", "_training_ceiling", bench.model.path, count // steps)
        ours(bench, "sft ours", recipe)
        plain(bench, "sft trl", "_training_plain_sft", rows, steps)
        if other.python:
            plain(bench, "sft llamafactory", "_training_llamafactory", rows, steps, python=other.python)
    order = order_of(bench.runs["sft ours"][0]["rows"], index(dataset, "train")["input_ids"])
    assert sorted(order) == list(range(steps * BATCH)), "our side did not train on every row once"
    same = in_order(labelled(bench, dataset), order, bench.folder / "in-order.jsonl")
    plain(bench, "sft trl, our order", "_training_plain_sft", same, steps, "--in-order")
    plain(bench, "sft trl, eager", "_training_plain_sft", same, steps, "--in-order", "--eager")
    exact = bench.recipe("sft-float32", rows, {**SFT, **LIKE_TRL, "max_steps": steps, "dtype": "float32"})
    ours(bench, "sft ours, float32", exact)
    plain(bench, "sft trl, float32", "_training_plain_sft", same, steps, "--in-order", "--float32")
    sides = [name for name in bench.runs if name.startswith("sft ")]
    judged = judge(bench, dataset.path, sides)
    speed = rate(count)
    figures = {
        **speed_figures(bench, "sft", speed),
        **beside_llamafactory(bench, speed),
        **loss_figures(bench, judged),
        **memory_figures(bench, "sft"),
        **utilisation(bench, count / (steps * BATCH), speed),
    }
    return figures, {**about(bench, sides), "tokens of a run": count, "rows": steps * BATCH, "judged": judged}


def labelled(bench: Bench, dataset: Artifact) -> Any:
    """The training rows with their labels."""
    return tokens(dataset, "train", load_tokenizer(bench.model.path))


def ours(bench: Bench, name: str, recipe: Path) -> None:
    bench.work(name, "_training_ours", recipe, bench.model_root, bench.place("ours"))


def plain(bench: Bench, name: str, module: str, rows: Path, steps: int, *more: str, python: Path | None = None) -> None:
    """A run of another side, in a folder of its own: some go on with what they find there."""
    place = bench.place("theirs")
    bench.work(name, module, bench.model.path, rows, place, steps, *more, python=python)["adapter"] = str(place)


def judge(bench: Bench, dataset: Path, sides: list[str]) -> dict[str, dict[str, float]]:
    """Mean loss of the first adapter of every side, on rows it was trained on and on held-out ones."""
    adapters = {name: bench.runs[name][0]["adapter"] for name in sides}
    found = bench.work("judge", "_training_judge", bench.model.path, dataset, *adapters.values(), keep=False)
    return {"base": found["base"], **{name: found[adapter] for name, adapter in adapters.items()}}


def rate(count: int) -> Callable[[Run], float]:
    """Tokens a second of a run that saw every row once; padding is not counted."""
    return lambda run: count / run["seconds"]


# ---------------------------------------------------------------- figures


def speed_figures(bench: Bench, kind: str, speed: Callable[[Run], float]) -> dict[str, Figure]:
    """Ours and plain TRL."""
    mine, theirs = f"{kind} ours", f"{kind} trl"
    goal = {"sft": ">= 3", "dpo": ">= 2"}[kind]
    whole = bench.ratio(theirs, mine, lambda run: run["whole_s"])
    worked = f"by processor time {bench.ratio(theirs, mine, lambda run: run['cpu_seconds']):.3g}"
    return {
        f"{kind} tokens": Figure(bench.middle(mine, speed), "tokens/s", "", bench.spread(mine, speed)),
        f"{kind} tokens, plain TRL": Figure(bench.middle(theirs, speed), "tokens/s", "", bench.spread(theirs, speed)),
        f"{kind} against plain TRL": Figure(bench.ratio(mine, theirs, speed), "times as fast", goal, worked),
        f"{kind} whole process": Figure(whole, "times as fast", "", "start-up, rows and saving included"),
    }


def beside_llamafactory(bench: Bench, speed: Callable[[Run], float]) -> dict[str, Figure]:
    """Its template may give a row other tokens, so its own are counted."""
    name = "sft llamafactory"
    if name not in bench.runs:
        return {}

    def theirs(run: Run) -> float:
        return float(run["tokens"] / run["seconds"])

    pairs = zip(bench.runs["sft ours"], bench.runs[name], strict=True)
    ratios = sorted(speed(mine) / theirs(other) for mine, other in pairs)
    return {
        "sft tokens, LLaMA-Factory": Figure(bench.middle(name, theirs), "tokens/s", "", bench.spread(name, theirs)),
        "sft against LLaMA-Factory": Figure(ratios[len(ratios) // 2], "times as fast", ">= 1.5", "steps alone"),
    }


def loss_figures(bench: Bench, judged: dict[str, dict[str, float]]) -> dict[str, Figure]:
    """After the same tokens in the same order: as both sides train by default, and in float32, where rounding does not
    blur it. Without a target, what rounding alone makes of plain TRL, and each side's own order."""
    mine, same, own, eager = (judged[f"sft {name}"] for name in ("ours", "trl, our order", "trl", "trl, eager"))
    mine_exact, theirs_exact = (judged[f"sft {name}"] for name in ("ours, float32", "trl, float32"))

    def training(name: str) -> float:
        return fmean(bench.runs[f"sft {name}"][0]["losses"][-SMOOTHED:])

    def apart(one: float, two: float) -> float:
        return abs(one / two - 1) * 100

    base = judged["base"]["eval"]
    return {
        "loss on trained rows": Figure(
            apart(mine["train"], same["train"]), "% apart", "<= 1", f"{mine['train']:.4f} and {same['train']:.4f}"
        ),
        "loss on held-out rows": Figure(
            apart(mine["eval"], same["eval"]),
            "% apart",
            "<= 1",
            f"{mine['eval']:.4f} and {same['eval']:.4f}, base model {base:.4f}",
        ),
        "training loss, last steps": Figure(
            apart(training("ours"), training("trl, our order")),
            "% apart",
            "<= 1",
            f"{training('ours'):.4f} and {training('trl, our order'):.4f}",
        ),
        "loss in float32, trained rows": Figure(
            apart(mine_exact["train"], theirs_exact["train"]),
            "% apart",
            "<= 1",
            f"{mine_exact['train']:.5f} and {theirs_exact['train']:.5f}",
        ),
        "loss in float32, held-out rows": Figure(
            apart(mine_exact["eval"], theirs_exact["eval"]),
            "% apart",
            "<= 1",
            f"{mine_exact['eval']:.5f} and {theirs_exact['eval']:.5f}",
        ),
        "plain TRL against itself, other attention": Figure(
            apart(eager["train"], same["train"]),
            "% apart",
            "",
            f"trained rows; held-out ones {apart(eager['eval'], same['eval']):.2f}",
        ),
        "loss on held-out rows, TRL's own order": Figure(own["eval"], "nats", "", f"ours {mine['eval']:.4f}"),
    }


def memory_figures(bench: Bench, kind: str) -> dict[str, Figure]:
    """The most that a process held, ours by plain TRL's."""
    mine, theirs = (bench.middle(f"{kind} {side}", lambda run: run["peak_mb"]) for side in ("ours", "trl"))
    return {f"{kind} peak memory": Figure(mine / theirs, "of plain TRL's", "<= 1", f"{mine:,.0f} by {theirs:,.0f} MB")}


def needed(model: Path, length: int) -> float:
    """Floating-point operations to train the adapter on one token, as `components.training.flops` counts them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from components.training.flops import flops_per_token

    adapter = LoraConfig(r=LORA["r"], lora_alpha=LORA["alpha"], target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
        return flops_per_token(get_peft_model(network, adapter), length)


def utilisation(bench: Bench, length: float, speed: Callable[[Run], float]) -> dict[str, Figure]:
    """Arithmetic that training needs, by what the same round's matrix products reached. The output matrix counts for
    every token, as is usual, though our side spares it where nothing is trained on."""
    need = needed(bench.model.path, round(length)) / 1e9
    found = {}
    for dtype in ("float32", "bfloat16"):
        reached = bench.middle("ceiling", lambda run, dtype=dtype: run[dtype]["model"])
        square = bench.middle("ceiling", lambda run, dtype=dtype: run[dtype]["square"])
        found[f"ceiling {dtype}"] = Figure(reached, "GFLOP/s", "", f"the model's shapes; 1024^3: {square:,.0f}")
    for side, name in (("ours", "ours"), ("trl", "plain TRL")):
        pairs = zip(bench.runs[f"sft {side}"], bench.runs["ceiling"], strict=True)
        ratios = sorted(speed(run) * need / ceiling["bfloat16"]["model"] for run, ceiling in pairs)
        found[f"utilisation, {name}"] = Figure(
            ratios[len(ratios) // 2] * 100, "% of the bf16 ceiling", "", f"{need:.3f} GFLOP a token"
        )
    return found


def about(bench: Bench, sides: list[str]) -> dict[str, object]:
    """How each side was set up, and what one run of it looked like."""
    kept = ("seconds", "cpu_seconds", "before_s", "whole_s", "tokens", "peak_mb", "losses")
    return {
        name: {
            "setting": bench.runs[name][0]["setting"],
            "choice": bench.runs[name][0].get("choice"),
            "runs": [{key: run[key] for key in kept} for run in bench.runs[name]],
        }
        for name in sides
    }


# ---------------------------------------------------------------- preferences


def measure_dpo(bench: Bench, steps: int, rounds: int) -> tuple[dict[str, Figure], dict[str, object]]:
    """The sample task's preferences, every pair once: prompt and chosen, prompt and rejected."""
    whole = first_lines(TRIAGE / "preferences.jsonl", steps * BATCH, bench.folder / "whole.jsonl")
    lines = [json.loads(line) for line in whole.read_text(encoding="utf-8").splitlines()]
    pairs = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in lines]
    rows = bench.folder / "dpo.jsonl"
    rows.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
    tokenizer = load_tokenizer(bench.model.path)
    both = [pair["prompt"] + pair[side] for pair in pairs for side in ("chosen", "rejected")]
    count = sum(len(tokenizer.apply_chat_template(one, return_dict=True)["input_ids"]) for one in both)
    held_out = {"eval": {"type": "jsonl", "path": str(held_out_pairs(bench, steps * BATCH))}}
    recipe = bench.recipe("dpo", rows, {**DPO, **LIKE_TRL, "max_steps": steps}, data=held_out)
    for _ in range(rounds):
        ours(bench, "dpo ours", recipe)
        plain(bench, "dpo trl", "_training_plain_dpo", rows, steps)
    figures = {**speed_figures(bench, "dpo", rate(count)), **memory_figures(bench, "dpo")}
    return figures, {**about(bench, ["dpo ours", "dpo trl"]), "tokens of a run": count, "pairs": len(pairs)}


def held_out_pairs(bench: Bench, skip: int, count: int = 16) -> Path:
    """Pairs after those that are trained on."""
    lines = (TRIAGE / "preferences.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    path = bench.folder / "dpo-eval.jsonl"
    path.write_text("".join(lines[skip : skip + count]), encoding="utf-8")
    return path
