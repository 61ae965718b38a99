"""`--set` and `POSTMILL_...`: what they set, which wins, what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.config import (
    Override,
    apply_overrides,
    environment_overrides,
    parse_assignments,
    unknown_variables,
)
from components.core.documents import Document
from components.core.errors import ConfigError
from components.core.recipe import load_recipe
from flows.session import notices, split, surroundings
from tests import tiny


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.write_recipe(tmp_path / "recipe.yaml", tiny.recipe(tmp_path, tmp_path / "model"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, where `.env` is looked for."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def applied(data: dict[str, Any], *assignments: str) -> Document:
    """Data with `--set` on top."""
    document = Document(Path("recipe.yaml"), data, {})
    apply_overrides(document, parse_assignments(assignments))
    return document


def refused(data: dict[str, Any], *assignments: str) -> list[str]:
    """What is wrong with `--set`."""
    with pytest.raises(ConfigError) as caught:
        applied(data, *assignments)
    return caught.value.problems


# ---------------------------------------------------------------- what is set


def test_command_line_over_environment_over_file(file: Path) -> None:
    """Priority: `--set`, then the environment, then the file, then defaults (A37)."""
    assert load_recipe(file).seed == 17
    said = [Override("seed", "5", "environment"), Override("train.0.max_steps", "9", "environment")]
    both = load_recipe(file, ["seed=6"], said)
    assert (both.seed, both.train[0].config.max_steps, both.train[0].config.accumulate) == (6, 9, 1)


def test_the_last_assignment_wins() -> None:
    """A key that is set twice has the last value (A37)."""
    assert applied({}, "a=1", "a=2").data == {"a": 2}


def test_environment_names() -> None:
    """`POSTMILL_TRAIN__0__MAX_STEPS` means `train.0.max_steps`; names of others are left alone (E4)."""
    environ = {"POSTMILL_TRAIN__0__MAX_STEPS": "10", "POSTMILL_ROOT": "/x", "OTHER": "1", "POSTMIL_TRAIN": "1"}
    found = environment_overrides(environ, "environment", ["train", "seed"])
    assert found == [Override("train.0.max_steps", "10", "environment POSTMILL_TRAIN__0__MAX_STEPS")]


def test_a_whole_value_lies_below_its_parts() -> None:
    """A variable for a whole mapping is set before those for its parts, in whatever order they stand (E4)."""
    environ = {"POSTMILL_REGISTER__ALIAS": "staging", "POSTMILL_REGISTER": "{model: a, alias: b}"}
    document = Document(Path("recipe.yaml"), {}, {})
    apply_overrides(document, environment_overrides(environ, "environment", ["register"]))
    assert document.data == {"register": {"model": "a", "alias": "staging"}}


def test_environment_finds_keys_of_another_case() -> None:
    """The environment arrives in lower case; a key of the file in another case is still meant (E4)."""
    data = {"optimize": {"INT4": [{"type": "onnx"}]}}
    assert applied(data, "optimize.int4.0.precision=int8").data == {
        "optimize": {"INT4": [{"type": "onnx", "precision": "int8"}]}
    }


def test_the_exact_key_comes_first() -> None:
    """If a key stands there as it is written, no other spelling is meant (E4)."""
    data = {"optimize": {"INT4": {}, "int4": {}}}
    assert applied(data, "optimize.int4.a=1").data == {"optimize": {"INT4": {}, "int4": {"a": 1}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("int8", "int8"),
        ("[a, b]", ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ("{r: 4, alpha: 8}", {"r": 4, "alpha": 8}),
        ("", None),
        ("'7'", "7"),
        ("a=b", "a=b"),
        ("2026-01-31", "2026-01-31"),
        ("org/model:v1", "org/model:v1"),
        ("- a\n- b", ["a", "b"]),
    ],
)
def test_values_are_yaml(text: str, value: Any) -> None:
    """Values are read like YAML in a file, so numbers are numbers and lists are lists (E4)."""
    assert applied({}, f"a.b={text}").data == {"a": {"b": value}}


@pytest.mark.parametrize(
    ("data", "assignment", "expected"),
    [
        ({"t": [1, 2]}, "t.1=5", {"t": [1, 5]}),
        ({"t": [{"a": 1}]}, "t.0.b.c=5", {"t": [{"a": 1, "b": {"c": 5}}]}),
        ({"t": None}, "t.a.b=5", {"t": {"a": {"b": 5}}}),
        ({"t": [None]}, "t.0.a=5", {"t": [{"a": 5}]}),
        ({"t": [{"a": 1}, {}]}, "t.*.a=5", {"t": [{"a": 5}, {"a": 5}]}),
        ({"t": [1, 2]}, "t.*=5", {"t": [5, 5]}),
        ({"t": {"u": [{}], "v": 1}}, "t.u.*.a=5", {"t": {"u": [{"a": 5}], "v": 1}}),
        ({"t": [[1], [2, 3]]}, "t.*.*=0", {"t": [[0], [0, 0]]}),
        ({"t": {"a": 1}}, "t=null", {"t": None}),
    ],
)
def test_dotted_keys(data: dict[str, Any], assignment: str, expected: Any) -> None:
    """A dotted key leads through mappings and positions, `*` to every position; missing mappings are made (E4)."""
    assert applied(data, assignment).data == expected


def test_a_value_for_all_positions_is_not_shared() -> None:
    """What `*` sets at one position can be changed there without changing the others (E4)."""
    document = applied({"t": [{}, {}]}, "t.*.lora={r: 1}", "t.0.lora.r=2")
    assert document.data == {"t": [{"lora": {"r": 2}}, {"lora": {"r": 1}}]}


def test_places() -> None:
    """A key that was set is located at its override, its neighbours where they were (A37)."""
    document = Document(
        Path("r"), {"a": {"b": {"x": 1}, "c": 1}}, {("a",): "r:1", ("a", "b"): "r:2", ("a", "c"): "r:4"}
    )
    document.places[("a", "b", "x")] = "r:3"
    apply_overrides(document, [Override("a.b", "{y: 1}", "--set"), Override("n.m", "1", "environment X")])
    assert (
        document.locate(("a", "b")) == document.locate(("a", "b", "y")) == document.locate(("a", "b", "x")) == "--set"
    )
    assert (document.locate(("a", "c")), document.locate(("a",))) == ("r:4", "r:1")
    assert document.locate(("n", "m")) == document.locate(("n",)) == "environment X"
    assert document.locate(("absent",)) == "r"


# ---------------------------------------------------------------- what is refused


def test_value_may_hold_an_equals_sign() -> None:
    """Only the first `=` separates key and value (E4)."""
    assert parse_assignments(["a.b=x=y"]) == [Override("a.b", "x=y", "--set")]


@pytest.mark.parametrize("text", ["seed", "=5", "", " =5"])
def test_not_an_assignment(text: str) -> None:
    """Text without key or sign is refused with an example (E3)."""
    with pytest.raises(ConfigError, match="write it as key=value"):
        parse_assignments([text])


def test_all_that_are_no_assignments() -> None:
    """Several texts without key or sign are reported together (E3)."""
    with pytest.raises(ConfigError) as caught:
        parse_assignments(["seed", "a=1", "=5"])
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.7.max_steps", "there is no position '7' (0..0)"),
        ("train.x.max_steps", "there is no position 'x' (0..0)"),
        ("train.-1.max_steps", "there is no position '-1' (0..0)"),
        ("train.².max_steps", "there is no position '²' (0..0)"),
        ("train.00.max_steps", "there is no position '00' (0..0)"),
        (f"train.{'9' * 5000}.max_steps", "there is no position '99"),
        ("name.first", "'name' is a plain value and has no key 'first'"),
        ("seed.a.b", "'seed' is a plain value"),
        ("model.*.name", "'*' stands for every position of a list, and 'model' is none"),
        ("services.*.x", "'*' stands for every position of a list, and 'services' is none"),
        ("x" + ".x" * 5000, "deeper than 30 levels"),
        ("services.a\udcff", "'a\\udcff' is no text"),
        ("services.a\x00", "'a\\x00' is no text"),
    ],
)
def test_paths_through_nothing(file: Path, key: str, message: str) -> None:
    """A path that leads through a plain value or past a list is refused and named (E3)."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, [f"{key}=1"])
    assert caught.value.problems[0].startswith(f"--set {key}: {message}")


def test_all_positions_of_an_empty_list() -> None:
    """`*` over an empty list sets nothing, and says so (E3)."""
    assert refused({"t": []}, "t.*.x=1") == ["--set t.*.x: there is no position '*' (the list is empty)"]


@pytest.mark.parametrize(
    "text",
    [
        "[1",
        '"x',
        "&x [*x]",
        "{a: 1, a: 2}",
        "!!bool x",
        "!!int x",
        "!!python/object/apply:os.system ['true']",
        "[" * 5000,
        "{a: " * 5000,
        "9" * 5000,
        "\x00",
        "\ud800",
        "@x",
        "a: b: c",
        "--- a\n--- b",
    ],
)
def test_unreadable_values(text: str) -> None:
    """A value that is no readable YAML (recursive, endless, torn, foreign) is one ConfigError and runs nothing (E3)."""
    assert refused({}, f"a={text}")[0].startswith("--set a:")


def test_values_are_not_repeated() -> None:
    """What cannot be set is named by its key, never by its value, which may be a secret (C54)."""
    for text in ("name.token=hf_CANARY123456", "t.9=hf_CANARY123456", "a='hf_CANARY123456", "a=!!int hf_CANARY123456"):
        assert "CANARY" not in "".join(refused({"name": 1, "t": []}, text))


def test_all_bad_assignments_at_once(file: Path) -> None:
    """Several bad assignments are reported together, each with its origin (E3)."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, ["train.7.a=1", "name.b=2", "seed=[1"])
    assert len(caught.value.problems) == 3
    assert all(problem.startswith("--set ") for problem in caught.value.problems)


def test_override_is_validated(file: Path) -> None:
    """A value that the key does not take is refused like one in the file, at its own place (E3)."""
    with pytest.raises(ConfigError, match=r"--set: train\.0\.max_steps.*greater than 0"):
        load_recipe(file, ["train.0.max_steps=-1"])


def test_override_may_choose_another_component(file: Path) -> None:
    """`type` can be overridden; its keys are then those of the new component (E4)."""
    assert load_recipe(file, ["train.0.type=lora"]).train[0].type == "lora"
    with pytest.raises(ConfigError, match="unknown trainer 'sftt'; did you mean 'sft'"):
        load_recipe(file, ["train.0.type=sftt"])


def test_a_list_says_how_it_is_written(file: Path) -> None:
    """Text in the place of a list is refused with the way to write one (E3)."""
    with pytest.raises(
        ConfigError, match=r"gate: Input should be a valid list \(got 'a,b'\); a list is written \[a, b\]"
    ):
        load_recipe(file, ["gate=a,b"])


def test_keys_are_suggested_as_they_are_written(file: Path) -> None:
    """A suggestion is the name that a file uses, not that of an attribute (E3)."""
    with pytest.raises(ConfigError, match="unknown key 'registr'; did you mean 'register'"):
        load_recipe(file, ["registr={model: x}"])
    with pytest.raises(ConfigError, match="unknown key 'register_as'; did you mean 'register'"):
        load_recipe(file, ["register_as={model: x}"])
    with pytest.raises(ConfigError, match="register.alia: unknown key 'alia'; did you mean 'alias'"):
        load_recipe(file, ["register.alia=x"])


# ---------------------------------------------------------------- the environment of a process


def test_surroundings(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.env` lies below the environment; settings in either are no keys of a recipe; all are named (A37, E4)."""
    (here / ".env").write_text("POSTMILL_SEED=1\nPOSTMILL_NAME=b\nPOSTMILL_ROOT=/x\nHF_TOKEN=x\n")
    monkeypatch.setenv("POSTMILL_SEED", "2")
    monkeypatch.setenv("BATCH_SIZE", "4")
    assert surroundings() == [
        Override("name", "b", ".env POSTMILL_NAME"),
        Override("seed", "1", ".env POSTMILL_SEED"),
        Override("train.*.batch_size", "4", "environment BATCH_SIZE"),
        Override("seed", "2", "environment POSTMILL_SEED"),
    ]


def test_unknown_variables(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables for what is neither a setting nor a key are refused together, with the closest of both (E4, E3)."""
    (here / ".env").write_text("POSTMILL_SEDE=1\n")
    monkeypatch.setenv("POSTMILL_PLUGIN__ENABLED", "false")
    monkeypatch.setenv("POSTMILL_ZZZ", "1")
    monkeypatch.setenv("POSTMILL_", "1")
    with pytest.raises(ConfigError) as caught:
        surroundings()
    unknown = "neither a setting nor a key of a recipe"
    dotenv, bare, plugin, zzz = caught.value.problems
    assert dotenv == f".env POSTMILL_SEDE: {unknown}; did you mean POSTMILL_SEED?"
    assert plugin == f"environment POSTMILL_PLUGIN__ENABLED: {unknown}; did you mean POSTMILL_PLUGINS?"
    assert zzz.startswith(f"environment POSTMILL_ZZZ: {unknown} (known: benchmark, cost, data, environment, ")
    assert bare.startswith(f"environment POSTMILL_: {unknown} (known: ")


def test_no_unknown_variables() -> None:
    """Variables that begin with a known key, and those of others, are no mistake (E4)."""
    assert unknown_variables({"POSTMILL_SEED__X": "1", "SEDE": "1"}, "environment", ["seed"]) == []


def test_values_in_the_environment_are_typed(here: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.env` and the environment give numbers, booleans, lists and mappings, not text (A37)."""
    (here / ".env").write_text(
        "POSTMILL_SEED=3\nPOSTMILL_DATA__CONTRACT__RULES__OVERLAP=fail\n"
        "POSTMILL_TRAIN__0__LORA__TARGET_MODULES=[q_proj, v_proj]\n"
    )
    monkeypatch.setenv("POSTMILL_TRAIN__0__LEARNING_RATE", "1e-3")
    monkeypatch.setenv("POSTMILL_GATE", "[{type: budget, max: {bytes: 5}}]")
    recipe = load_recipe(file, (), surroundings())
    config = recipe.train[0].config
    assert (recipe.seed, recipe.data.contract.rules["overlap"].config.action, config.learning_rate) == (3, "fail", 1e-3)
    assert config.lora.target_modules == ["q_proj", "v_proj"]
    assert recipe.gate[0].config.max == {"bytes": 5}


def test_wrong_values_in_the_environment(here: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong types and unreadable lists in the environment are one ConfigError that names every variable (E3, E4)."""
    monkeypatch.setenv("POSTMILL_SEED", "many")
    monkeypatch.setenv("POSTMILL_TRAIN__0__MAX_STEPS", "0")
    (here / ".env").write_text("POSTMILL_NAME=[a]\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, (), surroundings())
    assert sorted(problem.partition(": ")[0] for problem in caught.value.problems) == [
        ".env POSTMILL_NAME",
        "environment POSTMILL_SEED",
        "environment POSTMILL_TRAIN__0__MAX_STEPS",
    ]
    monkeypatch.setenv("POSTMILL_GATE", "[{type: budget")
    with pytest.raises(ConfigError, match="environment POSTMILL_GATE gate:[12]: not valid YAML"):
        load_recipe(file, (), surroundings())


def test_settings_and_recipe_share_the_option() -> None:
    """`--set` reaches settings and recipe; each gets its own (A37)."""
    ours, theirs = split(["root=/x", "seed=1", "plugins.enabled=false", "train.0.max_steps=2"])
    assert [override.key for override in ours] == ["root", "plugins.enabled"]
    assert theirs == ["seed=1", "train.0.max_steps=2"]
    assert split(None) == ([], [])


def test_notices(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables without our prefix are announced with what they change, the stronger one once (E4)."""
    (here / ".env").write_text("BATCH_SIZE=1\nMODEL_NAME=a\n")
    monkeypatch.setenv("BATCH_SIZE", "2")
    assert sorted(notices()) == ["BATCH_SIZE=2 sets train.*.batch_size", "MODEL_NAME=a sets model.name"]
