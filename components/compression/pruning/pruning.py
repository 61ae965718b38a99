"""What all pruning passes share: rows to choose by, healing, and what is measured before and after.

A pass says what it takes away (`shrink`); this opens the network, writes the result, heals it if asked to, and
measures the distance to the unpruned model on rows that neither chose nor trained anything.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PositiveInt

from components.compression.pruning.healing import checked, heal
from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ArtifactError, ModelLoadError
from components.core.recipe import OfKind, Spec
from components.interfaces import Pass, StepContext

Healing = Annotated[Spec | None, OfKind("trainer", optional=True), AfterValidator(checked)]
UNHEALED = "unhealed"
"""Where the pruned model waits for its trainer, below the result."""
PROBES = 2
"""Rows by which a written model is compared with the network in memory."""
ROUNDING = 1e-3
"""Difference of logits, in float32, that is no more than another order of additions."""


class Rows(StrictConfig):
    """Rows that a pass looks at."""

    calibrate: PositiveInt = Field(32, description="training rows to choose by")
    measure: PositiveInt = Field(24, description="rows to measure the distance on: of eval, or training rows left over")
    max_length: PositiveInt = Field(512, description="tokens of a row; the rest is cut off")


class PruningConfig(StrictConfig):
    """Keys of every pruning pass."""

    heal: Healing = Field(
        None, description="a trainer that mends what pruning broke; its teacher is the unpruned model"
    )
    rows: Rows = Rows()


class Pruning(Pass):
    """Takes weights away, and heals. Subclasses implement `shrink`."""

    consumes = ("model",)
    produces = "model"
    libraries = ("torch", "transformers", "trl", "peft")
    depends_on_machine = True
    config: Any

    @classmethod
    def needs_rows(cls, config: Any) -> bool:
        return True

    @classmethod
    def healer(cls, config: Any) -> Spec | None:
        """The trainer that comes after pruning."""
        found: Spec | None = config.heal
        return found

    @classmethod
    def inputs(cls, config: Any) -> Mapping[str, Spec]:
        healer = cls.healer(config)
        return healer.component.inputs(healer.config) if healer else {}

    def estimated_bytes(self, parameters: int) -> int:
        return parameters * (8 if self.healer(self.config) else 4)

    def estimated_memory(self, parameters: int) -> int:
        healer = self.healer(self.config)
        if healer is None:
            return parameters * 12  # the network, the one it is compared with, and room to work
        # weights, gradients and two moments of each; an adapter has next to none of the last three
        return parameters * (12 if healer.component.produces_kind(healer.config) == "adapter" else 24)

    @abstractmethod
    def shrink(self, network: Any, rows: Sequence[Any], context: StepContext) -> tuple[dict[str, Any], list[Any]]:
        """Take weights out of the network, in place: what was taken, and the logits that `rows[:PROBES]` now have.

        The logits are found without the way the result is written, which they prove."""

    def restored(self, unhealed: Path, healed: Path) -> dict[str, Any]:
        """What must be mended after healing, and figures about it."""
        return {}

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        from components.compression.distance import scored_rows
        from components.core.safeload import load_causal_lm, load_tokenizer

        asked, place = self.config.rows, out / UNHEALED if self.healer(self.config) else out
        network, tokenizer = load_causal_lm(source.path), load_tokenizer(source.path)
        rows = scored_rows(context.dataset, tokenizer, "train", asked.calibrate, asked.max_length, context.seed)
        taken, expected = self.shrink(network, rows, context)
        network.save_pretrained(place, safe_serialization=True)
        tokenizer.save_pretrained(place)
        del network
        prove(place, rows, expected)
        facts = {**taken, **self.finished(source, place, out, context)}
        shutil.rmtree(out / UNHEALED, ignore_errors=True)
        return facts

    def finished(self, source: Artifact, place: Path, out: Path, context: StepContext) -> dict[str, Any]:
        """Heal what is in `place`, if asked to; figures about the distance to the source before and after."""
        measure, healer = Measure(source, self.config.rows, context), self.healer(self.config)
        found = measure(place)
        if healer is None:
            return found
        figures = heal(healer, source, place, out, context, sparse="sparse" in self.effects(self.config))
        mended = self.restored(place, out)
        unhealed = {f"{name}_unhealed": found[name] for name in ("mean_kl", "top1_agreement")}
        return {**measure(out), **unhealed, **mended, "heal": {"trainer": healer.type, **figures}}


class Measure:
    """The distance of a model directory to the source, on rows that nothing was chosen by."""

    def __init__(self, source: Artifact, rows: Rows, context: StepContext) -> None:
        from components.compression.distance import held_out_split, scored_rows
        from components.core.safeload import load_tokenizer

        assert context.dataset is not None
        self.source, self.split = source, held_out_split(context.dataset)
        offset = rows.calibrate if self.split == "train" else 0
        where = (context.dataset, load_tokenizer(source.path), self.split)
        self.rows = scored_rows(*where, rows.measure, rows.max_length, context.seed, offset)

    def __call__(self, place: Path) -> dict[str, Any]:
        from components.compression.distance import distance
        from components.core.safeload import load_causal_lm

        source, network = load_causal_lm(self.source.path), load_causal_lm(place)
        counts = {"parameters_before": _count(source), "parameters": _count(network)}
        return {**counts, **distance(source, network, self.rows), "measured_on": self.split}


def prove(place: Path, rows: Sequence[Any], expected: Sequence[Any]) -> None:
    """An ArtifactError unless the written model gives the expected logits: its configuration says what it is."""
    from components.compression.closeness import worst_difference
    from components.core.safeload import load_causal_lm

    try:
        network = load_causal_lm(place)
    except ModelLoadError as error:
        raise ModelLoadError(f"the configuration of this model cannot express what was taken away: {error}") from error
    worst = worst_difference(expected, [logits_of(network, row) for row in rows[: len(expected)]])
    if not worst <= ROUNDING:  # NaN is never close
        raise ArtifactError(
            f"the pruned model was written, but its logits differ by {worst:.3g} from those of the pruned network: "
            f"the configuration of a {type(network).__name__} cannot express what was taken away"
        )


def logits_of(network: Any, row: Any) -> Any:
    """Logits at every position of a row."""
    import torch

    with torch.inference_mode():
        return network(input_ids=row.ids, use_cache=False).logits


def _count(network: Any) -> int:
    return sum(weight.numel() for weight in network.parameters())
