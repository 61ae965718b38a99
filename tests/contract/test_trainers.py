"""What every trainer promises, whatever it learns and from which rows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset
from pydantic import ValidationError

from components.core.artifacts import hash_directory, hash_json
from components.core.dataset import index, token_lengths
from components.core.errors import ArtifactError, ConfigError, TrainingError
from components.core.events import CheckpointLoaded, EventBus, TrainingEvaluated, TrainStep
from components.core.kinds import registry
from components.core.safeload import check_model_directory, load_adapter, load_causal_lm, load_reward_model
from components.interfaces import SHAPES, StepContext
from components.training.checkpoints import CheckpointFolder
from tests.contract.common import check_component, config_of, named

SMALL = {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-2, "warmup_steps": 0, "dtype": "float32"}
MODES: dict[str, Any] = {"lora": {"r": 4, "alpha": 8}, "full": None}
EXTRA: dict[str, dict[str, Any]] = {
    "from_scratch": {"epochs": None, "max_length": 256},
    "grpo": {"num_generations": 2, "max_completion_length": 8},
}
"""Keys that a trainer needs for its run here, where SMALL is not enough."""


def settings(name: str, mode: str, **config: Any) -> dict[str, Any]:
    """The keys of a small run."""
    needed = config_of("trainer", name).model_dump(mode="json", exclude_unset=True)
    return needed | SMALL | EXTRA.get(name, {}) | {"lora": MODES[mode]} | config


def trains(name: str, mode: str) -> bool:
    """Whether a trainer can be configured so: not all train adapters."""
    try:
        registry.get("trainer", name).Config(**settings(name, mode))
    except (ValidationError, ConfigError):
        return False
    return True


def a_way(name: str) -> str:
    """The cheapest way in which a trainer can be configured."""
    return next(mode for mode in MODES if trains(name, mode))


each_way = pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name in registry.names("trainer") for mode in MODES if trains(name, mode)]
)


class Bench:
    """Trains anything on rows that it takes."""

    def __init__(self, lab: Any, datasets: dict[str, Any]) -> None:
        self.lab, self.datasets = lab, datasets

    def rows(self, name: str) -> Any:
        """Rows of the first shape that the trainer names."""
        return self.datasets[registry.get("trainer", name).shapes[0]]

    def train(self, name: str, mode: str, out: Path, context: StepContext | None = None, **config: Any) -> Any:
        out.mkdir(exist_ok=True)
        trainer = registry.create("trainer", name, **settings(name, mode, **config))
        # what it needs besides (a teacher) is the model that the lab trained
        inputs = dict.fromkeys(trainer.inputs(trainer.config), self.lab.merged)
        context = replace(context or StepContext(17, EventBus()), inputs=inputs)
        return trainer.train(self.lab.base, self.rows(name), out, context)

    def longest_sides(self, name: str) -> list[int]:
        """Tokens of every row that the trainer gets; of pairs, of the longer side."""
        rows = index(self.rows(name), "train")
        columns = [token_lengths(rows, column) for column in rows.column_names if column.endswith("input_ids")]
        return [max(lengths) for lengths in zip(*columns, strict=True)]

    def digest(self, *run: Any, **config: Any) -> str:
        self.train(*run, **config)
        return hash_json(hash_directory(run[2]))


@pytest.fixture
def bench(lab: Any, datasets_by_shape: dict[str, Any]) -> Bench:
    return Bench(lab, datasets_by_shape)


def trained(lab: Any, out: Path, name: str = "sft", seed: int = 17, **config: Any) -> Any:
    """Train on the tiny model and the conversations of the lab for two steps."""
    out.mkdir(exist_ok=True)
    trainer = registry.create("trainer", name, **(SMALL | config))
    return trainer.train(lab.base, lab.dataset, out, StepContext(seed, EventBus()))


def weights(kind: str, out: Path, base: Any) -> dict[str, Any]:
    """What the safe door finds in a result of that kind."""
    if kind == "adapter":
        network = load_adapter(load_causal_lm(base.path), out).merge_and_unload()
    else:
        network = {"model": load_causal_lm, "reward_model": load_reward_model}[kind](out)
    found: dict[str, Any] = network.state_dict()
    return found


@named("trainer")
def test_component(name: str) -> None:
    """Every trainer is described and strictly configured, and names shapes of row that there are (A27)."""
    check_component("trainer", name)
    assert set(registry.get("trainer", name).shapes) <= set(SHAPES)
    assert a_way(name)


@each_way
def test_training_changes_weights_and_loads(name: str, mode: str, bench: Bench, tmp_path: Path) -> None:
    """A run changes weights and leaves a directory that the safe door opens, of the promised kind (E14, E16)."""
    facts = bench.train(name, mode, tmp_path / "out")
    check_model_directory(tmp_path / "out")
    cls = registry.get("trainer", name)
    kind = cls.produces_kind(cls.Config(**settings(name, mode)))
    before, after = load_causal_lm(bench.lab.base.path).state_dict(), weights(kind, tmp_path / "out", bench.lab.base)
    shared = before.keys() & after.keys()
    assert shared
    assert any(before[key].shape != after[key].shape or not (after[key] == before[key]).all() for key in shared)
    assert facts["steps"] == 2
    assert len(facts["losses"]) == 2


@each_way
def test_nothing_is_left_behind(name: str, mode: str, bench: Bench, tmp_path: Path) -> None:
    """The result holds model files only: no checkpoints, logs, pickled arguments or read-me."""
    bench.train(name, mode, tmp_path / "out")
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")}
    assert not {file for file in found if not file.endswith((".safetensors", ".json", ".jinja"))}


@each_way
def test_same_seed_same_bytes(name: str, mode: str, bench: Bench, tmp_path: Path) -> None:
    """Two runs with one seed give bit-equal artifacts; another seed gives another one (F6)."""
    seeds = {"1": 17, "2": 17, "3": 18}
    digests = [
        bench.digest(name, mode, tmp_path / folder, StepContext(seed, EventBus())) for folder, seed in seeds.items()
    ]
    assert digests[0] == digests[1] != digests[2]


@named("trainer")
def test_inputs_are_not_touched(name: str, bench: Bench, tmp_path: Path) -> None:
    """Training changes neither the base model nor the data, and writes nothing beside them: no library's cache."""
    artifacts = (bench.lab.base, bench.rows(name))
    before = [hash_directory(artifact.path) for artifact in artifacts]
    # where rows are left out, libraries copy the others
    lengths = sorted(bench.longest_sides(name))
    bench.train(name, a_way(name), tmp_path / "out", max_length=lengths[len(lengths) // 2], max_too_long_fraction=0.9)
    assert [hash_directory(artifact.path) for artifact in artifacts] == before


@named("trainer")
def test_every_step_is_told(name: str, bench: Bench, tmp_path: Path) -> None:
    """Each optimizer step is told on the bus with its loss, and each evaluation with its figures (B8)."""
    bus, steps, evaluations = EventBus(), list[TrainStep](), list[TrainingEvaluated]()
    bus.on(TrainStep, steps.append)
    bus.on(TrainingEvaluated, evaluations.append)
    config = {"max_steps": 4, "evaluate": {"every": 2, "rows": 4}, "accumulate": 2}
    facts = bench.train(name, a_way(name), tmp_path, StepContext(17, bus), **config)
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert [round(step.loss, 5) for step in steps] == facts["losses"]
    assert [found.step for found in evaluations] == [2, 4]
    assert all("loss" in found.figures for found in evaluations)
    assert not bus.failures


@named("trainer")
def test_rows_of_no_shape_it_takes(name: str, bench: Bench, tmp_path: Path) -> None:
    """Rows of another shape are refused before any work."""
    for shape in set(SHAPES) - set(registry.get("trainer", name).shapes):
        trainer = registry.create("trainer", name, **settings(name, a_way(name)))
        with pytest.raises(TrainingError, match=f"takes rows of shape .*, the data set holds {shape}"):
            trainer.train(bench.lab.base, bench.datasets[shape], tmp_path, StepContext(17, EventBus()))
        assert not list(tmp_path.iterdir())


class Killed(BaseException):
    """Nothing in the code under test catches this, as nothing catches a kill."""


@each_way
def test_goes_on_after_a_kill(
    name: str, mode: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed and started again gives the bytes and losses of one that was not (E26)."""
    lora = MODES[mode] and MODES[mode] | {"dropout": 0.1}
    config = {"lora": lora, "max_steps": 6, "accumulate": 2, "checkpoint": {"every": 2}}

    def run(folder: str, bus: EventBus) -> Any:
        context = StepContext(17, bus, tmp_path / f"{folder}-scratch", {"run": name})
        facts = bench.train(name, mode, tmp_path / folder, context, **config)
        return hash_directory(tmp_path / folder), facts["losses"], facts["grad_norms"]

    whole, loaded = run("whole", EventBus()), list[CheckpointLoaded]()
    original = CheckpointFolder.save

    def save_and_die(self: CheckpointFolder, step: int, *args: Any, **kwargs: Any) -> Any:
        saved = original(self, step, *args, **kwargs)
        if step == 4:
            raise Killed
        return saved

    monkeypatch.setattr(CheckpointFolder, "save", save_and_die)
    with pytest.raises(Killed):
        run("killed", EventBus())
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "killed")
    bus = EventBus()
    bus.on(CheckpointLoaded, loaded.append)
    assert run("killed", bus) == whole
    assert [event.step for event in loaded] == [4]


def test_adapter_does_not_know_this_machine(lab: Any) -> None:
    """An adapter names its base by digest, not by a path (D9)."""
    config = lab.trained.read_json("adapter_config.json")
    assert config["base_model_name_or_path"] == f"sha256:{lab.base.digest}"
    assert str(lab.workspace.root) not in (lab.trained.path / "adapter_config.json").read_text()


@pytest.mark.parametrize("modules", [["no_such_layer"], "no_such_layer"])
def test_unknown_target_modules(lab: Any, tmp_path: Path, modules: Any) -> None:
    """LoRA on layers that do not exist is refused with the layers that do (D9, D12)."""
    with pytest.raises(ConfigError, match="matches no layer of this model; known: .*q_proj"):
        trained(lab, tmp_path, lora={"r": 4, "target_modules": modules})


@pytest.mark.parametrize("modules", [["q_proj", "v_proj"], "all-linear"])
def test_target_modules(lab: Any, tmp_path: Path, modules: Any) -> None:
    """LoRA sits on the layers that were asked for (D12)."""
    from safetensors import safe_open

    trained(lab, tmp_path, lora={"r": 4, "target_modules": modules})
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        layers = {name.split(".")[-3] for name in file.keys()}  # noqa: SIM118
    assert layers == ({"q_proj", "v_proj"} if isinstance(modules, list) else layers)
    assert {"q_proj", "v_proj"} <= layers


def test_row_without_loss(lab: Any, tmp_path: Path) -> None:
    """A row on which nothing would be learnt stops the run, with its number, though the data stage let it pass."""
    dataset = lab.dataset.model_copy(update={"path": tmp_path / "dataset"})
    shutil.copytree(lab.dataset.path, dataset.path)
    index = Dataset.from_file(str(dataset.path / "train.arrow")).to_list()
    index[1]["spans"] = []
    table = pa.Table.from_pylist(index)
    with pa.ipc.new_stream(str(dataset.path / "train.arrow"), table.schema) as stream:
        stream.write_table(table)
    trainer = registry.create("trainer", "sft", **SMALL)
    with pytest.raises(TrainingError, match="training row 2 has no token to learn from"):
        trainer.train(lab.base, dataset, tmp_path, StepContext(17, EventBus()))


def test_rows_of_another_tokenizer(lab: Any, tmp_path: Path) -> None:
    """Tokens made with another tokenizer or chat template are refused, not trained on (training.md 1.5)."""
    other = lab.dataset.model_copy(update={"meta": {**lab.dataset.meta, "tokenizer": "0" * 64}})
    none = lab.dataset.model_copy(update={"meta": {**lab.dataset.meta, "tokenizer": None}})
    trainer = registry.create("trainer", "sft", **SMALL)
    with pytest.raises(ArtifactError, match="tokenised with another tokenizer or chat template"):
        trainer.train(lab.base, other, tmp_path, StepContext(17, EventBus()))
    with pytest.raises(ArtifactError, match="holds no tokens"):
        trainer.train(lab.base, none, tmp_path, StepContext(17, EventBus()))


def test_too_long_rows(lab: Any, tmp_path: Path) -> None:
    """Rows beyond `max_length` stop the run; a share of them may be left out if the recipe says so."""
    with pytest.raises(TrainingError, match=r"24 of 24 training rows are longer than max_length=16"):
        trained(lab, tmp_path, max_length=16, lora=MODES["lora"])
    with pytest.raises(TrainingError, match="or allow leaving them out"):
        trained(lab, tmp_path, max_length=142, max_too_long_fraction=0.01, lora=MODES["lora"])


def test_long_rows_left_out(lab: Any, tmp_path: Path) -> None:
    """Allowed long rows are left out and counted."""
    facts = trained(lab, tmp_path, max_length=142, max_too_long_fraction=0.9, lora=MODES["lora"])
    assert 0 < facts["rows_left_out"] < 24
    assert facts["rows"] + facts["rows_left_out"] == 24


def test_all_rows_left_out(lab: Any, tmp_path: Path) -> None:
    """If no row is short enough the run stops with a TrainingError, whatever share may be left out."""
    with pytest.raises(TrainingError):
        trained(lab, tmp_path, max_length=16, max_too_long_fraction=1.0, lora=MODES["lora"])
