"""SIGTERM stops a run (C53)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

DEAF = """
import os, signal, sys, time
from flows.termination import stops_on_sigterm
{before}
with stops_on_sigterm(again=0.2):
    {inside}
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2)
    except BaseException:  # as libraries do
        print("dropped", flush=True)
    time.sleep(1)
    print("the end", flush=True)
"""

PREFECT = "from prefect.utilities.engine import capture_sigterm"
TRAINING = "from components.training.signals import stop_request"


def run(before: str, inside: str) -> subprocess.CompletedProcess[str]:
    code = DEAF.format(before=before, inside=inside)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("before", "inside"), [("", "pass"), (PREFECT, "capture_sigterm().__enter__()")])
def test_a_signal_that_is_dropped_is_said_again(before: str, inside: str) -> None:
    """A library that drops the exception of SIGTERM delays the end of a run, it does not prevent it (C53)."""
    done = run(before, inside)
    assert done.stdout == "dropped\n"
    assert done.returncode != 0


def test_training_is_asked_once() -> None:
    """Training finishes its step after SIGTERM: nothing is said a second time, which would stop it at once (C53)."""
    done = run(TRAINING, "listening = stop_request(); request = listening.__enter__()")
    assert done.stdout == "the end\n"


def test_a_block_that_is_left_is_not_stopped_again() -> None:
    """The cleaning up after a run that was stopped is not interrupted (C53)."""
    code = (
        "import atexit, os, signal, time\nfrom flows.termination import stops_on_sigterm\n"
        "atexit.register(lambda: (time.sleep(1), print('cleaned', flush=True)))\n"
        "with stops_on_sigterm(again=0.2):\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "cleaned\n")
