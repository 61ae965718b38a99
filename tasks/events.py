"""Tells Prefect what happens in a run: its events (for automations) and the report on the run's page.

    postmill.stage.finished, postmill.gate.judged, ...    in Prefect's event feed; resource: postmill.run.<run id>

Progress of single steps is not sent: an automation has no use for it, and each event is a request.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from components.core.events import Event, EvidenceWritten, RunStarted, StageProgress, TrainStep
from components.core.kinds import register
from components.core.secret import masked, masked_data
from components.interfaces import Sink
from components.services.evidence import REPORT

TOO_MANY = (StageProgress, TrainStep)


@register("sink", "prefect")
class PrefectSink(Sink):
    """Events and the report of a run for Prefect's pages and automations; silent outside a flow run."""

    _off: Callable[[], None] = staticmethod(lambda: None)
    _run = "process"

    def setup(self) -> None:
        self._off = self.bus.on_any(self._tell)

    def close(self) -> None:
        self._off()

    def _tell(self, event: Event) -> None:
        # a process that runs a flow has imported Prefect; no other must wait a second for it
        if "prefect.context" not in sys.modules or isinstance(event, TOO_MANY):
            return
        from prefect.context import FlowRunContext

        if FlowRunContext.get() is None:
            return
        if isinstance(event, RunStarted):
            self._run = event.run_id
        self._emit(event)
        if isinstance(event, EvidenceWritten):
            _show_report(Path(event.folder))

    def _emit(self, event: Event) -> None:
        from prefect.events import emit_event

        resource = {"prefect.resource.id": f"postmill.run.{self._run}", "prefect.resource.name": self._run}
        emit_event(event=f"postmill.{event.topic}", resource=resource, payload=masked_data(event.data))


def _show_report(folder: Path) -> None:
    """The report as an artifact of the flow run."""
    from prefect.artifacts import create_markdown_artifact

    report = (folder / REPORT).read_text(encoding="utf-8")
    # Prefect's artifact keys are lower case letters, digits and dashes
    create_markdown_artifact(markdown=masked(report), key=re.sub(r"[^a-z0-9-]+", "-", folder.name.lower()))
