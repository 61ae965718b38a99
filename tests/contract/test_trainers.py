"""What every trainer promises."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset

from components.core.artifacts import hash_directory, hash_json
from components.core.errors import ArtifactError, ConfigError, TrainingError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.safeload import check_model_directory, load_adapter, load_causal_lm
from components.interfaces import StepContext
from tests.contract.common import check_component, named

SMALL = {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-2, "warmup_steps": 0, "dtype": "float32"}
MODES = {"lora": {"r": 4, "alpha": 8}, "full": None}


def trained(lab: Any, out: Path, name: str = "sft", seed: int = 17, **config: Any) -> Any:
    """Train on the tiny model for two steps."""
    out.mkdir(exist_ok=True)
    trainer = registry.create("trainer", name, **(SMALL | config))
    return trainer.train(lab.base, lab.dataset, out, StepContext(seed, EventBus()))


@named("trainer")
def test_component(name: str) -> None:
    """Every trainer is described and strictly configured (A27)."""
    check_component("trainer", name)


@named("trainer")
@pytest.mark.parametrize("mode", MODES)
def test_training_changes_weights_and_loads(name: str, mode: str, lab: Any, tmp_path: Path) -> None:
    """A run changes weights and leaves a directory that the safe door opens, of the promised kind (E14, E16)."""
    config = SMALL | {"lora": MODES[mode]}
    facts = trained(lab, tmp_path / "out", name, lora=MODES[mode])
    check_model_directory(tmp_path / "out")
    cls = registry.get("trainer", name)
    kind = cls.produces_kind(cls.Config(**config))
    assert kind == ("adapter" if mode == "lora" else "model")
    base = load_causal_lm(lab.base.path)
    reference = {key: value.clone() for key, value in base.state_dict().items()}
    if kind == "adapter":
        after = load_adapter(base, tmp_path / "out").merge_and_unload().state_dict()
    else:
        after = load_causal_lm(tmp_path / "out").state_dict()
    assert reference.keys() == after.keys()
    assert any(not (after[key] == value).all() for key, value in reference.items())
    assert facts["steps"] == 2
    assert len(facts["losses"]) == 2


@named("trainer")
def test_nothing_is_left_behind(name: str, lab: Any, tmp_path: Path) -> None:
    """The result holds model files only: no checkpoints, logs, pickled arguments or read-me."""
    trained(lab, tmp_path / "out", name, lora=MODES["lora"])
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")}
    assert not {file for file in found if not file.endswith((".safetensors", ".json", ".jinja"))}


@named("trainer")
@pytest.mark.parametrize("mode", MODES)
def test_same_seed_same_bytes(name: str, mode: str, lab: Any, tmp_path: Path) -> None:
    """Two runs with one seed give bit-equal artifacts; another seed gives another one (F6)."""
    for folder, seed in (("1", 17), ("2", 17), ("3", 18)):
        trained(lab, tmp_path / folder, name, seed, lora=MODES[mode])
    digests = [hash_json(hash_directory(tmp_path / folder)) for folder in "123"]
    assert digests[0] == digests[1] != digests[2]


@named("trainer")
def test_inputs_are_not_touched(name: str, lab: Any, tmp_path: Path) -> None:
    """Training changes neither the base model nor the data."""
    before = [hash_directory(artifact.path) for artifact in (lab.base, lab.dataset)]
    trained(lab, tmp_path / "out", name, lora=None)
    assert [hash_directory(artifact.path) for artifact in (lab.base, lab.dataset)] == before


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


def test_rows_of_another_shape(lab: Any, tmp_path: Path) -> None:
    """A trainer says which shapes of row it takes."""
    prompts = lab.dataset.model_copy(update={"meta": {**lab.dataset.meta, "shape": "prompt"}})
    expected = "takes rows of shape conversation or text or preference, the data set holds prompt"
    with pytest.raises(TrainingError, match=expected):
        registry.create("trainer", "sft", **SMALL).train(lab.base, prompts, tmp_path, StepContext(17, EventBus()))


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
