"""The stages of dvc.yaml: what the flow makes, from `outputs/` alone, and `dvc.yaml` itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from components.core.artifacts import Store, hash_directory, hash_json, write_json
from components.core.errors import ArtifactError, ConfigError, DataError
from components.core.events import StageFinished
from components.core.recipe import parse_recipe
from components.core.settings import Settings
from components.services.application import Application
from components.services.outputs import Outputs
from components.trackers.mlflow import connect
from flows import cli_stage, stage
from flows.dvc_file import dvc_file, dvc_yaml, require_current
from flows.stage_step import Step, stages
from tests import tiny
from tests.conftest import ROOT
from tests.flows.conftest import Run, run_pipeline

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]
QUICKSTART = Path("configs/quickstart.yaml")
SPLITS = ("train", "eval")


def run_stages(root: Path, plain: dict[str, Any], folder: Path, *names: str) -> list[str]:
    """Run stages of a recipe, by default all; the labels of what was really computed."""
    plan = parse_recipe(plain)
    with Application(Settings(root=root)) as app:
        told: list[StageFinished] = []
        app.bus.on(StageFinished, told.append)
        for name in names or stages(plan):
            stage.run_stage(app, plan, name, folder)
    return [f"{event.stage} {event.name}" for event in told]


def artifacts(root: Path) -> dict[tuple[str, str], str]:
    """Digests of a store by stage and key."""
    found = [json.loads(file.read_text()) for file in root.glob("artifacts/*/*/manifest.json")]
    return {(m["stage"], m["key"]): m["digest"] for m in found if m["identity"]["config"].get("type") != "latency"}


@pytest.fixture(scope="module")
def plain(first: Run) -> dict[str, Any]:
    """The recipe of the flow's first run without what is timed, under a name of its own."""
    gate = [{"type": "budget", "max": {"mean_kl": 100}}]
    register = {"model": "staged", "alias": "staging"}
    return first.plain | {
        "name": "staged",
        "benchmark": first.plain["benchmark"][:2],
        "gate": gate,
        "register": register,
    }


@pytest.fixture(scope="module")
def staged(plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe stage by stage, below a root of its own."""
    root = tmp_path_factory.mktemp("staged")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_TOKEN", "hf_staged")
        run_stages(root, plain, root / "outputs")
    return root


@pytest.fixture
def copied(staged: Path, tmp_path: Path) -> Path:
    """What DVC would restore on another machine: outputs, and no store."""
    shutil.copytree(staged / "outputs", tmp_path / "outputs")
    return tmp_path


def test_stages_make_what_the_flow_makes(first: Run, plain: dict[str, Any], staged: Path) -> None:
    """Every artifact has the key and the digest that the flow gives it, from the base model to the verdict (F3)."""
    flow = run_pipeline(first.root, plain)
    made, known = artifacts(staged), artifacts(first.root)
    assert made.items() <= known.items()
    assert {Path(place).name for place in flow.outcome.artifacts.values()} <= {key for _, key in made}
    assert {stage for stage, _ in made} >= {"model", "data", "train", "optimize", "benchmark", "judge"}
    verdict = json.loads((staged / "outputs/judge/verdict/verdict.json").read_text())
    assert verdict["chosen"] == flow.outcome.chosen


def test_outputs_have_fixed_places(staged: Path) -> None:
    """Each artifact is a folder with its manifest under a name; evidence, metrics and plots stand beside them (F3)."""
    outputs = staged / "outputs"
    assert (outputs / "train/trained/adapter_model.safetensors").is_file()
    assert (outputs / "optimize/int4/int4/model.onnx").is_file()
    assert (outputs / "report/report.md").read_text().startswith("# staged: accepted, ")
    figures = json.loads((outputs / "metrics/models/int4.json").read_text())
    assert figures["verdict"] in ("chosen", "accepted")
    assert figures["mean_kl"] > 0
    assert json.loads((outputs / "metrics/train/sft.json").read_text())["steps"] == 3
    curve = (outputs / "plots/loss/sft.csv").read_text().splitlines()
    assert (curve[0], len(curve)) == ("step,loss", 4)
    header, *models = (outputs / "plots/models.csv").read_text().splitlines()
    assert header.startswith("model,")
    assert [line.partition(",")[0] for line in models] == ["base", "trained", "fp32", "int4"]


def test_what_varies_is_in_files_that_no_stage_reads(staged: Path) -> None:
    """The tracker's run, the commit and times stand in a record of each stage, which is no input of another (F6)."""
    record = json.loads((staged / "outputs/runs/train.json").read_text())
    run = connect(staged).get_run(record["mlflow_run_id"])
    assert (run.data.tags["dvc.stage"], run.info.status) == ("train", "FINISHED")
    assert "train/loss" in run.data.metrics
    manifest = json.loads((staged / "outputs/train/trained/manifest.json").read_text())
    assert record["outputs"] == {"trained": manifest["digest"]}
    assert set(record["inputs"]) == {"data"}
    assert json.loads((staged / "outputs/runs/optimize/int4.json").read_text())["mlflow_run_id"] is None
    report = connect(staged).get_run(json.loads((staged / "outputs/runs/report.json").read_text())["mlflow_run_id"])
    assert report.data.metrics["int4/mean_kl"] > 0
    inputs = [dep for entry in dvc_file_of(QUICKSTART)["stages"].values() for dep in entry.get("deps", ())]
    assert not [dep for dep in inputs if dep.startswith(("outputs/runs", "outputs/metrics", "outputs/plots"))]


def test_a_stage_needs_outputs_alone(plain: dict[str, Any], staged: Path, copied: Path) -> None:
    """With the store gone, a stage takes its inputs from outputs, and makes the same (F3)."""
    computed = run_stages(copied, plain, copied / "outputs", "optimize@int4")
    assert computed == ["optimize int4/merge_adapter", "optimize int4/onnx"]
    made = Outputs(copied / "outputs", Store(copied / "artifacts")).read("optimize@int4")
    expected = json.loads((staged / "outputs/optimize/int4/int4/manifest.json").read_text())
    assert made.artifacts["int4"].digest == expected["digest"]


def test_a_stage_that_runs_again_computes_nothing(plain: dict[str, Any], staged: Path) -> None:
    """If DVC runs a stage though nothing of it changed, the store has it, and outputs are the same, byte for byte."""
    before = (staged / "outputs/optimize/int4/int4/manifest.json").read_bytes()
    assert run_stages(staged, plain, staged / "outputs", "optimize@int4") == []
    assert (staged / "outputs/optimize/int4/int4/manifest.json").read_bytes() == before


def test_a_changed_output_is_refused(plain: dict[str, Any], copied: Path) -> None:
    """A file that is not what its manifest says is named, with the way to restore it (F3)."""
    weights = copied / "outputs/train/trained/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors' is not what .* dvc checkout --force"):
        run_stages(copied, plain, copied / "outputs", "optimize@int4")


def test_a_missing_output_is_named(plain: dict[str, Any], copied: Path) -> None:
    """An input that is not there is named with the stage that makes it, and how to fetch it (F3)."""
    shutil.rmtree(copied / "outputs/train")
    with pytest.raises(ArtifactError, match=r"outputs/train' is missing.* dvc repro train, .* dvc pull train"):
        run_stages(copied, plain, copied / "outputs", "optimize@int4")


def test_outputs_count_where_the_store_differs(plain: dict[str, Any], staged: Path, copied: Path) -> None:
    """Two machines measure the same differently; the verdict is on what DVC restored, not on what is known here."""
    measured = copied / "outputs/benchmark/1-agreement-0"
    manifest = json.loads((measured / "manifest.json").read_text())
    place = copied / "artifacts" / "benchmark" / manifest["key"]
    shutil.copytree(measured, place)
    other = json.loads((place / "measurements.json").read_text())
    for entry in other:
        entry["metrics"]["mean_kl"] = 1000.0
    _store_other(place, manifest, other)
    run_stages(copied, plain, copied / "outputs", "judge")
    assert json.loads((copied / "outputs/judge/verdict/verdict.json").read_text())["chosen"] is not None
    assert json.loads((place / "manifest.json").read_text())["digest"] == manifest["digest"]


def _store_other(place: Path, manifest: dict[str, Any], measurements: Any) -> None:
    write_json(place / "measurements.json", measurements)
    files = hash_directory(place)
    write_json(place / "manifest.json", manifest | {"files": files, "digest": hash_json(files)})


def test_register_puts_the_chosen_one_into_the_registry(plain: dict[str, Any], staged: Path) -> None:
    """What the verdict in outputs chose is registered with its evidence, and only once (F3, F5)."""
    with Application(Settings(root=staged)) as app:
        plan = parse_recipe(plain)
        new, again = (stage.register(app, plan, staged / "outputs") for _ in range(2))
    assert (new.version, new.new_version) == ("1", True)
    assert (again.version, again.new_version) == ("1", False)
    version = connect(staged).get_model_version("staged", "1")
    manifest = json.loads((staged / f"outputs/optimize/{new.chosen}/{new.chosen}/manifest.json").read_text())
    assert version.tags["postmill.digest"] == manifest["digest"]


def test_nothing_is_registered_that_no_gate_accepts(
    plain: dict[str, Any], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict that accepts nothing is a result, not a failure; registering it is refused with exit code 3 (F5)."""
    monkeypatch.chdir(copied)
    monkeypatch.setenv("HF_TOKEN", "hf_staged")
    tiny.write_recipe(copied / "strict.yaml", plain | {"gate": [{"type": "budget", "min": {"json_valid": 2}}]})
    for name in ("judge", "report"):
        done = CliRunner().invoke(cli_stage.app, ["stage", name, "strict.yaml"])
        assert done.exit_code == 0, done.output
    assert json.loads((copied / "outputs/metrics/models/int4.json").read_text())["verdict"] == "rejected"
    refused = CliRunner().invoke(cli_stage.app, ["stage", "register", "strict.yaml"])
    assert refused.exit_code == 3
    assert "no variant passed the gate" in refused.output


# ---------------------------------------------------------------- the recipe, as DVC knows it


def dvc_file_of(path: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as place:
        place.chdir(ROOT)
        return dvc_file(path)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a recipe `mine.yaml` whose paths are relative."""
    monkeypatch.chdir(tmp_path)
    plain = tiny.recipe(tmp_path, Path("model"))
    for split in SPLITS:
        plain["data"][split]["path"] = f"rows/{split}.jsonl"
    tiny.write_recipe(tmp_path / "mine.yaml", plain)
    return tmp_path


def test_dvc_yaml_of_the_quickstart_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed dvc.yaml is what `postmill dvc init` writes."""
    monkeypatch.chdir(ROOT)
    assert (ROOT / "dvc.yaml").read_text(encoding="utf-8") == dvc_yaml(QUICKSTART), "run: postmill dvc init"


def _without_champion(path: Path) -> bool:
    return "champion" not in path.read_text(encoding="utf-8")


RECIPES = sorted(filter(_without_champion, Path(ROOT, "configs").glob("*.yaml")))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_a_pipeline(recipe: Path) -> None:
    """Each input below outputs is made by exactly one stage, for every recipe that comes along (F3)."""
    written = dvc_file_of(recipe.relative_to(ROOT))["stages"]
    outs: list[str] = []
    for entry in written.values():
        variants = entry.get("foreach", [""])
        body = entry.get("do", entry)
        outs += [out.replace("${item}", item) for out in body["outs"] for item in variants]
    assert len(outs) == len(set(outs))
    for entry in written.values():
        needed = [dep for dep in entry.get("do", entry)["deps"] if dep.startswith("outputs/")]
        assert set(needed) <= set(outs)


def test_a_stage_watches_what_shapes_it(project: Path) -> None:
    """Data files, the model's folder and the sections of the recipe are what a stage depends on (F3)."""
    (project / "model").mkdir()
    found = dvc_file(Path("mine.yaml"))["stages"]
    assert found["data"]["params"] == [{"mine.yaml": None}]
    assert found["data"]["deps"] == ["model", "rows/train.jsonl", "rows/eval.jsonl"]
    assert found["train"]["params"] == [{"mine.yaml": ["model", "data", "train", "seed"]}]
    assert found["optimize"]["do"]["params"] == [{"mine.yaml": ["optimize.${item}", "seed"]}]
    (project / "rows.dvc").write_text("")
    assert "rows" in dvc_file(Path("mine.yaml"))["stages"]["data"]["deps"]


def test_layers_are_watched_each_with_its_keys(project: Path) -> None:
    """A recipe that extends another is two files of parameters, each with the keys that stand in it."""
    (project / "more.yaml").write_text("extends: mine.yaml\nseed: 3\noptimize: {int8: basic}\n")
    found = dvc_file(Path("more.yaml"))["stages"]
    assert found["data"]["params"] == [{"mine.yaml": None}, {"more.yaml": None}]
    assert found["benchmark"]["params"] == [{"mine.yaml": ["benchmark", "seed"]}, {"more.yaml": ["seed"]}]
    assert found["optimize"]["foreach"] == ["fp32", "int4", "int8"]
    assert found["optimize"]["do"]["params"] == [
        {"mine.yaml": ["optimize", "seed"]},
        {"more.yaml": ["optimize", "seed"]},
    ]


def test_a_recipe_that_outgrew_its_dvc_yaml_is_told(project: Path) -> None:
    """A variant that dvc.yaml does not know would be left out silently; the first stage says so."""
    (project / "dvc.yaml").write_text(dvc_yaml(Path("mine.yaml")))
    require_current(Path("mine.yaml"))
    with (project / "mine.yaml").open("a") as recipe:
        recipe.write("services: {}\n")
    with pytest.raises(ConfigError, match=r"lacks mine.yaml:services; write it again: postmill dvc init mine.yaml"):
        require_current(Path("mine.yaml"))


def test_the_first_stage_looks_at_dvc_yaml(project: Path) -> None:
    """`postmill dvc init` writes a file that the first stage accepts; it refuses an older one before any work."""
    written = CliRunner().invoke(cli_stage.app, ["dvc", "init", "mine.yaml"])
    assert written.exit_code == 0, written.output
    plain = yaml.safe_load((project / "mine.yaml").read_text())
    plain["optimize"]["int8"] = "basic"
    tiny.write_recipe(project / "mine.yaml", plain)
    refused = CliRunner().invoke(cli_stage.app, ["stage", "data", "mine.yaml"])
    assert refused.exit_code == 2
    assert "its stage 'optimize' lacks int8; write it again: postmill dvc init mine.yaml" in refused.output


def test_missing_data_is_named_with_its_remedy(project: Path, tiny_model: Path) -> None:
    """Data that DVC tracks and that is not there, in a fresh clone for one, says how to get it (F3)."""
    shutil.copytree(tiny_model, project / "model")
    shutil.rmtree(project / "rows")
    (project / "rows.dvc").write_text("")
    plain = yaml.safe_load((project / "mine.yaml").read_text())
    with pytest.raises(DataError, match=r"rows/eval.jsonl' does not exist .*; run: dvc pull rows.dvc"):
        run_stages(project, plain, project / "outputs", "data")


def test_changed_data_is_refused_and_if_allowed_remembered(project: Path, tiny_model: Path) -> None:
    """Data that is not what was locked stops the first stage; what was allowed all the same reaches later ones."""
    shutil.copytree(tiny_model, project / "model")
    (project / "mine.lock").write_text(json.dumps({"files": {f"rows/{split}.jsonl": "0" * 64 for split in SPLITS}}))
    plain = stage.read(Path("mine.yaml")).dump()
    with pytest.raises(DataError, match=r"data changed since 'mine.lock' was written:\n  rows/eval.jsonl: locked 0000"):
        run_stages(project, plain, project / "outputs", "data")
    plain["data"]["allow_dirty"] = True
    run_stages(project, plain, project / "outputs", "data")
    made = Outputs(project / "outputs", Store(project / "artifacts")).read("data")
    step = Step("train", parse_recipe(plain), None, {"data": made}, project / "outputs")
    assert [line[:16] for line in step.dataset.meta["changed"]] == ["rows/eval.jsonl:", "rows/train.jsonl"]


def test_what_dvc_does_not_know_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that change a recipe would change results behind DVC's back; the message names the way it sees."""
    monkeypatch.setenv("POSTMILL_SEED", "4")
    with pytest.raises(ConfigError, match=r"sets seed, which DVC would not know of.* dvc exp run -S mine.yaml"):
        stage.read(Path("mine.yaml"))
    with pytest.raises(ConfigError, match="relative to the directory of dvc.yaml"):
        dvc_yaml(project / "mine.yaml")


def test_an_unknown_stage_is_told(plain: dict[str, Any], tmp_path: Path) -> None:
    """A stage that the recipe does not have is refused with those that it has."""
    with pytest.raises(ConfigError, match=r"no stage 'optimize@int5'; did you mean 'optimize@int4'\?"):
        run_stages(tmp_path, plain, tmp_path / "outputs", "optimize@int5")


def test_a_champion_is_no_input_of_dvc(plain: dict[str, Any]) -> None:
    """A gate that compares with what is registered hangs on something that DVC does not version; it is refused."""
    gate = [{"type": "paired", "metric": "exact_match", "against": "champion", "min_gain": 0}]
    with pytest.raises(ConfigError, match="compares with the champion.* postmill run"):
        stages(parse_recipe(plain | {"gate": gate}))


def test_experiments_share_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy of the repository that DVC made for an experiment, artifacts and runs go to the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", "/somewhere/repository")
    assert stage.root() == Path("/somewhere/repository")
    monkeypatch.setenv("POSTMILL_ROOT", "/elsewhere")
    assert stage.root() == Path("/elsewhere")


# ---------------------------------------------------------------- DVC itself


def told(folder: Path, *command: str, fails: bool = False) -> str:
    """What a command says in a folder, with this interpreter as `python`."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": places, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A fresh clone of a repository with a recipe, and its data in a small remote inside of the repository."""
    origin = tmp_path_factory.mktemp("dvc") / "origin"
    shutil.copytree(tiny_model, origin / "model")
    plain = tiny.recipe(origin / "data", Path("model"))
    for split in SPLITS:
        plain["data"][split]["path"] = f"data/rows/{split}.jsonl"
    plain["optimize"].pop("fp32")
    plain |= {"benchmark": plain["benchmark"][:1], "gate": [{"type": "budget", "max": {"exact_match": 2}}]}
    tiny.write_recipe(origin / "mine.yaml", plain)
    ignored = ("outputs", "artifacts", "mlruns", "logs", "reports", "checkpoints", "data", "dvc_plots")
    (origin / ".gitignore").write_text("".join(f"/{name}/\n" for name in ignored))
    person = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for line in ("git init -q", "dvc init -q", "dvc remote add -d embedded .dvc/store", "dvc add data", "dvc push"):
        told(origin, *line.split())
    told(origin, sys.executable, "-c", "from flows.cli_stage import app; app()", "dvc", "init", "mine.yaml")
    told(origin, "git", "add", "-A")
    told(origin, "git", *person, "commit", "-qm", "first")
    told(origin.parent, "git", "clone", "-q", "origin", "clone")
    for key, value in (("user.name", "x"), ("user.email", "x@example.org")):
        told(origin.parent / "clone", "git", "config", key, value)
    return origin.parent / "clone"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_dvc_runs_the_pipeline(clone: Path) -> None:
    """A clone gets its data offline, and runs; nothing runs twice; metrics and plots compare an experiment (F3)."""
    assert "missing data 'source': data" in told(clone, "dvc", "repro", fails=True)
    assert "Running stage 'report'" in told(clone, "dvc", "repro", "--pull")
    assert not told(clone, "git", "status", "--porcelain").replace("?? dvc.lock\n", "")
    started = time.monotonic()
    again = told(clone, "dvc", "repro")
    assert "Data and pipelines are up to date" in again
    assert time.monotonic() - started < 10
    told(clone, "git", "add", "dvc.lock")
    told(clone, "git", "commit", "-qm", "baseline")

    told(clone, "dvc", "exp", "run", "--temp", "--name", "longer", "-S", "mine.yaml:train.0.max_steps=4")
    changes = json.loads(told(clone, "dvc", "metrics", "diff", "HEAD", "longer", "--json"))
    assert changes["outputs/metrics/train/sft.json"]["steps"] == {"old": 3, "new": 4, "diff": 1}
    assert "max_steps" in told(clone, "dvc", "params", "diff", "HEAD", "longer")
    told(clone, "dvc", "plots", "diff", "HEAD", "longer")
    page = (clone / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert "training loss" in page
    assert '"rev": "longer"' in page

    # the copy that the experiment ran in is gone; its artifacts and its run in the tracker are not
    told(clone, "dvc", "exp", "apply", "longer")
    record = json.loads((clone / "outputs/runs/train.json").read_text())
    assert record["experiment"] == "longer"
    assert connect(clone).get_run(record["mlflow_run_id"]).data.tags["dvc.exp"] == "longer"
    assert len(list((clone / "artifacts" / "train").glob("*/manifest.json"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_is_a_stage(plain: dict[str, Any], copied: Path) -> None:
    """A recipe with a search has one more stage, whose winners are measured like variants and stand in the evidence."""
    space = [[{"type": "merge_adapter"}, {"type": "onnx", "precision": {"any": ["fp32", "int8"]}}]]
    search = {"space": space, "trials": 2, "parallel": 1, "sampler": "random", "objectives": ["bytes", "mean_kl"]}
    search |= {"quick": None, "measure": [{"type": "agreement", "rows": 2}]}
    plain = plain | {"optimize": {"int4": plain["optimize"]["int4"], "search": search}}
    names = [name for name in stages(parse_recipe(plain)) if name not in ("data", "train")]
    assert names == ["optimize@int4", "optimize@search", "benchmark", "judge", "report"]
    run_stages(copied, plain, copied / "outputs", *names)
    winners = json.loads((copied / "outputs/optimize/search/search/search.json").read_text())["winners"]
    board = json.loads((copied / "outputs/report/figures.json").read_text())
    assert set(board) == {"base", "trained", "int4", *winners}
    assert (copied / "outputs/report/pareto.html").is_file()
