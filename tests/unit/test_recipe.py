"""The recipe: every name, key and cross-reference is checked before any work, all mistakes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.recipe import load_recipe, parse_recipe
from tests import tiny
from tests.conftest import ROOT

Plain = dict[str, Any]


@pytest.fixture
def plain(tmp_path: Path) -> Plain:
    return tiny.recipe(tmp_path, tmp_path / "model")


def problems(plain: Plain) -> list[str]:
    """What is wrong with a recipe."""
    with pytest.raises(ConfigError) as caught:
        parse_recipe(plain)
    return caught.value.problems


def test_dump_parses_to_the_same(plain: Plain) -> None:
    """Dumping and parsing is the identity, through YAML text too (E2)."""
    recipe = parse_recipe(plain)
    assert parse_recipe(recipe.dump()) == recipe
    again = parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.dump())))
    assert again.dump() == recipe.dump()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "environments").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("recipe", ["quickstart", "modular"])
def test_shipped_overlays_fit(recipe: str, path: Path) -> None:
    """Every overlay in `configs/environments` goes on top of every shipped recipe (C55)."""
    assert load_recipe(ROOT / "configs" / f"{recipe}.yaml", overlays=[path.stem]).train


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_parse(path: Path) -> None:
    """Every recipe in `configs` is valid and survives the round trip (E2)."""
    recipe = load_recipe(path)
    assert parse_recipe(recipe.dump()).dump() == recipe.dump()


def test_unknown_key_with_line_and_suggestion(tmp_path: Path, plain: Plain) -> None:
    """An unknown key is reported with file, line, dotted path and the closest key (A38)."""
    plain["train"][0]["max_stepz"] = 4
    path = tiny.write_recipe(tmp_path / "r.yaml", plain)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "max_stepz" in text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    expected = f"{path}:{line}: train.0.max_stepz: unknown key 'max_stepz'; did you mean 'max_steps'?"
    assert caught.value.problems == [expected]


def test_unknown_key_lists_known_keys(plain: Plain) -> None:
    """When no key looks alike, the known ones are listed."""
    plain["data"]["contract"] = {"zzz": 1}
    assert problems(plain) == ["data.contract.zzz: unknown key 'zzz' (known: max_bad_fraction, rules)"]


def test_several_mistakes_at_once(plain: Plain) -> None:
    """Mistakes in different sections and components are reported together (E3)."""
    plain["seed"] = -1
    plain["train"][0]["learning_rate"] = 0
    plain["train"][0]["lora"]["rank"] = 4
    plain["benchmark"][0]["type"] = "exact_mach"
    plain["optimise"] = {}
    found = "\n".join(problems(plain))
    for part in ("seed:", "train.0.learning_rate:", "train.0.lora.rank: unknown key", "did you mean 'exact_match'"):
        assert part in found
    assert "optimise: unknown key 'optimise'; did you mean 'optimize'" in found
    assert len(found.splitlines()) == 5


def test_missing_sections(plain: Plain) -> None:
    """A required section that is missing is named."""
    del plain["model"], plain["train"]
    assert problems(plain) == ["model: key 'model' is required", "train: key 'train' is required"]


def test_component_without_type(plain: Plain) -> None:
    """A component without `type` is answered with the shape and the known names."""
    plain["model"] = {"name": "x"}
    assert "write a component of kind model as {type: NAME, ...}; known: " in problems(plain)[0]


def test_impossible_order_of_passes(plain: Plain) -> None:
    """A pass that cannot take what the step before it gives is refused before any work."""
    plain["optimize"] = {"bad": [{"type": "onnx"}]}
    assert problems(plain) == [
        "optimize.bad.0: pass 'onnx' takes model or quantized, but the step before it gives adapter"
    ]


def test_order_of_passes_follows_the_trainer(plain: Plain) -> None:
    """Full training gives a model: it can be exported at once, and there is no adapter to merge."""
    plain["train"][0]["lora"] = None
    assert len(problems(plain)) == 2
    plain["optimize"] = {"fp32": [{"type": "onnx", "precision": "fp32"}]}
    assert parse_recipe(plain).train[0].config.lora is None


def test_pass_after_the_last_export(plain: Plain) -> None:
    """Nothing can follow an export."""
    plain["optimize"] = {"bad": [{"type": "merge_adapter"}, {"type": "onnx"}, {"type": "onnx"}]}
    assert "pass 'onnx' takes model or quantized, but the step before it gives onnx" in problems(plain)[0]


def test_gate_on_a_metric_nobody_measures(plain: Plain) -> None:
    """A gate that reads a metric which no benchmark of the recipe measures is refused (F5)."""
    plain["gate"] = [{"type": "budget", "max": {"perplexity": 3}}]
    assert "no benchmark of this recipe measures 'perplexity' (measured: " in problems(plain)[0]


def test_register_without_gate(plain: Plain) -> None:
    """A recipe that registers needs a gate (F5)."""
    plain["gate"] = []
    assert "at least one gate" in problems(plain)[0]
    del plain["register"]
    assert parse_recipe(plain).register_as is None


@pytest.mark.parametrize("alias", ["latest", "v1", "v22"])
def test_reserved_aliases(plain: Plain, alias: str) -> None:
    """Aliases that the registry keeps for itself are refused with the reason (F4)."""
    plain["register"]["alias"] = alias
    assert f"reserves the alias '{alias}'" in problems(plain)[0]


@pytest.mark.parametrize("alias", ["v", "version1", "v1a", "staging"])
def test_aliases_that_only_look_reserved(plain: Plain, alias: str) -> None:
    """Aliases that merely begin alike are fine."""
    plain["register"]["alias"] = alias
    assert parse_recipe(plain).register_as


@pytest.mark.parametrize("name", ["base", "trained", "a/b", "a b", "", ".."])
def test_names_of_variants(plain: Plain, name: str) -> None:
    """A variant may not take a reserved name or one that is no plain file name."""
    plain["optimize"] = {name: plain["optimize"]["fp32"]}
    assert "choose another name" in problems(plain)[0]


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a b", "x" * 101])
def test_names_of_recipes(plain: Plain, name: str) -> None:
    """A recipe's name becomes a folder, so it is a plain name."""
    plain["name"] = name
    assert problems(plain)[0].startswith("name:")


def test_no_variant(plain: Plain) -> None:
    """A recipe without a variant is refused with an example."""
    plain["optimize"] = {}
    assert "name at least one variant" in problems(plain)[0]


@pytest.mark.parametrize("section", ["train", "benchmark"])
def test_empty_lists(plain: Plain, section: str) -> None:
    """Training and benchmarks need at least one entry."""
    plain[section] = []
    assert any(problem.startswith(f"{section}:") for problem in problems(plain))


@pytest.mark.parametrize("value", [float("nan"), "x", None, 0, float("inf")])
def test_numbers_that_are_none(plain: Plain, value: Any) -> None:
    """A learning rate that is no positive finite number is refused."""
    plain["train"][0]["learning_rate"] = value
    assert problems(plain)[0].startswith("train.0.learning_rate:")


def test_recipe_is_frozen(plain: Plain) -> None:
    """What was validated cannot change any more."""
    recipe = parse_recipe(plain)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        recipe.train[0].config.max_steps = 3


AFTER = ("optimize", "benchmark", "gate", "register")
"""Sections that come after training."""


def without(plain: Plain, *sections: str) -> Plain:
    return {name: value for name, value in plain.items() if name not in sections}


def test_recipes_that_only_train(plain: Plain) -> None:
    """Everything after training may be left out, also where the result is an adapter; the dump parses again (B17)."""
    recipe = parse_recipe(without(plain, *AFTER))
    assert (recipe.optimize, recipe.benchmark, recipe.gate, recipe.register_as) == ({}, [], [], None)
    assert (recipe.judged, recipe.trained_kind) == (False, "adapter")
    assert parse_recipe(recipe.dump()).dump() == recipe.dump()


def test_recipes_that_end_early(plain: Plain) -> None:
    """Base and trained may be measured without variants, and variants made without being measured: no verdict then."""
    assert not parse_recipe(without(plain, "optimize", "gate", "register")).judged
    assert not parse_recipe(without(plain, "benchmark", "gate", "register")).judged
    assert parse_recipe(plain).judged


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (("optimize",), ["optimize: name at least one variant"]),
        (("benchmark",), ["benchmark: name at least one benchmark"]),
        (("optimize", "register"), ["optimize: name at least one variant"]),
        (("benchmark", "register"), ["benchmark: name at least one benchmark"]),
        (("optimize", "benchmark", "gate"), ["optimize: name", "benchmark: name", "gate: a recipe that registers"]),
    ],
)
def test_gates_and_registration_need_the_rest(plain: Plain, missing: tuple[str, ...], expected: list[str]) -> None:
    """What a gate judges, and what a registration rests on, cannot be left out (F5)."""
    found = problems(without(plain, *missing))
    assert len(found) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(found, expected, strict=True))


def test_results_that_nothing_runs(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step may end with something that no backend runs (a reward model); measuring it is refused."""
    trainer = registry.get("trainer", "sft")
    monkeypatch.setattr(trainer, "produces_kind", classmethod(lambda cls, config: "reward_model"))
    assert parse_recipe(without(plain, *AFTER)).trained_kind == "reward_model"
    (problem,) = problems(without(plain, "optimize", "gate", "register"))
    assert problem.startswith("benchmark: nothing here runs an artifact of kind 'reward_model'")
    assert "adapter, gguf, model, onnx" in problem
