"""Training in tests: a run on rows that are made by hand, and one step of the loss alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.core.events import EventBus
from components.core.kinds import registry
from components.interfaces import StepContext
from tests import tiny


def lean_loss(model: Any, batch: dict[str, Any], items: Any = None) -> Any:
    """The loss on trained tokens as the trainers compute it."""
    from components.training.head import add_lean_head

    if not hasattr(model, "lean"):
        add_lean_head(model, scores=False)
        model.lean = True
    return model(**batch, fused_lm_head=True, num_items_in_batch=items).loss


def sft(out: Path, rows: Any, bus: EventBus, model: Any = None, **config: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Train on rows with `input_ids` and `labels`; the run, transformers' trainer, and the figures."""
    from trl import SFTConfig

    from components.training.run import Run
    from components.training.supervised import SafeSft

    settings = registry.get("trainer", "sft").Config(**({"dtype": "float32"} | config))
    run = Run(settings, None, None, out, StepContext(17, bus))  # type: ignore[arg-type]
    run.tokenizer = tiny.tokenizer()
    made: list[Any] = []

    def build(network: Any, arguments: dict[str, Any]) -> Any:
        given = {"max_length": settings.max_length, "dataset_kwargs": {"skip_prepare_dataset": True}}
        parts = {"model": network, "train_dataset": rows, "processing_class": run.tokenizer}
        made.append(SafeSft(run=run, args=SFTConfig(**arguments, **given), packing=settings.packing, **parts))
        return made[-1]

    longest = settings.max_length if settings.packing else None
    figures = run.train(rows, build, longest, network=lambda: model or tiny.network())
    return run, made[-1], figures
