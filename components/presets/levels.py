"""Chains of passes under one name, for people who want a level and not a list: `optimize: {small: enhanced}`.

`postmill check` shows what a level expands to, and the evidence names the passes that ran.
"""

from __future__ import annotations

from components.core.kinds import register
from components.interfaces import Preset


@register("preset", "basic")
class Basic(Preset):
    """The model as it was trained, on ONNX Runtime: same weights, faster."""

    chain = ({"type": "merge_adapter"}, {"type": "onnx", "precision": "fp32"})


@register("preset", "enhanced")
class Enhanced(Preset):
    """8-bit weights: a quarter of the size, answers nearly always the same."""

    chain = ({"type": "merge_adapter"}, {"type": "onnx", "precision": "int8"})


@register("preset", "advanced")
class Advanced(Preset):
    """4-bit weights: the smallest and fastest, and the one whose evidence deserves a look."""

    chain = ({"type": "merge_adapter"}, {"type": "onnx", "precision": "int4"})
