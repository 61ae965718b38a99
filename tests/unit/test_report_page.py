"""The page of a run: everything that its evidence holds, nothing that it does not, and nothing that could harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.artifacts import write_json
from components.core.errors import DataError
from components.core.events import EventBus, StageCached, StageFailed, StageFinished, StageSkipped, StageStarted
from components.services.data import load_rows
from components.services.provenance.graph import Edge, Graph, Node
from components.services.report.examples import find_examples
from components.services.report.page import write_page
from components.services.report.parts import seconds, shown
from components.services.report.run_evidence import Evidence
from components.services.timings import (
    TIMINGS,
    Stopwatch,
    Timing,
    bottleneck,
    critical_path,
    last_timings,
)
from components.training.plot import loss_plot
from tests.unit.test_data_page import HOSTILE, Page

FIGURES = {
    "base": {"exact_match": 0.1, "bytes": 500e6, "tokens_per_s": 10.0},
    "trained": {"exact_match": 0.9, "bytes": 510e6, "tokens_per_s": 10.1},
    "int4": {"exact_match": 0.85, "bytes": 102e6, "tokens_per_s": 40.0, "own_metric": 3.0},
    "int8": {"exact_match": 0.88, "bytes": 400e6, "tokens_per_s": 20.0},
}


def check(passed: bool, summary: str) -> dict[str, Any]:
    return {"gate": "budget", "passed": passed, "summary": summary, "figures": {}}


VERDICT = {
    "variants": [
        {"variant": "int4", "checks": [check(True, "bytes 102 MB (at most 300 MB)")]},
        {"variant": "int8", "checks": [check(False, "bytes 400 MB (at most 300 MB)")]},
    ],
    "chosen": "int4",
}
RECIPE = {"name": "toy", "benchmark": [{"type": "exact_match"}, {"type": "latency"}]}
STEP = {"type": "sft", "steps": 60, "tokens": 1234, "final_loss": 0.5, "losses": [2.0, 0.5], "curve": "loss.png"}
STEP |= {
    "samples": [{"step": 30, "prompt": "Hello?", "answer": "x"}, {"step": 60, "prompt": "Hello?", "answer": "Hi!"}]
}
COST = {"per_hour": 1.0, "currency": "EUR", "device_seconds": 90.0, "total": 0.025, "from_the_store": 0}
COST |= {"stages": [{"stage": "train sft", "seconds": 60.0, "cost": 0.0167, "machine": "m", "failed": False}]}
COST |= {"per_1k_tokens": {"trained": {"sft": 0.0136}, "generated": {}}}


def timing(stage: str, end: float, seconds: float, key: str = "", **more: Any) -> Timing:
    return Timing(
        stage=stage, name="sft" if stage == "train" else "x", outcome="done", end=end, seconds=seconds, key=key, **more
    )


TIMES = [timing("model", 10, 10, "m"), timing("train", 70, 60, "t"), timing("optimize", 90, 20, "o")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The evidence of a run that accepted int4 and rejected int8."""
    for name, content in (
        ("figures", FIGURES),
        ("verdict", VERDICT),
        ("training", [STEP]),
        ("skipped", {"optimize gptq/gptq": "the package is not installed"}),
        ("machine", {"processor": "A good one", "memory": 25_276_502_016, "bf16": True}),
        (
            "data",
            {"rows": {"train": 2400, "eval": 400}, "quarantined": {"train": 7}, "sources": {"train": ["a.jsonl"]}},
        ),
        ("cost", COST),
    ):
        write_json(tmp_path / f"{name}.json", content)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    loss_plot({**STEP, "grad_norms": []}, tmp_path / "loss.png")
    return tmp_path


class Seen(Page):
    """A page in which a picture needs no end."""

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(name, attrs)
        if name == "img":
            self.open.pop()


def seen(folder: Path, **given: Any) -> Seen:
    return Seen(write_page(folder, **given).read_text(encoding="utf-8"))


def test_everything(folder: Path) -> None:
    """Verdict, figures of all subjects, gates, samples, curve, times, cost, data, what was skipped (C64)."""
    found = seen(folder, timings=TIMES)
    for words in (
        "toy: accepted, int4",
        "1 of 2 variants passed; int4 was chosen.",
        "5.0 times smaller than trained",
        "4.0 times faster than trained",
        "score higher 10.0% 90.0% 85.0% 88.0%",
        "own_metric - - 3.00 -",
        "No benchmark that is installed here knows the unit of own_metric.",
        "pass budget bytes 102 MB (at most 300 MB)",
        "fail budget bytes 400 MB (at most 300 MB)",
        "Hello? sft, step 30 x sft, step 60 Hi!",
        "The bottleneck is train sft : 1 min 00 s, 66.7% of 1 min 30 s of work in 1 min 30 s.",
        "0.025 EUR for 90 s of a machine",
        "1,000 tokens trained, sft 0.014 EUR",
        "train 2,400 7 a.jsonl",
        "the package is not installed",
        "A good one",
        "25.3 GB",
        "name: toy",
    ):
        assert words in found.text, words
    (picture,) = [attributes for name, attributes in found.elements if name == "img"]
    assert str(picture["src"]).startswith("data:image/png;base64,")
    assert found.count("script") == found.count("link") == 0


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    """A run that only trained has a page without headings over nothing."""
    write_json(tmp_path / "figures.json", {})
    found = seen(tmp_path)
    assert "trained, nothing to judge" in found.text
    assert found.count("h2") == 0


def test_not_accepted(folder: Path) -> None:
    """A run without an accepted variant says so first, and shows what was trained at a glance."""
    refused = {"variants": [VERDICT["variants"][1]], "chosen": None}
    write_json(folder / "verdict.json", refused)
    found = seen(folder)
    assert "None of 1 variant passed its gates" in found.text
    assert "about that of base" in found.text


def test_again_from_the_folder_alone(folder: Path) -> None:
    """What was given stays in the folder, so the page can be written again without it, byte for byte."""
    graph = Graph.of([Node(kind="run", id="r", label="toy", digest="abc", facts={"git.commit": "0123"})], [])
    first = write_page(folder, lineage=graph, timings=TIMES).read_bytes()
    assert {"lineage.json", TIMINGS} <= {file.name for file in folder.iterdir()}
    assert write_page(folder).read_bytes() == first
    assert "run abc, commit 0123" in Seen(first.decode()).text


def test_secrets_stay_masked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that got into a recipe, an answer or a reason does not get onto the page."""
    monkeypatch.setenv("MY_TOKEN", "token-abcdefgh")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "name": "token-abcdefgh"}))
    write_json(folder / "skipped.json", {"step": "refused token-abcdefgh"})
    write_json(folder / "training.json", [{**STEP, "samples": [{"step": 1, "prompt": "token-abcdefgh", "answer": ""}]}])
    assert "token-abcdefgh" not in write_page(folder).read_text()


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_becomes_markup(folder: Path, text: str) -> None:
    """Whatever an answer, a name or a reason holds, the page has the same elements as with harmless ones."""

    def elements(word: str) -> list[str]:
        write_json(folder / "skipped.json", {word: word})
        write_json(folder / "machine.json", {word: word})
        sample, judged = {"step": 1, "prompt": word, "answer": word}, {"variant": word, "checks": [check(True, word)]}
        write_json(folder / "training.json", [{**STEP, "determinism": word, "samples": [sample]}])
        write_json(folder / "figures.json", {word: {word: 1.0}})
        write_json(folder / "verdict.json", {"variants": [judged], "chosen": None})
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": word}))
        named = [timing("train", 1, 1).model_copy(update={"name": word})]
        return [name for name, _ in seen(folder, timings=named).elements if name != "b"]

    assert elements(text.encode("utf-8", "replace").decode()) == elements("harmless")


def test_mistakes(folder: Path, tmp_path: Path) -> None:
    """No folder of evidence, broken JSON and a picture that is none are told by their names."""
    with pytest.raises(DataError, match="holds no evidence of a run"):
        write_page(tmp_path / "nothing")
    (folder / "loss.png").write_bytes(b"<script>")
    with pytest.raises(DataError, match="loss.png' is no PNG"):
        write_page(folder)
    write_json(folder / "verdict.json", {"chosen": None})
    with pytest.raises(DataError, match=r"verdict.json' is not what a run writes \(variants: Field required\)"):
        write_page(folder)
    (folder / "verdict.json").write_text("{")
    with pytest.raises(DataError, match="verdict.json' is no JSON"):
        write_page(folder)


# ---------------------------------------------------------------- examples


def test_examples(lab: Any, tmp_path: Path) -> None:
    """What training taught comes first, then what is still wrong, each with question, expected and given answers."""
    ids = load_rows(lab.dataset).ids
    rows = tmp_path / "rows.jsonl"
    right = {"base": set(), "trained": set(ids[:4]), "int4": set(ids[:5])}
    lines = [
        {"subject": who, "benchmark": "exact_match", "id": row, "answer": f"{who} {row}", "exact_match": int(row in ok)}
        for who, ok in right.items()
        for row in ids
    ]
    lines.append({"subject": "base", "benchmark": "other", "id": ids[0], "answer": "not this one"})
    lines.append({"subject": "base", "benchmark": "latency", "id": ids[0], "seconds": 1})
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = find_examples(rows, lab.dataset, "int4")
    assert [each["id"] for each in found[:3]] == ids[:3]
    assert found[3]["id"] == ids[5]
    assert found[0]["answers"]["base"] == {"answer": f"base {ids[0]}", "right": False}
    assert found[0]["question"].startswith("My ")
    assert "category" in found[0]["expected"]
    assert len(found) == 5
    assert find_examples(tmp_path / "none.jsonl", lab.dataset, None) == []


# ---------------------------------------------------------------- times


def test_stopwatch(tmp_path: Path) -> None:
    """Every stage that ends is kept with its time; one that failed took the time since it began (C64)."""
    bus = EventBus()
    with Stopwatch(bus) as watch:
        bus.emit(StageStarted(stage="train", name="sft", time=100.0))
        bus.emit(StageFailed(stage="train", name="sft", error="x", time=107.0))
        bus.emit(
            StageFinished(stage="train", name="sft", key="k", size=3, seconds=5.0, peak_memory=9, cpu=0.5, time=120)
        )
        bus.emit(StageCached(stage="data", name="rows", key="d", time=121.0))
        bus.emit(StageSkipped(stage="optimize", name="a/b", reason="no", time=122.0))
    bus.emit(StageCached(stage="data", name="late", key="d"))
    assert [(t.title, t.outcome, t.seconds) for t in watch.timings] == [
        ("train sft", "failed", 7.0),
        ("train sft", "done", 5.0),
        ("data rows", "reused", 0.0),
        ("optimize a/b", "skipped", 0.0),
    ]
    write_json(tmp_path / TIMINGS, watch.plain())
    assert Evidence(tmp_path).timings == watch.timings


def test_times_from_the_journal(tmp_path: Path) -> None:
    """The times of an old run are in the journal that names its folder; a torn last line does no harm."""
    told = [
        {
            "time": 1.0,
            "event": "stage.finished",
            "stage": "train",
            "name": "sft",
            "key": "k",
            "size": 1,
            "seconds": 4.0,
        },
        {"time": 2.0, "event": "evidence.written", "folder": str(tmp_path / "reports"), "chosen": None},
    ]
    (tmp_path / "toy.jsonl").write_text("\n".join(map(json.dumps, told)) + '\n{"time": 3')
    found = last_timings(tmp_path, tmp_path / "reports")
    assert found is not None
    assert [(t.title, t.seconds) for t in found] == [("train sft", 4.0)]
    assert last_timings(tmp_path, tmp_path / "other") is None


def test_bottleneck_and_critical_path() -> None:
    """The bottleneck is the longest stage; the critical path the longest chain of stages that wait for each other."""
    kinds = {"model": "model", "train": "training", "optimize": "variant"}
    nodes = [
        Node(kind=kinds[stage], id=key, label=key, facts={"artifact": f"{stage}/{key}"})
        for stage, key in (("model", "m"), ("train", "t"), ("optimize", "o"), ("optimize", "p"))
    ]
    edges = [Edge(source=a, target=b, role="x") for a, b in (("m", "t"), ("t", "o"), ("t", "p"))]
    times = [*TIMES, timing("optimize", 120, 30, "p"), timing("judge", 121, 1, "unknown")]
    slowest = bottleneck(times)
    assert slowest is not None
    assert slowest.title == "train sft"
    assert [t.key for t in critical_path(times, Graph.of(nodes, edges))] == ["m", "t", "p"]
    circle = [*edges, Edge(source="p", target="m", role="x")]
    assert critical_path(times, Graph.of(nodes, circle))
    assert (bottleneck([]), critical_path([], Graph.of([], []))) == (None, [])


def test_many_stages_are_told_together(folder: Path) -> None:
    """Of many stages those are shown that took their share, the others in one line."""
    many = [timing("optimize", 100 + number, 0.1, str(number)) for number in range(20)]
    found = seen(folder, timings=[*TIMES, *many])
    assert "20 more stages took 2.00 s together." in found.text


@pytest.mark.parametrize(
    ("value", "words"), [(0.004, "4 ms"), (1.5, "1.50 s"), (42, "42.0 s"), (245, "4 min 05 s"), (7380, "2 h 03 min")]
)
def test_seconds(value: float, words: str) -> None:
    """Times read well from milliseconds to hours."""
    assert seconds(value) == words


def test_shown() -> None:
    """A figure is told by its name: bytes with a unit, times as times, truth in words."""
    assert [shown(*pair) for pair in (("size", 2_000_000), ("train_seconds", 61), ("a.bytes_after", 5e9))] == [
        "2.0 MB",
        "1 min 01 s",
        "5.0 GB",
    ]
    assert [shown("x", value) for value in (True, None, 12345, 0.25, "word")] == ["yes", "-", "12,345", "0.25", "word"]
