"""Layers of a recipe: extended files, overlays, environment and command line; who wins, and where each key was said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.config import alias_overrides, environment_overrides
from components.core.documents import MAX_DEPTH, Document, load_document, load_layers, merge
from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.recipe import load_recipe, parse_recipe, save_recipe
from components.core.spec import preset_chain
from tests import tiny


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named by relative paths, as in a project's directory."""
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    """A file below the working directory."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: str, *overlays: str) -> list[str]:
    """What is wrong with layers."""
    with pytest.raises(ConfigError) as caught:
        load_layers(Path(path), overlays)
    return caught.value.problems


def two(below: str, above: str) -> Document:
    """One file on top of another."""
    write("base.yaml", below)
    write("top.yaml", f"extends: base.yaml\n{above}")
    return load_layers(Path("top.yaml"))


# ---------------------------------------------------------------- priority


SOURCES = ("--set", "environment", ".env", "overlay", "recipe", "extended", "default")


@pytest.mark.parametrize("strongest", range(len(SOURCES)), ids=SOURCES)
def test_priority(strongest: int) -> None:
    """--set > environment > .env > overlays > recipe file > extended files > defaults, one removed at a time (A37)."""
    present = SOURCES[strongest:]

    def seed(source: str) -> dict[str, int]:
        return {"seed": 100 + SOURCES.index(source)} if source in present else {}

    plain = tiny.recipe(Path.cwd(), Path("model"))
    del plain["seed"]
    tiny.write_recipe(Path("base.yaml"), plain | seed("extended"))
    write("recipe.yaml", yaml.safe_dump({"extends": "base.yaml"} | seed("recipe")))
    write("environments/dev.yaml", yaml.safe_dump(seed("overlay")))
    overrides = []
    for place in (".env", "environment"):
        variables = {f"POSTMILL_{name.upper()}": str(value) for name, value in seed(place).items()}
        overrides += environment_overrides(variables, place, ["seed"])
    assignments = [f"seed={value}" for value in seed("--set").values()]
    recipe = load_recipe(Path("recipe.yaml"), assignments, overrides, ["dev"])
    assert recipe.seed == (17 if SOURCES[strongest] == "default" else 100 + strongest)


def test_later_overlays_win() -> None:
    """Of several overlays the one that is named last wins (C55)."""
    write("a.yaml", "x: 0\n")
    write("environments/one.yaml", "x: 1\ny: 1\n")
    write("environments/two.yaml", "x: 2\n")
    assert load_layers(Path("a.yaml"), ["one", "two"]).data == {"x": 2, "y": 1}
    assert load_layers(Path("a.yaml"), ["two", "one"]).data == {"x": 1, "y": 1}


def test_every_key_knows_its_source() -> None:
    """After merging, every key is located where its value was written, to the line (A37)."""
    write("base.yaml", "name: a\ntrain:\n  - type: sft\n    max_steps: 1\n    batch_size: 1\n    accumulate: 1\n")
    write("top.yaml", "extends: base.yaml\nseed: 1\ntrain:\n  0:\n    batch_size: 2\n")
    write("environments/dev.yaml", "train:\n  0: {accumulate: 3}\n")
    document = load_layers(Path("top.yaml"), ["dev"])
    assert document.data["train"] == [{"type": "sft", "max_steps": 1, "batch_size": 2, "accumulate": 3}]
    places = {key: document.locate(("train", 0, key)) for key in document.data["train"][0]}
    assert places == {
        "type": "base.yaml:3",
        "max_steps": "base.yaml:4",
        "batch_size": "top.yaml:5",
        "accumulate": "environments/dev.yaml:2",
    }
    assert document.locate(("name",)) == "base.yaml:1"
    assert document.locate(("seed",)) == "top.yaml:2"
    assert document.files == [Path("base.yaml"), Path("top.yaml"), Path("environments/dev.yaml")]


def test_messages_name_the_layer_that_is_wrong() -> None:
    """A mistake is reported at the place of the layer that holds it, whatever lies above and below (A37, E3)."""
    tiny.write_recipe(Path("base.yaml"), tiny.recipe(Path.cwd(), Path("model")))
    write("top.yaml", "extends: base.yaml\ntrain:\n  0:\n    max_stepz: 1\n")
    write("environments/dev.yaml", "\nbenchmark: {0: {rows: -1}}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(Path("top.yaml"), ["train.0.learning_rate=0"], overlays=["dev"])
    starts = sorted(problem.rpartition(": ")[0] for problem in caught.value.problems)
    assert starts == [
        "--set: train.0.learning_rate",
        "environments/dev.yaml:2: benchmark.0.rows",
        "top.yaml:4: train.0.max_stepz",
    ]


# ---------------------------------------------------------------- extends


def test_extends_one() -> None:
    """A file may extend another: its own keys win, the others stay (C55)."""
    document = two("a: 1\nb: {x: 1, y: 1}\n", "b: {y: 2}\nc: 3\n")
    assert document.data == {"a": 1, "b": {"x": 1, "y": 2}, "c": 3}


def test_extends_several() -> None:
    """Of several extended files a later one lies above an earlier one, and all below the file (C55)."""
    write("one.yaml", "a: 1\nb: 1\nc: 1\n")
    write("two.yaml", "b: 2\nc: 2\n")
    write("top.yaml", "extends: [one.yaml, two.yaml]\nc: 3\n")
    assert load_layers(Path("top.yaml")).data == {"a": 1, "b": 2, "c": 3}


def test_extends_chain_with_relative_paths() -> None:
    """An extended file is looked for beside the file that names it, through a chain of folders and formats (C55)."""
    write("shared/deep/root.json", '{"a": 1, "b": 1, "c": 1}')
    write("shared/middle.yaml", "extends: deep/root.json\nb: 2\nc: 2\n")
    write("mine/top.yaml", "extends: ../shared/middle.yaml\nc: 3\n")
    document = load_layers(Path("mine/top.yaml"))
    assert document.data == {"a": 1, "b": 2, "c": 3}
    assert document.locate(("a",)) == "mine/../shared/deep/root.json"
    assert document.locate(("b",)) == "mine/../shared/middle.yaml:2"
    assert len(document.files) == 3


def test_extends_a_diamond() -> None:
    """Two extended files may share a base; that is no circle (C55)."""
    write("base.yaml", "a: 1\nb: 1\n")
    write("one.yaml", "extends: base.yaml\na: 2\n")
    write("two.yaml", "extends: base.yaml\nc: 2\n")
    write("top.yaml", "extends: [one.yaml, two.yaml]\n")
    assert load_layers(Path("top.yaml")).data == {"a": 1, "b": 1, "c": 2}


@pytest.mark.parametrize("text", ["extends: null\na: 1\n", "extends: []\na: 1\n", "extends:\na: 1\n"])
def test_extends_nothing(text: str) -> None:
    """A file that extends nothing stands alone (C55)."""
    document = load_layers(write("a.yaml", text))
    assert (document.data, document.files) == ({"a": 1}, [Path("a.yaml")])


@pytest.mark.parametrize("chain", [["a"], ["a", "b"], ["a", "b", "c"]], ids=len)
def test_extends_in_a_circle(chain: list[str]) -> None:
    """Files that extend each other are refused with the whole circle (C55)."""
    for name, other in zip(chain, [*chain[1:], chain[0]], strict=True):
        write(f"{name}.yaml", f"extends: {other}.yaml\n")
    problem = " ".join(refused("a.yaml"))
    assert "extend each other in a circle" in problem
    assert all(f"{name}.yaml ->" in problem for name in chain)


def test_extends_itself_through_a_link() -> None:
    """A symbolic link does not hide a circle (C55)."""
    write("a.yaml", "extends: b.yaml\n")
    Path("b.yaml").symlink_to("a.yaml")
    assert "in a circle" in " ".join(refused("a.yaml"))


def test_extends_over_too_many_levels() -> None:
    """An endless chain ends with a message (C55)."""
    for number in range(MAX_DEPTH + 5):
        write(f"{number}.yaml", f"extends: {number + 1}.yaml\n")
    assert f"over more than {MAX_DEPTH} levels" in " ".join(refused("0.yaml"))


def test_extends_a_missing_file() -> None:
    """A missing extended file is reported where it is named, with the name of a file that looks alike (C55)."""
    write("base.yaml", "a: 1\n")
    write("top.yaml", "b: 1\nextends: [base.yaml, bsae.yaml]\n")
    expected = "top.yaml:2: extends: file 'bsae.yaml' does not exist; did you mean 'base.yaml'?"
    assert refused("top.yaml") == [expected]


@pytest.mark.parametrize("value", ["1", "0", "false", "{}", "{a: 1}", "[1]", "[[a.yaml]]", "[null]"])
def test_extends_of_the_wrong_type(value: str) -> None:
    """`extends` is the name of a file or a list of names; anything else is refused with its line (C55)."""
    write("a.yaml", f"b: 1\nextends: {value}\n")
    assert refused("a.yaml")[0].startswith("a.yaml:2: extends: name a file or a list of files, found ")


@pytest.mark.parametrize("value", ["''", ".", "/", f"{'x' * 300}.yaml", '"a\\0b"'])
def test_extends_what_is_no_file(value: str) -> None:
    """A name that no file can have, or that of a folder, is one message (C55)."""
    write("a.yaml", f"extends: {value}\n")
    assert refused("a.yaml")[0].startswith("a.yaml:1: extends: file ")


def test_a_broken_extended_file_is_named() -> None:
    """A mistake in an extended file is reported with that file's line (C55)."""
    write("base.yaml", "a: 1\nb: [\n")
    write("top.yaml", "extends: base.yaml\n")
    assert refused("top.yaml")[0].startswith("base.yaml:3: not valid YAML")


# ---------------------------------------------------------------- overlays


def test_unknown_overlay_suggests() -> None:
    """An unknown overlay is refused with one that looks alike and all that there are (C55)."""
    write("a.yaml", "a: 1\n")
    write("environments/prod.yaml", "")
    write("environments/dev.yaml", "")
    assert refused("a.yaml", "prdo") == ["unknown environment 'prdo'; did you mean 'prod'? (known: dev, prod)"]


def test_no_overlays_at_all() -> None:
    """Without a folder of overlays the message says where one would be (C55)."""
    write("configs/a.yaml", "a: 1\n")
    assert refused("configs/a.yaml", "prod") == ["unknown environment 'prod' ('configs/environments' holds none)"]


@pytest.mark.parametrize("name", ["../a", "", ".", "*", "dev.yaml", "/etc/passwd"])
def test_an_overlay_is_a_name_not_a_path(name: str) -> None:
    """An overlay is one of the files in its folder, never a path out of it (C55)."""
    write("a.yaml", "a: 1\n")
    write("environments/dev.yaml", "")
    assert f"unknown environment '{name}'" in refused("a.yaml", name)[0]


def test_an_overlay_cannot_extend() -> None:
    """An overlay that extends a file is refused with its line (C55)."""
    write("a.yaml", "a: 1\n")
    write("environments/dev.yaml", "b: 1\nextends: ../a.yaml\n")
    assert refused("a.yaml", "dev") == ["environments/dev.yaml:2: an overlay cannot extend another file"]


def test_overlays_lie_beside_the_recipe() -> None:
    """Overlays are looked for beside the recipe, not beside what it extends or in the working directory (C55)."""
    write("shared/base.yaml", "a: 1\n")
    write("shared/environments/dev.yaml", "a: 2\n")
    write("environments/dev.yaml", "a: 3\n")
    write("mine/top.yaml", "extends: ../shared/base.yaml\n")
    write("mine/environments/dev.yaml", "a: 4\n")
    assert load_layers(Path("mine/top.yaml"), ["dev"]).data == {"a": 4}


# ---------------------------------------------------------------- merging


MERGED: dict[str, tuple[str, str, Any]] = {
    "mappings key by key": (
        "t: {a: 1, b: {c: 1, d: 1}}",
        "t: {b: {d: 2}, e: 3}",
        {"a": 1, "b": {"c": 1, "d": 2}, "e": 3},
    ),
    "a list is replaced whole": ("t: [1, 2, 3]", "t: [4]", [4]),
    "an empty list too": ("t: [1, 2]", "t: []", []),
    "an empty mapping changes nothing": ("t: {a: 1}", "t: {}", {"a": 1}),
    "a plain value of another type": ("t: 1", "t: text", "text"),
    "null takes a value away": ("t: {a: 1, b: {c: 1}}", "t: {b: null}", {"a": 1, "b": None}),
    "null takes a mapping away": ("t: {a: 1}", "t: null", None),
    "a mapping in the place of null": ("t: null", "t: {a: 1}", {"a": 1}),
    "a list in the place of null": ("t: null", "t: [1]", [1]),
    "positions of a list": ("t: [1, 2, 3]", "t: {0: 5, 2: 7}", [5, 2, 7]),
    "positions and keys": ("t: [{a: 1, b: 1}, {a: 1}]", "t: {0: {b: 2}}", [{"a": 1, "b": 2}, {"a": 1}]),
    "positions of positions": ("t: [[1, 2], [3]]", "t: {0: {1: 9}}", [[1, 9], [3]]),
    "text positions": ("t: [1, 2]", "t: {'1': 5}", [1, 5]),
    "null at a position": ("t: [1, 2]", "t: {1: null}", [1, None]),
    "the same type is merged": ("t: {type: a, x: 1}", "t: {type: a, y: 2}", {"type": "a", "x": 1, "y": 2}),
    "another type replaces": ("t: {type: a, x: 1}", "t: {type: b, y: 2}", {"type": "b", "y": 2}),
    "another type in a list": ("t: [{type: a, x: 1}]", "t: {0: {type: b, y: 2}}", [{"type": "b", "y": 2}]),
}


@pytest.mark.parametrize(("below", "above", "expected"), MERGED.values(), ids=MERGED)
def test_merging(below: str, above: str, expected: Any) -> None:
    """Mappings merge key by key, everything else is replaced; positions reach into lists, `type` replaces (C55)."""
    assert two(below, above).data == {"t": expected}


def test_another_type_forgets_the_old_places() -> None:
    """Nothing of a component that was replaced is left, neither its keys nor their places (A37, C55)."""
    document = two("t:\n  type: a\n  x: 1\n  z: {u: 1}\n", "t:\n  type: b\n  y: 2\n")
    assert document.locate(("t", "x")) == document.locate(("t",)) == "top.yaml:2"
    assert document.locate(("t", "y")) == "top.yaml:4"
    assert not any("base.yaml" in place for place in document.places.values())


def test_null_is_located() -> None:
    """A key that an overlay takes away is located in the overlay (A37)."""
    document = two("t: {a: {b: 1}}\n", "t:\n  a: null\n")
    assert document.locate(("t", "a", "b")) == "top.yaml:3"


@pytest.mark.parametrize(
    ("below", "above", "problem"),
    [
        ("t: {a: 1}", "t: [1]", "top.yaml:2: 't' is a list here, but a mapping in base.yaml:1"),
        ("t: {a: 1}", "t: x", "top.yaml:2: 't' is a plain value here, but a mapping in base.yaml:1"),
        ("t: [1]", "t: x", "top.yaml:2: 't' is a plain value here, but a list in base.yaml:1"),
        ("t: [1]", "t: {a: 1}", "top.yaml:2: 't' is a mapping here, but a list in base.yaml:1"),
        ("t: [1]", "t: {}", "top.yaml:2: 't' is a mapping here, but a list in base.yaml:1"),
        ("t: [1]", "t: {0: 1, a: 1}", "top.yaml:2: 't' is a mapping here, but a list in base.yaml:1"),
        ("t: [1]", "t: {'²': 1}", "top.yaml:2: 't' is a mapping here, but a list in base.yaml:1"),
        ("t: [1]", "t: {'01': 1}", "top.yaml:2: 't' is a mapping here, but a list in base.yaml:1"),
        ("t: [1]", "t: {-1: 1}", "top.yaml:2: 't' is a mapping here, but a list in base.yaml:1"),
        ("t: 1", "t: {0: 1}", "top.yaml:2: 't' is a mapping here, but a plain value in base.yaml:1"),
        ("t: {u: {v: 1}}", "t: {u: {v: [1]}}", "top.yaml:2: 't.u.v' is a list here, but a plain value in base.yaml:1"),
        ("t: [1, 2]", "t: {2: 1}", "top.yaml:2: t: there is no position '2' (0..1)"),
        ("t: []", "t: {0: 1}", "top.yaml:2: t: there is no position '0' (the list is empty)"),
        ("t: [[1]]", "t: {0: {1: 1}}", "top.yaml:2: t.0: there is no position '1' (0..0)"),
    ],
)
def test_layers_that_disagree(below: str, above: str, problem: str) -> None:
    """Layers that disagree in type, and positions that do not exist, are refused with places and lines (C55, E3)."""
    write("base.yaml", below)
    write("top.yaml", f"extends: base.yaml\n{above}")
    assert refused("top.yaml") == [problem]


def test_overlays_that_disagree() -> None:
    """Two overlays that disagree name each other, not the file below them (C55)."""
    write("a.yaml", "x: null\n")
    write("environments/one.yaml", "y: 1\nx: [1]\n")
    write("environments/two.yaml", "x:\n  a: 1\n")
    expected = "environments/two.yaml:1: 'x' is a mapping here, but a list in environments/one.yaml:2"
    assert refused("a.yaml", "one", "two") == [expected]


def test_disagreements_are_reported_together() -> None:
    """All disagreements of two layers are one ConfigError (E3)."""
    write("a.yaml", "x: {a: 1}\ny: [1]\nz: 1\n")
    write("environments/one.yaml", "x: 1\ny: {5: 1}\nz: {}\n")
    assert [problem.partition(": ")[0] for problem in refused("a.yaml", "one")] == [
        "environments/one.yaml:1",
        "environments/one.yaml:2",
        "environments/one.yaml:3",
    ]


def test_merging_big_files_is_quick(tmp_path: Path) -> None:
    """Merging costs time in proportion to the files, not to their product (C55)."""
    below = write("big.json", "{" + ",".join(f'"a{i}": {{"x": 1}}' for i in range(40_000)) + "}")
    above = write("other.json", "{" + ",".join(f'"b{i}": {{"x": 1}}' for i in range(40_000)) + "}")
    document = load_document(below)
    merge(document, load_document(above))
    assert len(document.data) == 80_000


# ---------------------------------------------------------------- MODEL_NAME, TRAINING_TYPE, BATCH_SIZE


def with_environment(environ: dict[str, str], *assignments: str, **changes: Any) -> Any:
    """The tiny recipe under an environment, as the command line reads it."""
    path = tiny.write_recipe(Path("recipe.yaml"), tiny.recipe(Path.cwd(), Path("model"), **changes))
    overrides = alias_overrides(environ, "environment")
    overrides += environment_overrides(environ, "environment", ["model", "train"])
    return load_recipe(path, list(assignments), overrides)


def test_names_without_prefix() -> None:
    """MODEL_NAME, TRAINING_TYPE and BATCH_SIZE are read, typed, and `lora` is a training type (E4, R24)."""
    recipe = with_environment({"MODEL_NAME": "some/model", "TRAINING_TYPE": "lora", "BATCH_SIZE": "16"})
    assert recipe.model.config.name == "some/model"
    assert (recipe.train[0].type, recipe.train[0].config.batch_size) == ("lora", 16)


def test_names_with_prefix_win() -> None:
    """The names with the prefix stand above those without, and --set above both (E4)."""
    environ = {"MODEL_NAME": "weak", "BATCH_SIZE": "3", "POSTMILL_MODEL__NAME": "strong"}
    environ |= {"POSTMILL_TRAIN__0__BATCH_SIZE": "4"}
    recipe = with_environment(environ)
    assert (recipe.model.config.name, recipe.train[0].config.batch_size) == ("strong", 4)
    assert with_environment(environ, "train.*.batch_size=5").train[0].config.batch_size == 5


def test_batch_size_means_every_step() -> None:
    """BATCH_SIZE is that of every training step (E4)."""
    step = {"type": "sft", "max_steps": 1}
    recipe = with_environment({"BATCH_SIZE": "3"}, train=[step, step, {**step, "lora": {}}])
    assert [spec.config.batch_size for spec in recipe.train] == [3, 3, 3]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("BATCH_SIZE", "many", "environment BATCH_SIZE: train.0.batch_size: "),
        ("BATCH_SIZE", "0", "environment BATCH_SIZE: train.0.batch_size: "),
        ("TRAINING_TYPE", "lorra", "train.0.type: unknown trainer 'lorra'; did you mean 'lora'?"),
        ("MODEL_NAME", "[a]", "environment MODEL_NAME: model.name: "),
    ],
)
def test_names_without_prefix_are_checked(name: str, value: str, message: str) -> None:
    """A wrong value in one of the three is one ConfigError that names the key (E3, E4)."""
    with pytest.raises(ConfigError) as caught:
        with_environment({name: value})
    assert message in caught.value.problems[0]


# ---------------------------------------------------------------- recipes and files


def test_validation_creates_nothing() -> None:
    """Reading and checking a recipe makes no file and no directory, not even for what it names (E3, R24)."""
    plain = tiny.recipe(Path.cwd(), Path("no/such/model"))
    plain["data"]["train"]["path"] = "nowhere/train.jsonl"
    tiny.write_recipe(Path("recipe.yaml"), plain)
    before = sorted(Path.cwd().rglob("*"))
    load_recipe(Path("recipe.yaml"), ["seed=1"])
    with pytest.raises(ConfigError):
        load_recipe(Path("recipe.yaml"), ["seed=-1"])
    assert sorted(Path.cwd().rglob("*")) == before


def test_save_and_load_is_the_identity() -> None:
    """load -> save -> load gives the same recipe, and saving again the same bytes (E2)."""
    path = tiny.write_recipe(Path("a.yaml"), tiny.recipe(Path.cwd(), Path("model")))
    recipe = load_recipe(path)
    save_recipe(recipe, Path("b.yaml"))
    again = load_recipe(Path("b.yaml"))
    assert (again, again.dump()) == (recipe, recipe.dump())
    save_recipe(again, Path("c.yaml"))
    assert Path("b.yaml").read_bytes() == Path("c.yaml").read_bytes()
    assert sorted(path.name for path in Path.cwd().glob(".*")) == []


def test_saving_leaves_the_old_file_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that fails half way leaves the file as it was (E2)."""
    recipe = parse_recipe(tiny.recipe(Path.cwd(), Path("model")))
    path = write("a.yaml", "old: 1\n")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_recipe(recipe, path)
    assert path.read_text() == "old: 1\n"


def test_a_layered_recipe_is_saved_whole() -> None:
    """What is saved is the result of all layers; it needs none of them any more (C55, E2)."""
    tiny.write_recipe(Path("shared/base.yaml"), tiny.recipe(Path.cwd(), Path("model")))
    write("top.yaml", "extends: shared/base.yaml\nseed: 5\n")
    write("environments/dev.yaml", "train: {0: {max_steps: 9}}\n")
    recipe = load_recipe(Path("top.yaml"), ["name=other"], overlays=["dev"])
    save_recipe(recipe, Path("elsewhere.yaml"))
    alone = load_recipe(Path("elsewhere.yaml"))
    assert (alone.seed, alone.train[0].config.max_steps, alone.name) == (5, 9, "other")
    assert alone == recipe


def test_every_preset_expands() -> None:
    """The name of a preset stands for its chain of passes, and the recipe shows the passes (C54)."""
    for name in registry.names("preset"):
        plain = tiny.recipe(Path.cwd(), Path("model"), optimize={"small": name})
        recipe = parse_recipe(plain)
        assert [spec.type for spec in recipe.optimize["small"]] == [
            step["type"] for step in registry.get("preset", name).chain
        ]
        assert parse_recipe(recipe.dump()) == recipe


WHOLE = {"train": [{"type": "from_scratch", "max_steps": 3}]}
"""Training that gives a model, and no adapter."""


@pytest.mark.parametrize("name", registry.names("preset"))
def test_presets_fit_a_whole_model(name: str) -> None:
    """Where training gives a model the passes of a preset begin with the first one that takes it (A8, C54)."""
    recipe = parse_recipe(tiny.recipe(Path.cwd(), Path("model"), optimize={"small": name}, **WHOLE))
    merge, *rest = registry.get("preset", name).chain
    assert merge == {"type": "merge_adapter"}
    assert [spec.type for spec in recipe.optimize["small"]] == [step["type"] for step in rest]
    assert parse_recipe(recipe.dump()) == recipe


def test_presets_of_a_search_fit_a_whole_model() -> None:
    """So do those in the space of a search, alone and as options; chains that are written out stay (C39)."""
    space = ["O1", {"any": ["basic", {"any": ["enhanced", "ADVANCED"]}]}, [{"type": "onnx"}]]
    optimize = {"search": {"space": space}}
    search = parse_recipe(tiny.recipe(Path.cwd(), Path("model"), optimize=optimize, **WHOLE)).optimize.search
    assert search is not None
    chains = [[spec.dump().get("precision", spec.type) for spec in chain] for chain in search.chains().values()]
    assert sorted(chains, key=str) == [["fp32", "runtime_options"], ["fp32"], ["int4"], ["int8"], [None]]
    of_adapter = parse_recipe(tiny.recipe(Path.cwd(), Path("model"), optimize=optimize | {"search": {"space": ["O1"]}}))
    assert [spec.type for spec in of_adapter.optimize.search.chains()["search.space.0"]][0] == "merge_adapter"  # type: ignore[union-attr]


def test_a_chain_that_is_written_out_is_not_changed() -> None:
    """Only presets leave passes out: who writes `merge_adapter` where there is no adapter is told (C67)."""
    chain = [{"type": "merge_adapter"}, {"type": "onnx"}]
    with pytest.raises(ConfigError, match="pass 'merge_adapter' takes adapter, but the step before it gives model"):
        parse_recipe(tiny.recipe(Path.cwd(), Path("model"), optimize={"small": chain}, **WHOLE))


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("O1", "adapter", ["merge_adapter", "onnx", "runtime_options"]),
        ("O1", "model", ["onnx", "runtime_options"]),
        ("O1", "quantized", ["onnx", "runtime_options"]),
        ("O1", "onnx", ["runtime_options"]),
        ("O2", "onnx", ["onnx", "runtime_options"]),
        ("O3", "onnx", ["quantize_gptq", "onnx", "runtime_options"]),
        ("basic", "onnx", ["merge_adapter", "onnx"]),
        ("O1", None, ["merge_adapter", "onnx", "runtime_options"]),
    ],
)
def test_what_a_preset_leaves_out(name: str, kind: str | None, expected: list[str]) -> None:
    """Left out are passes at the beginning that only turn another kind into what they give; one that rounds stays, to
    be refused rather than forgotten, and so does a chain of which nothing would be left (A8)."""
    assert [step["type"] for step in preset_chain(name, kind)] == expected


def test_unknown_preset_of_a_whole_model() -> None:
    """A name that no preset has is refused at its place there too, together with the other mistakes (E3)."""
    optimize = {"small": "enhancd", "large": "basic", "other": [{"type": "onx"}]}
    with pytest.raises(ConfigError) as caught:
        parse_recipe(tiny.recipe(Path.cwd(), Path("model"), optimize=optimize, **WHOLE))
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "optimize.small: unknown preset 'enhancd'",
        "optimize.other.0.type: unknown pass 'onx'",
    ]


def test_unknown_preset_suggests() -> None:
    """An unknown preset is refused with one that looks alike, at its line (E3)."""
    plain = tiny.recipe(Path.cwd(), Path("model"), optimize={"small": "enhancd"})
    path = tiny.write_recipe(Path("a.yaml"), plain)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "enhancd" in text)
    with pytest.raises(ConfigError, match=rf"a\.yaml:{line}: optimize\.small: unknown preset 'enhancd'; did you mean"):
        load_recipe(path)
