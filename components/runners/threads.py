"""Threads of this process, as many at a time as the settings say; one after the other by default.

# postmill.yaml
runner: {type: threads, workers: 2}
"""

from __future__ import annotations

from pydantic import Field, PositiveInt

from components.core.component import StrictConfig
from components.core.kinds import register
from components.runners._base import Runner


@register("runner", "threads")
class Threads(Runner):
    """Does the work in this process."""

    class Config(StrictConfig):
        workers: PositiveInt = Field(1, description="how many work at the same time")

    config: Config
