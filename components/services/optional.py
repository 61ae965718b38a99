"""Steps that a recipe switches off (`enabled: false`), does not insist on (`required: false`), or makes depend on a
condition (`when`) that is not met, end as skipped.

A skipped step says why on the bus, in the terminal, in the tracker, in Prefect and in the evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from components.core.errors import StepNotBegun, StepSkipped, TrainingInterrupted
from components.core.events import EventBus, StageSkipped
from components.core.recipe import Spec
from components.core.secret import masked

log = logging.getLogger(__name__)


@contextmanager
def optional(spec: Spec, bus: EventBus, stage: str, name: str, unmet: str = "") -> Iterator[None]:
    """Do the step below unless it is switched off; turn its failure into `StepSkipped` if it is not required.

    `unmet`: why its condition is not met. What is not even begun raises `StepNotBegun`.
    """
    reason = unmet if spec.enabled else "switched off in the recipe (enabled: false)"
    if reason:
        raise StepNotBegun(_told(bus, stage, name, reason))
    try:
        yield
    except (StepSkipped, TrainingInterrupted):  # who asked for an end does not mean this step alone
        raise
    except Exception as error:
        if spec.required:
            raise
        log.info("%s %s failed and is not required", stage, name, exc_info=error)
        reason = f"it failed and is not required: {type(error).__name__}: {error}"
        raise StepSkipped(_told(bus, stage, name, reason)) from error


def _told(bus: EventBus, stage: str, name: str, reason: str) -> str:
    reason = masked(reason)  # it goes into the evidence, and with it to whoever gets the model
    bus.emit(StageSkipped(stage=stage, name=name, reason=reason))
    return reason
