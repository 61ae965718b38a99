"""Recipes made in code: the builder, changed copies, the switches, and fifty random ones through files and back."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.core.builder import Pipeline, step
from components.core.component import StrictConfig
from components.core.documents import load_layers
from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.recipe import Recipe, load_recipe, parse_recipe, save_recipe
from components.core.schema import recipe_schema
from tests import tiny
from tests.conftest import ROOT

Plain = dict[str, Any]


@pytest.fixture
def plain(tmp_path: Path) -> Plain:
    return tiny.recipe(tmp_path, tmp_path / "model")


@pytest.fixture
def recipe(plain: Plain) -> Recipe:
    return parse_recipe(plain)


def problems(call: Any) -> list[str]:
    """What is wrong, according to a call."""
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value.problems


def said_with_builder(plain: Plain) -> Pipeline:
    """The same recipe, said with the builder."""

    def keys(body: Plain) -> Plain:
        return {key: value for key, value in body.items() if key != "type"}

    made = Pipeline(plain["name"], plain.get("seed", 17)).data(**plain["data"])
    made = made.model(plain["model"]["type"], **keys(plain["model"]))
    for body in plain["train"]:
        made = made.train(body["type"], **keys(body))
    for variant, chain in plain.get("optimize", {}).items():
        if variant == "search":
            made = made.search(*chain["space"], **{key: value for key, value in chain.items() if key != "space"})
            continue
        made = made.optimize(variant, chain) if isinstance(chain, str) else made.optimize(variant, *chain)
    for body in plain.get("benchmark", []):
        made = made.suite(body) if isinstance(body, str) else made.benchmark(body["type"], **keys(body))
    for body in plain.get("gate", []):
        made = made.gate(body["type"], **keys(body))
    return made.register(**plain["register"]) if plain.get("register") else made


# ---------------------------------------------------------------- the builder


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_same_recipe_as_the_file(path: Path) -> None:
    """What the builder builds is the recipe that the same words in YAML give (A36)."""
    plain = load_layers(path).data
    made = said_with_builder(plain | {"optimize": {k: v for k, v in plain.get("optimize", {}).items() if v}})
    for role, body in plain.get("services", {}).items():
        made = made.service(role, body["type"], **{key: value for key, value in body.items() if key != "type"})
    # a lock is found beside the file, not written in it
    assert made.build() == load_recipe(path).with_updates({"data.lock": None})


def test_every_section(plain: Plain) -> None:
    """Every section of a recipe can be said, presets and services included (A36)."""
    made = (
        said_with_builder(plain)
        .optimize("small", "enhanced")
        .optimize("plain", step("merge_adapter"), step("onnx", precision="fp32"))
        .service("tracking", "something", type_="x")
    )
    chain = [{"type": "merge_adapter"}, {"type": "onnx", "precision": "fp32"}]
    services = {"tracking": {"type": "something", "type_": "x"}}
    changes = {"optimize": plain["optimize"] | {"small": "enhanced", "plain": chain}, "services": services}
    assert made.build() == parse_recipe(plain | changes)


def test_continuing_changes_nothing(plain: Plain) -> None:
    """Every call gives a new pipeline; a common beginning can be continued in two ways (A36)."""
    start = said_with_builder(plain)
    before = start.build()
    one = start.gate("recovery", metric="exact_match").optimize("more", "basic").train("lora")
    two = start.register("other").benchmark("latency")
    assert start.build() == before
    assert [spec.type for spec in before.gate] == ["budget"]
    assert two.build().gate == before.gate
    assert two.build().dump()["register"]["model"] == "other"
    assert list(one.build().optimize) == [*before.optimize, "more"]


def test_later_changes_of_arguments_do_not_matter(plain: Plain) -> None:
    """What was said stays said, even if the caller changes the mapping that was passed (A36)."""
    lora, merge = {"r": 4}, step("merge_adapter")
    made = said_with_builder(plain | {"train": []}).train("sft", lora=lora).optimize("x", merge)
    before = made.build()
    lora["r"] = 0
    merge["type"] = "nonsense"
    assert made.build() == before


def test_building_twice(plain: Plain) -> None:
    """A pipeline can be built again and again (A36)."""
    made = said_with_builder(plain)
    assert made.build() == made.build()


def test_all_mistakes_at_once(plain: Plain) -> None:
    """Mistakes in several sections are one ConfigError (E3)."""
    made = said_with_builder(plain).train("sftt").benchmark("latency", rounds=0).gate("budget", mx={}).register("a/b")
    found = problems(made.build)
    assert [problem.partition(":")[0] for problem in found] == [
        "train.1.type",
        "benchmark.3.rounds",
        "gate.1.mx",
        "register.model",
    ]


def test_what_is_missing(plain: Plain) -> None:
    """A pipeline without its sections says which are required (E3)."""
    assert [problem.partition(":")[0] for problem in problems(Pipeline("x").build)] == [
        "model",
        "data",
        "train",
    ]


class Oven(StrictConfig):
    """A section whose keys are called like the builder's own arguments."""

    name: str = ""
    type: str = ""
    role: str = ""


def test_sections_of_plugins(plain: Plain) -> None:
    """A plugin's section can be said, whatever its keys are called (E6)."""
    with registry.owned_by("tests"):
        registry.add("section", "oven", Oven)
    try:
        made = said_with_builder(plain).section("oven", name="a", type="b", role="c")
        assert made.build().dump()["oven"] == {"name": "a", "type": "b", "role": "c"}
    finally:
        with registry.owned_by("tests"):
            registry.forget("tests")
    assert problems(made.build)[0].startswith("oven: unknown key 'oven'")


# ---------------------------------------------------------------- changed copies


def test_with_updates(recipe: Recipe) -> None:
    """`with_updates` gives a new, checked recipe; the old one stays as it is (E5)."""
    before = recipe.dump()
    changes = {"model.name": "other", "train.0.type": "lora", "train.*.batch_size": 8, "name": "copy"}
    changed = recipe.with_updates(changes)
    assert (changed.model.config.name, changed.train[0].type) == ("other", "lora")
    assert (changed.train[0].config.batch_size, changed.name) == (8, "copy")
    assert recipe.dump() == before
    assert changed is not recipe
    assert recipe.with_updates({}) == recipe


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.name", "Qwen/Qwen2.5-3B"),
        ("model.name", "no"),
        ("model.name", "12"),
        ("model.name", "null"),
        ("model.name", "2026-01-31"),
        ("model.name", "a: b # c"),
        ("model.name", "*x"),
        ("model.name", " a\n'b\" \\ \t"),
        ("model.name", "Grüße 漢字"),
        ("model.name", "🏭 é"),
        ("train.0.learning_rate", 1e-5),
        ("train.0.learning_rate", 1e16),
        ("train.0.lora", None),
        ("train.0.lora.target_modules", ["a", "b"]),
        ("gate.0.max", {"bytes": 1e9}),
    ],
)
def test_values_arrive_as_they_are(recipe: Recipe, key: str, value: Any) -> None:
    """A value is taken as it is, never read as something else that it looks like (E5)."""
    extra = {"optimize": {"fp32": [{"type": "onnx"}]}} if key == "train.0.lora" else {}
    changed: Any = recipe.with_updates({key: value, **extra}).dump()
    for part in key.split("."):
        changed = changed[int(part)] if part.isdigit() else changed[part]
    if key == "train.0.lora.target_modules" or not isinstance(value, dict):
        assert changed == value


def test_with_updates_reports_everything(recipe: Recipe) -> None:
    """Wrong changes are one ConfigError with every mistake and its origin (E5, E3)."""
    found = problems(lambda: recipe.with_updates({"seed": -1, "train.0.max_stepz": 5, "benchmark.1.rows": "x"}))
    assert [problem.rpartition(": ")[0] for problem in found if "max_stepz" in problem] == [
        "with_updates: train.0.max_stepz"
    ]
    assert len(found) == 3
    assert all(problem.startswith("with_updates: ") for problem in found)
    found = problems(lambda: recipe.with_updates({"train.7.x": 1, "name.x": 1}))
    assert len(found) == 2


def test_recipes_cannot_change(recipe: Recipe) -> None:
    """A recipe that was checked refuses assignment; there is only `with_updates` (E5)."""
    with pytest.raises(ValidationError):
        recipe.seed = 5
    with pytest.raises(ValidationError):
        recipe.train[0].type = "lora"


# ---------------------------------------------------------------- switches


@pytest.mark.parametrize("switch", ["required", "enabled"])
def test_switches(plain: Plain, switch: str) -> None:
    """`required` and `enabled` are on by default, are read, and are dumped only where they are off (C67)."""
    body = plain["benchmark"][1]
    on = parse_recipe(plain)
    assert getattr(on.benchmark[1], switch) is True
    assert switch not in on.dump()["benchmark"][1]
    body[switch] = True
    assert parse_recipe(plain) == on
    body[switch] = False
    off = parse_recipe(plain)
    assert getattr(off.benchmark[1], switch) is False
    assert off.dump()["benchmark"][1][switch] is False
    assert parse_recipe(off.dump()) == off
    assert off.benchmark[1].identity() == on.benchmark[1].identity()


@pytest.mark.parametrize("switch", ["required", "enabled"])
@pytest.mark.parametrize("value", ["false", "no", 0, 1, None, [], 0.0])
def test_switches_are_booleans(plain: Plain, switch: str, value: Any) -> None:
    """A switch is true or false; anything else is refused with the switch's name (C67, E3)."""
    plain["benchmark"][2][switch] = value
    assert problems(lambda: parse_recipe(plain)) == [f"benchmark.2: {switch}: write true or false, found {value!r}"]


def test_both_switches_wrong(plain: Plain) -> None:
    """Two wrong switches are two problems of one ConfigError (E3)."""
    plain["benchmark"][2] |= {"required": 1, "enabled": 2}
    assert len(problems(lambda: parse_recipe(plain))) == 2


@pytest.mark.parametrize("switch", ["required", "enabled"])
def test_gates_have_no_switch(plain: Plain, switch: str) -> None:
    """A gate is never optional and never off (C67)."""
    plain["gate"][0][switch] = False
    assert "a gate is never optional" in problems(lambda: parse_recipe(plain))[0]


def test_what_is_off_counts_for_nothing(plain: Plain) -> None:
    """A pass, a step or a benchmark that is off is left out of the checks on what fits together (C67)."""
    plain["optimize"]["fp32"].insert(0, {"type": "onnx", "enabled": False})
    plain["train"].append({"type": "sft", "enabled": False})
    parse_recipe(plain)
    plain["benchmark"][2]["enabled"] = False
    plain["gate"] = [{"type": "budget", "min": {"tokens_per_s": 1}}]
    assert "no benchmark of this recipe measures 'tokens_per_s'" in problems(lambda: parse_recipe(plain))[0]
    plain["train"][0]["enabled"] = False
    assert "at least one step must be switched on and required" in problems(lambda: parse_recipe(plain))[0]


# ---------------------------------------------------------------- fifty random recipes

TEXTS = (
    "a",
    "Qwen/Qwen2.5-3B",
    "no",
    "12",
    "1e5",
    "null",
    "2026-01-31",
    "a: b # c",
    "*x",
    "&x",
    " a ",
    "'",
    '"\\',
    "é🏭",
    "=",
)


@cache
def schema() -> Plain:
    """The recipe's schema with the components of this repository; to make it takes two seconds."""
    return recipe_schema()


class Dice:
    """Random values for a JSON Schema node, and random recipes from the registry's own schema."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.definitions = schema()["$defs"]

    def value(self, node: Plain) -> Any:
        """Something that the node accepts."""
        if "$ref" in node:
            return self.value(self.definitions[node["$ref"].rpartition("/")[2]])
        if "anyOf" in node:
            return self.value(self.random.choice(node["anyOf"]))
        if "const" in node or "enum" in node:
            return self.random.choice(node.get("enum", [node.get("const")]))
        if "type" not in node:  # anything goes
            return self.random.choice(TEXTS)
        return getattr(self, f"_{node['type']}")(node)

    def component(self, kind: str, *names: str, **fixed: Any) -> Plain:
        """A component that its own class accepts."""
        known = [
            e
            for e in self.definitions[kind]["anyOf"]
            if e["properties"]["type"]["const"] in (names or registry.names(kind))
        ]
        for _ in range(50):
            body = self.value(self.random.choice(known)) | fixed
            body = {key: value for key, value in body.items() if key not in ("required", "enabled")}
            try:
                registry.create(kind, body["type"], **{key: value for key, value in body.items() if key != "type"})
            except ConfigError:
                continue
            return dict(body)
        raise AssertionError(f"no {kind} of {names} found")

    def recipe(self) -> Plain:
        """A recipe whose parts fit together."""
        roll = self.random.random
        steps = [self._step("model", lora=None, adapter=None) for _ in range(self.random.randrange(3))]
        adapter = roll() < 0.7
        last = self._step("adapter", lora={"r": 2} if roll() < 0.5 else {}) if adapter else None
        steps += [last] if last else [] if steps else [self._step("model", lora=None, adapter=None)]
        for body in steps[:-1]:
            body["required"] = roll() < 0.5
        benchmarks = [self.component("benchmark") for _ in range(self.random.randrange(1, 4))]
        for body in benchmarks[1:]:
            body |= {"required": roll() < 0.5, "enabled": roll() < 0.8}
        for number, body in enumerate(benchmarks):
            if "name" in registry.get("benchmark", body["type"]).Config.model_fields:
                body["name"] = f"b{number}"  # several of them may be asked, each under a name of its own
        metrics = sorted({name for body in benchmarks if body.get("enabled", True) for name in self._reported(body)})
        gates = [self._gate(metrics) for _ in range(self.random.randrange(3))]
        return {
            "name": self.random.choice(["a", "x.y-z_0", "n" * 100, "null", "12", "1.5"]),
            "seed": self.random.randrange(2**31),
            "model": self.component("model"),
            "data": self._data(),
            "train": steps,
            "optimize": {f"v{i}": self._chain(adapter) for i in range(self.random.randrange(1, 4))},
            "benchmark": benchmarks,
            "gate": gates,
            "register": self.value(self.definitions["RegisterSection"]) if gates and roll() < 0.8 else None,
            "services": self.random.choice([{}, {"a": "b"}, {"a": {"type": "b", "c": [1, {"d": None}]}}]),
        }

    def _reported(self, body: Plain) -> list[str]:
        cls = registry.get("benchmark", body["type"])
        config = {key: value for key, value in body.items() if key not in ("type", "required", "enabled")}
        return [metric.name for metric in cls.reports(cls.Config(**config))]

    def _step(self, kind: str, **fixed: Any) -> Plain:
        """A trainer that ends with an artifact of that kind."""
        while True:
            body = self.component("trainer", **fixed)
            cls = registry.get("trainer", body["type"])
            if "teacher" in cls.Config.model_fields and not body.get("teacher"):
                body["teacher"] = self.component("model")
            config = cls.Config(**{key: v for key, v in body.items() if key != "type"})
            if cls.produces_kind(config) == kind and cls.incomplete(config) is None:
                return body

    def _data(self) -> Plain:
        held_out = {"eval": self.component("reader")} if self.random.random() < 0.5 else {"split": {"eval": 0.25}}
        form = {"format": self.component("format")} if self.random.random() < 0.5 else {}
        rules = {body["type"]: body for body in [self.component("rule") for _ in range(self.random.randrange(3))]}
        contract = {"max_bad_fraction": self.random.random(), "rules": rules}
        return {"train": self.component("reader"), **held_out, **form, "contract": contract}

    def _gate(self, metrics: list[str]) -> Plain:
        limits = {metric: self.random.uniform(0, 10) for metric in metrics if self.random.random() < 0.5}
        chosen = self.random.choice(metrics)
        return self.random.choice(
            [
                self.component("gate", "budget", max=limits, min={}),
                self.component("gate", "paired", metric=chosen, against="base", min_gain=0.1),
                self.component("gate", "non_inferior", metric=chosen, against="trained", margin=0.05),
                self.component("gate", "recovery", metric=chosen),
            ]
        )

    def _chain(self, adapter: bool) -> Any:
        if self.random.random() < 0.5:
            return self.random.choice(registry.names("preset"))
        if not adapter:
            return [self.component("pass", "onnx")]
        off = [self.component("pass") | {"enabled": False} for _ in range(self.random.randrange(8))]
        return [*off, self.component("pass", "merge_adapter"), self.component("pass", "onnx"), *off]

    def _integer(self, node: Plain) -> int:
        low = max(node.get("minimum", 0), node.get("exclusiveMinimum", -1) + 1)
        return self.random.randint(
            low, min(node.get("maximum", low + 9999), node.get("exclusiveMaximum", low + 9999) - 1)
        )

    def _number(self, node: Plain) -> float:
        low = node.get("minimum", node.get("exclusiveMinimum", 0))
        high = node.get("maximum", node.get("exclusiveMaximum", low + 10))
        return float(
            self.random.choice([self.random.uniform(low, high), low + (high - low) * 10 ** -self.random.uniform(1, 9)])
        )

    def _boolean(self, _: Plain) -> bool:
        return self.random.random() < 0.5

    def _null(self, _: Plain) -> None:
        return None

    def _string(self, node: Plain) -> str:
        return "name" if "pattern" in node else self.random.choice(TEXTS)

    def _array(self, node: Plain) -> list[Any]:
        if "prefixItems" in node:
            return [self.value(item) for item in node["prefixItems"]]
        return [self.value(node["items"]) for _ in range(node.get("minItems", 0) + self.random.randrange(3))]

    def _object(self, node: Plain) -> Plain:
        keys = [k for k in node.get("properties", {}) if k in node.get("required", ()) or self.random.random() < 0.5]
        free: Any = node.get("additionalProperties")
        names = self.random.sample(TEXTS, 2) if free and free is not True else []
        return {k: self.value(node["properties"][k]) for k in keys} | {name: self.value(free) for name in names}


@pytest.mark.parametrize("seed", range(50))
def test_random_recipes(tmp_path: Path, seed: int) -> None:
    """Any valid recipe survives dump, file and builder as itself, and its dump fits the schema (E2, A38)."""
    plain = Dice(seed).recipe()
    recipe = parse_recipe(plain)
    assert parse_recipe(recipe.dump()) == recipe
    save_recipe(recipe, tmp_path / "a.yaml")
    loaded = load_recipe(tmp_path / "a.yaml")
    assert loaded == recipe
    assert loaded.dump() == recipe.dump()
    save_recipe(loaded, tmp_path / "b.yaml")
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()
    assert load_recipe(tiny.write_recipe(tmp_path / "c.yaml", plain)) == recipe
    made = said_with_builder(plain)._with("services", plain["services"])
    assert made.build() == recipe
    assert recipe.with_updates({"seed": recipe.seed}) == recipe
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(schema()).validate(recipe.dump())


def test_random_recipes_are_different() -> None:
    """Control: the dice reach every trainer, pass, benchmark, gate and preset."""
    kinds = ("model", "trainer", "optimizer", "pass", "benchmark", "gate", "preset")
    missing = {name for kind in kinds for name in registry.names(kind)}
    for seed in range(200):
        if not missing:
            break
        text = json.dumps(Dice(seed).recipe())
        missing = {name for name in missing if name not in text}
    assert missing == set()
