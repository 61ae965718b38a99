"""What is asked of a row before any other rule can look at it: that it can be read, and has the declared form.

These are found while rows are read, converted and rendered; here they have their names, and what to do about them:
quarantine, or `fail` to stop the run at the first one. They cannot be ignored, because there is no row to go on with.

Try it: `data: {contract: {rules: {parse: fail}}}` in a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Batch, Rule


class _Reading(Rule):
    """Found by whoever reads the row."""

    class Config(StrictConfig):
        action: Literal["quarantine", "fail"] = "quarantine"

    def check(self, batch: Batch) -> Mapping[int, str]:
        return {}


@register("rule", "parse")
class Parse(_Reading):
    """The row can be read."""


@register("rule", "encoding")
class Encoding(_Reading):
    """The row's bytes are text in the declared encoding."""


@register("rule", "too_big")
class TooBig(_Reading):
    """The row is not longer than the reader's `max_row_bytes`."""


@register("rule", "schema")
class Schema(_Reading):
    """The row has the form that was declared or detected."""


@register("rule", "template")
class Template(_Reading):
    """The model's chat template takes the conversation."""

    on_tokens = True
    shapes = ("conversation", "preference", "unpaired", "prompt")
