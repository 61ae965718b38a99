"""Long texts in pieces: nothing is lost, nothing is copied, and each piece knows where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import Artifact, hash_directory
from components.core.dataset import index, token_lengths
from components.core.errors import TrainingError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.recipe import DataSection, OfKind
from components.core.safeload import load_causal_lm
from components.interfaces import StepContext
from components.services.data import DataService
from components.services.model import ModelService
from components.services.workspace import Workspace
from components.training.rows import text_pieces
from tests import tiny

LENGTHS = (40, 7, 21, 1, 63, 20, 22)
"""Characters of each text, and with its end so many tokens and one more."""
SMALL: dict[str, Any] = {"batch_size": 2, "dtype": "float32", "warmup_steps": 0}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def base(workspace: Workspace, tiny_model: Path) -> Artifact:
    """The tiny model, whose weights count as trained."""
    return ModelService(workspace).fetch(OfKind("model").parse({"type": "pretrained", "name": str(tiny_model)}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def texts(workspace: Workspace, base: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Texts of known lengths, a token a byte."""
    folder = tmp_path_factory.mktemp("texts")
    for split, first in (("train", "a"), ("eval", "n")):
        lines = (chr(ord(first) + n) * length for n, length in enumerate(LENGTHS))
        (folder / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    files = {s: {"type": "text", "path": str(folder / f"{s}.txt"), "unit": "line"} for s in ("train", "eval")}
    section = DataSection.model_validate({**files, "contract": {"max_bad_fraction": 0.5}})
    return DataService(workspace).validate(section, base)


def pieces(texts: Artifact, most: int) -> Any:
    return text_pieces(texts, "train", tiny.tokenizer(), most)


@pytest.mark.parametrize("most", [3, 4, 7, 20, 21, 64, 1000])
def test_nothing_is_lost(texts: Artifact, most: int) -> None:
    """In order the pieces are the texts; none is too long, none too short to learn from, all of it is labelled."""
    found = pieces(texts, most)
    whole = index(texts, "train")["input_ids"]
    assert sum(found["input_ids"], []) == sum(whole, [])
    assert all(2 <= length <= most for length in token_lengths(found))
    assert all(row["labels"] == row["input_ids"] for row in found)
    assert sum(row["input_ids"][-1] == tiny.tokenizer().eos_token_id for row in found) == len(LENGTHS)


def test_short_texts_stay_whole(texts: Artifact) -> None:
    """A text that fits is one piece; only a longer one is cut, at full length but for a rest of one token."""
    assert token_lengths(pieces(texts, 64)) == [length + 1 for length in LENGTHS]
    assert token_lengths(pieces(texts, 21))[:6] == [21, 20, 8, 20, 2, 2]


def test_pieces_know_their_text(texts: Artifact) -> None:
    """An error about a piece names the line of its text."""
    lines = pieces(texts, 21).with_format("arrow")["line"].to_pylist()
    assert lines == [1, 1, 2, 3, 3, 4, 5, 5, 5, 5, 6, 7, 7]


def test_nothing_is_written(texts: Artifact) -> None:
    """Cutting leaves the data set as it was, without a cache beside it."""
    before = hash_directory(texts.path)
    list(pieces(texts, 5))
    assert hash_directory(texts.path) == before
    assert pieces(texts, 5).cache_files == []


def test_pieces_of_nothing(texts: Artifact) -> None:
    """Pieces too short to predict anything are refused."""
    with pytest.raises(TrainingError, match="max_length must be at least 3"):
        pieces(texts, 2)


# ---------------------------------------------------------------- the trainer


def trained(base: Artifact, dataset: Artifact, out: Path, seed: int = 17, **config: Any) -> Any:
    out.mkdir(exist_ok=True)
    trainer = registry.create("trainer", "from_scratch", **(SMALL | config))
    return trainer.train(base, dataset, out, StepContext(seed, EventBus()))


def weights(path: Path) -> Any:
    return load_causal_lm(path).state_dict()


def same(one: Any, other: Any) -> bool:
    return all((one[name] == other[name]).all() for name in one)


def test_long_texts_are_trained_on(base: Artifact, texts: Artifact, tmp_path: Path) -> None:
    """Texts longer than `max_length` are cut, packed and counted whole; epochs are passes over the packs (E13)."""
    evaluate = {"every": 2, "rows": 3}
    facts = trained(base, texts, tmp_path / "out", max_length=32, epochs=2, evaluate=evaluate)
    tokens = sum(length + 1 for length in LENGTHS)
    assert facts["packs"] == 6
    assert facts["steps"] == 6
    assert facts["tokens"] == 2 * tokens
    assert "rows_left_out" not in facts
    assert facts["evaluations"]
    unpacked = trained(base, texts, tmp_path / "plain", max_length=32, max_steps=2, packing=False)
    assert (unpacked["steps"], "packs" in unpacked) == (2, False)


def test_trained_weights_are_drawn_anew(base: Artifact, texts: Artifact, tmp_path: Path) -> None:
    """From scratch: of a trained model only the architecture is taken over, with weights by the run's seed."""
    for name, seed in (("1", 1), ("2", 1), ("3", 2)):
        trained(base, texts, tmp_path / name, seed, max_steps=1, learning_rate=1e-12)
    found = [weights(tmp_path / name) for name in "123"]
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
    name = "model.embed_tokens.weight"
    # the tiny model's own weights are wide; a fresh draw has the same width and other values
    assert not (found[0][name] - weights(base.path)[name]).abs().max() < 1e-3


def test_new_weights_stay(base: Artifact, texts: Artifact, tmp_path: Path) -> None:
    """The weights of a new model are trained as they are, whatever the run's seed."""
    new = base.model_copy(update={"meta": {"untrained": True}})
    trained(new, texts, tmp_path / "out", max_steps=1, learning_rate=1e-12, weight_decay=0.0)
    before, after = weights(base.path), weights(tmp_path / "out")
    assert all((after[name] - before[name]).abs().max() < 1e-5 for name in before)


def test_adapters_are_refused() -> None:
    """An adapter on random weights is refused while the recipe is read."""
    with pytest.raises(ValueError, match="an adapter on random weights learns next to nothing"):
        registry.get("trainer", "from_scratch").Config(lora={"r": 4})
