"""What the passes share that set weights to zero and leave the shapes as they are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from components.compression.pruning.pruning import PROBES, Pruning, PruningConfig, logits_of
from components.core.errors import ConfigError
from components.core.events import StageProgress
from components.interfaces import StepContext


class ZeroingConfig(PruningConfig):
    """Keys of every pass that sets weights to zero."""

    sparsity: float = Field(0.5, gt=0, lt=1, description="share of the weights that become zero")
    pattern: Literal["unstructured", "2:4"] = Field("unstructured", description="2:4: two of every four inputs")
    force: bool = Field(False, description="do it although nothing here becomes smaller or faster by it")

    @model_validator(mode="after")
    def _half(self) -> Self:
        if self.pattern == "2:4" and self.sparsity != 0.5:
            raise ConfigError(f'pattern "2:4" is a sparsity of 0.5; take sparsity: {self.sparsity:g} out')
        return self


class Zeroing(Pruning):
    """Sets weights to zero. Subclasses implement `zero`."""

    config: Any

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset({"sparse"})

    @classmethod
    def refusal(cls, config: Any, kind: str, effects: frozenset[str]) -> str | None:
        if not config.force:
            return (
                "makes a model neither smaller nor faster: files store zeros like other weights, and ONNX Runtime and "
                "PyTorch multiply with them on a CPU; take prune_depth or prune_width, or write force: true"
            )
        return super().refusal(config, kind, effects)

    @abstractmethod
    def zero(self, network: Any, rows: Sequence[Any], told: Callable[[int], None]) -> dict[str, Any]:
        """Set weights to zero, in place; returns figures."""

    def shrink(self, network: Any, rows: Sequence[Any], context: StepContext) -> tuple[dict[str, Any], list[Any]]:
        from components.compression.layers import decoder_layers
        from components.compression.pruning.sparsity import check_pattern, sparsity

        total, before = len(decoder_layers(network)), sparsity(network)
        check_pattern(network, self.config.pattern)

        def told(done: int) -> None:
            context.bus.emit(StageProgress(stage="optimize", name="sparsity", done=done, total=total))

        found = self.zero(network, rows, told)
        taken = {"pattern": self.config.pattern, "sparsity_before": before["sparsity"], **found, **sparsity(network)}
        return taken, [logits_of(network, row) for row in rows[:PROBES]]

    def restored(self, unhealed: Path, healed: Path) -> dict[str, Any]:
        from components.compression.pruning.sparsity import set_zeros_again

        return set_zeros_again(unhealed, healed)
