"""The graph of a model's life: every relation, what is gone, and that it is the same each time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.core.artifacts import Artifact
from components.core.errors import RegistryServiceError
from components.services.lineage_graph import RunEntry
from components.services.provenance.artifacts import Parts
from components.services.provenance.drawing import main_line
from components.services.provenance.graph import Graph, Node
from components.services.provenance.layout import GAP, WIDTH, arranged
from components.services.provenance.page import lineage_page
from tests.unit.lineage_world import World, build, made
from tests.unit.test_data_page import HOSTILE, Page


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("lineage") / "root")


@pytest.fixture
def world(built: World, tmp_path: Path) -> World:
    """A copy for one test."""
    return built.copy(tmp_path / "root")


def relations(graph: Graph) -> set[tuple[str, str, str]]:
    """Edges by the titles of their ends."""
    return {(graph[edge.source].title, edge.role, graph[edge.target].title) for edge in graph.edges}


def delete(artifact: Artifact) -> None:
    shutil.rmtree(artifact.path)


def missing(graph: Graph) -> dict[str, str]:
    return {node.kind: node.missing for node in graph.nodes if node.missing}


DATA, BASE, SFT, RUN = "24 train, 6 eval rows", "tiny", "trained: sft", "toy"
SCORE, SPEED, VERDICT, VERSION = "exact_match", "latency", "accepted, int4", "toy version 1"


def test_every_relation(built: World) -> None:
    """From rows to alias, every step of a model's life is a node, and every relation an edge with its role (C64)."""
    graph = built.service().of_model("toy@production")
    assert graph[graph.root].title == "toy@production"
    assert missing(graph) == {}
    assert relations(graph) == {
        ("train: 24 rows", "train", DATA),
        ("eval: 6 rows", "eval", DATA),
        (DATA, "dataset", SFT),
        (BASE, "model", SFT),
        ("toy", "recipe", RUN),
        (RUN, "reused", SFT),
        (RUN, "registered", VERSION),
        (SFT, "source", "merge_adapter"),
        (BASE, "model", "merge_adapter"),
        ("merge_adapter", "source", "int4: onnx"),
        ("merge_adapter", "source", "int8: onnx8"),
        (DATA, "dataset", SCORE),
        (BASE, "base", SCORE),
        (SFT, "trained", SCORE),
        (DATA, "dataset", SPEED),
        ("int4: onnx", "int4", SPEED),
        ("int8: onnx8", "int8", SPEED),
        (SCORE, "measured", VERDICT),
        (SPEED, "measured", VERDICT),
        (VERDICT, "evidence", VERSION),
        ("int4: onnx", "files", VERSION),
        (VERSION, "alias", "toy@production"),
    }


def test_facts(built: World) -> None:
    """A node tells what its manifest, its run or its version says: date, size, steps, figures, commit, files."""
    graph = built.service().of_model("toy/1")
    (step,), (run,), (version,) = (graph.of_kind(kind) for kind in ("training", "run", "version"))
    assert (step.facts["steps"], step.facts["settings"], step.note) == (60, {"type": "sft"}, "60 steps, loss 0.5")
    assert step.facts["size"] > 0
    assert set(step.facts["files"]) == {"weights", "config"}
    assert (run.facts["git.commit"], run.facts["status"], run.digest) == ("abc", "FINISHED", built.run_id)
    assert version.facts["postmill.variant"] == "int4"
    assert graph.of_kind("measurement")[0].facts["metrics.trained.score"] == 0.9
    assert graph.of_kind("verdict")[0].facts["evidence"] == str(built.root / "reports" / "toy")
    assert graph.of_kind("recipe")[0].facts["text"].endswith("reports/toy/recipe.yaml")


def test_the_line_of_what_is_served(built: World) -> None:
    """What was not chosen is part of the graph, but not of the line that leads to the registered files."""
    graph = built.service().of_model("toy/1")
    off = {graph[node].title for node in {node.id for node in graph.nodes} - main_line(graph)}
    assert off == {"int8: onnx8", SCORE, SPEED, VERDICT}


def test_deleted_artifact(world: World) -> None:
    """An artifact that was deleted stays in the graph as missing, with what is known of it; the rest is whole."""
    parts = world.parts()
    delete(parts["merged"])
    graph = world.service().of_model("toy/1")
    (gone,) = [node for node in graph.nodes if node.missing]
    assert "deleted from the store" in gone.missing
    assert gone.artifacts == [f"optimize/{parts['merged'].key}"]
    assert (gone.title, "source", "int4: onnx") in relations(graph)
    assert graph.above(gone.id) == []
    assert SFT in {node.title for node in graph.nodes}  # its measurement still tells of it


@pytest.mark.parametrize("damage", ["manifest", "file"])
def test_damaged_artifact(world: World, damage: str) -> None:
    """A manifest that cannot be read and a file that is gone are both told, each by its name."""
    trained = world.parts()["trained"].path
    (trained / "manifest.json").write_text("{") if damage == "manifest" else (trained / "weights").unlink()
    expected = {"manifest": "deleted from the store, or damaged", "file": "1 of 2 files are gone"}
    assert expected[damage] in missing(world.service().of_model("toy/1"))["training"]


def test_same_content_made_again(world: World) -> None:
    """Where an artifact is gone, another one with the same content stands for it; the two are one node."""
    store, parts = world.store, world.parts()
    one = made(store, "train", "dpo", {}, "same", model=parts["base"])
    twin = made(store, "train", "dpo", {}, "same", model=parts["base"], dataset=parts["dataset"])
    below = made(store, "optimize", "cast", {}, source=one)
    assert one.digest == twin.digest
    assert one.key != twin.key
    assert len(world.service().of_run([one, twin]).of_kind("training")) == 1
    delete(one)
    graph = world.service().of_run([below])
    assert missing(graph) == {}
    assert graph.of_kind("training")[0].artifacts == [f"train/{twin.key}"]


def test_pass_that_changed_nothing(world: World) -> None:
    """A pass that leaves the files as they were is told with the one before it, and is no circle."""
    store, parts = world.store, world.parts()
    same = made(store, "optimize", "onnx", {}, "same", source=parts["trained"])
    idle = made(store, "optimize", "options", {}, "same", source=same)
    assert idle.digest == same.digest
    graph = world.service().of_run([idle])
    (node,) = graph.of_kind("variant")
    assert (node.label, len(node.artifacts)) == ("onnx + options", 2)
    assert all(edge.source != edge.target for edge in graph.edges)


def test_what_the_version_names_is_gone(world: World) -> None:
    """Verdict, files and data set that only the version's tags still know are missing nodes, not left out."""
    parts = world.parts()
    for name in ("verdict", "variant", "dataset"):
        delete(parts[name])
    graph = world.service().of_model("toy@production")
    assert missing(graph).keys() == {"verdict", "variant", "dataset"}
    assert {role for role, _ in graph.above("version/toy/1")} == {"files", "evidence", "registered"}


def test_run_and_recipe_gone(world: World) -> None:
    """A deleted run is told as deleted; without it and without a report nobody has the recipe's text."""
    world.registry.client.delete_run(world.run_id)
    (world.root / "reports" / "toy" / "recipe.yaml").write_text("name: another")
    found = missing(world.service().of_model("toy/1"))
    assert found == {"run": "deleted in MLflow", "recipe": "its text is gone, with the run"}
    assert world.service().run_entry("0" * 32).missing == "deleted from MLflow"


def test_version_of_another_tool(built: World) -> None:
    """Of a version that Postmill did not register nothing is known, and that is said."""
    graph = built.service().of_model("toy")
    assert [(node.kind, node.missing) for node in graph.nodes] == [
        ("version", "not registered by Postmill: nothing is known of its origin")
    ]


@pytest.mark.parametrize(
    ("reference", "told"),
    [("toi", "no registered model 'toi'"), ("toy@staging", "no alias 'staging'"), ("toy/7", "no version '7'")],
)
def test_unknown_reference(built: World, reference: str, told: str) -> None:
    """A reference that means nothing is refused with what there is."""
    with pytest.raises(RegistryServiceError, match=told):
        built.service().of_model(reference)


def test_compared_with_a_champion(world: World) -> None:
    """The registered version that a run was compared with is a version in the graph, not a missing artifact."""
    parts = world.parts()
    champion = parts["variant"].model_copy(update={"stage": "registry", "key": "toy-1", "parents": {}})
    score = {"metrics": {"champion": {"score": 0.5}}}
    measured = made(world.store, "benchmark", "against", score, dataset=parts["dataset"], champion=champion)
    graph = world.service().of_run([measured])
    assert ("toy version 1", "champion", "against") in relations(graph)
    assert missing(graph) == {}


def test_stable_json(world: World) -> None:
    """The same store gives the same JSON, byte for byte, and it can be read back."""
    one, two = (json.dumps(world.service().of_model("toy@production").plain()) for _ in range(2))
    assert one == two
    graph = Graph.model_validate(json.loads(one))
    assert Graph.of(graph.nodes[::-1], graph.edges[::-1], graph.root) == graph


def test_secrets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that got into a manifest does not get into the graph."""
    secret = made(world.store, "train", "sft", {"note": "token-abcdefgh"})
    monkeypatch.setenv("MY_TOKEN", "token-abcdefgh")
    assert "token-abcdefgh" not in json.dumps(world.service().of_run([secret]).plain())


# ---------------------------------------------------------------- a run and its folder


def test_of_run(built: World) -> None:
    """What a run made, with the run itself: its recipe, and what it made or found in the store (C64)."""
    parts = built.parts()
    run = RunEntry("r1", "toy", "d" * 64, {parts["trained"].key: "made"})
    graph = built.service().of_run([parts["trained"], parts["verdict"]], run)
    assert {("toy", "recipe", "toy"), ("toy", "made", SFT)} <= relations(graph)
    assert graph[graph.root].kind == "verdict"


def test_of_folder(built: World, tmp_path: Path) -> None:
    """A folder of evidence leads to its verdict and the version that rests on it; one of another store to nothing."""
    graph = built.service().of_folder(built.root / "reports" / "toy")
    assert graph is not None
    assert {VERDICT, VERSION, "toy@production"} <= {node.title for node in graph.nodes}
    assert built.service().of_folder(tmp_path) is None


def test_winners_of_a_search(world: World) -> None:
    """A search leads to the variants that it found."""
    parts = world.parts()
    found = made(world.store, "search", "tpe", {"winners": {"int4": 3}}, source=parts["trained"])
    graph = world.service().of_run([found, parts["verdict"]])
    assert ("0 trials", "found", "int4: onnx") in relations(graph)


# ---------------------------------------------------------------- the drawing and the page


def test_boxes_do_not_overlap(built: World) -> None:
    """Every node has a place of its own, below what it came of."""
    graph = built.service().of_model("toy@production")
    parents = {node.id: [above.id for _, above in graph.above(node.id)] for node in graph.nodes}
    middle, lines = arranged(parents)
    for node, (x, y) in middle.items():
        assert all(y > middle[parent][1] for parent in parents[node])
        beside = [other for other, (_, level) in middle.items() if level == y and other != node]
        assert all(abs(middle[other][0] - x) >= WIDTH + GAP - 1 for other in beside)
    base, merged = (next(n.id for n in graph.nodes if n.title == title) for title in (BASE, "merge_adapter"))
    assert (base, merged) not in lines  # it follows from the lines through the trained step


def test_circle_is_drawn() -> None:
    """Content that came back to what it was is a circle; it is drawn all the same."""
    middle, _ = arranged({"a": ["c"], "b": ["a"], "c": ["b"]})
    assert len(set(middle.values())) == 3
    assert arranged({}) == ({}, {})


def test_page(built: World) -> None:
    """The page shows every node, leads from its box to its facts, and asks for nothing else."""
    graph = built.service().of_model("toy@production")
    page = Page(lineage_page(graph))
    assert "Every one of its 15 parts is known and there." in page.text
    for node in graph.nodes:
        assert node.title in page.text
    anchors = {attributes.get("id") for _, attributes in page.elements}
    links = [attributes["href"] for name, attributes in page.elements if name == "a"]
    assert {link[1:] for link in links if link} <= anchors
    assert page.count("script") == page.count("link") == page.count("img") == 0


def test_page_of_what_is_missing(world: World) -> None:
    """What is missing stands first, and its box says so."""
    delete(world.parts()["trained"])
    page = Page(lineage_page(world.service().of_model("toy/1")))
    assert "1 part of 15 is missing:" in page.text
    assert any("gone" in str(attributes.get("class")) for name, attributes in page.elements if name == "a")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_becomes_markup(built: World, text: str) -> None:
    """Whatever a name, a fact or a role holds, the page has the same elements as with harmless ones."""

    def page(word: str) -> list[str]:
        parts = Parts(built.store, {})
        facts = {word or "x": word, "settings": {word or "x": word}, "files": {word or "x": word}}
        one = Node(
            kind="version", id="one", label=word, note=word, names=[word], digest=word, missing=word, facts=facts
        )
        parts.add(one)
        parts.link(parts.add(Node(kind="model", id="two", label=word)), "one", word)
        return [name for name, _ in Page(lineage_page(parts.graph("one"))).elements if name != "b"]

    assert page(text) == page("harmless")
