"""`--set` and `POSTMILL_...`: what they set, which wins, what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.config import apply_overrides, environment_overrides, parse_assignments
from components.core.errors import ConfigError
from components.core.recipe import load_recipe
from tests import tiny


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.write_recipe(tmp_path / "recipe.yaml", tiny.recipe(tmp_path, tmp_path / "model"))


def test_command_line_over_environment_over_file(file: Path) -> None:
    """Priority: `--set`, then the environment, then the file, then defaults (A37)."""
    assert load_recipe(file).seed == 17
    from_environment = {"seed": "5", "train.0.max_steps": "9"}
    both = load_recipe(file, ["seed=6"], from_environment)
    assert (both.seed, both.train[0].config.max_steps, both.train[0].config.accumulate) == (6, 9, 1)


def test_environment_names() -> None:
    """`POSTMILL_TRAIN__0__MAX_STEPS` means `train.0.max_steps`; other names and settings are left alone (E4)."""
    found = environment_overrides(
        {"POSTMILL_TRAIN__0__MAX_STEPS": "10", "POSTMILL_ROOT": "/x", "OTHER": "1"}, ignore=("POSTMILL_ROOT",)
    )
    assert found == {"train.0.max_steps": "10"}


def test_environment_finds_keys_of_another_case(file: Path) -> None:
    """The environment arrives in lower case; a key of the file in another case is still meant (E4)."""
    data: dict[str, Any] = {"optimize": {"INT4": [{"type": "onnx"}]}}
    apply_overrides(data, {"optimize.int4.0.precision": "int8"}, "environment")
    assert data == {"optimize": {"INT4": [{"type": "onnx", "precision": "int8"}]}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("0.5", 0.5), ("true", True), ("null", None), ("int8", "int8"), ("[a, b]", ["a", "b"]), ("", None)],
)
def test_values_are_yaml(text: str, value: Any) -> None:
    """Values are read like YAML scalars, so numbers are numbers."""
    data: dict[str, Any] = {}
    apply_overrides(data, {"a.b": text}, "--set")
    assert data == {"a": {"b": value}}


def test_value_may_hold_an_equals_sign() -> None:
    """Only the first `=` separates key and value."""
    assert parse_assignments(["a.b=x=y"]) == {"a.b": "x=y"}


@pytest.mark.parametrize("text", ["seed", "=5", ""])
def test_not_an_assignment(text: str) -> None:
    """Text without key or sign is refused with an example."""
    with pytest.raises(ConfigError, match="write it as key=value"):
        parse_assignments([text])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.7.max_steps", "'7' is not a position in 'train' \\(0..0\\)"),
        ("train.x.max_steps", "'x' is not a position"),
        ("name.first", "'name' is a plain value and has no key 'first'"),
        ("seed.a.b", "'seed' is a plain value"),
    ],
)
def test_paths_through_nothing(file: Path, key: str, message: str) -> None:
    """A path that leads through a plain value or past a list is refused and named."""
    with pytest.raises(ConfigError, match=message):
        load_recipe(file, [f"{key}=1"])


def test_all_bad_assignments_at_once(file: Path) -> None:
    """Several bad assignments are reported together, each with its origin."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, ["train.7.a=1", "name.b=2", "seed=[1"])
    assert len(caught.value.problems) == 3
    assert all(problem.startswith("--set ") for problem in caught.value.problems)


def test_override_is_validated(file: Path) -> None:
    """A value that the key does not take is refused like one in the file."""
    with pytest.raises(ConfigError, match=r"train\.0\.max_steps.*greater than 0"):
        load_recipe(file, ["train.0.max_steps=-1"])


def test_override_may_choose_another_component(file: Path) -> None:
    """`type` can be overridden; its keys are then those of the new component."""
    with pytest.raises(ConfigError, match="unknown trainer 'sftt'; did you mean 'sft'"):
        load_recipe(file, ["train.0.type=sftt"])
