"""Lineage: which data sets, models and registered versions saw a row, and what the row was to them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import Artifact
from components.core.component import Component
from components.core.errors import DataError
from components.core.recipe import parse_recipe
from components.core.rows import normalised, prompt_text, row_digest, said_digest
from components.services.data import DataService
from components.services.lineage import LineageService, Sighting, Wanted
from components.services.model_registry import ModelRegistryService
from components.services.workspace import Workspace
from tests import tiny


class _Step(Component):
    """Stands for a training step, a pass or a benchmark."""


def made(workspace: Workspace, stage: str, kind: str, **parents: Artifact) -> Artifact:
    """An artifact of some stage with these inputs."""

    def make(out: Path) -> dict[str, Any]:
        (out / "file").write_text(f"{stage} {sorted(parents)}")
        return {}

    return workspace.stage(stage, stage, _Step, {"type": f"a_{stage}"}, parents, kind, make)


@pytest.fixture
def world(workspace: Workspace, tmp_path: Path) -> dict[str, Artifact]:
    """A data set, what was trained on it and made of that, and what was measured with it."""
    plan = parse_recipe(tiny.recipe(tmp_path, tmp_path / "model"))
    dataset = DataService(workspace).validate(plan.data)
    base = made(workspace, "model", "model")
    trained = made(workspace, "train", "adapter", model=base, dataset=dataset)
    variant = made(workspace, "optimize", "onnx", source=trained, model=base)
    measured = made(workspace, "benchmark", "measurement", dataset=dataset, base=base, int4=variant)
    verdict = made(workspace, "judge", "verdict", measured=measured)
    return {"dataset": dataset, "base": base, "trained": trained, "variant": variant, "verdict": verdict}


def lineage(workspace: Workspace) -> LineageService:
    """The service, as it looks at the store now."""
    return LineageService(workspace, ModelRegistryService(workspace))


def digits(number: int) -> str:
    """Digest of one of the tiny rows, in hexadecimal."""
    return row_digest({"messages": tiny.conversation(number)}).hex()


def relations(sighting: Sighting) -> dict[str, str]:
    """Stage -> what the row was to its artifact."""
    return {artifact.stage: artifact.relation for artifact in sighting.artifacts}


def test_trained_on(workspace: Workspace, world: dict[str, Artifact]) -> None:
    """A training row is found with file and line, and every model that came of it counts as trained on it (B22)."""
    (found,) = lineage(workspace).find(Wanted(digits(5)))
    (place,) = found.places
    assert (found.key, place.split, Path(place.file).name, place.line) == (
        world["dataset"].key,
        "train",
        "train.jsonl",
        6,
    )
    assert relations(found) == {"train": "trained on", "optimize": "trained on"}
    assert [artifact.key for artifact in found.artifacts] == [world["trained"].key, world["variant"].key]
    assert found.artifacts[0].type == "a_train"


def test_measured_on(workspace: Workspace, world: dict[str, Artifact]) -> None:
    """An eval row was measured on by what the benchmarks opened, the base model too; nothing was trained on it."""
    (found,) = lineage(workspace).find(Wanted(digits(103)))
    assert [(place.split, place.line) for place in found.places] == [("eval", 4)]
    assert relations(found) == {"model": "measured on", "optimize": "measured on"}


def test_test_rows(workspace: Workspace, tmp_path: Path) -> None:
    """A test row touches no model, whatever came of its data set."""
    plain = tiny.recipe(tmp_path, tmp_path / "model")
    plain["data"]["test"] = {"type": "jsonl", "path": str(tiny.write_rows(tmp_path / "test.jsonl", range(200, 203)))}
    dataset = DataService(workspace).validate(parse_recipe(plain).data)
    made(workspace, "train", "adapter", dataset=dataset)
    (found,) = lineage(workspace).find(Wanted(digits(201)))
    assert [place.split for place in found.places] == ["test"]
    assert (found.artifacts, found.versions) == ((), ())


def test_by_what_is_said(workspace: Workspace, world: dict[str, Artifact]) -> None:
    """A row is found by what the user says in it, letter case and spacing aside, whatever its answer is."""
    row = {"messages": tiny.conversation(7)}
    text = f"  {prompt_text(row).upper()}\n"
    (found,) = lineage(workspace).find(Wanted(said_digest(normalised(text)).hex(), said=True))
    assert [place.digest for place in found.places] == [digits(7)]


def test_beginning_of_a_digest(workspace: Workspace, world: dict[str, Artifact]) -> None:
    """Any number of digits finds the rows whose digests begin like them, and no others."""
    every = {digits(number) for number in (*range(24), *range(100, 106))}
    for length in (1, 2, 7, 31, 32):
        beginning = digits(5)[:length]
        (found,) = lineage(workspace).find(Wanted(beginning))
        assert {place.digest for place in found.places} == {digest for digest in every if digest.startswith(beginning)}
        assert found.count == len(found.places)


@pytest.mark.parametrize("text", ["", "xyz", "AB", "0" * 33])
def test_no_digest(text: str) -> None:
    """What is no digest is refused with what one is."""
    with pytest.raises(DataError, match="is no digest: write up to 32 of the digits"):
        Wanted(text)


def test_found_nowhere(workspace: Workspace, world: dict[str, Artifact]) -> None:
    """A row that stands in no data set is found nowhere, and an empty store holds nothing."""
    assert lineage(workspace).find(Wanted(digits(999))) == []
    assert lineage(Workspace(workspace.root / "empty")).find(Wanted(digits(5))) == []


def test_registered_versions(workspace: Workspace, world: dict[str, Artifact]) -> None:
    """Registered versions are found through the digest of their data set, with aliases; others are not."""
    service = ModelRegistryService(workspace)
    assert service.versions("postmill.dataset", "x") == []
    assert not (workspace.root / "mlruns").exists()
    for name, dataset in (
        ("triage", world["dataset"].digest),
        ("triage", "other"),
        ("second", world["dataset"].digest),
    ):
        if name not in {model.name for model in service.client.search_registered_models()}:
            service.client.create_registered_model(name)
        tags = {"postmill.dataset": dataset, "postmill.variant": "int4"}
        service.client.create_model_version(name, source=str(workspace.root), tags=tags)
    service.client.set_registered_model_alias("triage", "staging", "1")
    (found,) = lineage(workspace).find(Wanted(digits(5)))
    assert [(v.model, v.version, v.aliases, v.variant, v.relation) for v in found.versions] == [
        ("second", "1", (), "int4", "trained on"),
        ("triage", "1", ("staging",), "int4", "trained on"),
    ]
    (held_out,) = lineage(workspace).find(Wanted(digits(103)))
    assert {version.relation for version in held_out.versions} == {"measured on"}


def test_damaged_manifest(workspace: Workspace, world: dict[str, Artifact]) -> None:
    """A manifest that cannot be read hides its own artifact only."""
    (world["variant"].path / "manifest.json").write_text("{")
    (found,) = lineage(workspace).find(Wanted(digits(5)))
    assert relations(found) == {"train": "trained on"}


def test_plain(workspace: Workspace, world: dict[str, Artifact]) -> None:
    """What was found is plain data for machines."""
    (found,) = lineage(workspace).find(Wanted(digits(5)))
    plain = json.loads(json.dumps(found.plain()))
    assert plain["places"][0]["digest"] == digits(5)
    assert plain["rows"] == {"eval": 6, "train": 24}


def test_a_million_rows(workspace: Workspace) -> None:
    """A row among a million is found in less than a second: the index is scanned, not read into Python."""
    import numpy as np
    import pyarrow as pa

    numbers = np.random.default_rng(17).bytes(16_000_000)
    digests = pa.Array.from_buffers(pa.binary(16), 1_000_000, [None, pa.py_buffer(numbers)])
    place = pa.array(np.zeros(1_000_000, dtype=np.int32))
    columns = {"digest": digests, "said": digests, "file": place, "line": place.cast(pa.int64())}

    def make(out: Path) -> dict[str, Any]:
        batch = pa.record_batch(columns)
        with pa.ipc.new_stream(str(out / "train.arrow"), batch.schema) as stream:
            stream.write_batch(batch)
        return {"rows": {"train": 1_000_000}, "sources": {"train": ["rows.jsonl"]}}

    workspace.stage("data", "rows", _Step, {}, {}, "dataset", make)
    wanted = Wanted(numbers[16 * 777_777 : 16 * 777_778].hex())
    service = lineage(workspace)
    started = time.perf_counter()
    (found,) = service.find(wanted)
    assert time.perf_counter() - started < 1
    assert found.count == 1


def test_trained_again_to_the_same_bytes(workspace: Workspace, world: dict[str, Artifact]) -> None:
    """What was made of an adapter stands below every data set that gave the same adapter (B22)."""
    other = made(workspace, "data", "dataset", of=world["dataset"])
    again = made(workspace, "train", "adapter", model=world["base"], dataset=other)
    assert again.digest == world["trained"].digest
    assert again.key != world["trained"].key
    found = {key[0] for key in lineage(workspace)._trained((other.stage, other.key, other.digest))}
    assert {"train", "optimize"} <= found
