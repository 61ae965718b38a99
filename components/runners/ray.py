"""The workers of a Ray cluster: one that is there, or one that is started on this machine for the run.

# postmill.yaml
runner: {type: ray, workers: 2}
runner: {type: ray, address: auto}                # or HOST:6379, or ray://HOST:10001
"""

from __future__ import annotations

import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from components.core.errors import PostmillError, require
from components.core.kinds import register
from components.runners._base import ClusterConfig, Work, WorkerLost, Workers
from components.runners.processes import threads_each

PATIENCE_S = 10
STORE = 100 * 2**20
"""Bytes of shared memory for objects; what goes through it is the name of a folder."""


@register("runner", "ray")
class Ray(Workers):
    """Sends tasks to Ray, a core for each of them."""

    class Config(ClusterConfig):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._open = False
        self._lock = Lock()
        # Linux kills what Ray starts as soon as the thread ends that started it; this one ends with us
        self._home = ThreadPoolExecutor(1, thread_name_prefix="postmill-ray")

    @property
    def size(self) -> int:
        if not self.config.address:
            return super().size
        return max(1, int(self._ray().cluster_resources().get("CPU", 1)))

    def check(self) -> None:
        require("ray", "ray")
        if self.config.address:
            self._ray()

    def run(self, work: Work, folder: str) -> None:
        ray = self._ray()
        # one core, as everywhere; we try again ourselves
        task = ray.remote(num_cpus=1, max_retries=0)(work).remote(folder)
        try:
            ray.get(task)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as e:
            raise WorkerLost(f"Ray lost the worker that had this task: {type(e).__name__}") from e
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def stop(self) -> None:
        with self._lock:
            opened, self._open = self._open, False
        if opened:
            import ray

            ray.shutdown()
        self._home.shutdown(wait=False)

    def _ray(self) -> Any:
        import ray

        with self._lock:
            if not self._open:
                self._home.submit(self._start, ray).result()
            self._open = True
        return ray

    def _start(self, ray: Any) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self.config.address is None:
            environment = {"env_vars": {"OMP_NUM_THREADS": threads_each(self.size)}}
            here = {"num_cpus": self.size, "object_store_memory": STORE, "include_dashboard": False}
            ray.init(**here, runtime_env=environment, **quiet)
            return
        try:
            _require_listener(self.config.address)
            ray.init(address=self.config.address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise PostmillError(
                f"runner: no Ray cluster answers at '{self.config.address}'; start one ('ray start --head', and "
                f"'ray start --address HOST:6379' where the work is to be done); or take runner.address out of the "
                f"settings, so that workers are started on this machine"
            ) from error


def _require_listener(address: str) -> None:
    """An OSError if nobody listens there: Ray would ask again for minutes. `auto` and `local` name no address."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
