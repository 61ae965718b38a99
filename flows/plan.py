"""What a run will do, before it does it: the steps, and estimates of memory, disk and time.

Estimates are arithmetic on the model's size and rates seen with SmolLM2-135M on two cores; they tell whether a run
takes minutes or hours, not more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.core.machine import Machine
from components.core.recipe import Recipe, Spec
from components.training.config import STEPS

TRAIN_TOKEN_FLOPS = 6
"""Multiply-adds of forward and backward for a token and a weight, times two (Kaplan et al. 2020, arXiv:2001.08361)."""
FLOPS_PER_CORE = {"float32": 130e9, "bfloat16": 150e9}
"""Arithmetic a second and core while training SmolLM2-135M on short rows: 370 and 380 tokens/s on two AVX-512 cores."""


@dataclass(frozen=True)
class Rows:
    """How much there is to train on. A short chat row has 110 tokens; the quickstart's have 109."""

    count: int = 0
    tokens: float = 110.0
    """Of a row, the mean."""


@dataclass(frozen=True)
class Estimate:
    """Bytes and seconds, rough."""

    memory: float
    disk: float
    train_seconds: float


def steps(recipe: Recipe) -> list[str]:
    """The run, a line a step."""
    lines = [
        f"fetch     {recipe.model.type}",
        f"validate  {' and '.join(_source(split, spec) for split, spec in recipe.data.readers().items())}",
    ]
    lines += [f"train     {spec.type} ({_brief(spec.dump())}){_switch(spec)}" for spec in recipe.train]
    lines += [
        f"optimize  {name}: {' -> '.join(_pass(spec.dump()) + _switch(spec) for spec in chain)}"
        for name, chain in recipe.optimize.items()
    ]
    lines += _search(recipe)
    winners = [f"up to {recipe.optimize.search.keep} of the search"] if recipe.optimize.search else []
    subjects = ", ".join(["base", "trained", *recipe.optimize, *winners])
    lines += [f"benchmark {spec.type} on {subjects}{_switch(spec)}" for spec in recipe.benchmark]
    lines += [f"gate      {spec.type}" for spec in recipe.gate]
    if recipe.register_as:
        target = recipe.register_as
        lines.append(f"register  the {target.prefer} accepted variant as {target.model}@{target.alias}")
    return lines


def _search(recipe: Recipe) -> list[str]:
    search = recipe.optimize.search
    if search is None:
        return []
    budget = ", ".join(f"{name} {limit:g}" for name, limit in search.budget.items()) or "none"
    return [
        f"search    {search.trials} chains at most, {search.parallel} at a time, {search.sampler.type} over "
        f"{len(search.space)} chain(s) with choices; budget: {budget}"
    ]


def estimate(recipe: Recipe, parameters: int, machine: Machine, rows: Rows = Rows()) -> Estimate:
    """Peak memory, disk of all artifacts, and training time for a model of this many weights."""
    weights = parameters * 4.0
    passes = [spec for chain in recipe.optimize.all_chains().values() for spec in chain]
    outputs = {str(spec.identity()): spec.build().estimated_bytes(parameters) for spec in passes}
    dtype = machine.dtype()
    tokens = sum(_tokens(spec.config, rows) for spec in recipe.train if spec.enabled)
    flops = TRAIN_TOKEN_FLOPS * parameters * tokens
    full = any(getattr(spec.config, "lora", True) is None for spec in recipe.train)
    return Estimate(
        # weights, activations, and for full training gradients and two moments
        memory=weights * (5 if full else 2.5) + 1.5e9,
        # the base, the trained copy if it is a full one, and every different pass output
        disk=weights * (2 if full else 1) + sum(outputs.values()),
        train_seconds=flops / (FLOPS_PER_CORE[dtype] * machine.cores),
    )


def rows_of(report: Mapping[str, Any]) -> Rows:
    """The training rows of a data report."""
    tokens = report["splits"]["train"].get("tokens")
    count = report["rows"]["train"]
    return Rows(count, tokens["total"] / count) if tokens and count else Rows(count)


def _tokens(config: object, rows: Rows) -> float:
    """Tokens that a trainer's configuration goes through: its steps or its epochs, whichever end first."""
    steps, epochs = getattr(config, "max_steps", None), getattr(config, "epochs", None)
    row = getattr(config, "max_length", rows.tokens) if getattr(config, "packing", False) else rows.tokens
    step = row * getattr(config, "batch_size", 1) * getattr(config, "accumulate", 1)
    ends = [steps * step] if steps else []
    ends += [epochs * rows.count * rows.tokens] if epochs else []
    return float(min(ends, default=STEPS * step))


def _switch(spec: Spec) -> str:
    """What is said of a step that may be, or is, left out."""
    if not spec.enabled:
        return " [switched off]"
    return f"{f' [when {spec.when}]' if spec.when else ''}{'' if spec.required else ' [may fail]'}"


def _source(split: str, spec: Spec) -> str:
    """`train data/rows.jsonl`, or the kind of reader where it has no path."""
    return f"{split} {getattr(spec.config, 'path', None) or spec.type}"


def _brief(config: dict[str, object]) -> str:
    shown = {k: config[k] for k in ("max_steps", "epochs", "batch_size", "learning_rate") if config.get(k) is not None}
    lora = config.get("lora")
    extra = f", LoRA r={lora['r']}" if isinstance(lora, dict) else ", all weights"
    return ", ".join(f"{k}={v}" for k, v in shown.items()) + extra


def _pass(config: dict[str, object]) -> str:
    precision = config.get("precision")
    return f"{config['type']}({precision})" if precision else str(config["type"])
