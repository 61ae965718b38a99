"""`speed: auto`: measure the ways to do the same arithmetic on this machine for a few steps, and take the fastest.

One lever at a time, from what the rules suggest: forward and backward pass on the first batches of the run, no
optimizer step, random numbers and gradients put back afterwards. A lever is kept when it gives at least 2 %. Measuring
ends when it has taken a tenth of what the training itself will take.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from components.core.machine import machine
from components.training.frozen import hold_frozen, may_hold, without_casts
from components.training.setting import Setting, applied
from components.training.state import random_state, restore_random_state

if TYPE_CHECKING:
    from components.training.run import Build, Run

KEPT = 1.02
TIMED = 2
LEAST, SHARE = 10.0, 0.1
"""Seconds that measuring may take at least, and the share of the training it may take at most."""
COMPILE_PAYS = 300
"""Steps below which torch.compile never earns back its own time on the machines we saw."""


def fastest(run: Run, build: Build, setting: Setting) -> tuple[Setting, list[dict[str, Any]]]:
    """The best setting found, and what was tried: lever, value, tokens/s, gain, whether it was taken."""
    with applied(setting, run.config.determinism):
        trainer = run.prepare(build, setting)
        if not trainer.ordered:
            return setting, []
        bench = _Bench(run, trainer)
        with bench.untouched():
            return _climb(bench, setting)


def _climb(bench: _Bench, setting: Setting) -> tuple[Setting, list[dict[str, Any]]]:
    started, best = time.perf_counter(), bench.tokens_per_s(setting)
    tried: list[dict[str, Any]] = [_entry("rules", "as suggested", best, 1.0, True)]
    for lever, value, way in _ways(bench, setting):
        bench.run.heed()
        if time.perf_counter() - started > max(LEAST, SHARE * bench.whole_run(best)):
            tried.append({"lever": lever, "value": value, "skipped": "measuring took a tenth of the training"})
            continue
        other = setting.changed(**way)
        try:
            found = bench.tokens_per_s(other)
        except (RuntimeError, ValueError, NotImplementedError, MemoryError) as error:  # this model cannot, or no room
            tried.append({"lever": lever, "value": value, "skipped": f"{type(error).__name__}: {error}"[:200]})
            continue
        taken = found > best * KEPT
        tried.append(_entry(lever, value, found, found / best, taken))
        if taken:
            setting, best = other, found
    return setting, tried


def _entry(lever: str, value: Any, tokens_per_s: float, gain: float, chosen: bool) -> dict[str, Any]:
    return {
        "lever": lever,
        "value": value,
        "tokens_per_s": round(tokens_per_s, 1),
        "gain": round(gain, 3),
        "chosen": chosen,
    }


def _ways(bench: _Bench, now: Setting) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """What can be done in another way, as far as the recipe does not say how. Rounding differs, and with bucketing the
    order of rows."""
    config = bench.run.config
    if config.dtype == "auto" and bench.trains_in_bf16():
        other = "float32" if now.dtype == "bfloat16" else "bfloat16"
        yield "dtype", other, {"dtype": other}
    available = {
        "short": now.device == "cpu" and now.dtype != "float32",
        "flash_attention_2": now.device == "cuda" and find_spec("flash_attn"),
    }
    for attention in ("short", "eager", "sdpa", "flash_attention_2"):
        if attention != bench.attention() and available.get(attention, True):
            yield "attention", attention, {"attention": attention}
    if now.device == "cpu":
        for threads in sorted({1, machine().cores // 2, machine().cores} - {0, now.threads}):
            yield "threads", threads, {"threads": threads}
    yield "bucketing", not now.bucketing, {"bucketing": not now.bucketing}
    yield (
        "activation_checkpointing",
        not now.activation_checkpointing,
        {"activation_checkpointing": not now.activation_checkpointing},
    )
    if bench.run.steps() >= COMPILE_PAYS and not now.compile:
        yield "compile", True, {"compile": True}


class _Bench:
    """The first batches of a run, to be passed through the network in different ways."""

    def __init__(self, run: Run, trainer: Any) -> None:
        self.run, self.trainer, self.network = run, trainer, trainer.model
        self.batches = {kind: self._batches(kind) for kind in (True, False)}

    def _batches(self, bucketing: bool) -> list[dict[str, Any]]:
        before, self.run.setting = self.run.setting, self.run.setting.changed(bucketing=bucketing)
        order, size = self.trainer._layout(), self.trainer.args.train_batch_size
        self.run.setting = before
        # some from the middle: the first two batches may be the shortest
        starts = [len(order) * part // (TIMED * size) * size for part in range(TIMED)]
        rows, collate = self.trainer.train_dataset, self.trainer.data_collator
        picked = [[rows[number] for number in order[start : start + size]] for start in starts]
        return [self.trainer._prepare_inputs(collate(batch)) for batch in picked]

    def attention(self) -> str:
        """The implementation in use."""
        return str(self.network.config.get_text_config()._attn_implementation)

    def trains_in_bf16(self) -> bool:
        """Whether the machine multiplies in bfloat16, so that trying is worth the time."""
        return machine().bf16 if self.network.device.type == "cpu" else torch.cuda.is_bf16_supported()

    def whole_run(self, tokens_per_s: float) -> float:
        """Seconds that the training will take at this pace."""
        config = self.run.config
        a_step = sum(self._tokens(batch) for batch in self.batches[True]) / TIMED * config.accumulate
        return self.run.steps() * a_step / tokens_per_s

    def _tokens(self, batch: dict[str, Any]) -> int:
        return int(self.trainer.count_tokens(dict(batch)))

    def tokens_per_s(self, setting: Setting) -> float:
        """Pace of forward and backward passes, after one that is not counted."""
        batches = self.batches[setting.bucketing]
        with self._as(setting) as network:
            self._step(network, batches[0], setting)
            started = time.perf_counter()
            for batch in batches:
                self._step(network, batch, setting)
            if setting.device == "cuda":
                torch.cuda.synchronize()
            return sum(map(self._tokens, batches)) / (time.perf_counter() - started)

    @contextmanager
    def _as(self, setting: Setting) -> Iterator[Any]:
        before, checkpointing = self.attention(), setting.activation_checkpointing
        torch.set_num_threads(setting.threads)
        if may_hold(self.network):
            hold_frozen(self.network, getattr(torch, setting.dtype))
        if setting.attention:
            self.network.set_attn_implementation(setting.attention)
        if checkpointing:
            self.network.activation_checkpointing_enable({"use_reentrant": False})
        try:
            with without_casts(self.network, getattr(torch, setting.dtype)):
                yield torch.compile(self.network) if setting.compile else self.network
        finally:
            if checkpointing:
                self.network.activation_checkpointing_disable()
            self.network.set_attn_implementation(before)

    def _step(self, network: Any, batch: dict[str, Any], setting: Setting) -> None:
        dtype = getattr(torch, setting.dtype)
        inputs = {name: value for name, value in batch.items() if name != "tokens"}
        with torch.autocast(setting.device, dtype, enabled=dtype != torch.float32):
            loss = self.trainer.compute_loss(network, inputs)
        loss.backward()
        self.network.zero_grad()

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Random numbers and mode of the network as they were."""
        state, training = random_state(), self.network.training
        self.network.train()
        try:
            yield
        finally:
            self.network.train(training)
            restore_random_state(state)
