"""What every component is: a class with a typed, strict, frozen `Config` of its own, and a life with an end.

@register("trainer", "sft")
class SftTrainer(Trainer):
    class Config(StrictConfig):
        max_steps: PositiveInt = 60
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from components.core.health import Health


class StrictConfig(BaseModel):
    """Configuration that refuses unknown keys and cannot change after it was checked."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), hide_input_in_errors=True
    )


def first_line(cls: type) -> str:
    """First line of a class's own docstring."""
    return (vars(cls).get("__doc__") or "").strip().partition("\n")[0]


class Component:
    """Base of all components. What a class says of itself here goes into the identity of what it produces."""

    Config: ClassVar[type[StrictConfig]] = StrictConfig
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version shapes the output."""
    depends_on_machine: ClassVar[bool] = False
    """True if another processor may give another output: timings, and arithmetic chosen by `dtype: auto`."""

    neutral: ClassVar[tuple[str, ...]] = ()
    """Keys of the configuration that do not shape the output: how often it is saved, what is shown meanwhile."""

    @classmethod
    def uses(cls, config: Any) -> Sequence[type]:
        """Components that it finds by name while it works: their code shapes the output as its own does."""
        return ()

    def __init__(self, config: Any = None) -> None:
        self.config = config if config is not None else self.Config()

    @classmethod
    def summary(cls) -> str:
        """First line of the class's docstring, for listings."""
        return first_line(cls)

    # What holds a resource overrides these three; nothing is held by default.

    def setup(self) -> None:
        """Take what is needed (files, connections, weights). Called once, before use."""

    def close(self) -> None:
        """Give it all back. Called once, also after a failure, and harmless when nothing was set up."""

    def health(self) -> Health:
        """Whether the component can do its work now."""
        return Health("ok")

    def __enter__(self) -> Self:
        try:
            self.setup()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
