"""Trains the last layers only, in plain PyTorch: little memory, and the rest of the model stays as it was.

train: [{type: acme_freeze, layers: 1, max_steps: 20}]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt

from components.core.artifacts import Artifact
from components.core.chat import Encoded, encode_chat
from components.core.component import StrictConfig
from components.core.dataset import rows as dataset_rows
from components.core.errors import TrainingError
from components.core.events import MetricLogged, TrainStep
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import StepContext, Trainer


class FreezeTrainer(Trainer):
    """Fine-tuning of the last layers, everything before them frozen."""

    # a new version of one of these makes old results stale
    libraries = ("postmill", "postmill-acme", "torch", "transformers")
    depends_on_machine = True

    class Config(StrictConfig):
        max_steps: PositiveInt = 20
        batch_size: PositiveInt = Field(4, description="rows in one step")
        learning_rate: PositiveFloat = 1e-3
        layers: PositiveInt = Field(1, description="how many of the last layers are trained")

    config: Config

    @classmethod
    def produces_kind(cls, config: Any) -> str:
        return "model"

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        tokenizer, network = load_tokenizer(model.path), load_causal_lm(model.path)
        share = self._freeze(network)
        rows = [encode_chat(tokenizer, row["messages"]) for row in dataset_rows(dataset, "train")]
        losses = []
        for step, loss in enumerate(self._steps(network, rows, context.seed), start=1):
            losses.append(loss)
            context.bus.emit(TrainStep(step=step, total=self.config.max_steps, loss=loss))
        context.bus.emit(MetricLogged(values={"acme_trained_share": share}, step=len(losses)))
        network.save_pretrained(out, safe_serialization=True)
        tokenizer.save_pretrained(out)
        return {"steps": len(losses), "final_loss": losses[-1], "losses": losses, "trained_share": share}

    def _freeze(self, network: Any) -> float:
        """Let only the last layers learn; returns their share of all weights."""
        from torch.nn import ModuleList

        blocks = next(module for module in network.modules() if isinstance(module, ModuleList))
        network.requires_grad_(False)
        blocks[-self.config.layers :].requires_grad_(True)
        trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
        return float(trained / network.num_parameters())

    def _steps(self, network: Any, rows: list[Encoded], seed: int) -> Iterator[float]:
        """One optimizer step after the other; gives the mean loss of each."""
        import torch

        random = Random(seed)
        optimizer = torch.optim.AdamW([w for w in network.parameters() if w.requires_grad], self.config.learning_rate)
        for _ in range(self.config.max_steps):
            losses = [_loss(network, row) for row in random.choices(rows, k=self.config.batch_size)]
            loss = torch.stack(losses).mean()
            if not torch.isfinite(loss):  # before a weight moves: a NaN that is applied once never leaves
                raise TrainingError(f"the loss became {loss.item()}; lower learning_rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield float(loss)


def _loss(network: Any, row: Encoded) -> Any:
    import torch

    return network(input_ids=torch.tensor([row.ids]), labels=torch.tensor([row.labels()])).loss
