"""Tracking, registry and orchestrator on PostgreSQL, as a team runs them: `make test-postgres` (C49, F1-F4)."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.conftest import ROOT

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(600)]


def query(database: str, sql: str) -> list[tuple[Any, ...]]:
    import psycopg2

    connection = psycopg2.connect(database)
    try:
        cursor = connection.cursor()
        cursor.execute(sql)
        return list(cursor.fetchall())
    finally:
        connection.close()


def test_metrics_of_several_writers(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four runs that write at the same time lose nothing: PostgreSQL locks rows, not the database."""
    from components.trackers.mlflow import MlflowTracker

    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)

    def write(number: int) -> None:
        tracker = MlflowTracker(MlflowTracker.Config(root=tmp_path))
        tracker.start(f"run {number}", {"number": number}, {})
        for step in range(20):
            tracker.metrics([(step, {"loss": 1 / (step + 1)})])
        tracker.finish("FINISHED")

    write(0)  # makes the tables
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(1, 5)))
    assert query(database, "SELECT count(*) FROM metrics") == [(100,)]


def test_a_whole_run(database: str, postgres: str, tmp_path: Path, tiny_model: Path) -> None:
    """A run from rows to a registered, promoted model, with both databases on PostgreSQL and no file of SQLite."""
    import psycopg2

    from flows.servers import prefect_server

    connection = psycopg2.connect(f"{postgres}/postgres")
    connection.autocommit = True
    connection.cursor().execute("CREATE DATABASE prefect")
    connection.close()
    tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe(tmp_path, tiny_model))
    settings = {
        "MLFLOW_TRACKING_URI": database,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"{postgres}/prefect".replace("://", "+asyncpg://"),
        "PYTHONPATH": str(ROOT),
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(name, value)
        with prefect_server(tmp_path):
            postmill(tmp_path, "run", "tiny.yaml")
            postmill(tmp_path, "promote", "tiny", "1", "--to", "production")
            again = postmill(tmp_path, "run", "tiny.yaml")
    assert "registered already" in again
    assert query(database, "SELECT status FROM runs ORDER BY start_time") == [("FINISHED",), ("FINISHED",)]
    assert query(database, "SELECT count(*) FROM model_versions") == [(1,)]
    assert ("production", 1) in query(database, "SELECT alias, version FROM registered_model_aliases")
    states = query(f"{postgres}/prefect", "SELECT state_type FROM flow_run")
    assert [str(state) for (state,) in states] == ["COMPLETED", "COMPLETED"]
    assert not list(tmp_path.rglob("*.db"))


def postmill(folder: Path, *arguments: str) -> str:
    """What a command prints; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=folder, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
