"""Compile the network with torch.compile: kernels that are fused for its shapes, at the price of a long first answer.

    optimize: {compiled: [{type: merge_adapter}, {type: torch_compile, backend: inductor}]}

Weights stay as they are; the directory says that it is opened compiled, with a static key-value cache, because one
that grows changes the shapes at every token. Warm-up (compilation) is measured apart from the steady speed, and after
how many tokens it is paid back. Where it brings nothing, the pass refuses, unless `force: true`.
`inductor` needs a C++ compiler; `aot_eager` only traces, and shows whether a model can be compiled at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt

from components.compression.opening import EFFECT, Compilation, KeyValueCache, copy_model, read_runtime, write_runtime
from components.core.artifacts import Artifact
from components.core.errors import ArtifactError
from components.core.kinds import register
from components.core.safeload import explained
from components.interfaces import Pass, StepContext


@register("pass", "torch_compile")
class TorchCompile(Pass):
    """Open the model compiled; measures warm-up and steady speed, and refuses where it brings nothing."""

    consumes = ("model",)
    produces = "model"
    libraries = ("torch", "transformers")
    depends_on_machine = True
    alone = True
    keeps_opening = True

    class Config(Compilation):
        min_speedup: PositiveFloat = Field(1.05, description="tokens/s after, against before")
        force: bool = Field(False, description="go on where it is no faster")
        tokens: PositiveInt = Field(32, description="of each timed answer")
        rounds: PositiveInt = 3

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return EFFECT

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        import torch

        from components.compression.measuring import timings, written

        before = read_runtime(source.path)
        copy_model(source.path, out)
        compiled = Compilation(backend=self.config.backend, mode=self.config.mode)
        cache = KeyValueCache(type="static") if before.cache.type == "dynamic" else before.cache
        write_runtime(out, before, compile=compiled, cache=cache)
        torch.compiler.reset()  # else what this process has compiled before would not count as warm-up
        with explained(f"torch.compile ({compiled.backend}) fails on this model"):
            found = timings({"": source, "after": written(source, out)}, self.config.tokens, self.config.rounds)
        speedup = found[""].token / found["after"].token
        if speedup < self.config.min_speedup and not self.config.force:
            raise ArtifactError(
                f"torch.compile ({compiled.backend}) brings {speedup:.2f} times the speed here, and "
                f"{found['after'].warmup:.0f} s of warm-up: leave the pass out, or write force: true"
            )
        saved = found[""].token - found["after"].token
        paid_back = math.ceil(found["after"].warmup / saved) if saved > 0 else None
        facts = {"speedup": round(speedup, 3), "paid_back_after_tokens": paid_back}
        return {**compiled.model_dump(), **facts, **found["after"].facts(), **found[""].facts("_before")}
