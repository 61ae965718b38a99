"""One run at a time for what is written in one place, and runs that are killed are found."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.conftest import ROOT
from tests.flows.conftest import Run

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]
HOLD = """
import sys, time
from pathlib import Path
from flows.claims import claimed
with claimed(Path(sys.argv[1]), "triage"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the recipe 'triage'."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_two_runs_of_one_recipe(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """A second run that would write the same report is refused, and told the process of the first (C50)."""
    from flows.claims import ClaimRefused, claimed, mark_crashed

    refusal = pytest.raises(ClaimRefused, match=f"'triage' is being run by process {holder.pid} on .*; or rename it")
    with refusal, claimed(tmp_path, "triage", hint="or rename it"):
        pass
    with claimed(tmp_path, "another"):
        assert mark_crashed(tmp_path) == []  # both live


def test_the_second_may_wait(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """A run that waits goes on when the other has ended (C50)."""
    from flows.claims import claimed

    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (time.sleep(1), holder.terminate()))
        with claimed(tmp_path, "triage", wait_s=20):
            assert holder.wait(5) == -signal.SIGTERM


def test_a_killed_process_is_found(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """What a SIGKILL left behind is told at the next start, once, and is in nobody's way (C50)."""
    from flows.claims import claimed, mark_crashed

    holder.kill()
    holder.wait()
    assert f"was killed (process {holder.pid}); marked crashed" in mark_crashed(tmp_path)[0]
    assert mark_crashed(tmp_path) == []
    with claimed(tmp_path, "triage"):
        pass


def test_a_killed_run_is_marked(first: Run, client: Any) -> None:
    """The flow run, its tasks and the tracked run of a killed process do not stay 'running' (C50, C67)."""
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flows.claims import FOLDER, mark_crashed

    @task
    def step() -> None: ...

    @flow
    def victim() -> None:
        step()

    run = victim(return_state=True).state_details.flow_run_id
    tracked = client.create_run(client.get_experiment_by_name("postmill").experiment_id).info.run_id
    with get_client(sync_client=True) as prefect:
        prefect.set_flow_run_state(run, Running(), force=True)
    record = {"name": "victim", "pid": 1, "host": "here", "since": "then", "flow_run": str(run), "tracked": tracked}
    (first.root / FOLDER).mkdir(parents=True, exist_ok=True)
    (first.root / FOLDER / "victim.json").write_text(json.dumps(record), encoding="utf-8")
    assert len(mark_crashed(first.root)) == 1
    with get_client(sync_client=True) as prefect:
        assert prefect.read_flow_run(run).state.is_crashed()
    assert client.get_run(tracked).info.status == "KILLED"


def test_runs_that_a_killed_schedule_left(first: Run) -> None:
    """A deployment's run that hangs since its server was killed is marked, one that a claim keeps is not (C50)."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flows.claims import claimed, mark_abandoned

    @flow(name="served")
    def served() -> None: ...

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(served)
        deployment = client.create_deployment(flow_id, "often", entrypoint="x.py:served")
        left, lives = (client.create_flow_run_from_deployment(deployment, state=Running()).id for _ in range(2))
        with claimed(first.root, "alive") as claim:
            claim.record["flow_run"] = str(lives)
            claim.write()
            assert len(mark_abandoned(first.root, ["served/often"])) == 1
        states = {run: client.read_flow_run(run).state for run in (left, lives)}
    assert states[left].is_crashed()
    assert states[lives].is_running()


def test_records_of_another_server(first: Run) -> None:
    """A run that neither the server nor the tracker knows any more is forgotten, not an error."""
    from flows.claims import FOLDER, mark_crashed

    record = {"name": "old", "pid": 1, "host": "h", "since": "then", "flow_run": str(UUID(int=7)), "tracked": "gone"}
    (first.root / FOLDER).mkdir(parents=True, exist_ok=True)
    (first.root / FOLDER / "old.json").write_text(json.dumps(record), encoding="utf-8")
    assert len(mark_crashed(first.root)) == 1
    assert not (first.root / FOLDER / "old.json").exists()
