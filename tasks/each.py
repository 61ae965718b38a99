"""Several calls of one step at the same time, as far as the runner of this process allows.

Each call is a Prefect task of its own, on a thread that waits for the worker which does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from components.services.application import current
from components.services.runner import RunnerService


def each(step: Any, calls: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What the step returns for each of these arguments, in order; None where it is skipped."""
    runner = current().get(RunnerService)
    if len(calls) < 2 or runner.at_once < 2:
        return [step(**call) for call in calls]
    threads: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=min(runner.at_once, len(calls)))
    with threads:
        try:
            return [_result(future) for future in [threads.submit(step.task, dict(call)) for call in calls]]
        except (KeyboardInterrupt, SystemExit):
            runner.stop()  # the threads wait for the workers, and we for the threads
            raise


def _result(future: PrefectFuture[Any]) -> Any:
    result = future.result()
    return None if isinstance(result, State) else result
