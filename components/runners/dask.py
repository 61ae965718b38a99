"""The workers of a Dask cluster: one that is there, or one that is started on this machine for the run.

# postmill.yaml
runner: {type: dask, workers: 2}
runner: {type: dask, address: tcp://scheduler:8786}
"""

from __future__ import annotations

import logging
from threading import Lock
from typing import Any

from components.core.errors import PostmillError, require
from components.core.kinds import register
from components.runners._base import ClusterConfig, Work, WorkerLost, Workers
from components.runners.processes import threads_each

PATIENCE_S = 10
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@register("runner", "dask")
class Dask(Workers):
    """Sends tasks to Dask's scheduler, which gives those of a dead worker to another one."""

    class Config(ClusterConfig):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._opened: Any = None
        self._cluster: Any = None
        self._lock = Lock()

    @property
    def size(self) -> int:
        return sum(self._client().nthreads().values()) if self.config.address else super().size

    def check(self) -> None:
        require("distributed", "dask")
        if self.config.address:
            self._client()

    def run(self, work: Work, folder: str) -> None:
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        future = self._client().submit(work, folder, pure=False)
        try:
            future.result()
        except KilledWorker as error:
            raise WorkerLost(f"Dask lost the workers that had this task: {error}") from error
        except (CancelledError, OSError) as error:
            self._require_scheduler(error)
            raise
        finally:
            future.release()

    def stop(self) -> None:
        with self._lock:
            client, cluster, self._opened, self._cluster = self._opened, self._cluster, None, None
        if client is not None:
            client.close(timeout=PATIENCE_S)
        if cluster is not None:
            cluster.close(timeout=PATIENCE_S)

    def _require_scheduler(self, because: BaseException) -> None:
        """A PostmillError if the scheduler does not answer any more."""
        client = self._opened
        if client is None or client.status != "running" or client.scheduler is None:
            raise self._gone() from because
        try:
            client.sync(client.scheduler.identity, callback_timeout=PATIENCE_S)
        except Exception as error:
            raise self._gone() from error

    def _gone(self) -> PostmillError:
        where = self.config.address or "this machine"
        return PostmillError(
            f"runner: no Dask scheduler answers at '{where}'; start one ('dask scheduler', and 'dask worker ADDRESS' "
            f"where the work is to be done) and run again, which goes on where this run ended; or take runner.address "
            f"out of the settings, so that workers are started on this machine"
        )

    def _client(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = self._connected() if self.config.address else self._local()
            return self._opened

    def _connected(self) -> Any:
        from distributed import Client

        try:
            client = Client(self.config.address, timeout=PATIENCE_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise self._gone() from error
        if not client.nthreads():
            client.close()
            raise PostmillError(
                f"runner: the Dask scheduler at '{self.config.address}' has no workers; "
                f"start some: dask worker {self.config.address} --nthreads 1"
            )
        return client

    def _local(self) -> Any:
        import dask
        from distributed import Client, LocalCluster

        logging.getLogger("distributed").setLevel(logging.ERROR)  # what the user can act on, we say
        environment = {f"distributed.nanny.pre-spawn-environ.{name}": threads_each(self.size) for name in THREADS}
        with dask.config.set(environment):
            self._cluster = LocalCluster(
                n_workers=self.size, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=None
            )
        return Client(self._cluster, set_as_default=False)
