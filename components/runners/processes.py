"""A process of its own for every task, on this machine.

    # postmill.yaml
    runner: {type: processes, workers: 2}

Not a pool: a process that is killed takes no other task with it, and all memory is given back.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import IO

from components.core.kinds import register
from components.core.machine import machine
from components.runners._base import Work, WorkerLost, Workers, WorkersConfig

OUTPUT = "output.txt"
LAST_WORDS = 5
"""Lines of a dead process's own output that the error shows."""
PATIENCE_S = 10


@register("runner", "processes")
class Processes(Workers):
    """Starts Python once for each task, as many at a time as the settings say."""

    class Config(WorkersConfig):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._free = BoundedSemaphore(self.size)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = Lock()

    def run(self, work: Work, folder: str) -> None:
        with self._free, (Path(folder) / OUTPUT).open("wb") as output:
            process = self._started(work, folder, output)
            code = process.wait()
            self._running.discard(process)
        if code != 0:
            words = (Path(folder) / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()
            shown = "".join(f"\n  {line}" for line in words[-LAST_WORDS:])
            how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
            raise WorkerLost(f"a process of this run {how}{shown}")

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _started(self, work: Work, folder: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        code = f"import sys; from {work.__module__} import {work.__name__} as work; work(sys.argv[1])"
        with self._lock:
            if self._stopped:
                raise WorkerLost("this run has ended, no process is started any more")
            process = subprocess.Popen(
                [sys.executable, "-c", code, folder],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": threads_each(self.size), **os.environ},
                start_new_session=True,  # Ctrl+C reaches it once, through us
            )
            self._running.add(process)
        return process


def threads_each(workers: int) -> str:
    """The cores of this machine, shared; what the user has set as OMP_NUM_THREADS counts more."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, machine().cores // workers))
