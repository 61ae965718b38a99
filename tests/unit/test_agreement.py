"""Agreement with a reference that is kept: how near its divergence is to the full one, and that it is asked once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from components.benchmarks import agreement
from components.benchmarks._reference import COLUMNS, Kept, kept, log_probabilities, read_reference, write_reference
from components.core.errors import PostmillError
from components.core.kinds import registry
from components.core.spec import OfKind
from components.interfaces import Scoreboard, StepContext
from components.runtime import opened
from components.services.benchmarking import BenchmarkService, scoreboard
from components.services.data import load_rows

SIZE = 1000


@pytest.fixture
def pair() -> tuple[Any, Any]:
    """Log-probabilities of two models of 1000 words at 60 positions: peaked, as a language model's are, and near."""
    draw = np.random.default_rng(7)
    logits = draw.normal(0, 3.0, (60, SIZE))
    found = (
        log_softmax(each.astype(np.float32), axis=-1) for each in (logits, logits + draw.normal(0, 0.4, logits.shape))
    )
    return next(found), next(found)


def full(reference: Any, found: Any) -> Any:
    """KL over the whole vocabulary."""
    return (np.exp(reference) * (reference - found)).sum(axis=-1)


@pytest.mark.parametrize("top_k", [1, 64, 128, 256])
def test_divergence_of_the_likeliest_and_the_rest(pair: tuple[Any, Any], top_k: int) -> None:
    """Without a sample it is below the full divergence by exactly what the rest would add: at most the rest's share of
    the largest ratio in it."""
    reference, found = pair
    part = kept(reference, top_k)
    kl, _ = part.distance(found)
    missing = full(reference, found) - kl
    # of the rest alone: its share times the divergence between the two ways of spreading it
    mask = np.ones_like(reference, dtype=bool)
    np.put_along_axis(mask, part.ids.astype(np.int64), False, axis=-1)
    spread = [np.where(mask, np.exp(each.astype(np.float64)), 0) for each in (reference, found)]
    shares = [each / each.sum(axis=-1, keepdims=True) for each in spread]
    ratio = np.where(mask, np.log(np.where(mask, shares[0], 1)) - np.log(np.where(mask, shares[1], 1)), 0)
    assert missing == pytest.approx(part.tail * (shares[0] * ratio).sum(axis=-1), abs=1e-5)
    assert (missing > -1e-5).all()
    assert missing.max() <= (part.tail * ratio.max(axis=-1)).max() + 1e-5


def test_a_sample_of_the_rest_is_right_on_average(pair: tuple[Any, Any]) -> None:
    """With a sample the divergence is the full one on average, over draws and over tokens, and never negative."""
    reference, found = pair
    draws = np.array([kept(reference, 64, 64, seed).distance(found)[0] for seed in range(40)])
    assert (draws >= 0).all()
    assert draws.mean(axis=0) == pytest.approx(full(reference, found), abs=3e-3)
    assert draws.mean(axis=1) == pytest.approx(full(reference, found).mean(), abs=2e-3)
    assert kept(reference, 64, 64, 3).drawn.tolist() == kept(reference, 64, 64, 3).drawn.tolist()


def test_error_at_the_default_sizes(pair: tuple[Any, Any]) -> None:
    """With the defaults and a rest of a few percent, the mean divergence is that of whole distributions to 1e-3."""
    reference, found = pair
    config = agreement.Agreement.Config()
    part = kept(reference, config.top_k, config.tail_samples)
    assert 0.01 < part.tail.mean() < 0.1
    assert part.distance(found)[0].mean() == pytest.approx(full(reference, found).mean(), abs=1e-3)


def test_all_of_a_small_vocabulary(pair: tuple[Any, Any]) -> None:
    """Where the vocabulary is not larger than top_k nothing is lost; equal models are 0 apart."""
    reference, found = (each[:, :50] for each in pair)
    part = kept(reference, 128)
    assert part.ids.shape == (60, 50)
    assert part.distance(found)[0] == pytest.approx(np.maximum(full(reference, found), 0), abs=1e-5)
    assert part.distance(reference)[0] == pytest.approx(np.zeros(60), abs=1e-6)


def test_preferred_token_is_argmax() -> None:
    """Of equally likely tokens the first is the preferred one, as everywhere else."""
    level = log_softmax(np.array([[0.0, 2.0, 2.0, 1.0]], dtype=np.float32), axis=-1)
    assert kept(level, 2).ids.tolist() == [[1, 2]]
    assert kept(level, 3).distance(level)[1].tolist() == [True]


def test_another_vocabulary(pair: tuple[Any, Any]) -> None:
    """Models of different vocabularies are not compared."""
    with pytest.raises(PostmillError, match="50 logits cannot be compared with one of 1000"):
        kept(pair[0], 8).distance(pair[1][:, :50])


def test_reference_survives_the_disk(pair: tuple[Any, Any], tmp_path: Any) -> None:
    """What is read is what was written, row by row."""
    rows = [kept(pair[0][:7], 16, 8), kept(pair[1][7:9], 16, 8)]
    write_reference(rows, tmp_path)
    again: list[Kept] = list(read_reference(tmp_path))
    for row, same in zip(rows, again, strict=True):
        assert row.vocabulary == same.vocabulary
        assert all((getattr(row, name) == getattr(same, name)).all() for name in COLUMNS)


def test_figures_are_those_of_the_full_distributions(lab: Any) -> None:
    """Mean and 99th percentile of the divergence, top-1 and flips are what whole distributions give (A45)."""
    rows = load_rows(lab.dataset)
    subjects = [lab.subject(name) for name in ("trained", "int4")]
    context = StepContext(17, lab.workspace.bus)
    (found,) = registry.create("benchmark", "agreement", rows=100).measure(subjects, rows, context)
    said = []
    for subject in subjects:
        with opened(subject, dtype="float32") as backend:
            said.append([log_probabilities(backend, row) for row in rows.conversations])
    every = np.concatenate([np.maximum(full(*pair), 0) for pair in zip(*said, strict=True)])
    same = [a.argmax(-1) == b.argmax(-1) for a, b in zip(*said, strict=True)]
    assert found.metrics["mean_kl"] == pytest.approx(every.mean(), abs=1e-3)
    assert found.metrics["p99_kl"] == pytest.approx(np.percentile(every, 99), abs=1e-2)
    assert found.metrics["top1_agreement"] == pytest.approx(np.concatenate(same).mean())
    assert found.metrics["answer_flips"] == pytest.approx(np.mean([not each.all() for each in same]))


def test_the_reference_is_asked_once(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with another variant does not open the reference again, and measures the same (A28)."""
    service, opens = BenchmarkService(lab.workspace), list[str]()

    def counting(subject: Any, **options: Any) -> Any:
        opens.append(subject.name)
        return opened(subject, **options)

    monkeypatch.setattr(agreement, "opened", counting)

    def board(*names: str, **config: Any) -> Scoreboard:
        spec = OfKind("benchmark").parse({"type": "agreement", "rows": 3, "top_k": 32, **config})
        assert spec
        return scoreboard(service.run(spec, [lab.subject(name) for name in names], lab.dataset, 17))

    first = board("trained", "int4")
    again = board("trained", "fp32", "int4")
    assert opens == ["trained", "int4", "fp32", "int4"]
    assert again.metrics("int4") == first.metrics("int4")
    board("trained", "int4", top_k=64)
    board("trained", "int4", rows=2)
    assert opens[4:] == ["trained", "int4"] * 2  # another size, other rows
