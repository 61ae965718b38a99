"""Training from random weights on plain text: every token is learnt from, texts are cut and packed to full length.

    model: {type: new, sizes: {hidden_size: 256, num_hidden_layers: 4}, tokenizer: {train_on: ["books/*.txt"]}}
    train: [{type: from_scratch, epochs: 3}]

From scratch means from weights that know nothing. Those of a `new` model are trained as they are; those of any other
model are drawn anew, by the run's seed, so only its architecture and tokenizer are taken over. Texts longer than
`max_length` are cut into pieces; conversations are never cut. What differs from `sft` besides: the defaults, which are
those of pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from components.core.artifacts import Artifact
from components.core.errors import ConfigError, TrainingError
from components.core.kinds import register, registry
from components.core.recipe import OfKind, Spec
from components.core.safeload import load_causal_lm
from components.interfaces import StepContext
from components.trainers.sft import SftTrainer
from components.training.rows import eval_problem, supervised_rows, text_pieces


def _optimizer() -> Spec:
    return Spec(kind="optimizer", type="adamw", config=registry.get("optimizer", "adamw").Config(betas=(0.9, 0.95)))


@register("trainer", "from_scratch")
class FromScratchTrainer(SftTrainer):
    """Training from random weights on texts, conversations or the chosen answers of preferences; packed."""

    continues = False

    class Config(SftTrainer.Config):
        epochs: PositiveFloat | None = Field(3.0, description="passes over the rows; with max_steps, what comes first")
        batch_size: PositiveInt = Field(4, description="packs in one forward pass of all processes")
        learning_rate: PositiveFloat = 1e-3
        warmup_steps: int = Field(20, ge=0)
        weight_decay: float = Field(0.1, ge=0)
        optimizer: Annotated[Spec, OfKind("optimizer")] = Field(default_factory=_optimizer)
        packing: bool = Field(True, description="several rows in one sequence, each trained as if alone")

        @model_validator(mode="after")
        def _all_weights(self) -> Any:
            if self.peft:
                raise ConfigError("an adapter on random weights learns next to nothing; take lora or adapter out")
            return self

    config: Config

    def problem(self, dataset: Artifact) -> str | None:
        if dataset.meta["shape"] != "text":
            return super().problem(dataset)
        return eval_problem(dataset, self.config)

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        from trl import SFTConfig

        from components.training.run import Run
        from components.training.supervised import SafeSft

        problem = self.problem(dataset)
        if problem:
            raise TrainingError(problem)
        run = Run(self.config, model, dataset, out, context)
        rows, held_out = (self._rows(dataset, split, run) for split in ("train", "eval"))

        def build(network: Any, arguments: dict[str, Any]) -> SafeSft:
            given = {"max_length": self.config.max_length, "dataset_kwargs": {"skip_prepare_dataset": True}}
            return SafeSft(
                run=run,
                model=network,
                args=SFTConfig(**arguments, **given),
                train_dataset=rows,
                eval_dataset=held_out,
                processing_class=run.tokenizer,
                packing=self.config.packing,
            )

        longest = self.config.max_length if self.config.packing else None
        figures = run.train(rows, build, longest, lambda: random_network(model))
        left_out = (
            {} if dataset.meta["shape"] == "text" else {"rows_left_out": dataset.meta["rows"]["train"] - len(rows)}
        )
        return {**figures, **left_out}

    def _rows(self, dataset: Artifact, split: str, run: Any) -> Any:
        """Texts in pieces, conversations whole; None for eval rows that nobody asked for."""
        evaluate = self.config.evaluate
        if split == "eval" and evaluate is None:
            return None
        if dataset.meta["shape"] == "text":
            rows = text_pieces(dataset, split, run.tokenizer, self.config.max_length)
        else:
            rows = supervised_rows(dataset, split, run.tokenizer, self.config)
        return rows.select(range(min(evaluate.rows, len(rows)))) if split == "eval" and evaluate else rows


def random_network(model: Artifact) -> Any:
    """The artifact's network with weights that were never trained; drawn from torch's generator, unless it is new."""
    network = load_causal_lm(model.path)
    if model.meta.get("untrained"):
        return network
    fresh = type(network)(network.config)
    fresh.generation_config = network.generation_config
    return fresh.eval()
