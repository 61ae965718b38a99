"""What every test stands on: an offline, single-threaded process, a tiny model, and artifacts that are made once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# before any library is imported: most read these only once
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    TRL_EXPERIMENTAL_SILENCE="1",
    TQDM_DISABLE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="1",
    OMP_NUM_THREADS="1",
)
for _name in [name for name in os.environ if name.startswith("POSTMILL_")]:
    del os.environ[_name]
for _name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE"):
    os.environ.pop(_name, None)

import pytest  # noqa: E402

from tests import tiny  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Environment variables that a test (or the code under it) sets do not reach the next test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def workspace(tmp_path: Path) -> Any:
    """An empty workspace."""
    from components.services.workspace import Workspace

    return Workspace(tmp_path)


@pytest.fixture(scope="session")
def one_thread() -> None:
    """Arithmetic in one thread, so that the order of additions is always the same."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The tiny model's directory."""
    return tiny.write_model(tmp_path_factory.mktemp("model") / "tiny")


@dataclass(frozen=True)
class Lab:
    """Everything that a run makes before it measures, on the tiny model. Read-only: shared by the whole session."""

    workspace: Any
    plan: Any
    dataset: Any
    base: Any
    trained: Any
    merged: Any
    fp32: Any
    int4: Any

    @property
    def gguf(self) -> Any:
        """`merged` as a GGUF file; made when it is first asked for."""
        return self._made("gguf")

    @property
    def packed(self) -> Any:
        """`merged` in GPTQ's layout, 8 bits; made when it is first asked for."""
        return self._made("gptq_layout", bits=8)

    def _made(self, name: str, **config: Any) -> Any:
        from components.services.optimization import OptimizationService

        return OptimizationService(self.workspace).named([{"type": name, **config}], self.merged, self.plan.seed)

    def subject(self, name: str) -> Any:
        """`base`, `trained`, `merged`, `fp32`, `int4`, `gguf` or `packed` as something to open."""
        from components.interfaces import Subject

        parents = {"model": self.base} if name == "trained" else {}
        return Subject(name=name, artifact=getattr(self, name), parents=parents)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    """Trained, merged and exported once for all tests."""
    from components.core.recipe import parse_recipe
    from components.services.data import DataService
    from components.services.model import ModelService
    from components.services.optimization import OptimizationService
    from components.services.training import TrainingService
    from components.services.workspace import Workspace

    root = tmp_path_factory.mktemp("lab")
    plan = parse_recipe(tiny.recipe(root, tiny_model))
    workspace = Workspace(root)
    base = ModelService(workspace).fetch(plan.model)
    dataset = DataService(workspace).validate(plan.data, base)
    trained = TrainingService(workspace).train(plan.train, base, dataset, plan.seed)
    passes = OptimizationService(workspace)
    merged = passes.variant("merged", plan.optimize["fp32"][:1], trained, plan.seed)
    made = {name: passes.variant(name, chain, trained, plan.seed) for name, chain in plan.optimize.items()}
    return Lab(workspace, plan, dataset, base, trained, merged, made["fp32"], made["int4"])


@pytest.fixture(scope="session")
def datasets_by_shape(lab: Lab) -> dict[str, Any]:
    """A small validated data set of every shape of row, tokenised for the tiny model; the lab's own among them."""
    from components.core.recipe import DataSection
    from components.services.data import DataService

    service, found = DataService(lab.workspace), {"conversation": lab.dataset}
    for shape in ("text", "preference", "unpaired", "prompt"):
        place = lab.workspace.root / "rows" / shape
        train = tiny.write_shape(place / "train.jsonl", shape, range(24))
        held_out = tiny.write_shape(place / "eval.jsonl", shape, range(100, 106))
        files = {"train": {"type": "jsonl", "path": str(train)}, "eval": {"type": "jsonl", "path": str(held_out)}}
        found[shape] = service.validate(DataSection.model_validate(files), lab.base)
    return found
