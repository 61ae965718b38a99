"""Calibrated int4: rounded with GPTQ, bits where they are needed, scales trained; the model that still says the same.

    optimize:
      int4: [{type: merge_adapter}, {type: quantize_gptq, size: 95MB}, {type: onnx}]

Calibration rows come from the run's training rows, so nothing that is measured later was looked at. Steps:
1. The second moments of what goes into every linear layer, block by block; GPTQ on each (arXiv:2210.17323).
2. With `size`: what every layer costs in divergence on fewer and on more bits, measured, and the bits spread so that
   all fits. Without it every layer has `bits`.
3. `tune`: scales and norms learn the whole network's distribution again (as arXiv:2407.11062). Codes stay.
Embedding and head get `head` bits; a tied table is packed once. The result opens in PyTorch, too ("quantized").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ByteSize, Field, PositiveFloat, PositiveInt

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.events import StageProgress
from components.core.kinds import register
from components.core.machine import machine
from components.core.safeload import check_model_directory, load_causal_lm, load_tokenizer
from components.interfaces import Pass, StepContext

Group = Literal[16, 32, 64, 128, 256]
SAMPLES = 48
"""Rows that sensitivities are measured on."""
WIDE = 64
"""Weights that share a scale at 8 bits: narrower groups would not be seen."""


class TuneConfig(StrictConfig):
    """Training of scales and norms."""

    steps: PositiveInt = 60
    rows: PositiveInt = Field(2000, description="calibration rows at most")
    tokens: PositiveInt = Field(1024, description="a step, about")
    learning_rate: PositiveFloat = Field(1e-3, description="relative to the size of a scale")


@register("pass", "quantize_gptq")
class QuantizeGptq(Pass):
    """Calibrated weights in few bits: GPTQ, bits by measured sensitivity, trained scales."""

    consumes = ("model",)
    produces = "quantized"
    not_after = frozenset({"quantized"})
    libraries = ("torch", "transformers")
    depends_on_machine = True

    class Config(StrictConfig):
        bits: Literal[4, 8] = 4
        group: Group = 32
        size: ByteSize | None = Field(None, description="of all packed matrices; bits go where they buy most")
        head: Literal[4, 8] = Field(8, description="bits of embedding and head")
        rows: PositiveInt = Field(96, description="calibration rows for GPTQ")
        max_length: PositiveInt = 512
        tune: TuneConfig | None = TuneConfig()

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset({"quantized"})

    @classmethod
    def needs_rows(cls, config: Any) -> bool:
        return True

    def estimated_bytes(self, parameters: int) -> int:
        return int(self.config.size or parameters * (self.config.bits / 8 + 0.25))

    def estimated_memory(self, parameters: int) -> int:
        # two networks in float32, codes in bytes, steps in half precision, gradients of one pass
        return parameters * 20 + 2_000_000_000

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        from components.compression.distance import distance, held_out_split, scored_rows
        from components.compression.quantization.checkpoint import save_quantized
        from components.compression.quantization.grid import Grid, half_precision
        from components.compression.quantization.weight_only import head_codes, packable, put_back

        check_model_directory(source.path)
        tokenizer, network = load_tokenizer(source.path), load_causal_lm(source.path)
        narrow, wide = Grid(self.config.bits, self.config.group), Grid(8, WIDE)
        layers = packable(network, [narrow, wide] if self.config.size else [narrow])
        head = head_codes(network, Grid(self.config.head, WIDE if self.config.head == 8 else 32))
        options = self._options(network, layers, tokenizer, context, [narrow, wide] if self.config.size else [narrow])
        taken, facts = self._taken(network, options, head, tokenizer, context)
        codes = {name: half_precision(found[taken[name]]) for name, found in options.items()}

        student = load_causal_lm(source.path)
        put_back(student, head | codes)
        assert context.dataset is not None
        judged = scored_rows(context.dataset, tokenizer, held_out_split(context.dataset), 24, 512, context.seed)
        facts |= {"rounded": distance(network, student, judged)}
        if self.config.tune:
            codes, losses = self._tuned(network, student, codes, tokenizer, context)
            facts |= {"tuned": distance(network, student, judged), "tuning_kl": losses}
        return facts | save_quantized(source.path, student, head | codes, out)

    def _rows(self, context: StepContext, tokenizer: Any, count: int) -> list[Any]:
        from components.compression.calibration import calibration_ids

        return calibration_ids(context.dataset, tokenizer, count, self.config.max_length, context.seed)

    def _options(
        self, network: Any, layers: Mapping[str, Any], tokenizer: Any, context: StepContext, grids: Sequence[Any]
    ) -> dict[str, list[Any]]:
        """Codes of every layer on every grid, the smallest first: calibrated at few bits, fitted at 8."""
        from components.compression.calibration import batches
        from components.compression.quantization.gptq import gptq
        from components.compression.quantization.grid import round_to_nearest
        from components.compression.quantization.weight_only import moments_by_block

        rows = batches(self._rows(context, tokenizer, self.config.rows), 4096)
        found: dict[str, list[Any]] = {}

        def told(done: int, total: int) -> None:
            context.bus.emit(StageProgress(stage="optimize", name="gptq", done=done, total=total))

        for moments in moments_by_block(network, layers, rows, _dtype(), told):
            for name, seen in moments.items():
                weight = layers[name].weight.detach()
                found[name] = [
                    gptq(weight, seen, grid) if grid.bits < 8 else round_to_nearest(weight, grid, seen.diagonal())
                    for grid in grids
                ]
        return found

    def _taken(
        self, network: Any, options: Any, head: Mapping[str, Any], tokenizer: Any, context: StepContext
    ) -> tuple[dict[str, int], dict[str, Any]]:
        """Which option every layer takes, and what that is expected to cost."""
        from components.compression.calibration import batches
        from components.compression.quantization.sensitivity import allocate, sensitivities

        if self.config.size is None:
            return dict.fromkeys(options, 0), {}
        rows = batches(self._rows(context, tokenizer, SAMPLES), 256)
        costs = sensitivities(network, options, rows, context.seed)
        taken = allocate(options, costs, self.config.size - sum(codes.size for codes in head.values()))
        expected = sum(costs[name][number] for name, number in taken.items())
        more = sorted(name for name, number in taken.items() if number)
        return taken, {"expected_kl": expected, "layers_in_8_bits": more}

    def _tuned(
        self, network: Any, student: Any, codes: Mapping[str, Any], tokenizer: Any, context: StepContext
    ) -> tuple[dict[str, Any], list[float]]:
        from components.compression.calibration import batches
        from components.compression.quantization.tuning import Tuning, install, settle

        tune, dtype = self.config.tune, _dtype()
        assert tune is not None
        rows = self._rows(context, tokenizer, tune.rows)

        def told(step: int, _: float) -> None:
            context.bus.emit(StageProgress(stage="optimize", name="tune", done=step, total=tune.steps))

        scaled = install(student, codes, dtype)
        tuning = Tuning(network, student, scaled, dtype)
        losses = tuning.train(batches(rows, tune.tokens), tune.steps, tune.learning_rate, context.seed, told)
        return settle(student, scaled, codes), [round(loss, 5) for loss in losses]


def _dtype() -> Any:
    import torch

    return getattr(torch, machine().dtype())
