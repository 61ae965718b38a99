"""Prefect itself: its server can be made, and a flow runs on it. Guards the pinned versions underneath."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]


def test_server_can_be_made() -> None:
    """Prefect's server application is built with the installed FastAPI: later ones break it."""
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True)
    assert any(getattr(route, "path", "").startswith("/api") for route in app.routes)


def test_a_flow_runs() -> None:
    """A flow with a task runs on the embedded server and gives its result."""
    from prefect import flow, task

    @task
    def double(value: int) -> int:
        return 2 * value

    @flow(name="smallest")
    def smallest() -> int:
        return double(21)

    assert smallest() == 42


def test_steps_store_plain_json() -> None:
    """What steps hand on is stored as JSON, never as a pickle."""
    from flows.pipeline import pipeline
    from tasks import register, steps

    every = [steps.validate, steps.fetch_model, steps.train, steps.optimize, steps.benchmark, steps.judge]
    every = [step.task for step in [*every, register.record, register.register]]
    assert all(step.result_serializer == "json" and step.persist_result for step in [*every, pipeline])


@pytest.mark.parametrize(("error", "again"), [(ConnectionError(), True), (TimeoutError(), True), (ValueError(), False)])
def test_only_the_network_is_retried(error: Exception, again: bool) -> None:
    """Fetching is tried again after network errors, never after a mistake in the recipe (C49)."""
    from prefect.states import Failed

    from tasks.steps import _is_network

    assert _is_network(Failed(data=error)) is again
