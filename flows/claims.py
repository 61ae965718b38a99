"""One run at a time for what is written in one place, and runs that were killed are found.

    with claimed(root, "triage") as claim:      # refused while another process holds it
        claim.tracked(tracking)
    mark_crashed(root)                          # at the next start: what a SIGKILL left "Running" is marked

A claim is a lock of the operating system, which ends with its process however that ends, and beside it a small record
of who holds it. A record without its lock is a run that was killed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from filelock import FileLock, Timeout

from components.core.errors import PostmillError
from components.services.tracking import RunTracking
from components.trackers.mlflow import MlflowTracker, connect

FOLDER = Path(".prefect") / "claims"
POLL_S = 0.5
UNFINISHED = ["RUNNING", "PENDING", "CANCELLING", "PAUSED"]


class ClaimRefused(PostmillError):
    """Another run writes what this one would write."""


@dataclass(frozen=True)
class Claim:
    """What this process holds, and the record of it."""

    file: Path
    record: dict[str, Any]

    def tracked(self, tracking: RunTracking) -> None:
        """Note the run in MLflow, if there is one, so that it too is ended if this process is killed."""
        if isinstance(tracking.tracker, MlflowTracker):
            self.record["tracked"] = tracking.run_id
            self.write()

    def write(self) -> None:
        scratch = self.file.with_suffix(".new")
        scratch.write_text(json.dumps(self.record), encoding="utf-8")
        scratch.replace(self.file)


@contextmanager
def claimed(root: Path, name: str, wait_s: float = 1.0, hint: str = "") -> Iterator[Claim]:
    """Hold `name` (a recipe, an alias) below `root`; a ClaimRefused if another process still does after `wait_s`.

    `hint`: what else can be done about it.
    """
    file = root / FOLDER / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(file.with_suffix(".lock")).acquire(timeout=wait_s, poll_interval=POLL_S)
    except Timeout:
        raise ClaimRefused(_refusal(name, file, hint)) from None
    with held:
        _bury(root, file)
        claim = Claim(file, {"name": name, "pid": os.getpid(), "host": socket.gethostname(), **_flow_run()})
        claim.write()
        try:
            yield claim
        finally:
            file.unlink(missing_ok=True)


def mark_crashed(root: Path) -> list[str]:
    """Mark runs whose process was killed as crashed, in Prefect and in the tracker; one notice for each."""
    notices = []
    for file in sorted((root / FOLDER).glob("*.json")):
        try:
            with FileLock(file.with_suffix(".lock")).acquire(blocking=False):
                notices += _bury(root, file)
        except Timeout:
            continue  # it lives
    return notices


def mark_abandoned(root: Path, deployments: Sequence[str]) -> list[str]:
    """Mark runs of deployments (`FLOW/NAME`) as crashed that a killed `postmill schedule` left; a notice for each.

    They hold a place of their deployment's concurrency limit, so that it would never run again. Whoever calls this
    holds the deployments. A run whose process outlived the one that served it has a claim, and goes on.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowFilter, FlowRunFilter

    unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": UNFINISHED}}})
    found = []
    with get_client(sync_client=True) as client:
        for name in deployments:
            flow, _, own = name.partition("/")
            found += client.read_flow_runs(
                flow_filter=FlowFilter.model_validate({"name": {"any_": [flow]}}),
                deployment_filter=DeploymentFilter.model_validate({"name": {"any_": [own]}}),
                flow_run_filter=unfinished,
            )
    alive = _alive(root)
    left = [run for run in found if str(run.id) not in alive]
    for run in left:
        _crash(run.id, "the process that served it was killed")
    return [f"the run '{run.name}' was left behind by a killed process; marked crashed" for run in left]


def _alive(root: Path) -> set[str]:
    """Flow runs of the claims that somebody holds."""
    found = set()
    for file in (root / FOLDER).glob("*.json"):
        try:
            with FileLock(file.with_suffix(".lock")).acquire(blocking=False):
                continue
        except Timeout:
            found.add(_read(file).get("flow_run", ""))
    return found


def _flow_run() -> dict[str, Any]:
    from prefect.context import FlowRunContext

    context, since = FlowRunContext.get(), time.strftime("%Y-%m-%d %H:%M:%S")
    run = context.flow_run if context else None
    return {"flow_run": str(run.id), "flow_run_name": run.name, "since": since} if run else {"since": since}


def _refusal(name: str, file: Path, hint: str) -> str:
    record = _read(file)
    who = f"process {record['pid']} on {record['host']} since {record['since']}" if record else "another process"
    told = f"'{name}' is being run by {who}, and two would write the same files; wait for it, or stop it"
    return f"{told}; {hint}" if hint else told


def _read(file: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return record


def _bury(root: Path, file: Path) -> list[str]:
    """End the run of a record whose lock nobody holds; the caller holds it now."""
    record = _read(file)
    if not record:
        return []
    if "flow_run" in record:
        _crash(UUID(record["flow_run"]), f"process {record['pid']} on {record['host']} was killed")
    if "tracked" in record:
        _end_tracked(root, record["tracked"])
    file.unlink()
    return [
        f"the run of '{record['name']}' since {record['since']} was killed (process {record['pid']}); marked crashed"
    ]


def _crash(flow_run: UUID, why: str) -> None:
    """Give the flow run and what still ran in it the state that says so; nothing if the server does not know it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(flow_run).state
        except ObjectNotFound:
            return  # recorded by another server than the one of today
        if state is not None and state.is_final():
            return
        client.set_flow_run_state(flow_run, Crashed(message=why), force=True)
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
        for task_run in client.read_task_runs(flow_run_filter=of_run):
            if task_run.state is None or not task_run.state.is_final():
                client.set_task_run_state(task_run.id, Crashed(message=why), force=True)


def _end_tracked(root: Path, run_id: str) -> None:
    client = connect(root)
    every = [experiment.experiment_id for experiment in client.search_experiments()]
    left = f"attributes.run_id = '{run_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs(every, left):  # none if it was deleted meanwhile
        client.set_terminated(run.info.run_id, "KILLED")
