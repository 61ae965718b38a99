"""Deployments: prefect.yaml is one source, its flows do what they say, and a schedule really fires."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from components.core.errors import ConfigError, RegistryServiceError
from components.core.events import DataDrifted, ModelRegressed
from components.services.model_registry import ModelRegistryService
from components.services.promotion import PromotionService
from flows.servers import prefect_server
from tests import tiny
from tests.conftest import ROOT
from tests.flows.conftest import CANARY, Run

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]
WIDE = {"score": 100, "speed": 1e9}
ENTRY = """deployments:
  - name: weekly
    entrypoint: flows.retrain.retrain
    parameters: {recipe: tiny.yaml}
    schedules: [{cron: "0 2 * * 0", timezone: UTC}]
"""


@pytest.fixture
def project(first: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the first run as the working directory, with its recipe in a file."""
    monkeypatch.setenv("POSTMILL_ROOT", str(first.root))
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.chdir(first.root)
    return tiny.write_recipe(first.root / "tiny.yaml", first.plain)


# ---------------------------------------------------------------- prefect.yaml


def test_what_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every deployment of the delivered file fits its flow, and those with a schedule have a next run (F2, C60)."""
    from flows.deployments import plan

    monkeypatch.chdir(ROOT)
    found = {each.name: each for each in plan()}
    assert set(found) == {
        "retrain/weekly",
        "check-data/data",
        "nightly-benchmark/production",
        "drift-check/incoming",
        "promote/with-approval",
    }
    assert {name for name, each in found.items() if each.next} == {
        "retrain/weekly",
        "nightly-benchmark/production",
        "drift-check/incoming",
    }
    assert all(each.deployment().concurrency_limit == 1 for each in found.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0 2 * * 0", "0 2 * * 9", r"prefect.yaml:5: deployment 'weekly': schedules.0.cron: '0 2 \* \* 9' is no cron"),
        ("0 2 * * 0", "weekly", "'weekly' is no cron schedule; write five fields"),
        ("timezone: UTC", "timezone: Europe/Berln", "unknown timezone; did you mean 'Europe/Berlin'"),
        ("timezone: UTC", "interval: 5", "give one of cron, interval and rrule, found cron, interval"),
        ("recipe: tiny.yaml", "recipe: gone.yaml", "prefect.yaml:4: deployment 'weekly': parameters: .*recipe"),
        ("recipe: tiny.yaml", "recipes: tiny.yaml", "no parameter 'recipes'; did you mean 'recipe'"),
        ("{recipe: tiny.yaml}", "{}", "flow retrain: parameter 'recipe' has no value"),
        ("retrain.retrain", "retrain.retrian", "'flows.retrain.retrian' cannot be loaded"),
        ("retrain.retrain", "retrains.retrain", "'flows.retrains.retrain' cannot be loaded"),
        ("    parameters", "    concurrency_limit: {collision_strategy: DROP}\n    parameters", "collision_strategy"),
        ("  - name: weekly", "  - name: ''", "name"),
        ("    parameters", "    triggers: [{on: drift}]\n    parameters", "write an event trigger as {expect"),
        (ENTRY, "deployments: []", "prefect.yaml:1: deployments"),
    ],
)
def test_mistakes(project: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    """A mistake in the file is one error with its line, the entry and the value (F2)."""
    from flows.deployments import plan

    file = tmp_path / "prefect.yaml"
    file.write_text(ENTRY.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        plan(file)
    assert len(caught.value.problems) == 1


def test_a_choice_of_deployments(project: Path, tmp_path: Path) -> None:
    """Some can be served alone, by their name with or without the flow's; an unknown one is refused with the known."""
    from flows.deployments import plan

    file = tmp_path / "prefect.yaml"
    file.write_text(ENTRY, encoding="utf-8")
    assert [each.name for each in plan(file, ["weekly"])] == [each.name for each in plan(file, ["retrain/weekly"])]
    with pytest.raises(ConfigError, match="no deployment 'weekli'; did you mean 'weekly'"):
        plan(file, ["weekli"])


@pytest.mark.parametrize("name", ["process", "docker", "kubernetes"])
def test_work_pool_templates(name: str) -> None:
    """A template asks for the variables that it declares and no others, with a default where a run gives none (C62)."""
    template = json.loads((ROOT / "flows" / "work_pools" / f"{name}.json").read_text(encoding="utf-8"))
    declared = template["variables"]["properties"]
    asked = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert asked == set(declared)
    assert {"name", "command", "env", "labels"} <= asked
    assert all("default" in entry and entry["description"] for entry in declared.values())


def test_the_form_explains_itself() -> None:
    """Every parameter of every deployed flow has a description, which the form in the UI shows (F1)."""
    from prefect.utilities.callables import parameter_schema

    from flows.deployments import plan

    before = Path.cwd()
    os.chdir(ROOT)
    try:
        flows = [each.flow for each in plan()]
    finally:
        os.chdir(before)
    for flow in flows:
        schema = parameter_schema(flow).model_dump()
        fields = [schema["properties"], *(each["properties"] for each in schema["definitions"].values())]
        silent = [name for group in fields for name, entry in group.items() if not entry.get("description")]
        assert not silent, flow.name


def test_the_guide(project: Path) -> None:
    """The deployments and the automation of the guide are what Postmill and Prefect take (F2)."""
    from prefect.events.schemas.automations import AutomationCore

    from flows.deployments import plan

    page = (ROOT / "docs" / "scheduling.md").read_text(encoding="utf-8")
    deployments, automation, pool = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    file = project.with_name("guide.yaml")
    file.write_text(deployments.replace("configs/quickstart.yaml", str(project)), encoding="utf-8")
    (weekly,) = plan(file)
    assert len(weekly.deployment().triggers) == 1
    assert AutomationCore.model_validate(yaml.safe_load(automation)).actions
    asked = yaml.safe_load(pool)["work_pool"]["job_variables"]
    template = json.loads((ROOT / "flows" / "work_pools" / "kubernetes.json").read_text(encoding="utf-8"))
    assert asked.keys() <= template["variables"]["properties"].keys()


# ---------------------------------------------------------------- the flows


def test_retrain(first: Run, project: Path) -> None:
    """The deployed flow comes to what `postmill run` came to, its steps its own tasks, in one flow run (F1)."""
    from flows.retrain import retrain

    state = retrain(recipe=project, return_state=True)
    outcome = state.result()
    assert (outcome.chosen, outcome.version, outcome.new_version) == ("int4", "1", False)
    run = state.state_details.flow_run_id
    assert _runs_below(run) == []
    expected = {"train", "judge", "register"}
    assert _wait(lambda: expected <= _tasks_of(run), 30), _tasks_of(run)  # they are written down a little later


def test_retrain_that_nothing_passes(project: Path) -> None:
    """A retraining of which nothing is accepted fails with the reason, so that somebody hears of it (F1)."""
    from flows.retrain import retrain

    state = retrain(
        recipe=project, overrides=["gate=[{type: budget, max: {bytes: 1}}]", "name=refused"], return_state=True
    )
    assert state.is_failed()
    assert "no variant of refused passed the gate" in state.message


def test_check_data(project: Path) -> None:
    """The rows of a recipe can be checked alone (F1)."""
    from flows.retrain import check_data

    assert check_data(recipe=project)["rows"] == {"train": 24, "eval": 6}


def test_nightly_benchmark(project: Path) -> None:
    """A model that is as good as registered ends the run well, with benchmarks that need others left out (C39)."""
    from flows.nightly import nightly_benchmark

    state = nightly_benchmark(recipe=project, model="tiny@staging", tolerance=WIDE, return_state=True)
    found = state.result()
    assert state.is_completed()
    assert found.left_out == ("agreement",)
    measured = {change.metric.name: change for change in found.changes}
    assert measured["exact_match"].before == measured["exact_match"].now
    assert measured["tokens_per_s"].now > 0


def test_nightly_benchmark_of_a_worse_model(
    first: Run, project: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score below that of the registration fails the run with both figures (C39)."""
    from components.services import production
    from flows.nightly import nightly_benchmark

    monkeypatch.setattr(production, "registered_figures", lambda tags: {"field_accuracy": 1.0, "bytes": 1e9})
    tolerance = WIDE | {"score": 0.1}
    state = nightly_benchmark(recipe=project, model="tiny@staging", tolerance=tolerance, return_state=True)
    assert state.is_failed()
    assert re.search(r"tiny@staging is worse than registered: field_accuracy 100.0% -> \d", state.message)


def test_a_loss_is_told(first: Run, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss is an event with the model, its version and the metrics that lost (C39, B5)."""
    from components.core.recipe import parse_recipe
    from components.services import production

    told: list[ModelRegressed] = []
    off = first.workspace.bus.on(ModelRegressed, told.append)
    monkeypatch.setattr(production, "registered_figures", lambda tags: {"bytes": 1.0})
    service = production.ProductionService(first.workspace, ModelRegistryService(first.workspace))
    specs = parse_recipe(first.plain | {"model": {"type": "pretrained", "name": "x"}}).benchmark
    service.checkup("tiny@staging", specs[2:], lab.dataset, 17, production.Tolerance())
    off()
    assert [(event.model, event.version, set(event.losses)) for event in told] == [("tiny", "1", {"bytes"})]


def test_drift_check(project: Path) -> None:
    """Rows like those trained on end as completed, others in a state of their own that names what moved (C39)."""
    from flows.drift import drift_check

    same = tiny.write_rows(project.parent / "same.jsonl", range(200, 260))
    state = drift_check(recipe=project, data=str(same), model="tiny@staging", return_state=True)
    assert state.name == "Completed"
    state = drift_check(recipe=project, data=str(_strange(project.parent)), model="tiny@staging", return_state=True)
    assert state.name == "Drifted"
    assert 'category: new values ("spam" (60))' in state.message
    assert len(state.result().drifted) > 1


def test_drift_is_told(first: Run, project: Path, lab: Any) -> None:
    """Drift is an event with the model, the source and what moved (C39, B5)."""
    from components.services.data import DataService
    from components.services.drift import DriftService, Limits
    from components.services.lineage import LineageService
    from flows.data.source import source_section

    told: list[DataDrifted] = []
    off = first.workspace.bus.on(DataDrifted, told.append)
    registry = ModelRegistryService(first.workspace)
    service = DriftService(first.workspace, registry, LineageService(first.workspace, registry))
    fresh = DataService(first.workspace).validate(source_section(str(_strange(first.root))))
    service.check("tiny@staging", fresh, Limits(), "strange.jsonl")
    off()
    assert [(event.model, event.source) for event in told] == [("tiny", "strange.jsonl")]
    assert told[0].features["category: new values"] == 1.0


def _strange(folder: Path) -> Path:
    answer = json.dumps({"category": "spam", "priority": "low"})
    rows = [
        [{"role": "user", "content": f"{'buy ' * 60}{number}"}, {"role": "assistant", "content": answer}]
        for number in range(60)
    ]
    file = folder / "strange.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    return file


# ---------------------------------------------------------------- promotion


@pytest.fixture
def answered(project: Path) -> Callable[..., Any]:
    """Run the promotion, and answer its question from another thread as the UI does; gives the final state."""
    from prefect.flow_runs import resume_flow_run

    from flows import promotion

    def run(to: str, before_answer: Callable[[], Any] = lambda: None, **answer: Any) -> Any:
        def respond() -> None:
            run_id = _paused(f"promote tiny/1 to {to}")
            before_answer()
            resume_flow_run(run_id, run_input=answer)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(respond)
            return promotion.promote_with_approval(model="tiny", version="1", to=to, return_state=True)

    return run


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.promotion.POLL_S", 1)


def test_promotion_with_approval(first: Run, answered: Callable[..., Any]) -> None:
    """A person's yes promotes, and who said so and why is in the model's history (F4)."""
    state = answered("approved", approve=True, reason="better on long messages", who="Ada")
    assert state.is_completed()
    assert state.message == "tiny@approved is now version 1, approved by Ada"
    move = PromotionService(ModelRegistryService(first.workspace)).history("tiny")[-1]
    assert (move.version, move.to, move.by, move.why) == ("1", "approved", "Ada", "better on long messages")


def test_promotion_that_is_refused(first: Run, answered: Callable[..., Any]) -> None:
    """A person's no leaves everything as it is, in a state that says so with the reason (F4)."""
    state = answered("refused", approve=False, reason="too slow", who="Grace")
    assert (state.type.value, state.name) == ("COMPLETED", "Rejected")
    assert "Grace: too slow" in state.message
    with pytest.raises(RegistryServiceError, match="has no alias 'refused'"):
        ModelRegistryService(first.workspace).resolve("tiny@refused")


def test_promotion_overtaken(first: Run, answered: Callable[..., Any]) -> None:
    """If the alias moved while the question stood, the answer was to another question: nothing is promoted (F5)."""
    promotion = PromotionService(ModelRegistryService(first.workspace))
    state = answered("taken", lambda: promotion.promote("tiny", "1", "taken"), approve=True, reason="", who="Ada")
    assert state.is_failed()
    assert "start the promotion again" in state.message


# ---------------------------------------------------------------- the real thing


@pytest.mark.slow
def test_a_schedule_fires(tmp_path: Path, tiny_model: Path) -> None:
    """`postmill schedule` starts a server, and a scheduled run really runs (F2). Guards the pinned versions."""
    tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe(tmp_path, tiny_model))
    often = ENTRY.replace('cron: "0 2 * * 0", timezone: UTC', "interval: 5").replace(
        "retrain.retrain", "retrain.check_data"
    )
    (tmp_path / "prefect.yaml").write_text(often, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "POSTMILL_"))}
    command = [sys.executable, "-c", "from flows.cli_schedule import app; app()"]
    with (tmp_path / "out.txt").open("w") as out:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        fired = _wait(lambda: (tmp_path / "out.txt").read_text().count("Finished in state Completed()") >= 2, 120)
    finally:
        process.terminate()
        process.wait(60)
    told = (tmp_path / "out.txt").read_text()
    assert fired, told
    assert "All deployments have been paused" in told
    assert not (tmp_path / ".prefect" / "server.json").exists()  # its server is gone too


@pytest.mark.slow
def test_an_event_starts_a_deployment(tmp_path: Path, tiny_model: Path) -> None:
    """A deployment with a trigger runs when its event is told, as the drift check does (F1)."""
    tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe(tmp_path, tiny_model))
    triggered = ENTRY.replace(
        'schedules: [{cron: "0 2 * * 0", timezone: UTC}]', "triggers: [{expect: [postmill.data.drifted]}]"
    )
    (tmp_path / "prefect.yaml").write_text(triggered.replace("retrain.retrain", "retrain.check_data"), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "POSTMILL_"))}
    environment |= {"PYTHONPATH": str(ROOT)}
    record, out = tmp_path / ".prefect" / "server.json", tmp_path / "out.txt"
    with out.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-c", "from flows.cli_schedule import app; app()"],
            cwd=tmp_path,
            env=environment,
            stdout=told,
            stderr=subprocess.STDOUT,
        )
    try:
        assert _wait(lambda: record.is_file() and "weekly" in out.read_text(), 120), out.read_text()
        time.sleep(10)  # the server reads its automations every few seconds
        assert "Beginning flow run" not in out.read_text()
        emit = [
            sys.executable,
            "-m",
            "prefect",
            "event",
            "emit",
            "postmill.data.drifted",
            "--resource-id",
            "postmill.run.x",
        ]
        url = json.loads(record.read_text())["url"]
        subprocess.run(emit, env={**environment, "PREFECT_API_URL": url}, check=True, capture_output=True)
        fired = _wait(lambda: "Finished in state Completed()" in out.read_text(), 120)
    finally:
        process.terminate()
        process.wait(60)
    assert fired, out.read_text()


@pytest.mark.slow
def test_a_worker_of_a_work_pool(tmp_path: Path, tiny_model: Path) -> None:
    """A deployment to a work pool of type process is run by a worker, up to the registered version (F2, C60)."""
    from components.trackers.mlflow import connect

    tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe(tmp_path, tiny_model))
    (tmp_path / "prefect.yaml").write_text(ENTRY + "    work_pool: {name: pool}\n", encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "POSTMILL_"))}

    def prefect(*arguments: str) -> str:
        own = {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / ".prefect"), "PREFECT_API_URL": url}
        command = [sys.executable, "-m", "prefect", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=kept | own, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    with prefect_server(tmp_path) as url:
        template = str(ROOT / "flows" / "work_pools" / "process.json")
        prefect("work-pool", "create", "pool", "--type", "process", "--base-job-template", template)
        prefect("--no-prompt", "deploy", "--all")
        prefect("deployment", "run", "retrain/weekly")
        told = prefect("worker", "start", "--pool", "pool", "--run-once")
    assert "Flow run 'retrain tiny.yaml' - Finished in state Completed()" in told
    assert "Warning" not in told
    (version,) = connect(tmp_path).search_model_versions("name='tiny'")
    assert int(version.version) == 1


# ---------------------------------------------------------------- helpers


def _paused(name: str) -> UUID:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    wanted = FlowRunFilter.model_validate({"name": {"any_": [name]}, "state": {"type": {"any_": ["PAUSED"]}}})
    with get_client(sync_client=True) as client:
        found: list[Any] = []
        assert _wait(lambda: bool(found.extend(client.read_flow_runs(flow_run_filter=wanted)) or found), 60)
        return UUID(str(found[0].id))


def _runs_below(run: UUID) -> list[Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    below = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [run]}})
    with get_client(sync_client=True) as client:
        return list(client.read_flow_runs(flow_run_filter=below))


def _tasks_of(run: UUID) -> set[str]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run]}}))
        return {task.name.partition(" ")[0] for task in tasks}


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if done():
            return True
        time.sleep(0.3)
    return False
