"""What every sampler of a search promises."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.search import Search
from components.services.trials import Study, Trial
from tests.contract.common import check_component, named

SPACE = [
    [
        {"type": "merge_adapter"},
        {"any": [None, {"type": "cast", "dtype": {"any": ["bfloat16", "float16"]}}]},
        {"type": "kv_cache", "cache": "quantized", "bits": {"any": [8, 4]}},
    ],
    [{"type": "merge_adapter", "max_logit_difference": 0.5}],
]
CHAINS = 7


def search(name: str, **changes: Any) -> Search:
    return Search.model_validate({"space": SPACE, "sampler": name, "trials": 20, "objectives": ["bytes"], **changes})


def tried(asked: Search, seed: int = 17) -> list[Trial]:
    """All trials of a search whose figures follow from the chain."""
    study, trials = Study(asked, seed), list[Trial]()
    while batch := study.batch():
        for trial in batch:
            size = float(len(json.dumps(trial.chain)))
            state = "pruned" if trial.number % 3 == 2 else "finished"
            trials.append(trial.ended(state, figures={"bytes": size}))  # type: ignore[arg-type]
            study.tell(trials[-1])
    return trials


@named("sampler")
def test_component(name: str) -> None:
    """Every sampler is described and strictly configured (C39)."""
    check_component("sampler", name)


@named("sampler")
def test_every_chain_once(name: str) -> None:
    """A small space is searched to its end, each chain is tried once, and the search ends by itself (C39)."""
    chains = [json.dumps(trial.chain) for trial in tried(search(name))]
    assert len(chains) == len(set(chains)) == CHAINS


@named("sampler")
def test_the_seed_decides(name: str) -> None:
    """The same seed and the same figures give the same trials."""
    assert tried(search(name, trials=5)) == tried(search(name, trials=5))


@named("sampler")
def test_never_more_than_asked_for(name: str) -> None:
    """`trials` is kept, `parallel` is the most that run at once."""
    asked = search(name, trials=5, parallel=3)
    study = Study(asked, 17)
    assert len(study.batch()) == 3
    assert len(tried(asked)) == 5


def test_a_grid_goes_in_order() -> None:
    """The grid tries chains in the order in which they are written."""
    first, second, *_, last = (trial.chain for trial in tried(search("grid")))
    assert [step.get("bits") for step in (first[-1], second[-1])] == [8, 4]
    assert [step["type"] for step in first] == ["merge_adapter", "kv_cache"]
    assert last == [{"type": "merge_adapter", "max_logit_difference": 0.5}]


def test_a_grid_needs_an_end() -> None:
    """A range without steps has no grid, and a recipe that asks for one is told the remedy."""
    space = [[{"type": "merge_adapter", "max_logit_difference": {"between": [0.01, 0.5]}}]]
    with pytest.raises(ValueError, match="say in which steps"):
        search("grid", space=space)
    asked = search("random", space=space, trials=3)
    drawn = [trial.chain[0]["max_logit_difference"] for trial in tried(asked)]
    assert len(drawn) == 3
    assert all(0.01 <= value <= 0.5 for value in drawn)


def test_a_grid_is_not_endless() -> None:
    """Tens of thousands of chains are refused as a grid."""
    step = {"type": "kv_cache", "recent": {"between": [1, 200_000]}}
    with pytest.raises(ConfigError, match="more than 10,000 chains"):
        registry.create("sampler", "grid").points({"any": [[step]]})
