"""The guides: every snippet is executed, and what it adds is put to use on the tiny model."""

from __future__ import annotations

import importlib
import re
import shlex
import sqlite3
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from components.core.kinds import registry
from components.core.recipe import DataSection, parse_recipe
from components.core.settings import Settings
from components.interfaces import BadRow, Batch, Measurement, RawRow, Scoreboard
from components.services.benchmarking import BenchmarkService
from components.services.optimization import OptimizationService
from components.services.training import TrainingService
from tests import tiny
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
OPTIMIZATION = (ROOT / "docs" / "optimization.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
OWNER = "docs"


@pytest.fixture
def clean() -> Iterator[None]:
    """Whatever a snippet registers is gone afterwards."""
    with registry.owned_by(OWNER):
        yield
        registry.forget(OWNER)


@pytest.fixture
def plain(tmp_path: Path, tiny_model: Path) -> dict[str, Any]:
    return tiny.recipe(tmp_path, tiny_model)


def blocks(title: str, language: str) -> list[str]:
    """The snippets of a section in one language."""
    return [code for kind, code in FENCE.findall(SECTIONS[title]) if kind == language]


def load(title: str, place: Path, monkeypatch: pytest.MonkeyPatch, /, **given: Any) -> dict[str, Any]:
    """Import a section's first snippet as a module of its own, run the others in it; its names."""
    first, *others = blocks(title, "python")
    name = "snippet_" + re.sub(r"\W+", "_", title.lower())
    (place / f"{name}.py").write_text(first, encoding="utf-8")
    monkeypatch.syspath_prepend(place)
    sys.modules.pop(name, None)
    names = vars(importlib.import_module(name))
    names.update(given)
    for code in others:
        exec(compile(code, f"docs/extending.md, {title}", "exec"), names)  # the point of this test
    return names


@pytest.mark.parametrize("title", SECTIONS)
def test_snippets_run(
    title: str, clean: None, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python of a section runs, and its YAML is a valid part of a recipe (or of the settings) (A54)."""
    monkeypatch.chdir(tmp_path)
    load(title, tmp_path, monkeypatch, tiny_recipe=plain, folder=tmp_path)
    for code in blocks(title, "yaml"):
        part = yaml.safe_load(code)
        if set(part) <= set(Settings.model_fields):
            Settings(**part)
        else:
            parse_recipe(plain | part)


@pytest.mark.parametrize("title", SECTIONS)
def test_commands_run(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of a section ends well."""
    from flows.cli import app

    monkeypatch.chdir(tmp_path)
    for line in "".join(blocks(title, "console")).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "postmill"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("code", [code for kind, code in FENCE.findall(CONFIGURATION) if kind == "python"])
def test_configuration_guide_runs(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of docs/configuration.md runs (A36, A39)."""
    monkeypatch.chdir(ROOT)
    exec(compile(code, "docs/configuration.md", "exec"), {})


def test_the_entry_point_of_the_page_is_the_one_that_is_read() -> None:
    """The group in the page's pyproject.toml is the group that is looked up (A13, A21)."""
    from components.core.plugins import GROUP

    (text,) = blocks("A plugin", "toml")
    assert set(tomllib.loads(text)["project"]["entry-points"]) == {GROUP}


def test_every_kind_has_a_section() -> None:
    """The page shows how to add each kind of component (A54)."""
    shown = set(re.findall(r'@register\("(\w+)"|@(service)\(|api\.(section)\(', PAGE))
    assert {name for found in shown for name in found if name} >= set(registry.kinds())


def test_sections_are_under_a_page() -> None:
    """Each way to add something is shown in under a page (66 lines)."""
    assert max(len(text.splitlines()) for text in SECTIONS.values()) <= 66


def test_every_name_the_page_imports_is_there() -> None:
    """Whatever any guide imports from Postmill exists (R3)."""
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for module, names in re.findall(
            r"^from ((?:components|flows|tasks)[\w.]*) import ([\w, ]+)", text, re.MULTILINE
        ):
            for name in names.split(","):
                assert hasattr(importlib.import_module(module), name.strip()), f"{page.name}: {module}.{name}"


# ---------------------------------------------------------------- what the snippets add, at work


def test_the_trainer_trains(lab: Any, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's trainer changes exactly the layer norm it names, and its optimizer steps (R7)."""
    load("A trainer", tmp_path, monkeypatch)
    spec = parse_recipe(tiny.recipe(tmp_path, lab.base.path, train=[{"type": "last_norm"}], **NO_CHAIN)).train
    trained = TrainingService(lab.workspace).train(spec, lab.base, lab.dataset, 17)
    before, after = weights(lab.base.path), weights(trained.path)
    assert [name for name in before if not (before[name] == after[name]).all()] == ["model.norm.weight"]


def test_the_trainer_on_trl_is_guarded(lab: Any, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's trainer on TRL adds noise to fine-tuning, and leaves the figures of any run (R7)."""
    load("A trainer on TRL", tmp_path, monkeypatch)
    common = {"max_steps": 2, "batch_size": 2, "dtype": "float32", "lora": {"r": 4}}
    noisy, plain = ({"type": "noisy_sft", "noise": 50.0, **common}, {"type": "sft", **common})
    steps = parse_recipe(tiny.recipe(tmp_path, lab.base.path, train=[noisy, plain])).train
    service = TrainingService(lab.workspace)
    found = [service.train([spec], lab.base, lab.dataset, 17).meta for spec in steps]
    assert found[0]["losses"] != found[1]["losses"]
    assert found[0].keys() >= {"tokens_per_s", "grad_norms", "speed"}


def test_the_callback_stops(lab: Any, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's callback ends training early."""
    load("A callback", tmp_path, monkeypatch)
    step = {"type": "sft", "max_steps": 9, "callbacks": [{"type": "good_enough", "loss": 100.0, "steps": 2}]}
    spec = parse_recipe(tiny.recipe(tmp_path, lab.base.path, train=[step | {"lora": {"r": 4}}])).train
    assert TrainingService(lab.workspace).train(spec, lab.base, lab.dataset, 17).meta["steps"] == 2


def test_the_reward_scores(clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's reward gives each answer the share of its words."""
    load("A reward", tmp_path, monkeypatch)
    reward = registry.create("reward", "mentions", words=["refund", "order"])
    assert reward.score([[]] * 3, ["Your refund, your order", "REFUND", ""], [{}] * 3) == [1.0, 0.5, 0.0]


def test_the_pass_prunes(lab: Any, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's pass sets weights to zero and leaves a model that loads."""
    load("An optimization pass", tmp_path, monkeypatch)
    chain = [{"type": "merge_adapter"}, {"type": "prune_smallest", "share": 0.5}]
    spec = parse_recipe(tiny.recipe(tmp_path, lab.base.path, optimize={"pruned": chain})).optimize["pruned"]
    pruned = OptimizationService(lab.workspace).variant("pruned", spec, lab.trained, 17)
    assert pruned.meta["zeroed"] > 0
    assert sum(int((w == 0).sum()) for w in weights(pruned.path).values()) >= pruned.meta["zeroed"]


def test_the_benchmark_measures(lab: Any, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's benchmark gives its metric for every subject, with rows behind it."""
    load("A benchmark", tmp_path, monkeypatch)
    plain = tiny.recipe(
        tmp_path, lab.base.path, benchmark=[{"type": "answer_length", "rows": 2}], gate=[], register=None
    )
    spec = parse_recipe(plain).benchmark
    subjects = [lab.subject("base"), lab.subject("int4")]
    found = BenchmarkService(lab.workspace).measure(spec, subjects, lab.dataset, 17)
    assert {name for artifact in found for name in artifact.meta["metrics"]} == {"base", "int4"}


def test_the_optimizer_steps(clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's optimizer moves a parameter (B11)."""
    import torch

    load("An optimizer", tmp_path, monkeypatch)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = registry.create("optimizer", "adagrad").build([weight], 0.5)
    weight.sum().backward()
    optimizer.step()
    assert weight.item() == pytest.approx(0.5)


def test_the_gate_judges(clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's gate passes what is better than base and nothing else."""
    load("A gate", tmp_path, monkeypatch)
    scores = {"base": 0.5, "good": 0.6, "bad": 0.5}
    board = Scoreboard([Measurement(subject=s, benchmark="b", metrics={"m": v}) for s, v in scores.items()])
    gate = registry.create("gate", "better_than_base", metric="m")
    assert [gate.judge(name, board)[0].passed for name in ("good", "bad")] == [True, False]


def test_the_sources_read(tiny_model: Path, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's model source, reader and format bring in what they say."""
    load("A model source", tmp_path, monkeypatch)
    source, out = registry.create("model", "shared_folder", folder=tiny_model), tmp_path / "out"
    assert source.identity() == source.identity()
    source.fetch(out)
    assert (out / "model.safetensors").is_file()
    load("A reader and a format", tmp_path, monkeypatch)
    with closing(sqlite3.connect(tmp_path / "t.db")) as database:
        database.execute("create table solved (subject, body, category)")
        database.execute("insert into solved values ('Kettle', 'broken', 'damage'), ('Lamp', null, 'refund')")
        database.commit()
    rows = list(registry.create("reader", "sqlite", path=tmp_path / "t.db", table="solved").rows())
    form = registry.create("format", "ticket")
    assert form.convert(rows[0].value)["messages"][1] == {"role": "assistant", "content": "damage"}
    with pytest.raises(BadRow, match="needs text under"):
        form.convert(rows[1].value)


def test_the_rule_refuses(clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's rule names the row that breaks it."""
    load("A rule", tmp_path, monkeypatch)
    shouted = tiny.conversation(1)
    shouted[-1]["content"] = "PLEASE ANSWER ME AT ONCE"
    rows = [{"messages": tiny.conversation(0)}, {"messages": shouted}]
    raws = [RawRow(1, b""), RawRow(2, b"")]
    assert list(registry.create("rule", "no_shouting").check(Batch("train", range(2), raws, rows, "conversation"))) == [
        1
    ]


def test_the_plugin_of_one_file_is_found(tmp_path: Path) -> None:
    """The page's plugin works from a directory that the settings name, and is gone afterwards (A12, A19)."""
    from components.core.plugins import PluginSettings
    from components.services.application import Application

    (code,) = blocks("A plugin in a directory", "python")
    (tmp_path / "flour.py").write_text(code, encoding="utf-8")
    settings = Settings(root=tmp_path, plugins=PluginSettings(auto_discover=False, directories=(tmp_path,)))
    with Application(settings):
        assert registry.create("gate", "always_open").judge("x", Scoreboard([]))[0].passed
    assert "always_open" not in registry.names("gate")


def test_the_tracker_writes(clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's tracker keeps a run in a file."""
    load("A tracker", tmp_path, monkeypatch)
    tracker = registry.create("tracker", "folder", root=tmp_path)
    tracker.start("r", {"a": 1}, {})
    tracker.metrics([(1, {"loss": 0.5})])
    tracker.finish("FINISHED")
    assert len((tmp_path / "r.tracked.jsonl").read_text().splitlines()) == 3


def test_the_sink_and_the_probe_answer(
    clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's sink hears the verdict until it is closed; its probe finds something out."""
    from components.core.events import EventBus, GateJudged

    load("A sink", tmp_path, monkeypatch)
    load("A probe", tmp_path, monkeypatch)
    bus = EventBus()
    with registry.create("sink", "bell").attach(bus, tmp_path):
        bus.emit(GateJudged(accepted=(), chosen=None))
    bus.emit(GateJudged(accepted=(), chosen=None))
    assert capsys.readouterr().out == "\a"
    assert registry.create("probe", "open_files").ask().detail


def test_the_backend_serves(lab: Any, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's backend opens the kind it names and answers."""
    from components.runtime import backend_for

    load("A backend", tmp_path, monkeypatch)
    cls = backend_for("half_model")
    with cls() as backend:
        backend.open(lab.merged, {})
        assert len(backend.generate([[1, 2, 3]], 2)) == 1


NO_CHAIN: dict[str, Any] = {"optimize": {"plain": [{"type": "onnx", "precision": "fp32"}]}}


def weights(path: Path) -> dict[str, Any]:
    """All tensors of a model directory."""
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


@pytest.mark.parametrize("text", [b for b in FENCE.findall((ROOT / "docs" / "data.md").read_text()) if b[0] == "yaml"])
def test_the_data_guide_is_valid(text: tuple[str, str]) -> None:
    """Every recipe fragment of the data guide is accepted as it stands (A36)."""
    fragment = yaml.safe_load(text[1])
    if "data" in fragment:
        assert DataSection.model_validate(fragment["data"]).readers()


@pytest.mark.parametrize("code", [code for kind, code in FENCE.findall(OPTIMIZATION) if kind == "yaml"])
def test_the_optimization_guide_is_valid(code: str, plain: dict[str, Any]) -> None:
    """Every chain of the optimization guide fits together, for the adapter that the tests' recipe trains (A36, C29)."""
    assert parse_recipe(plain | yaml.safe_load(code)).optimize


@pytest.mark.parametrize("code", [code for kind, code in FENCE.findall(TRAINING + README) if kind == "yaml"])
def test_the_training_guide_is_valid(code: str, plain: dict[str, Any]) -> None:
    """Every recipe, and every part of one, of the training guide and the README is accepted as it stands (A36)."""
    required = {name: plain[name] for name in ("name", "model", "data", "train")}
    recipe = parse_recipe(required | yaml.safe_load(code))
    assert all(spec.build() for spec in recipe.train)


@pytest.mark.parametrize("code", [code for kind, code in FENCE.findall(TRAINING) if kind == "python"])
def test_the_training_guide_runs(
    code: str, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python of the training guide trains, evaluates and resumes the tiny model (A36)."""
    tiny.write_recipe(tmp_path / "recipe.yaml", plain)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/training.md", "exec"), {})
