"""A store, a registry and a run, made by hand and small, for what is told of lineage."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.core.artifacts import Artifact, Identity, Store, hash_json, write_json
from components.services.lineage_graph import LineageGraphService
from components.services.model_registry import ModelRegistryService
from components.services.workspace import Workspace

RECIPE = {"name": "toy", "seed": 17}


def made(
    store: Store, stage: str, type_: str, meta: dict[str, Any], content: str = "", **parents: Artifact
) -> Artifact:
    """An artifact of a stage with these inputs; the same content and inputs give the same artifact."""
    identity = Identity(
        stage=stage,
        config={"type": type_, **(meta if stage == "search" else {})},
        parents={role: parent.key for role, parent in parents.items()},  # keys: the same content can be made twice
        code="c0de",
        versions={"torch": "2"},
    )
    kinds = {"data": "dataset", "benchmark": "measurement", "judge": "verdict", "search": "search"}

    def make(out: Path) -> dict[str, Any]:
        text = content or f"{stage} {type_} {sorted(parent.digest for parent in parents.values())}"
        if stage == "judge":
            write_json(out / "verdict.json", {"variants": [], "chosen": meta["chosen"]})
        else:
            (out / "weights").write_text(text)
            (out / "config").write_text("{}" if content else type_)
        return meta

    return store.build(identity, kinds.get(stage, "model"), parents, make)


@dataclass(frozen=True)
class World:
    """One registered version with everything behind it; `variant` was chosen, `other` was not."""

    root: Path
    run_id: str = ""

    @property
    def store(self) -> Store:
        return Store(self.root / "artifacts")

    @property
    def registry(self) -> ModelRegistryService:
        return ModelRegistryService(Workspace(self.root))

    def service(self) -> LineageGraphService:
        """As it looks at the store now."""
        return LineageGraphService(Workspace(self.root), self.registry)

    def parts(self) -> dict[str, Artifact]:
        """Every artifact by a short name; those that were deleted are made again."""
        store = self.store
        rows = {"rows": {"train": 24, "eval": 6}, "content": {"train": "aa" * 16, "eval": "bb" * 16}}
        rows |= {"quarantined": {"train": 1}, "files": {"train": {"train.jsonl": "f" * 64}}}
        dataset = made(store, "data", "rows", rows)
        base = made(store, "model", "pretrained", {"name": "tiny", "parameters": 1000})
        trained = made(store, "train", "sft", {"steps": 60, "final_loss": 0.5}, model=base, dataset=dataset)
        merged = made(store, "optimize", "merge_adapter", {}, source=trained, model=base)
        variant = made(store, "optimize", "onnx", {"precision": "int4"}, source=merged)
        other = made(store, "optimize", "onnx8", {}, source=merged)
        score = {"metrics": {"base": {"score": 0.0}, "trained": {"score": 0.9}}}
        measured = made(store, "benchmark", "exact_match", score, dataset=dataset, base=base, trained=trained)
        speed = {"metrics": {"int4": {"tokens_per_s": 9.0}, "int8": {"tokens_per_s": 7.0}}}
        timed = made(store, "benchmark", "latency", speed, dataset=dataset, int4=variant, int8=other)
        chosen = {"chosen": "int4", "accepted": ["int4"]}
        verdict = made(store, "judge", "gate", chosen, **{"measurement-0": measured, "measurement-1": timed})
        return dict(dataset=dataset, base=base, trained=trained, merged=merged, variant=variant, other=other,
                    measured=measured, timed=timed, verdict=verdict)  # fmt: skip

    def copy(self, root: Path) -> World:
        """The same world in another place, to be damaged."""
        shutil.copytree(self.root, root)
        return World(root, self.run_id)


def build(root: Path) -> World:
    """A world with one run in MLflow and two versions, the second by another tool."""
    world = World(root)
    parts, client = world.parts(), world.registry.client
    tags = {f"artifact.{part.stage}.{name}": part.key for name, part in parts.items()}
    tags[f"artifact.train.{'trained'}"] += " (cached)"
    experiment = client.get_experiment_by_name("postmill").experiment_id
    recipe = hash_json(RECIPE)
    run = client.create_run(experiment, run_name="toy", tags={**tags, "postmill.recipe": recipe, "git.commit": "abc"})
    client.set_terminated(run.info.run_id)
    client.create_registered_model("toy")
    said = {"postmill.digest": parts["variant"].digest, "postmill.verdict": parts["verdict"].digest}
    said |= {"postmill.dataset": parts["dataset"].digest, "postmill.recipe": recipe, "postmill.variant": "int4"}
    client.create_model_version("toy", source=str(root), run_id=run.info.run_id, tags=said)
    client.create_model_version("toy", source=str(root), tags={"framework": "other"})
    client.set_registered_model_alias("toy", "production", "1")
    folder = root / "reports" / "toy"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    shutil.copyfile(parts["verdict"].path / "verdict.json", folder / "verdict.json")
    write_json(folder / "figures.json", {"base": {"score": 0.0}, "int4": {"score": 0.9}})
    return World(root, run.info.run_id)
