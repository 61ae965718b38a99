"""Chains of passes under one name, for people who want a level and not a list: `optimize: {small: enhanced}`.

| level | content | what it costs |
| --- | --- | --- |
| `basic`, `O1` | the weights as they were trained, on ONNX Runtime | nothing: same answers, faster |
| `enhanced`, `O2` | 8-bit weights | a quarter of the size, answers nearly always the same |
| `advanced` | 4-bit weights, rounded | the smallest and fastest, and the one whose evidence deserves a look |
| `O3` | 4-bit weights, calibrated on the run's training rows | minutes of calibration, a smaller distance |

`O1` to `O3`, in small letters too, also try threads and execution providers on this machine, and keep the fastest.
Where training gives a whole model, and no adapter, `merge_adapter` is left out. `postmill check` shows what a level
expands to, and the evidence names the passes that ran.
"""

from __future__ import annotations

from typing import Any

from components.core.kinds import register
from components.interfaces import Preset

MERGE: dict[str, Any] = {"type": "merge_adapter"}
TUNE: dict[str, Any] = {"type": "runtime_options"}


@register("preset", "basic")
class Basic(Preset):
    """The model as it was trained, on ONNX Runtime: same weights, faster."""

    chain = (MERGE, {"type": "onnx", "precision": "fp32"})


@register("preset", "enhanced")
class Enhanced(Preset):
    """8-bit weights: a quarter of the size, answers nearly always the same."""

    chain = (MERGE, {"type": "onnx", "precision": "int8"})


@register("preset", "advanced")
class Advanced(Preset):
    """4-bit weights: the smallest and fastest, and the one whose evidence deserves a look."""

    chain = (MERGE, {"type": "onnx", "precision": "int4"})


@register("preset", "o1")
class Level1(Preset):
    """Basic, with threads and execution provider measured on this machine."""

    chain = (*Basic.chain, TUNE)


@register("preset", "o2")
class Level2(Preset):
    """Enhanced, with threads and execution provider measured on this machine."""

    chain = (*Enhanced.chain, TUNE)


@register("preset", "o3")
class Level3(Preset):
    """Calibrated 4-bit weights, with threads and execution provider measured on this machine."""

    chain = (MERGE, {"type": "quantize_gptq"}, {"type": "onnx"}, TUNE)
