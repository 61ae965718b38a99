"""Settings of Prefect and of the libraries, and servers that a killed run left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from flows.environment import SETTINGS, prepare, stop_orphans


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTINGS, "PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_settings_are_set(tmp_path: Path) -> None:
    """Every setting is in the environment, and Prefect's files stay below the root (E12)."""
    assert prepare(tmp_path) == []
    assert {name: os.environ[name] for name in SETTINGS} == SETTINGS
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".prefect")


def test_the_users_choice_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user has set is not overwritten (A37)."""
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "mine"))
    prepare(tmp_path)
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "mine")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "nonsense", "http://", "ftp://127.0.0.1/api"])
def test_dead_server_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """An API address where nothing answers is dropped with a notice, instead of a run that fails (C50)."""
    monkeypatch.setenv("PREFECT_API_URL", url)
    notices = prepare(tmp_path)
    assert "PREFECT_API_URL" not in os.environ
    assert notices == [f"no Prefect server answers at {url}; using an embedded one for this run"]


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers like Prefect's health route."""
    http = HTTPServer(("127.0.0.1", 0), _Healthy)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/api"
    http.shutdown()
    http.server_close()


def test_live_server_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    """An API address that answers stays, with or without a slash at its end."""
    for url in (server, server + "/"):
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert prepare(tmp_path) == []
        assert os.environ["PREFECT_API_URL"] == url


def test_flush_interval_is_whole() -> None:
    """Prefect cuts this setting to a whole number and spins on a core at 0, so it is one, and at least 1."""
    assert int(SETTINGS["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL"]) >= 1


def _orphan(home: Path, argument: str) -> psutil.Process:
    """A process whose parent has ended, with this argument on its command line and this PREFECT_HOME."""
    child = f"[sys.executable, '-c', 'import time; time.sleep(60)', {argument!r}]"
    sleeper = f"import subprocess, sys; print(subprocess.Popen({child}).pid)"
    environment = {**os.environ, "PREFECT_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-c", sleeper], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
    return psutil.Process(pid)


def test_orphaned_servers_of_this_home_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only servers of this PREFECT_HOME whose run is gone are stopped; others are left alone."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    mine = _orphan(tmp_path, "prefect.server.api.server:create_app")
    others = [_orphan(tmp_path / "other", "prefect.server.api.server:create_app"), _orphan(tmp_path, "unrelated")]
    try:
        if mine.ppid() != 1:
            pytest.skip("orphans are adopted by another process here")
        assert stop_orphans() == [mine.pid]
        psutil.wait_procs([mine], timeout=10)
        assert not mine.is_running()
        assert all(other.is_running() for other in others)
    finally:
        for process in (mine, *others):
            if process.is_running():
                process.kill()
