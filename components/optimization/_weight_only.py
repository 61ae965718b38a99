"""What the passes `quantize_gptq` and `quantize_awq` share: calibrate on training rows, tune, compare, write."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.events import StageProgress
from components.core.machine import machine
from components.core.safeload import check_model_directory, load_causal_lm, load_tokenizer
from components.interfaces import Pass, StepContext

WIDE = 64
"""Weights that share a scale at 8 bits: narrower groups would not be seen."""
TOKENS_AT_ONCE = 4096


class TuneConfig(StrictConfig):
    """Training of scales and norms."""

    steps: PositiveInt = 60
    rows: PositiveInt = Field(2000, description="calibration rows at most")
    tokens: PositiveInt = Field(1024, description="a step, about")
    learning_rate: PositiveFloat = Field(1e-3, description="relative to the size of a scale")


class WeightOnlyConfig(StrictConfig):
    """Keys of every calibrated pass."""

    bits: Literal[4, 8] = 4
    group: Literal[16, 32, 64, 128, 256] = 32
    head: Literal[4, 8] = Field(8, description="bits of the head, and of an embedding that is tied to it")
    rows: PositiveInt = Field(96, description="calibration rows")
    max_length: PositiveInt = 512
    tune: TuneConfig | None = TuneConfig()


class WeightOnly(Pass):
    """Linear layers and the head in few bits, calibrated on training rows. Subclasses implement `codes`."""

    consumes = ("model",)
    produces = "quantized"
    not_after = frozenset({"quantized"})
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    depends_on_machine = True
    Config: ClassVar[type[StrictConfig]] = WeightOnlyConfig
    config: Any

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset({"quantized"})

    @classmethod
    def needs_rows(cls, config: Any) -> bool:
        return True

    def estimated_bytes(self, parameters: int) -> int:
        return int(parameters * (self.config.bits / 8 + 0.25))

    def estimated_memory(self, parameters: int) -> int:
        # two networks in float32, codes in bytes, steps in half precision, gradients of one pass
        return parameters * 20 + 2_000_000_000

    def grids(self) -> list[Any]:
        """What layers may be rounded to, the fewest bits first."""
        from components.compression.quantization.grid import Grid

        return [Grid(self.config.bits, self.config.group)]

    @abstractmethod
    def codes(
        self, network: Any, layers: Mapping[str, Any], head: Mapping[str, Any], tokenizer: Any, context: StepContext
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Codes of `layers` by name, and figures; `head` has those of the head. The network may be written to
        as long as it goes on to compute what it did."""

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        from components.compression.distance import distance, held_out_split, scored_rows
        from components.compression.quantization.checkpoint import save_quantized
        from components.compression.quantization.grid import Grid, half_precision
        from components.compression.quantization.weight_only import head_codes, packable, put_back

        check_model_directory(source.path)
        tokenizer, student = load_tokenizer(source.path), load_causal_lm(source.path)
        layers = packable(student, self.grids())
        head = head_codes(student, Grid(self.config.head, WIDE if self.config.head == 8 else 32))
        codes, facts = self.codes(student, layers, head, tokenizer, context)
        codes = {name: half_precision(found) for name, found in codes.items()}

        put_back(student, head | codes)
        reference = load_causal_lm(source.path)
        assert context.dataset is not None
        judged = scored_rows(context.dataset, tokenizer, held_out_split(context.dataset), 24, 512, context.seed)
        facts |= {"rounded": distance(reference, student, judged)}
        if self.config.tune:
            codes, losses = self._tuned(reference, student, codes, tokenizer, context)
            facts |= {"tuned": distance(reference, student, judged), "tuning_kl": losses}
        return facts | save_quantized(source.path, student, head | codes, out)

    def rows(self, context: StepContext, tokenizer: Any, count: int, tokens_at_once: int = TOKENS_AT_ONCE) -> list[Any]:
        """Batches of up to `count` calibration rows."""
        from components.compression.calibration import batches, calibration_ids

        rows = calibration_ids(context.dataset, tokenizer, count, self.config.max_length, context.seed)
        return batches(rows, tokens_at_once)

    def _tuned(
        self, reference: Any, student: Any, codes: Mapping[str, Any], tokenizer: Any, context: StepContext
    ) -> tuple[dict[str, Any], Sequence[float]]:
        from components.compression.quantization.tuning import Tuning, install, settle

        tune, told = self.config.tune, progress(context, "tune")
        rows = self.rows(context, tokenizer, tune.rows, tune.tokens)
        scaled = install(student, codes, half_type())
        tuning = Tuning(reference, student, scaled, half_type())
        losses = tuning.train(
            rows, tune.steps, tune.learning_rate, context.seed, lambda step, _: told(step, tune.steps)
        )
        return settle(student, scaled, codes), [round(loss, 5) for loss in losses]


def progress(context: StepContext, name: str) -> Callable[[int, int], None]:
    """Tells the run's bus how far a step is."""

    def told(done: int, total: int) -> None:
        context.bus.emit(StageProgress(stage="optimize", name=name, done=done, total=total))

    return told


def half_type() -> Any:
    """The type that this machine multiplies fastest in: bfloat16 or float32."""
    import torch

    return getattr(torch, machine().dtype())
