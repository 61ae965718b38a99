"""Quantization-aware training: a short training with rounded weights, so that they end where rounding hurts least.

    optimize: {int4: [{type: merge_adapter}, {type: quantize_qat, steps: 100}, {type: onnx}]}

torchao rounds the weights of the linear layers at every step; they learn to say what the model in float says, on the
run's training rows, without labels. The result is packed with our own grid, which is the one that was trained on, and
exports like every quantized model. It costs a training run and the memory of one: two networks, gradients, AdamW.

Measured on held-out rows: divergence from the float model after training, and of rounding to nearest on the same grid.
A training that ends no nearer than rounding fails the pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ArtifactError, require
from components.core.events import StageProgress
from components.core.kinds import register
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import Pass, StepContext


@register("pass", "quantize_qat")
class QuantizeQat(Pass):
    """Train weights while they are rounded to 4 or 8 bits (torchao), towards the model in float."""

    consumes = ("model",)
    produces = "quantized"
    not_after = frozenset({"quantized"})
    libraries = ("torch", "transformers", "torchao")
    extras: ClassVar[Mapping[str, str]] = {"torchao": "qat"}

    class Config(StrictConfig):
        bits: Literal[4, 8] = 4
        group: Literal[16, 32, 64, 128] = 32
        steps: PositiveInt = 100
        batch_size: PositiveInt = 4
        learning_rate: PositiveFloat = 2e-5
        rows: PositiveInt = 400
        max_length: PositiveInt = 256
        measure: PositiveInt = 16

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset({"quantized"})

    @classmethod
    def needs_rows(cls, config: Any) -> bool:
        return True

    def estimated_bytes(self, parameters: int) -> int:
        # embedding and head, a fifth of a small model's weights, stay in float32
        return int(parameters * (0.8 * (self.config.bits + 36 / self.config.group) + 0.2 * 32) / 8)

    def estimated_memory(self, parameters: int) -> int:
        return parameters * 4 * 6  # two networks, gradients, two moments of AdamW, activations

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        require("torchao", "qat")
        from components.compression.calibration import calibration_ids
        from components.compression.quantization.checkpoint import load_quantized, save_quantized
        from components.compression.quantization.qat import fake_quantized, learn

        config, seed, tokenizer = self.config, context.seed, load_tokenizer(source.path)
        rows = calibration_ids(context.dataset, tokenizer, config.rows, config.max_length, seed)
        held_out = self._held_out(context, tokenizer)
        teacher, network = load_causal_lm(source.path), load_causal_lm(source.path)
        grid = self._grid(network)
        fake_quantized(network, grid)

        def tell(done: int) -> None:
            context.bus.emit(StageProgress(stage="optimize", name="quantize_qat", done=done, total=config.steps))

        losses = learn(network, teacher, rows, config.steps, config.batch_size, config.learning_rate, seed, tell)
        facts = save_quantized(source.path, teacher, _codes(network, grid), out)
        return {
            **facts,
            **self._measured(load_quantized(out), network, teacher, held_out, grid),
            "loss_first": losses[0],
            "loss_last": sum(losses[-5:]) / len(losses[-5:]),
        }

    def _held_out(self, context: StepContext, tokenizer: Any) -> Any:
        from components.compression.distance import held_out_split, scored_rows

        assert context.dataset is not None  # asked for by `needs_rows`, and read from before this
        split = held_out_split(context.dataset)
        trained_on = self.config.rows if split == "train" else 0
        wanted = (self.config.measure, self.config.max_length, context.seed, trained_on)
        return scored_rows(context.dataset, tokenizer, split, *wanted)

    def _grid(self, network: Any) -> Any:
        from components.compression.layers import block_linears
        from components.compression.quantization.grid import Grid

        grid = Grid(self.config.bits, self.config.group)
        for name, module in block_linears(network).items():
            grid.check(module.in_features, name)
        return grid

    def _measured(self, written: Any, trained: Any, teacher: Any, rows: Any, grid: Any) -> dict[str, Any]:
        """Distances to the float model on held-out rows, and that what was written is what was trained."""
        import torch

        from components.compression.distance import distance, largest_difference
        from components.compression.layers import block_linears
        from components.compression.quantization.grid import round_to_nearest

        worst = largest_difference(trained, written, rows)
        if not worst <= 1e-2:  # NaN is never close
            raise ArtifactError(f"packed weights give logits that differ by {worst:.4g} from those that were trained")
        found = distance(teacher, written, rows)
        del written
        with torch.no_grad():  # the trained network's memory is reused for plain rounding of the source's weights
            plain = dict(block_linears(teacher))
            for name, module in block_linears(trained).items():
                module.weight.copy_(round_to_nearest(plain[name].weight, grid).dequantize())
        rounded = distance(teacher, trained, rows)
        if found["mean_kl"] >= rounded["mean_kl"]:
            raise ArtifactError(
                f"training ends {found['mean_kl']:.4g} nats from the float model, rounding to nearest "
                f"{rounded['mean_kl']:.4g}; train longer (steps), more carefully (learning_rate), or on more rows"
            )
        return {**found, "mean_kl_round_to_nearest": rounded["mean_kl"], "max_logit_difference": worst}


def _codes(network: Any, grid: Any) -> dict[str, Any]:
    from components.compression.layers import block_linears
    from components.compression.quantization.grid import round_to_nearest

    return {name: round_to_nearest(m.weight.detach(), grid) for name, m in block_linears(network).items()}
