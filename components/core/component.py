"""What every component is: a class with a typed, strict, frozen `Config` of its own.

@register("trainer", "sft")
class SftTrainer(Trainer):
    class Config(StrictConfig):
        max_steps: PositiveInt = 60
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class StrictConfig(BaseModel):
    """Configuration that refuses unknown keys and cannot change after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Component:
    """Base of all components. What a class says of itself here goes into the identity of what it produces."""

    Config: ClassVar[type[StrictConfig]] = StrictConfig
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version shapes the output."""
    depends_on_machine: ClassVar[bool] = False
    """True if another processor may give another output: timings, and arithmetic chosen by `dtype: auto`."""

    def __init__(self, config: Any = None) -> None:
        self.config = config if config is not None else self.Config()

    @classmethod
    def summary(cls) -> str:
        """First line of the class's docstring, for listings."""
        return (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""
