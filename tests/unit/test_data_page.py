"""The data report as a page: hostile rows stay text, figures read well, what is missing is said."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from components.core.recipe import DataSection
from components.data._page_html import percent, plural, short, tag, visible
from components.data.page import render_page
from components.services.data import DataService
from components.services.workspace import Workspace
from tests import tiny

VOID = {"meta"}
HARMLESS = set(
    re.findall(
        r"\w+",
        "html head meta title style body main footer section h1 h2 h3 div p span i b strong small code pre dl dt dd "
        "table thead tbody tr th td details summary figure figcaption svg path rect text",
    )
)
REQUESTS = {"src", "href", "srcset", "action", "poster", "data", "background", "xlink:href"}
HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></details></td></table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' style='position:fixed",
    "</style><style>*{display:none}</style>",
    "<!-- <![CDATA[ ]]> -->",
    "&lt;b&gt; &#60;b&#62;",
    "<svg><title></title><a href=javascript:alert(1)>x</a></svg>",
    "\ud800\udfff\ufffe\x00<\x00b\x1b[31m\r\n",
    "\u202egnp.exe\u2066\u200b\u2028\U000e0041",
)


class Page(HTMLParser):
    """Checks that elements nest, and collects what a reader and a browser would find."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((name, dict(attrs)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(text for name, text in self.texts if name != "style"))

    def count(self, name: str) -> int:
        return sum(found == name for found, _ in self.elements)


def figures(rows: int, low: int, high: int) -> dict[str, Any]:
    step = (high - low) / 4
    names = ("p0", "p5", "p25", "p50", "p75", "p95", "p99")
    values = (low, low, low + 1, (low + high) // 2, high - 1, high, high)
    return {
        "mean": (low + high) / 2,
        "quantiles": {**dict(zip(names, values, strict=True)), "p100": high * 2},
        "histogram": {"counts": [rows - 6, 3, 2, 1], "edges": [low + step * place for place in range(5)]},
    }


def rule(name: str, broken: dict[str, int] | None = None, **changes: Any) -> dict[str, Any]:
    found = [
        {"split": split, "file": "rows.jsonl", "line": place + 1, "rule": name, "reason": "it is bad", "row": "{}"}
        for split, count in (broken or {}).items()
        for place in range(min(count, 3))
    ]
    about = f"Demand of {name}."
    return {"rule": name, "about": about, "action": "quarantine", "broken": broken or {}, "examples": found} | changes


def report(**changes: Any) -> dict[str, Any]:
    """A report of a clean data set with a model, but for the changes."""
    tokens = {"total": 262_314, "trained": 86_031, "trained_fraction": 0.328, "unknown": 0}
    split = {"messages": figures(2400, 2, 6), "characters": figures(2400, 226, 470)}
    return {
        "shape": "conversation",
        "formats": {"eval": ["messages"], "train": ["messages"]},
        "files": {"eval": {"eval.jsonl": "e" * 64}, "train": {"train.jsonl": "a" * 64}},
        "rows": {"eval": 400, "train": 2400},
        "quarantined": {"eval": 0, "train": 0},
        "max_bad_fraction": 0.01,
        "content": {"eval": "c" * 32, "train": "d" * 32},
        "rules": {},
        "contract": [rule("parse"), rule("duplicate"), rule("overlap")],
        "ignored": ["language"],
        "splits": {name: {**split, "tokens": {**figures(2400, 72, 153), **tokens}} for name in ("eval", "train")},
        "template": {"sha256": "8" * 64, "training": "difference", "training_sha256": "8" * 64},
        "model": {
            "digest": "5" * 64,
            "weights": 134_515_008,
            "tokens_per_epoch": 262_314,
            "flops_per_epoch": 2 * 10**14,
        },
        "libraries": {"polars": "2.1.0"},
    } | changes


def bad(action: str = "quarantine", row: str = "{}", reason: str = "it is bad", **changes: Any) -> dict[str, Any]:
    """A report in which 8 training rows break a rule."""
    example = {"split": "train", "file": "rows.jsonl", "line": 7, "rule": "schema", "reason": reason, "row": row}
    broken = rule("schema", {"train": 8}, action=action, examples=[example])
    return report(quarantined={"eval": 0, "train": 8}, contract=[broken, rule("parse")], **changes)


# ---------------------------------------------------------------- hostile rows


@pytest.mark.parametrize("text", HOSTILE)
def test_no_row_becomes_markup(text: str) -> None:
    """Whatever stands in a row, its reason, its file or a rule's name, the page has the same elements as without it."""
    place = {"split": "train", "file": text, "line": 1, "rule": text, "reason": text, "also": [text], "row": text}
    names = {"rule": text, "about": text, "ignored": text}

    def page(example: dict[str, Any], words: dict[str, str]) -> Page:
        broken = rule(words["rule"], {"train": 8}, about=words["about"], examples=[example])
        files = {"train": {example["file"]: "a" * 64}, "eval": {}}
        return Page(render_page(report(contract=[broken], ignored=[words["ignored"]], files=files)))

    harmless = page(
        {**dict.fromkeys(place, "x"), "split": "train", "line": 1, "also": ["x"]}, dict.fromkeys(names, "x")
    )
    found = page(place, names)
    assert [one for one in found.elements if one != ("b", {"class": "u"})] == harmless.elements


@pytest.mark.parametrize("text", HOSTILE)
def test_row_reads_as_it_stands(text: str) -> None:
    """What a browser shows of a row is the row, with code points in place of what cannot be seen."""
    page = Page(f"<pre>{visible(text)[0]}</pre>")
    seen = [data for name, data in page.texts if name == "pre"]
    points = [data for name, data in page.texts if name == "b"]
    rest = text
    for part in seen:
        rest = rest.replace(part, "", 1)
    assert re.sub("×.*", "", "".join(points)) == "".join(f"U+{ord(character):04X}" for character in rest)


def test_nothing_invisible_reaches_the_page() -> None:
    """Control characters, direction marks, zero widths, tags, surrogates: code points, a run of one as one."""
    page = render_page(bad(row="a\x00\x00\x00b\u202ec\u200bd\ud800e\U000e0041", reason="\x1b[31m"))
    page.encode("utf-8")
    text = Page(page).text
    for point in ("U+0000×3", "U+202E", "U+200B", "U+D800", "U+E0041", "U+001B"):
        assert point in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)


def test_page_asks_for_nothing() -> None:
    """The page has no script, link, picture, frame or address, and its content policy allows styles only."""
    page = Page(render_page(bad(row="<img src=https://example.com/x>")))
    assert {name for name, _ in page.elements} <= HARMLESS
    attributes = {key for _, attrs in page.elements for key in attrs}
    assert not attributes & REQUESTS
    assert not any(name.startswith("on") for name in attributes)
    policy = [attrs["content"] for name, attrs in page.elements if name == "meta" and "http-equiv" in attrs]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    style = "".join(text for name, text in page.texts if name == "style")
    assert not re.search(r"url\(|@import", style)


def test_attribute_is_escaped() -> None:
    """Text in an attribute cannot end it."""
    markup = tag("p", "x", aria_label='"><script>\u202e')
    assert markup == '<p aria-label="&quot;&gt;&lt;script&gt;U+202E">x</p>'


# ---------------------------------------------------------------- size and time


@pytest.mark.parametrize(
    "row", ["<" * 2000, "\x00\x01" * 1000, "日" * 2000, "W" * 2000], ids=["lt", "control", "cjk", "w"]
)
def test_small_and_fast_whatever_the_rows(row: str) -> None:
    """Twenty rules with three examples of 2,000 characters each, and thousands of files: below 200 kB, in a moment."""
    example = {"split": "train", "file": "rows.jsonl", "line": 7, "rule": "r", "reason": row, "row": row}
    rules = [rule(f"rule_{number}", {"train": 8}, examples=[example] * 3) for number in range(20)]
    files = {"train": {f"part-{number}.jsonl": "a" * 64 for number in range(5000)}, "eval": {}}
    start = time.perf_counter()
    page = render_page(report(contract=rules, files=files))
    assert time.perf_counter() - start < 1
    assert len(page.encode()) < 200_000
    assert "4,960 more files" in Page(page).text


def test_long_row_says_that_it_goes_on() -> None:
    """A row that was cut is shown as cut, a whole one is not."""
    assert "this is its beginning" in Page(render_page(bad(row="W" * 2000))).text
    assert "this is its beginning" not in Page(render_page(bad(row="W" * 1999))).text


# ---------------------------------------------------------------- the verdict


def verdict(given: dict[str, Any]) -> tuple[str | None, str]:
    page = Page(render_page(given))
    (tone,) = [attrs["class"] for name, attrs in page.elements if (attrs.get("class") or "").startswith("verdict")]
    return tone, page.text


def test_clean_data_is_good() -> None:
    """No bad row: a green verdict with the number of rows."""
    tone, text = verdict(report())
    assert tone == "verdict good"
    assert "All 2,800 rows are good" in text
    assert "Up to 1% of a split may be bad." in text


def test_few_bad_rows_are_a_warning() -> None:
    """Bad rows within what is allowed: their number and share beside the limit."""
    tone, text = verdict(bad())
    assert tone == "verdict warn"
    assert "2,800 of 2,808 rows are good 8 rows (0.3%) went to quarantine." in text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"max_bad_fraction": 0.0005}, "8 of 2,408 train rows are bad: 0.3%, and 0.05% is allowed."),
        ({"action": "fail"}, "A row breaks schema, whose action is fail."),
        ({"rows": {"eval": 0, "train": 2400}}, "The eval split has no rows."),
        ({"rows": {"eval": 400, "train": 0}, "max_bad_fraction": 1}, "No row of the train split is good."),
    ],
)
def test_refusal_says_why(changes: dict[str, Any], why: str) -> None:
    """Data that stops the run: a red verdict with the reason, by the rules the service refuses by."""
    tone, text = verdict(bad(**changes))
    assert tone == "verdict bad"
    assert why in text


# ---------------------------------------------------------------- content


def test_every_rule_is_there() -> None:
    """The rules table names every rule with demand, action and rows by split, the most broken first, training first."""
    rules = [rule("parse"), rule("schema", {"eval": 1}), rule("too_long", {"train": 1200, "eval": 3}, action="fail")]
    text = Page(render_page(report(contract=rules))).text
    assert "too_long Demand of too_long. stops the run 1,200 3 6 examples" in text
    places = [text.index(word) for word in ("too_long", "schema Demand", "Kept by every row", "parse Demand")]
    assert places == sorted(places)
    assert "schema Demand of schema. quarantine – 1 The row" in text
    assert "Not asked for (off by default, or set to ignore): language ." in text


def test_example_has_place_reason_and_row() -> None:
    """Under a broken rule stand file and line, the reason, other rules that the row breaks, and its text."""
    given = bad(row='{"messages": []}', reason="an empty list")
    given["contract"][0]["examples"][0]["also"] = ["too_long"]
    page = Page(render_page(given))
    assert "rows.jsonl:7 train an empty list; also breaks too_long" in page.text
    assert ("pre", '{"messages": []}') in page.texts
    assert page.count("details") == 1


def test_rule_that_was_not_checked_is_not_called_kept() -> None:
    """A rule that could not look at these rows stands apart from those that every row kept."""
    text = Page(render_page(report(contract=[rule("parse"), rule("end_of_turn", checked=False)]))).text
    assert (
        text.index("Kept by every row")
        < text.index("parse Demand")
        < text.index("Not checked")
        < text.index("end_of_turn D")
    )


def test_repeated_rows_stand_on_top() -> None:
    """Duplicates and rows that stand in a held-out split are counted above everything but the verdict."""
    rules = [rule("duplicate", {"train": 11}), rule("overlap", {"train": 1400})]
    text = Page(render_page(report(contract=rules))).text
    assert "Repeated rows 1,411 11 same content twice in a split; 1,400 also in a split held out from it" in text
    assert "Repeated rows 0 none stands there twice" in Page(render_page(report())).text
    assert "Repeated rows – not looked for" in Page(render_page(report(contract=[rule("parse")]))).text


def test_lengths_are_drawn_and_said() -> None:
    """Each figure of each split has a drawing that says in words what it shows, as a whole and bar by bar."""
    page = Page(render_page(report()))
    names = [attrs["aria-label"] for name, attrs in page.elements if name == "svg"]
    assert len(names) == 6
    assert names[0] == "Tokens a row, train: 2,400 rows, median 112, half between 73 and 152, longest 306"
    assert "262,314 tokens, 86,031 of them trained on (32.8%); unknown to the tokenizer: none." in page.text
    # the last bar takes the longest rows too
    assert "133 to 306: 1 row" in page.text
    assert "72 to 92: 2,394 rows" in page.text


def test_one_length_needs_no_drawing() -> None:
    """Rows that are all as long are said to be so."""
    same = figures(400, 3, 4)
    same["quantiles"] = dict.fromkeys(same["quantiles"], 3)
    page = Page(render_page(report(splits={"train": {"messages": same, "characters": {}}})))
    assert "Every row has 3 messages." in page.text
    assert page.count("svg") == 0


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ("own", "own template marks what the assistant says"),
        ("trl", "TRL has a variant of it"),
        ("difference", "what the template adds when an assistant turn is appended"),
    ],
)
def test_training_template_is_explained(training: str, words: str) -> None:
    """Where the marks of what is trained on come from is said in words, with the digest if the template is another."""
    text = Page(
        render_page(report(template={"sha256": "8" * 64, "training": training, "training_sha256": "9" * 64}))
    ).text
    assert words in text
    assert "8" * 64 in text
    assert "9" * 64 in text


def test_cost_of_an_epoch() -> None:
    """Tokens, weights and floating-point operations, rounded for the eye and exact for the record."""
    text = Page(render_page(report())).text
    assert "Weights 134.5 M (134,515,008) Tokens an epoch 262,314 Cost of an epoch about 2.0 × 10¹⁴ floating" in text
    model = {"digest": "5" * 64, "weights": None, "tokens_per_epoch": 9, "flops_per_epoch": None}
    assert "Weights not known Tokens an epoch 9 Model" in Page(render_page(report(model=model))).text


def test_without_a_model_the_page_says_so() -> None:
    """Without a model there is a sentence in place of tokens, template and cost."""
    splits = {"train": {"messages": figures(9, 2, 6), "characters": figures(9, 2, 60)}}
    text = Page(render_page(report(model=None, template=None, splits=splits))).text
    assert "No model was given" in text
    assert "Tokens a" not in text


def test_documents_need_no_template() -> None:
    """Text rows, which no template sees, are not said to lack one."""
    assert (
        "None is used: a document is trained on as it is."
        in Page(render_page(report(shape="text", template=None))).text
    )


def test_held_out_split_has_no_files_of_its_own() -> None:
    """A split that was held out says so where its files would stand, and reads as the training rows do."""
    given = report(files={"train": {"train.jsonl": "a" * 64}}, formats={"train": ["messages"]})
    text = Page(render_page(given)).text
    assert "eval 400 0 0% messages held out of train" in text
    assert f"train train.jsonl {'a' * 64} eval held out of train" in text
    assert "Libraries polars 2.1.0" in text


def test_no_good_row_to_measure() -> None:
    """A data set without one good row still makes a page."""
    empty: dict[str, Any] = {"messages": {}, "characters": {}}
    given = report(rows={"train": 0}, quarantined={"train": 0}, splits={"train": empty}, model=None, template=None)
    assert "There is no good row to measure." in Page(render_page(given)).text


def test_real_validation_makes_a_page(tmp_path: Path) -> None:
    """The page takes what a validation really reports, and stands beside it."""
    train, held_out = tiny.write_rows(tmp_path / "train.jsonl", range(10)), tmp_path / "eval.jsonl"
    tiny.write_rows(held_out, range(100, 104))
    with train.open("ab") as file:
        file.write(b'["<script>alert(1)</script>"]\n')
    section = DataSection.model_validate(
        {
            "train": {"type": "jsonl", "path": str(train)},
            "eval": {"type": "jsonl", "path": str(held_out)},
            "contract": {"max_bad_fraction": 0.5},
        }
    )
    dataset = DataService(Workspace(tmp_path / "work")).validate(section)
    text = (dataset.path / "report.html").read_text(encoding="utf-8")
    assert text == render_page(json.loads((dataset.path / "report.json").read_bytes()))
    page = Page(text)
    assert "14 of 15 rows are good" in page.text
    assert ("pre", '["<script>alert(1)</script>"]') in page.texts


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "0%"), (0, 9, "0%"), (9, 9, "100%"), (1, 40, "2.5%"), (1, 10**6, "<0.1%"), (10**6 - 1, 10**6, ">99.9%")],
)
def test_percent(part: int, whole: int, text: str) -> None:
    """A share that is not none never reads as none, and one that is not all never as all."""
    assert percent(part, whole) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (9999, "9,999"),
        (262_314, "262.3 k"),
        (999_960, "1.0 M"),
        (7_240_000_000, "7.2 B"),
        (2.1e14, "2.1 × 10¹⁴"),
    ],
)
def test_short_numbers(count: float, text: str) -> None:
    """Large counts are rounded to what an eye takes in."""
    assert short(count) == text


def test_plural() -> None:
    """One row, several rows."""
    assert (plural(1, "row"), plural(1200, "row")) == ("1 row", "1,200 rows")
