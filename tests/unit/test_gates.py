"""The gates: what is accepted, what is not, and what the reasons say."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import _lifecycle_gates
from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.recipe import load_recipe, parse_recipe
from components.interfaces import Measurement, Metric, Scoreboard
from tests.conftest import ROOT

GUIDE = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")


def board(**scores: Sequence[int]) -> Scoreboard:
    """A scoreboard with one score a row for each subject."""
    return Scoreboard(
        [
            Measurement(
                subject=name,
                benchmark="exact_match",
                metrics={"exact_match": sum(values) / len(values)},
                rows=[{"id": f"r{i}", "exact_match": value} for i, value in enumerate(values)],
            )
            for name, values in scores.items()
        ]
    )


def figures(**metrics: float) -> Scoreboard:
    """A scoreboard with figures of one variant."""
    return Scoreboard([Measurement(subject="int4", benchmark="latency", metrics=metrics)])


def judge(gate: str, on: Scoreboard, **config: Any) -> Any:
    """The first check of a gate on the variant int4."""
    return registry.create("gate", gate, **config).judge("int4", on)[0]


def mcnemar(won: int, lost: int) -> float:
    """The exact one-sided test written out: the chance of so many wins if both were equally good."""
    n = won + lost
    return sum(math.comb(n, k) for k in range(won, n + 1)) / 2**n


@pytest.mark.parametrize(
    ("won", "lost", "same"), [(8, 0, 2), (7, 1, 12), (5, 5, 0), (1, 0, 0), (0, 4, 1), (40, 12, 48)]
)
def test_paired_is_mcnemars_exact_test(won: int, lost: int, same: int) -> None:
    """p is that of the exact binomial test on the rows that differ (F5)."""
    base = [0] * won + [1] * lost + [1] * same
    mine = [1] * won + [0] * lost + [1] * same
    check = judge("paired", board(base=base, int4=mine))
    assert check.figures["p"] == pytest.approx(mcnemar(won, lost), rel=1e-9)
    assert check.figures["gain"] == pytest.approx((won - lost) / (won + lost + same))
    assert check.passed == (mcnemar(won, lost) < 0.01)
    assert (check.figures["won"], check.figures["lost"]) == (won, lost)


def test_paired_known_value() -> None:
    """Eight wins and no loss: p = 1/256."""
    check = judge("paired", board(base=[0] * 8, int4=[1] * 8))
    assert (check.figures["p"], check.passed) == (1 / 256, True)


def test_paired_needs_the_gain() -> None:
    """A significant but small gain does not pass a larger `min_gain`; exactly the gain does."""
    on = board(base=[0] * 10 + [1] * 90, int4=[1] * 100)
    assert judge("paired", on, min_gain=0.1).passed
    assert not judge("paired", on, min_gain=0.11).passed


def test_paired_no_difference() -> None:
    """If both answer every row alike nothing is proven."""
    check = judge("paired", board(base=[1, 1], int4=[1, 1]))
    assert (check.figures["p"], check.passed) == (1.0, False)


def test_paired_no_common_rows() -> None:
    """Without a row that both answered the gate fails and says so."""
    check = judge("paired", board(base=[1, 0]))
    assert not check.passed
    assert "no row of exact_match was answered by both int4 and base" in check.summary


@pytest.mark.parametrize("gate", ["paired", "non_inferior"])
def test_rows_that_only_one_answered(gate: str) -> None:
    """Where the rows are not the same the gate fails and names one: the missing ones may be the hard ones (F5)."""
    check = judge(gate, board(base=[0] * 20, int4=[1] * 29), against="base")
    assert not check.passed
    assert check.summary.startswith("only 20 of 29 rows of exact_match were answered by both int4 and base (not 'r20')")


def losses(metric: str = "nll", **values: Sequence[float]) -> Scoreboard:
    """A scoreboard with a figure a row, of the benchmark that measures it."""
    benchmark = "perplexity" if metric == "nll" else "exact_match"
    return Scoreboard(
        [
            Measurement(
                subject=name,
                benchmark=benchmark,
                metrics={metric: sum(found) / len(found)},
                rows=[{"id": f"r{i}", metric: value} for i, value in enumerate(found)],
            )
            for name, found in values.items()
        ]
    )


def drawn(seed: int, shift: float = 0.0, rows: int = 60) -> list[float]:
    """Losses of rows around 2 nats, with noise."""
    source = random.Random(seed)
    return [2.0 + shift + source.gauss(0, 0.3) for _ in range(rows)]


@pytest.mark.parametrize("seed", range(5))
def test_paired_on_losses_without_a_gain(seed: int) -> None:
    """Two draws of the same losses do not pass, nor does the same model against itself (F5)."""
    assert not judge("paired", losses(base=drawn(seed), int4=drawn(seed + 100)), metric="nll").passed
    same = judge("paired", losses(base=drawn(seed), int4=drawn(seed)), metric="nll")
    assert (same.passed, same.figures["p"], same.figures["gain"]) == (False, 1.0, 0.0)


def test_paired_rewards_the_lower_loss() -> None:
    """Of a metric of which less is better the variant with less passes, and the one with more does not (F5)."""
    better = judge("paired", losses(base=drawn(1), int4=drawn(2, -0.5)), metric="nll")
    assert (better.passed, better.figures["test"]) == (True, "Wilcoxon")
    assert better.figures["gain"] == pytest.approx(0.5, abs=0.15)
    assert better.summary.startswith("nll less by +0.")
    assert "nats against base on 60 rows" in better.summary
    assert not judge("paired", losses(base=drawn(1), int4=drawn(2, 0.5)), metric="nll").passed
    assert not judge("paired", losses(base=drawn(1), int4=drawn(2, -0.5)), metric="nll", min_gain=0.9).passed


def test_paired_is_wilcoxons_test() -> None:
    """p is that of the signed-rank test: six gains of different size and no loss, 1/64."""
    on = losses("field_accuracy", base=[0.1] * 6, int4=[0.2, 0.3, 0.4, 0.5, 0.6, 0.75])
    check = judge("paired", on, metric="field_accuracy")
    assert check.figures["p"] == pytest.approx(1 / 64)
    assert "field_accuracy +35.8%" in check.summary


def pair(won: int = 0, lost: int = 0, same: int = 0, against: str = "base") -> Scoreboard:
    """Right and wrong rows: those that only the variant has right, only the other, and both."""
    theirs, mine = [0] * won + [1] * (lost + same), [1] * won + [0] * lost + [1] * same
    return board(**{against: theirs, "int4": mine})


@pytest.mark.parametrize("test", ["mcnemar", "wilcoxon", "bootstrap", "permutation"])
@pytest.mark.parametrize(("won", "lost", "passed"), [(40, 5, True), (22, 20, False), (5, 40, False), (0, 0, False)])
def test_paired_tests_agree(test: str, won: int, lost: int, passed: bool) -> None:
    """Whichever test is chosen, a clear gain passes, and none, a loss or chance does not (F5, C66)."""
    check = judge("paired", pair(won, lost, 120), test=test)
    assert check.passed == passed
    assert f"{check.figures['test']} p=" in check.summary


def test_paired_default_is_unchanged() -> None:
    """Without `test` the test is McNemar's or Wilcoxon's, as its rows ask for."""
    assert judge("paired", pair(8, 1, 9)).figures["test"] == "McNemar"
    assert judge("paired", losses(base=drawn(1), int4=drawn(2)), metric="nll").figures["test"] == "Wilcoxon"


def test_mcnemar_needs_right_or_wrong() -> None:
    """McNemar's test asked for on shares fails, and says what to ask for instead."""
    on = losses("field_accuracy", base=[0.1] * 9, int4=[0.5] * 9)
    check = judge("paired", on, metric="field_accuracy", test="mcnemar")
    assert not check.passed
    assert "field_accuracy has others; take test: wilcoxon" in check.summary


@pytest.mark.parametrize("gate", ["paired", "non_inferior"])
def test_the_check_says_how_sure_it_is(gate: str) -> None:
    """Rows, interval and minimum detectable effect stand in the summary and in the figures (F5)."""
    check = judge(gate, pair(30, 10, 260), against="base")
    found = check.figures
    assert found["rows"] == 300
    assert found["low"] < found["gain"] < found["high"]
    assert 0 < found["detectable"] < 0.1
    level = {"paired": "98%", "non_inferior": "90%"}[gate]
    assert f"{level} interval {found['low']:+.1%} to {found['high']:+.1%}" in check.summary
    assert f"detects {found['detectable']:.1%} (power 0.8)" in check.summary


# ---------------------------------------------------------------- non-inferiority


def losing(lost: int, rows: int = 300, **config: Any) -> Any:
    """The check of a variant that has so many rows wrong that the other has right."""
    return judge("non_inferior", pair(0, lost, rows - lost), against="base", **config)


def test_non_inferior_at_the_margin() -> None:
    """A loss well below the margin passes, one at the margin does not, nor one above (F5)."""
    assert [losing(lost, margin=0.05).passed for lost in (0, 5, 15, 30)] == [True, True, False, False]


def test_non_inferior_decides_by_the_interval() -> None:
    """It passes exactly where the lower end of the interval is above the margin."""
    for lost in range(16):
        check = losing(lost, margin=0.05)
        assert check.passed == (check.figures["low"] > -0.05)


def test_no_difference_found_is_no_proof() -> None:
    """With too few rows an equal variant fails, and the check says how many rows the margin takes (F5)."""
    check = losing(0, rows=20, margin=0.05)
    assert not check.passed
    assert "too few rows: about 137 are needed for an equal variant to pass a margin of 5.0%" in check.summary
    assert check.figures["rows_needed"] == 137


@pytest.mark.parametrize(("gate", "least"), [("paired", 7), ("non_inferior", 5)])
def test_a_gate_that_nothing_can_pass_says_so(gate: str, least: int) -> None:
    """Below the rows that alpha takes even a variant that wins them all fails, and is told why; with them it passes."""
    check = (
        judge(gate, pair(least - 1), against="base", margin=0.3) if gate != "paired" else judge(gate, pair(least - 1))
    )
    assert not check.passed
    assert f"with {least - 1} rows nothing can pass, {least} are the least" in check.summary
    assert judge(gate, pair(least), against="base").passed


def test_a_loss_is_not_blamed_on_the_rows() -> None:
    """A variant that is worse by more than the margin is not told to get more rows."""
    assert "too few rows" not in losing(60, margin=0.05).summary


def test_before_the_first_champion() -> None:
    """Where the registry has no champion the gate passes and says so, if the variant itself was measured (F5)."""
    assert judge("non_inferior", board(int4=[1, 0, 1])).passed
    assert "there is no champion yet" in judge("non_inferior", board(int4=[1, 0, 1])).summary
    assert not judge("non_inferior", board(base=[1, 0, 1])).passed


def test_a_champion_without_rows_is_not_passed_over() -> None:
    """A champion that is there and was not measured on the metric fails the gate; it is not taken for none (F5)."""
    there = Measurement(subject="champion", benchmark="latency", metrics={"bytes": 1.0})
    on = Scoreboard([*board(int4=[1] * 99).measurements, there])
    assert not judge("non_inferior", on).passed


@pytest.mark.parametrize(("shift", "passed"), [(0.0, True), (-0.2, True), (0.12, False), (0.3, False)])
def test_non_inferior_on_losses(shift: float, passed: bool) -> None:
    """Of a metric of which less is better, more than the margin more fails; less passes (F5)."""
    before = drawn(1, rows=200)
    noise = random.Random(3)
    now = [value + shift + noise.gauss(0, 0.1) for value in before]
    check = judge("non_inferior", losses(base=before, int4=now), metric="nll", against="base", margin=0.1)
    assert (check.passed, check.figures["test"]) == (passed, "bootstrap")
    assert check.summary.startswith("nll less by")
    assert "nats" in check.summary


def test_shares_are_judged_like_right_and_wrong() -> None:
    """A share takes the score test too, which does not fail where hardly any row differs."""
    on = losses("field_accuracy", base=[1.0] * 300, int4=[1.0] * 298 + [0.5, 0.5])
    check = judge("non_inferior", on, metric="field_accuracy", against="base")
    assert (check.passed, check.figures["test"]) == (True, "score")


def test_what_calls_itself_a_share_and_is_none() -> None:
    """A metric described as a share whose figures leave 0 to 1 is judged like any other figure."""
    on = losses("field_accuracy", base=[5.0 + value for value in drawn(1)], int4=[5.0 + value for value in drawn(1)])
    assert judge("non_inferior", on, metric="field_accuracy", against="base").figures["test"] == "bootstrap"


def test_a_model_is_not_worse_than_itself() -> None:
    """The same losses on every row pass any margin."""
    on = losses(base=drawn(1), int4=drawn(1))
    assert judge("non_inferior", on, metric="nll", against="base", margin=0.001).passed


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"margin": 0}, "write a margin above 0.*got 0"),
        ({"margin": -0.1}, "write a margin above 0"),
        ({"margin": "5%"}, "write a margin above 0.*got '5%'"),
        ({"margin": {"exact_match": 0}}, "write a margin above 0"),
        ({"margin": {"nll": 0.1}}, "names nll, the gate's metrics are exact_match"),
        ({"margin": 5}, "exact_match lies between 0 and 1, so a loss of 5 refuses nothing; 5 points are 0.05"),
        ({"metric": []}, "write the name of a metric, or a list of them"),
        ({"metric": ["nll", "nll"]}, "name each metric once"),
        ({"metric": 3}, "write the name of a metric"),
        ({"test": "mcnemar"}, "'score' or 'bootstrap'"),
        ({"alpha": 0.7}, "less than 0.5"),
    ],
)
def test_non_inferior_refuses(config: dict[str, Any], message: str) -> None:
    """A configuration that asks for nothing sensible is refused when the recipe is read, with the remedy (F5)."""
    with pytest.raises(ConfigError, match=message):
        registry.create("gate", "non_inferior", **config)


def test_a_margin_above_what_rows_can_lose() -> None:
    """On right and wrong rows of a metric that nobody describes, a margin of 1 or more fails with the reason."""
    measured = [
        Measurement(
            subject=name, benchmark="mine", metrics={"won": 1.0}, rows=[{"id": str(i), "won": 1} for i in range(9)]
        )
        for name in ("base", "int4")
    ]
    check = judge("non_inferior", Scoreboard(measured), metric="won", against="base", margin=5)
    assert not check.passed
    assert "won lies between 0 and 1" in check.summary


# ---------------------------------------------------------------- several metrics


def both(first: int, second: int) -> Scoreboard:
    """100 rows with two metrics: the variant has so many more right of each."""
    base = [{"id": str(i), "exact_match": 0, "json_valid": 0} for i in range(100)]
    mine = [{"id": str(i), "exact_match": int(i < first), "json_valid": int(i < second)} for i in range(100)]
    return Scoreboard(
        [
            Measurement(
                subject=name, benchmark="exact_match", metrics={"exact_match": 0.0, "json_valid": 0.0}, rows=rows
            )
            for name, rows in (("base", base), ("int4", mine))
        ]
    )


METRICS = ["exact_match", "json_valid"]


def test_all_metrics_each_give_a_check() -> None:
    """With `require: all` every metric is tested at the full alpha and has its own check (F5)."""
    checks = registry.create("gate", "paired", metric=METRICS).judge("int4", both(30, 2))
    assert [(check.figures["metric"], check.passed) for check in checks] == [
        ("exact_match", True),
        ("json_valid", False),
    ]


def test_any_metric_is_corrected() -> None:
    """With `require: any` one metric is enough, but at its p corrected by Holm's method: 7 wins are p=1/128, of two
    metrics 1/64 (F5)."""
    assert judge("paired", both(7, 0), metric="exact_match").passed
    one = judge("paired", both(7, 0), metric=METRICS, require="any")
    assert (one.passed, one.p) == (False, pytest.approx(1 / 64))
    assert judge("paired", both(8, 0), metric=METRICS, require="any").passed


def test_any_keeps_the_gain_of_each_metric() -> None:
    """A metric that is significant but below its own `min_gain` does not make the gate pass."""
    gain = {"exact_match": 0.9, "json_valid": 0.0}
    assert not judge("paired", both(30, 2), metric=METRICS, require="any", min_gain=gain).passed
    assert judge("paired", both(2, 30), metric=METRICS, require="any", min_gain=gain).passed


def test_margins_by_metric() -> None:
    """Each metric has its own margin where a mapping names them."""
    config = {"metric": METRICS, "margin": {"exact_match": 0.3, "json_valid": 0.01}, "against": "base"}
    checks = registry.create("gate", "non_inferior", **config).judge("int4", both(0, 0))
    assert [check.passed for check in checks] == [True, False]


def test_one_answer_is_not_a_number() -> None:
    """A row without a number fails the gate with the row and the subject named; it is not left out (F5)."""
    values = [1.0] * 50
    on = losses(base=values, int4=[*values[:-1], math.nan])
    check = judge("non_inferior", on, metric="nll", against="base")
    assert not check.passed
    assert check.summary == "nll of int4 is no number on 1 of 50 rows ('r49')"


def test_a_metric_under_a_name_of_the_recipe() -> None:
    """A benchmark with a name of its own (`code_nll`) keeps unit and direction of its metric."""
    on = [
        Measurement(
            subject=name,
            benchmark="perplexity",
            metrics={"code_nll": 0.0},
            rows=[{"id": str(i), "code_nll": value} for i, value in enumerate(drawn(seed, shift))],
        )
        for name, seed, shift in (("base", 1, 0.0), ("int4", 2, -0.5))
    ]
    assert "code_nll less by +0." in judge("paired", Scoreboard(on), metric="code_nll").summary


@pytest.mark.parametrize(("mine", "passed"), [(97, True), (96, False), (100, True)])
def test_recovery(mine: int, passed: bool) -> None:
    """The share of the training gain that survives is compared with the minimum."""
    on = board(base=[0] * 100, trained=[1] * 100, int4=[1] * mine + [0] * (100 - mine))
    check = judge("recovery", on, min=0.97)
    assert (check.passed, check.figures["kept"]) == (passed, mine / 100)


def test_recovery_from_a_base_above_zero() -> None:
    """The base's own score is not counted as kept."""
    on = board(base=[1, 0, 0, 0], trained=[1, 1, 1, 0], int4=[1, 1, 0, 0])
    assert judge("recovery", on).figures["kept"] == pytest.approx(0.5)


@pytest.mark.parametrize("trained", [[1, 1, 0, 0], [1, 0, 0, 0]])
def test_recovery_without_a_gain(trained: list[int]) -> None:
    """If training brought nothing, or harm, the gate fails with that reason instead of dividing by zero."""
    check = judge("recovery", board(base=[1, 1, 0, 0], trained=trained, int4=[1, 1, 1, 1]))
    assert not check.passed
    assert "training brought no gain" in check.summary


def test_recovery_of_a_loss() -> None:
    """Of a metric of which less is better the gain is what went away: 3 to 1, of which 1.5 keeps three quarters."""
    on = losses(base=[3.0], trained=[1.0], int4=[1.5])
    assert judge("recovery", on, metric="nll").figures["kept"] == pytest.approx(0.75)


def test_recovery_not_measured() -> None:
    """A metric that was not measured on the variant fails the gate, like budget; it does not crash the run."""
    assert not judge("recovery", board(base=[0], trained=[1])).passed


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("120MB", 120e6),
        ("1.5 GB", 1.5e9),
        ("2KiB", 2048),
        ("1MiB", 2**20),
        ("7", 7),
        ("500 kb", 5e5),
        (300, 300),
        ("10B", 10),
    ],
)
def test_budget_units(limit: Any, value: float) -> None:
    """Limits are read with decimal and binary units, in any case."""
    config = registry.get("gate", "budget").Config.model_validate({"max": {"bytes": limit}})
    assert config.max == {"bytes": value}


@pytest.mark.parametrize(
    ("limit", "message"),
    [("5 parsec", "unknown unit 'parsec'; known: B, KB"), ("much", "number"), ("", "number"), ("1.2.3MB", "float")],
)
def test_budget_limits_that_are_none(limit: str, message: str) -> None:
    """A unit that does not exist is refused with the known ones; other text is no number."""
    with pytest.raises(ValueError, match=message):
        registry.get("gate", "budget").Config.model_validate({"max": {"bytes": limit}})


def test_budget_nan() -> None:
    """A limit that is no number is refused."""
    with pytest.raises(ValueError, match="finite"):
        registry.get("gate", "budget").Config.model_validate({"max": {"bytes": float("nan")}})


@pytest.mark.parametrize(("value", "passed"), [(99.0, True), (100.0, True), (100.1, False), (math.nan, False)])
def test_budget_upper(value: float, passed: bool) -> None:
    """A figure at the limit passes, above it or without a value it does not (C29)."""
    assert judge("budget", figures(bytes=value), max={"bytes": 100}).passed == passed


@pytest.mark.parametrize(("value", "passed"), [(20.0, True), (19.9, False), (math.nan, False)])
def test_budget_lower(value: float, passed: bool) -> None:
    """The same for a minimum (C29)."""
    assert judge("budget", figures(tokens_per_s=value), min={"tokens_per_s": 20}).passed == passed


@pytest.mark.parametrize(
    ("limit", "metric", "value"),
    [("0.2s", "ttft_ms", 200.0), ("150 ms", "ttft_ms", 150.0), ("900ms", "load_s", 0.9), ("1min", "load_s", 60.0)],
)
def test_budget_times(limit: str, metric: str, value: float) -> None:
    """A time with its unit is turned into the unit of the metric (C29)."""
    assert registry.create("gate", "budget", max={metric: limit}).config.max == {metric: pytest.approx(value)}


@pytest.mark.parametrize(
    ("metric", "unit"), [("bytes", "is in bytes"), ("tokens_per_s", "is in tokens/s"), ("x", "no b")]
)
def test_budget_times_of_what_is_no_time(metric: str, unit: str) -> None:
    """A time as the limit of something else is refused."""
    with pytest.raises(ConfigError, match=f"'2s' is a time, and {metric} .*{unit}"):
        registry.create("gate", "budget", max={metric: "2s"})


def test_budget_takes_any_figure() -> None:
    """A figure that no benchmark here describes, a cost, is limited like any other (C29)."""
    on = figures(cost_per_1k_tokens=0.0021, ttft_ms=12.0)
    assert not judge("budget", on, max={"cost_per_1k_tokens": 0.002}).passed
    assert judge("budget", on, max={"cost_per_1k_tokens": 0.0021}).passed
    assert judge("budget", on, max={"ttft_ms": 20}).summary == "ttft_ms 12 ms (at most 20 ms)"


def test_budget_without_end() -> None:
    """An infinite figure passes no limit, on either side."""
    assert not judge("budget", figures(tokens_per_s=math.inf), min={"tokens_per_s": 1}).passed


def test_budget_not_measured() -> None:
    """A limit on something that was not measured on the variant fails and says so."""
    check = judge("budget", figures(bytes=1), max={"mean_kl": 0.1})
    assert not check.passed
    assert check.summary == "mean_kl was not measured on this variant"


def test_budget_checks_each_limit() -> None:
    """Every limit gives its own check, so that all reasons are seen."""
    checks = registry.create("gate", "budget", max={"bytes": 1, "mean_kl": 1}, min={"tokens_per_s": 1}).judge(
        "int4", figures(bytes=2, mean_kl=0.5, tokens_per_s=0.5)
    )
    assert [check.passed for check in checks] == [False, True, False]


def test_the_recipe_says_which_way_is_better() -> None:
    """Of a metric that only the recipe's benchmarks describe (a task of lm-eval) the described direction counts."""
    about = Metric("task_word_perplexity", "words", "lower", "task")
    on = [
        Measurement(
            subject=name,
            benchmark="lm_eval",
            metrics={about.name: 0.0},
            rows=[{"id": str(i), about.name: value} for i, value in enumerate(drawn(seed, shift))],
        )
        for name, seed, shift in (("base", 1, 0.0), ("int4", 2, -0.5))
    ]
    check = judge("paired", Scoreboard(on, [about]), metric=about.name)
    assert check.passed
    assert "words against base" in check.summary


# ---------------------------------------------------------------- the guide, and how often the gates are wrong


@pytest.mark.parametrize("code", re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL))
def test_the_guide_is_valid(code: str) -> None:
    """Every gate of the guide fits the quickstart as it stands (A36)."""
    plain = load_recipe(ROOT / "configs" / "quickstart.yaml").dump()
    assert parse_recipe(plain | yaml.safe_load(code)).gate


def test_the_guides_table_is_computed() -> None:
    """The table of rows and margins in the guide is what the code says."""
    assert _lifecycle_gates.table() in GUIDE


def test_the_guides_verdict_is_real() -> None:
    """The verdict that the guide explains is what the gate says of 3 rows won and 4 lost of 300."""
    check = judge("non_inferior", pair(3, 4, 293, against="trained"), against="trained")
    assert check.summary in GUIDE.replace("\n  ", " ")


def test_gates_are_seldom_wrong() -> None:
    """On 1,000 resamples of models that are alike, and of one that is 10 points worse, 300 rows each: false promotions
    at most alpha, and 4 of 5 losses found (F5)."""
    found = _lifecycle_gates.answers_right_or_wrong(_lifecycle_gates.simulated(), 1000)
    assert {key: figure.value for key, figure in found.items() if figure.holds is False} == {}
    assert sum(figure.holds is True for figure in found.values()) == 4


def test_the_figures_can_fail() -> None:
    """Negative control: without its test (alpha 0.45) a gate promotes models that are alike far more often."""
    source = _lifecycle_gates.simulated()
    often = _lifecycle_gates.share(
        100, lambda random: _lifecycle_gates.passes("paired", source.pair(random, 300), alpha=0.45)
    )
    assert often > 0.2


def test_answers_of_a_run(tmp_path: Path) -> None:
    """Of the rows of a run the two subjects are taken that are about as good and differ most; base is left out."""
    scores = {"base": [0] * 40, "trained": [1] * 40, "int8": [1] * 38 + [0] * 2, "shallow": [0] * 20 + [1] * 20}
    scores["other"] = [0] * 2 + [1] * 38
    file = tmp_path / "rows.jsonl"
    lines = [
        json.dumps({"subject": name, "id": str(i), "exact_match": value})
        for name, values in scores.items()
        for i, value in enumerate(values)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    source = _lifecycle_gates.of_run(file)
    assert source.title == "int8 and other of the run"
    assert source.right == pytest.approx(0.95)
