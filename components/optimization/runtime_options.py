"""Threads and execution provider of an exported model: tried on this machine, and the best kept in its configuration.

    optimize: {int4: [{type: merge_adapter}, {type: onnx}, {type: runtime_options}]}

Each candidate generates in turns with the others; what is not faster than the runtime's own choice by `min_gain` is
not written. The result belongs to this machine: elsewhere the pass measures anew.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from components.compression.opening import copy_model
from components.core.artifacts import Artifact, write_json
from components.core.component import StrictConfig
from components.core.kinds import register
from components.core.machine import machine
from components.interfaces import Pass, StepContext, Subject
from components.runtime import opened

CONFIG = "genai_config.json"
PROVIDERS = {"CUDAExecutionProvider": "cuda", "DmlExecutionProvider": "dml"}
"""What ONNX Runtime calls providers that are worth a try, and how its generator does."""
Options = dict[str, Any]


@register("pass", "runtime_options")
class RuntimeOptions(Pass):
    """Measure threads and execution providers of an exported model, and keep the fastest."""

    consumes = ("onnx",)
    produces = "onnx"
    libraries = ("onnxruntime", "onnxruntime-genai")
    depends_on_machine = True
    alone = True

    class Config(StrictConfig):
        threads: list[PositiveInt] = Field([], description="candidates; by default up to the cores of this machine")
        spinning: bool = Field(True, description="try threads that sleep while they wait, too")
        tokens: PositiveInt = Field(32, description="of each timed answer")
        rounds: PositiveInt = 3
        min_gain: float = Field(0.02, ge=0, description="what is not faster by this share is not kept")

    config: Config

    def estimated_bytes(self, parameters: int) -> int:
        return parameters * 4  # whatever precision the source has

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        copy_model(source.path, out)
        plain = source.read_json(CONFIG)
        found = self._measured(out, plain, self._candidates())
        usual = found["as it is"][1]
        name = min(found, key=lambda name: found[name][1])
        if usual / found[name][1] < 1 + self.config.min_gain:
            name = "as it is"
        write_json(out / CONFIG, _with(plain, found[name][0]))
        speeds = {tried: round(1 / token, 2) for tried, (_, token) in found.items()}
        gain = round(usual / found[name][1], 3)
        return {"kept": name, "session_options": found[name][0], "gain": gain, "tokens_per_s_of": speeds}

    def _candidates(self) -> dict[str, Options]:
        import onnxruntime

        threads = self.config.threads or sorted({1, machine().cores // 2 or 1, machine().cores})
        found: dict[str, Options] = {"as it is": {}}
        found |= {f"{count} threads": {"intra_op_num_threads": count} for count in threads}
        if self.config.spinning:
            quiet = {"intra_op_num_threads": threads[-1], "session.intra_op.allow_spinning": "0"}
            found[f"{threads[-1]} threads, sleeping"] = quiet
        there = [short for name, short in PROVIDERS.items() if name in onnxruntime.get_available_providers()]
        return found | {short: {"provider_options": [{short: {}}]} for short in there}

    def _measured(
        self, out: Path, plain: Mapping[str, Any], candidates: Mapping[str, Options]
    ) -> dict[str, tuple[Options, float]]:
        """Seconds a token with each, the median over rounds in which they take turns."""
        from components.compression.measuring import request

        model = Artifact(path=out, kind="onnx", stage="", key="", digest="", parents={}, meta={}, size=0)
        taken: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(self.config.rounds):
            for name, options in candidates.items():
                write_json(out / CONFIG, _with(plain, options))
                with opened(Subject(name=name, artifact=model)) as backend:
                    request(backend, 4)  # warms up
                    taken[name].append(request(backend, self.config.tokens).token)
        return {name: (candidates[name], statistics.median(taken[name])) for name in candidates}


def _with(plain: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The configuration of the generator with these options of its session."""
    decoder = plain["model"]["decoder"]
    changed = {**decoder, "session_options": {**decoder.get("session_options", {}), **options}}
    return {**plain, "model": {**plain["model"], "decoder": changed}}
