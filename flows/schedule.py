"""Serves deployments from this process: schedules fire, and Prefect's UI and CLI can start them.

postmill schedule --dry-run       # what would run, and when next
postmill schedule
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from flows.deployments import Planned
from flows.servers import ServerFailed, answers

if TYPE_CHECKING:
    from prefect import Runner

LOOK_EVERY_S, GIVEN_UP_AFTER = 5.0, 3


def serve(planned: Sequence[Planned], limit: int, url: str) -> None:
    """Serve until stopped, at most `limit` runs at a time, on the server at `url` (`PREFECT_API_URL` too).

    Schedules rest while nobody serves, so that a start does not begin with what was missed. A ServerFailed if the
    server goes away.
    """
    from prefect.runner import Runner

    runner = Runner(limit=limit)
    for each in planned:
        runner.add_deployment(each.deployment())
    with suppress(KeyboardInterrupt):  # how it is meant to end
        asyncio.run(_while_it_answers(runner, url))


async def _while_it_answers(runner: Runner, url: str) -> None:
    stop, silent = asyncio.Event(), 0
    serving, stopped = asyncio.create_task(runner.start()), asyncio.create_task(stop.wait())
    await asyncio.sleep(0)  # the runner begins, and with it its own way to take SIGTERM, which leaves schedules on
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        while not (serving.done() or stopped.done()):
            await asyncio.wait({serving, stopped}, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            silent = 0 if await asyncio.to_thread(answers, url) else silent + 1
            if silent >= GIVEN_UP_AFTER:
                runner.pause_on_shutdown = False  # nobody is there to be told
                raise ServerFailed(
                    f"the Prefect server at {url} does not answer any more; start 'postmill schedule' again"
                )
    finally:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # else runs that are cut off print tracebacks
        stopped.cancel()
        if not serving.done():
            serving.cancel()
            await asyncio.wait({serving})
    if serving.done() and not serving.cancelled():
        serving.result()
