"""A recipe written in Python, one call a section; `build()` checks it like a file.

    recipe = (
        Pipeline("triage")
        .model("packaged_gguf")
        .data(train={"type": "jsonl", "path": "train.jsonl"}, eval={"type": "jsonl", "path": "eval.jsonl"})
        .train("sft", max_steps=60, lora={"r": 16})
        .optimize("int8", "enhanced")                                            # a preset, or passes:
        .optimize("fp32", step("merge_adapter"), step("onnx", precision="fp32"))
        .benchmark("exact_match", rows=60)
        .gate("budget", max={"bytes": "300MB"})
        .register("triage", alias="staging")
        .build()
    )

Every call returns a new pipeline, so a common beginning can be kept and continued in two ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Self

from components.core.recipe import Recipe, parse_recipe
from components.core.search import SEARCH


def step(type: str, /, **config: Any) -> dict[str, Any]:
    """A component by name, as it stands in a recipe."""
    return {"type": type, **config}


class Pipeline:
    """Collects the sections of a recipe."""

    def __init__(self, name: str, seed: int = 17) -> None:
        self._plain: dict[str, Any] = {"name": name, "seed": seed}

    def model(self, type: str, /, **config: Any) -> Self:
        """The base model."""
        return self._with("model", step(type, **config))

    def data(self, *, train: Mapping[str, Any], **rest: Any) -> Self:
        """The rows; `rest` holds `eval` or `split`, and may hold `test`, `format` and `contract`."""
        return self._with("data", {"train": dict(train), **rest})

    def train(self, type: str, /, **config: Any) -> Self:
        """One more training step."""
        return self._add("train", step(type, **config))

    def optimize(self, variant: str, *passes: Mapping[str, Any] | str) -> Self:
        """One more variant: a chain of passes, or the name of a preset."""
        preset = len(passes) == 1 and isinstance(passes[0], str)
        chain = passes[0] if preset else list(passes)
        return self._with("optimize", {**self._plain.get("optimize", {}), variant: chain})

    def search(self, *space: Sequence[Mapping[str, Any]] | str, **rest: Any) -> Self:
        """Variants that are searched for, in a space of chains; `rest` may hold `budget`, `sampler`, `trials`, ..."""
        chains = [chain if isinstance(chain, str) else list(chain) for chain in space]
        return self._with("optimize", {**self._plain.get("optimize", {}), SEARCH: {"space": chains, **rest}})

    def benchmark(self, type: str, /, **config: Any) -> Self:
        """One more benchmark."""
        return self._add("benchmark", step(type, **config))

    def suite(self, name: str) -> Self:
        """The benchmarks of a suite, `maths` for example."""
        return self._add("benchmark", name)

    def gate(self, type: str, /, **config: Any) -> Self:
        """One more gate."""
        return self._add("gate", step(type, **config))

    def register(self, model: str, **rest: Any) -> Self:
        """Where an accepted variant goes; `rest` may hold `alias` and `prefer`."""
        return self._with("register", {"model": model, **rest})

    def service(self, role: str, type: str, /, **config: Any) -> Self:
        """Who fills a role."""
        return self._with("services", {**self._plain.get("services", {}), role: step(type, **config)})

    def section(self, name: str, /, **config: Any) -> Self:
        """A plugin's own section."""
        return self._with(name, config)

    def build(self) -> Recipe:
        """The recipe; a ConfigError lists everything that is wrong with it."""
        return parse_recipe(self._plain)

    def _add(self, key: str, value: Any) -> Self:
        return self._with(key, [*self._plain.get(key, []), value])

    def _with(self, key: str, value: Any) -> Self:
        other = type(self).__new__(type(self))
        other._plain = {**self._plain, key: deepcopy(value)}
        return other
