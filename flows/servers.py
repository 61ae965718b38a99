"""Prefect's and MLflow's servers as child processes: found if they run already, started if not, stopped with us.

    with prefect_server(root, port=4200) as url: ...      # url of the API; sets PREFECT_API_URL meanwhile
    with embedded_server(root) as ready: ready()          # of one run
    running(root)                                         # the API of the server that another command started here

A server that is started here serves the database of the runs (`.prefect/prefect.db` below the root, or what
`PREFECT_SERVER_DATABASE_CONNECTION_URL` says), and every command below the same root uses it while it runs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from components.core.errors import ConfigError, PostmillError

HOST = "127.0.0.1"
START_S, STOP_S = 120.0, 15.0
SETTINGS = {
    # in memory, the default, a server that starts again does not know which runs held a place of a concurrency limit,
    # and their deployments never run again
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
EMBEDDED = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
"""As Prefect's own `SubprocessASGIServer` sets them: no pages, and only the services that a run needs."""
RECORD, LOG = "server.json", "server.log"
Process = subprocess.Popen[bytes]


class ServerFailed(PostmillError):
    """A server that does not start, or has ended by itself."""


def answers(url: str) -> bool:
    """Whether something at this address says that it is well."""
    return _reached(f"{url.rstrip('/')}/health")


def running(root: Path) -> str | None:
    """The API of a Prefect server that a command of ours started for this root and that answers."""
    return _recorded(_home(root))


@contextmanager
def prefect_server(root: Path, port: int | None = None, host: str = HOST) -> Iterator[str]:
    """The API of a Prefect server: the one of `PREFECT_API_URL`, the one that runs for this root, or a new one.

    A new one listens at `port` (a ConfigError if that is taken), by default 4200 or any free port, and is stopped at
    the end of the block.
    """
    home = _home(root)
    home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with FileLock(home / "server.lock"):  # two that start at the same time share one
            url = _existing(home)
            if url is None:
                url = stack.enter_context(_started(home, free_port(port, 4200, host), host))
        before = os.environ.get("PREFECT_API_URL")
        os.environ["PREFECT_API_URL"] = url
        try:
            yield url
        finally:
            os.environ.pop("PREFECT_API_URL") if before is None else os.environ.update(PREFECT_API_URL=before)


def _existing(home: Path) -> str | None:
    """The API that the environment names, or that of a server whose command still runs."""
    told = os.environ.get("PREFECT_API_URL")
    if told and not answers(told):
        raise ServerFailed(f"no Prefect server answers at {told} (PREFECT_API_URL); start it, or unset the variable")
    if told:
        return told
    _stop_orphan(home)
    return _recorded(home)


@contextmanager
def _started(home: Path, port: int, host: str) -> Iterator[str]:
    url = f"http://{host}:{port}/api"
    command = ["prefect", "server", "start", "--host", host, "--port", str(port)]
    with child(command, home / LOG, {"PREFECT_HOME": str(home), **SETTINGS}) as process:
        reach(process, f"{url}/health", home / LOG)
        record = {"url": url, "pid": process.pid, "owner": os.getpid()}
        (home / RECORD).write_text(json.dumps(record), encoding="utf-8")
        try:
            yield url
        finally:
            (home / RECORD).unlink(missing_ok=True)


@contextmanager
def embedded_server(root: Path) -> Iterator[Callable[[], None]]:
    """Prefect's API for one run, if `PREFECT_API_URL` names none: gives what waits until it answers.

    It is the server that Prefect would start by itself at the first flow. Here it starts while Prefect and MLflow are
    imported, on the other core.
    """
    if os.environ.get("PREFECT_API_URL"):
        yield lambda: None
        return
    port, log = free_port(None, 0), _home(root) / "embedded.log"
    url = f"http://{HOST}:{port}/api"
    app = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on"]
    command = ["uvicorn", *app, "--host", HOST, "--port", str(port), "--log-level", "error"]
    with child(command, log, EMBEDDED) as process:
        os.environ["PREFECT_API_URL"] = url
        try:
            yield partial(reach, process, f"{url}/health", log)
        finally:
            del os.environ["PREFECT_API_URL"]


def _stop_orphan(home: Path) -> None:
    """Stop the server of a command that was killed: nobody would."""
    import psutil

    record = _record(home)
    if not record or psutil.pid_exists(record["owner"]):
        return
    (home / RECORD).unlink(missing_ok=True)
    try:
        process = psutil.Process(record["pid"])
        if "prefect" in process.cmdline():  # not somebody else's with the same number
            process.terminate()
            process.wait(STOP_S)
    except psutil.NoSuchProcess:
        pass  # it ended with its command


@contextmanager
def mlflow_server(root: Path, port: int) -> Iterator[tuple[Process, str, Path]]:
    """MLflow's pages on the tracking database: the process, its address, its log. `reach` waits until it serves.

    A ConfigError if the port is taken, or if runs are tracked by a server, which has pages of its own.
    """
    from components.trackers import mlflow

    uri, log = mlflow.tracking_uri(root), _home(root) / "mlflow.log"
    if uri.startswith(("http:", "https:")):
        raise ConfigError(f"runs are tracked by the server at {uri}, which has pages of its own: open that address")
    free_port(port, port)
    mlflow.connect(root)
    command = ["mlflow", "ui", "--backend-store-uri", uri, "--host", HOST, "--port", str(port), "--workers", "1"]
    # its job queue is eight processes and a gigabyte, for features that nothing here uses
    with child(command, log, {**mlflow.SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}) as process:
        yield process, f"http://{HOST}:{port}", log


@contextmanager
def child(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[Process]:
    """A Python module as a process of its own, its output in `log`, stopped at the end; see `reach`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        # a session of its own: Ctrl+C is for us, and we stop it when what needs it has ended
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def reach(process: Process, probe: str, log: Path) -> None:
    """Wait until a child answers at `probe`; a ServerFailed with the end of its log if it never does."""
    until = time.monotonic() + START_S
    while not _reached(probe):
        if process.poll() is not None or time.monotonic() > until:
            raise ServerFailed(f"the server of {probe} {_state(process)}; its log, '{log}', ends with:\n{_tail(log)}")
        time.sleep(0.1)


def free_port(wanted: int | None, default: int, host: str = HOST) -> int:
    """`wanted`, or `default`, or any free port; a ConfigError if `wanted` is taken."""
    for port in [wanted] if wanted is not None else [default, 0]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise ConfigError(f"port {wanted} of {host} cannot be taken: something listens there; name another one")


def _stop(process: Process) -> None:
    """End a server and its own children politely, or else for good."""
    for deadly in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, deadly)
        try:
            process.wait(STOP_S)
            return
        except subprocess.TimeoutExpired:
            continue


def _state(process: Process) -> str:
    return "did not answer in time" if process.poll() is None else f"ended with code {process.returncode}"


def _tail(log: Path, lines: int = 12) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _reached(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _record(home: Path) -> dict[str, Any]:
    file = home / RECORD
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return record


def _recorded(home: Path) -> str | None:
    record = _record(home)
    return str(record["url"]) if record and answers(record["url"]) else None


def _home(root: Path) -> Path:
    return Path(os.environ.get("PREFECT_HOME") or root / ".prefect")
