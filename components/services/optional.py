"""Steps that a recipe switches off (`enabled: false`) or does not insist on (`required: false`) end as skipped.

A skipped step says why on the bus, in the terminal, in the tracker, in Prefect and in the evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from components.core.errors import StepSkipped, TrainingInterrupted
from components.core.events import EventBus, StageSkipped
from components.core.recipe import Spec
from components.core.secret import masked

log = logging.getLogger(__name__)


@contextmanager
def optional(spec: Spec, bus: EventBus, stage: str, name: str) -> Iterator[None]:
    """Do the step below unless it is switched off; turn its failure into `StepSkipped` if it is not required."""
    if not spec.enabled:
        raise _skipped(bus, stage, name, "switched off in the recipe (enabled: false)")
    try:
        yield
    except (StepSkipped, TrainingInterrupted):  # who asked for an end does not mean this step alone
        raise
    except Exception as error:
        if spec.required:
            raise
        log.info("%s %s failed and is not required", stage, name, exc_info=error)
        raise _skipped(bus, stage, name, f"it failed and is not required: {type(error).__name__}: {error}") from error


def _skipped(bus: EventBus, stage: str, name: str, reason: str) -> StepSkipped:
    reason = masked(reason)  # it goes into the evidence, and with it to whoever gets the model
    bus.emit(StageSkipped(stage=stage, name=name, reason=reason))
    return StepSkipped(reason)
