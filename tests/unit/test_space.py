"""Spaces of chains: how they are written, what is in them, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError
from components.core.recipe import Recipe, load_recipe, parse_recipe
from components.core.space import chain_at, points, samples
from tests import tiny
from tests.conftest import ROOT

SPACE = {
    "any": [
        [{"a": {"any": [1, 2, 3]}, "b": {"any": ["x", "y"]}}],
        [{"c": {"between": [1, 4], "step": 1.5}}, {"any": [None, "d"]}],
    ]
}


def chains(space: Any) -> list[Any]:
    return [chain_at(space, point) for point in points(space)]


def test_every_point() -> None:
    """A space holds every combination once, and asks for what stands inside an option only where it is taken (C39)."""
    found = chains(SPACE)
    assert len(found) == 2 * 3 + 3 * 2
    assert found[:3] == [[{"a": 1, "b": "x"}], [{"a": 1, "b": "y"}], [{"a": 2, "b": "x"}]]
    assert found[6:8] == [[{"c": 1}], [{"c": 1}, "d"]]
    assert found[-1] == [{"c": 4.0}, "d"]
    assert {len(point) for point in points(SPACE)} == {3}


def test_samples_cover_every_option() -> None:
    """Far fewer points than there are take every option once, nested ones and both ends of ranges too."""
    found = [chain_at(SPACE, point) for point in samples(SPACE)]
    said = str(found)
    assert len(found) < len(chains(SPACE))
    assert all(part in said for part in ("'a': 1", "'a': 2", "'a': 3", "'x'", "'y'", "'c': 1", "'c': 4", "'d'"))


def test_no_choice_is_one_point() -> None:
    """What has no choice in it is a space of one chain."""
    assert chains([{"type": "onnx"}]) == [[{"type": "onnx"}]]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"any": []}, "a choice is written"),
        ({"any": [1], "x": 2}, "a choice is written"),
        ({"between": [2, 1]}, "two numbers that rise"),
        ({"between": ["a", "b"]}, "two numbers that rise"),
        ({"between": [1]}, "two numbers that rise"),
        ({"between": [0, 1], "log": True}, "needs numbers above 0"),
        ({"between": [1, 2], "step": 0}, "two numbers that rise"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_choice_that_is_none(choice: Any, said: str) -> None:
    """A choice that cannot be made is named, with how one is written."""
    with pytest.raises(ConfigError, match=said):
        list(points([{"precision": choice}]))


# ---------------------------------------------------------------- in a recipe


def searching(tmp_path: Path, **search: Any) -> dict[str, Any]:
    """The tiny recipe with a search."""
    plain = tiny.recipe(tmp_path, tmp_path / "model")
    chain = [{"type": "merge_adapter"}, {"type": "onnx", "precision": {"any": ["int8", "int4"]}}]
    plain["optimize"]["search"] = {"space": [chain, "basic"], "budget": {"bytes": "100MB", "tpot_ms": 8}, **search}
    return plain


def problems(plain: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(plain)
    return caught.value.problems


def test_a_recipe_with_a_search(tmp_path: Path) -> None:
    """The search stands beside the variants, is none of them, and survives being written down (C39)."""
    recipe = parse_recipe(searching(tmp_path))
    assert list(recipe.optimize) == ["fp32", "int4"]
    assert recipe.optimize.search is not None
    assert recipe.optimize.search.budget == {"bytes": 100e6, "tpot_ms": 8}
    again = parse_recipe(recipe.dump())
    assert again.dump() == recipe.dump()
    changed = recipe.with_updates({"optimize.search.trials": 3}).optimize.search
    assert changed is not None
    assert changed.trials == 3


def test_a_search_alone_is_judged(tmp_path: Path) -> None:
    """A recipe whose only variants are those of a search is a whole recipe."""
    plain = searching(tmp_path)
    plain["optimize"] = {"search": plain["optimize"]["search"]}
    assert parse_recipe(plain).judged


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"space": [[{"type": "merge_adaptr"}]]}, "optimize.search.space.0: 0.type: unknown pass 'merge_adaptr'"),
        (
            {"space": ["basic", [{"type": "merge_adapter"}, {"type": "onnx", "precision": {"any": ["int8", "int3"]}}]]},
            "optimize.search.space.1: 1.precision: Input should be",
        ),
        ({"space": [[{"any": [{"type": "merge_adapter"}, {"type": "onnx"}]}]]}, "pass 'onnx' takes"),
        (
            {"space": [[{"type": "merge_adapter", "wide": {"any": [1, 2]}}]]},
            "optimize.search.space.0: 0.wide: unknown key",
        ),
        ({"space": ["enhancd"]}, "unknown preset 'enhancd'; did you mean 'enhanced'"),
        ({"budget": {"tpot": 8}}, "no benchmark in 'measure' reports 'tpot'; did you mean 'tpot_ms'"),
        ({"objectives": ["bytes", "size"]}, "objectives: no benchmark in 'measure' reports 'size'"),
        ({"objectives": ["bytes", "bytes"]}, "one stands there twice"),
        ({"sampler": "grd"}, "unknown sampler 'grd'; did you mean 'grid'"),
        ({"trial": 3}, "unknown key 'trial'; did you mean 'trials'"),
        ({"measure": []}, "at least 1 item"),
    ],
    ids=["pass", "option", "order", "key", "preset", "budget", "objective", "twice", "sampler", "trials", "measure"],
)
def test_mistakes_are_told_when_the_recipe_is_read(tmp_path: Path, search: dict[str, Any], said: str) -> None:
    """Unknown passes, options and figures of a search are found before any work, each with its place (A6, C39)."""
    assert any(said in problem for problem in problems(searching(tmp_path, **search))), problems(
        searching(tmp_path, **search)
    )


def test_shipped_recipe() -> None:
    """The recipe that shows a search is sound."""
    recipe: Recipe = load_recipe(ROOT / "configs" / "search.yaml")
    assert recipe.optimize.search is not None
