"""How often the gates are wrong: resamples of models that are alike, and of one that is worse by a known amount.

    python -m benchmarks._lifecycle_gates                                  # simulated answers
    python -m benchmarks._lifecycle_gates --rows reports/triage/rows.jsonl # and answers of a run
    python -m benchmarks._lifecycle_gates --table                          # how many rows for which margin

Simulated: each row is as hard as it is (a beta distribution), and models that are alike answer it rightly with the same
chance, each by its own luck. At 88 % right two of them differ on about 8 % of the rows, between what an export (2 %)
and a healed pruned model (15 %) did in runs of the quickstart. Of a run: the two subjects that are about as good and
differ most; rows are drawn with replacement, and which of the two gave which answer is drawn too, so they are alike. A
worse model has some of its right answers taken away.

All verdicts come from the gates' own `judge`, and from the `decide` of the service where several variants are judged.
Of right and wrong answers only the counts matter, so each count is judged once; what has to be judged every time gets
a tenth of the resamples.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks._parts import Measured
from benchmarks.report import Figure
from components.core.kinds import registry
from components.core.paired_tests import detectable, rows_for
from components.core.spec import Spec
from components.interfaces import Measurement, Scoreboard
from components.services.judging import decide

Rows = NDArray[np.float64]
"""Shape (rows, models): 1 where a model is right, or its loss."""

ROWS, RESAMPLES, SEED = 300, 4000, 17
RIGHT, ALIKE = 0.88, 0.6
"""Of simulated answers: the share of right ones, and the correlation of two models' answers to a row."""
MARGIN, LOSS, VARIANTS = 0.05, 0.10, 5
SIZES = (50, 100, 200, 300, 500, 1000)


@dataclass(frozen=True)
class Source:
    """Where answers come from: `draw(random, rows, models)`, of models that are alike."""

    title: str
    right: float
    draw: Callable[[np.random.Generator, int, int], Rows]

    def pair(self, random: np.random.Generator, rows: int, loss: float = 0.0) -> Rows:
        """The answers of a variant, which has lost so many of all answers on average, and of another model."""
        answers = self.draw(random, rows, 2)
        answers[:, 0] *= random.random(rows) >= loss / self.right
        return answers


def simulated() -> Source:
    """Models that know each row equally well."""
    known = 1 / ALIKE - 1

    def draw(random: np.random.Generator, rows: int, models: int) -> Rows:
        chance = random.beta(RIGHT * known, (1 - RIGHT) * known, (rows, 1))
        return (random.random((rows, models)) < chance).astype(float)

    return Source("simulated", RIGHT, draw)


def of_run(file: Path) -> Source:
    """Two subjects of a run."""
    found: dict[str, dict[str, float]] = {}
    for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        if "exact_match" in row and row["subject"] != "base":
            found.setdefault(row["subject"], {})[row["id"]] = row["exact_match"]
    pairs = [pair for pair in combinations(found, 2) if found[pair[0]].keys() == found[pair[1]].keys()]
    both = {pair: np.array([[found[name][row] for name in pair] for row in found[pair[0]]], float) for pair in pairs}
    close = {pair: rows for pair, rows in both.items() if abs(np.subtract(*rows.mean(axis=0))) < 0.02}
    if not close:
        sys.exit(f"'{file}': no two subjects besides base have exact_match on the same rows and are about as good")
    pair, answers = max(close.items(), key=lambda item: _differ(item[1]))

    def draw(random: np.random.Generator, rows: int, models: int) -> Rows:
        assert models == 2
        drawn = answers[random.integers(0, len(answers), rows)]
        return np.where(random.random((rows, 1)) < 0.5, drawn, drawn[:, ::-1])

    return Source(f"{' and '.join(pair)} of the run", float(answers.mean()), draw)


def losses(random: np.random.Generator, rows: int, worse: float = 0.0, affected: float = 1.0) -> Rows:
    """Losses in nats of a variant that is worse by so much, all of it on this share of the rows, and of another."""
    text, noise = random.gamma(4, 0.5, (rows, 1)), random.normal(0, 0.05, (rows, 2))
    noise[:, 0] += np.where(random.random(rows) < affected, random.exponential(worse / affected, rows), 0)
    return np.asarray(text + noise)


def _differ(answers: Rows) -> float:
    return float((answers[:, 0] != answers[:, 1]).mean())


# ---------------------------------------------------------------- verdicts


def board(columns: dict[str, Any], metric: str = "exact_match", benchmark: str = "exact_match") -> Scoreboard:
    """What a benchmark would have measured."""
    return Scoreboard(
        [
            Measurement(
                subject=name,
                benchmark=benchmark,
                metrics={metric: float(np.mean(values))},
                rows=[{"id": str(row), metric: float(value)} for row, value in enumerate(values)],
            )
            for name, values in columns.items()
        ]
    )


@cache
def promoted(gate: str, won: int, lost: int, same: int, **config: Any) -> bool:
    """Whether a gate lets a variant pass that alone has `won` rows right, and the other model `lost` rows."""
    mine, theirs = [1.0] * won + [0.0] * lost, [0.0] * won + [1.0] * lost
    return accepted(gate, board({"variant": mine + [1.0] * same, "base": theirs + [1.0] * same}), **config)


def passes(gate: str, answers: Rows, **config: Any) -> bool:
    """Whether a gate lets the first of two models pass."""
    gains = answers[:, 0] - answers[:, 1]
    won, lost = int((gains > 0).sum()), int((gains < 0).sum())
    return promoted(gate, won, lost, len(gains) - won - lost, **config)


def accepted(gate: str, measured: Scoreboard, **config: Any) -> bool:
    """The verdict of one gate on the subject `variant`."""
    (check,) = registry.create("gate", gate, against="base", **config).judge("variant", measured)
    return bool(check.passed)


def share(resamples: int, verdict: Callable[[np.random.Generator], bool]) -> float:
    """How often a verdict is yes."""
    random = np.random.default_rng(SEED)
    return sum(verdict(random) for _ in range(resamples)) / resamples


def any_of(variants: int, answers: Rows, **config: Any) -> bool:
    """Whether any of several variants is accepted by `paired`; the last model is the base."""
    names = [f"v{number}" for number in range(variants)]
    spec = Spec(kind="gate", type="paired", config=registry.get("gate", "paired").Config(**config))
    return bool(decide([spec], names, board(dict(zip([*names, "base"], answers.T, strict=True))), "best").accepted)


# ---------------------------------------------------------------- figures


def answers_right_or_wrong(source: Source, resamples: int) -> dict[str, Figure]:
    """Rows that are right or wrong: McNemar's test, and Tango's."""
    title, rows = source.title, f"{ROWS} rows"

    def often(times: int, gate: str, loss: float = 0.0, size: int = ROWS, **config: Any) -> float:
        return share(times, lambda random: passes(gate, source.pair(random, size, loss), **config))

    def other_way(random: np.random.Generator) -> bool:
        return passes("paired", source.pair(random, ROWS, LOSS)[:, ::-1])

    asked = f"margin {MARGIN:g}"
    figures = {
        "A/A, paired promotes": Figure(often(resamples, "paired"), "share", "<= 0.01", f"{rows}, alpha 0.01"),
        f"loss of {MARGIN:.0%}, non_inferior promotes": Figure(
            often(3 * resamples, "non_inferior", MARGIN, margin=MARGIN), "share", "<= 0.05", f"{rows}, {asked}"
        ),
        f"loss of {LOSS:.0%}, non_inferior refuses": Figure(
            1 - often(resamples, "non_inferior", LOSS, margin=MARGIN), "share", ">= 0.8", f"{rows}, {asked}"
        ),
        f"loss of {LOSS:.0%}, paired finds it": Figure(
            share(resamples, other_way), "share", ">= 0.8", f"{rows}, alpha 0.01: the other model is better"
        ),
    }
    for size in SIZES:
        smallest = detectable(_differ(source.draw(np.random.default_rng(SEED), 20_000, 2)), size, 0.05, 0.8, True)
        figures[f"alike, non_inferior promotes, {size} rows"] = Figure(
            often(resamples, "non_inferior", size=size, margin=MARGIN),
            "share",
            "",
            f"{asked}; 0.8 expected from {smallest:.3f}",
        )
    return {f"{title}: {key}": figure for key, figure in figures.items()}


def stated_power(source: Source, resamples: int) -> dict[str, Figure]:
    """Whether an effect that is said to be detectable with power 0.8 is."""
    differ = _differ(source.draw(np.random.default_rng(SEED), 20_000, 2))
    smallest, rows = detectable(differ, ROWS, 0.05, 0.8, True), rows_for(MARGIN, differ, 0.05, 0.8, True)
    return {
        f"{source.title}: detectable margin is passed": Figure(
            share(resamples, lambda random: passes("non_inferior", source.pair(random, ROWS), margin=smallest)),
            "share",
            ">= 0.75",
            f"{ROWS} rows, margin {smallest:.3f}, said to have power 0.8",
        ),
        f"{source.title}: rows said to be needed": Figure(
            share(resamples, lambda random: passes("non_inferior", source.pair(random, rows), margin=MARGIN)),
            "share",
            ">= 0.75",
            f"{rows} rows, margin {MARGIN:g}, said to have power 0.8",
        ),
    }


def several_variants(source: Source, resamples: int) -> dict[str, Figure]:
    """Variants that are no better than the base, of which any may be promoted by chance."""

    def often(correct: str) -> float:
        def verdict(random: np.random.Generator) -> bool:
            return any_of(VARIANTS, source.draw(random, ROWS, VARIANTS + 1), alpha=0.05, correct=correct)

        return share(max(resamples // 10, 20), verdict)

    title = f"A/A, any of {VARIANTS} variants promoted"
    return {
        title: Figure(often("holm"), "share", "<= 0.05", "alpha 0.05, Holm over variants"),
        f"{title}, uncorrected": Figure(often("none"), "share", "", "alpha 0.05, correct: none"),
    }


def answers_with_a_loss(resamples: int) -> dict[str, Figure]:
    """Rows with a loss: Wilcoxon's test, and the bootstrap, which is near its alpha but not below it for sure, so its
    target has room for two standard errors."""
    many, few = max(resamples // 10, 20), max(resamples // 30, 20)
    room = 0.05 + 2 * (0.05 * 0.95 / few) ** 0.5

    def often(times: int, gate: str, *made: float, **config: Any) -> float:
        def verdict(random: np.random.Generator) -> bool:
            rows = losses(random, ROWS, *made)
            measured = board({"variant": rows[:, 0], "base": rows[:, 1]}, "nll", "perplexity")
            return accepted(gate, measured, metric="nll", **config)

        return share(times, verdict)

    asked, title = f"{ROWS} rows, bootstrap, margin {MARGIN:g} nats", "loss in nats:"
    return {
        f"{title} A/A, paired promotes": Figure(
            often(many, "paired"), "share", "<= 0.01", f"{ROWS} rows, Wilcoxon, alpha 0.01"
        ),
        f"{title} worse by the margin, non_inferior promotes": Figure(
            often(few, "non_inferior", MARGIN, margin=MARGIN), "share", f"<= {room:.3f}", asked
        ),
        f"{title} the same, all on a tenth of the rows": Figure(
            often(few, "non_inferior", MARGIN, 0.1, margin=MARGIN), "share", "", asked
        ),
        f"{title} alike, non_inferior promotes": Figure(
            often(few // 4, "non_inferior", margin=MARGIN), "share", ">= 0.8", asked
        ),
    }


def calibration(resamples: int = RESAMPLES, rows: Path | None = None) -> Measured:
    """All figures, and what they were taken with. `rows`: `rows.jsonl` of a run, as a second source of answers."""
    sources = [simulated(), *([of_run(rows)] if rows else [])]
    figures: dict[str, Figure] = {}
    for source in sources:
        figures |= answers_right_or_wrong(source, resamples) | stated_power(source, resamples)
    figures |= several_variants(sources[0], resamples) | answers_with_a_loss(resamples)
    return figures, {"resamples": resamples, "rows": ROWS, "sources": [source.title for source in sources]}


def table() -> str:
    """How many rows a margin takes, as Markdown: an equal variant passes with chance 0.8 at alpha 0.05."""
    shares, margins = (0.02, 0.05, 0.1, 0.15, 0.2), (0.01, 0.02, 0.03, 0.05, 0.1)
    lines = ["| margin | " + " | ".join(f"{each:.0%} differ" for each in shares) + " |", "|---" * 6 + "|"]
    for margin in margins:
        cells = [f"{rows_for(margin, differ, 0.05, 0.8, True):,}" for differ in shares]
        lines.append(f"| {margin:.0%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help=f"of right and wrong answers ({RESAMPLES})")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="rows.jsonl in the evidence of a run")
    parser.add_argument("--table", action="store_true", help="how many rows for which margin, and nothing else")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    figures, _ = calibration(options.resamples, options.rows)
    shown = Table("figure", "value", "target", "", "beside", title="gates", title_justify="left")
    for key, figure in figures.items():
        shown.add_row(
            key, f"{figure.value:.4f}", figure.target, {True: "✓", False: "✗", None: ""}[figure.holds], figure.beside
        )
    Console(width=150).print(shown)
    sys.exit(0 if all(figure.holds is not False for figure in figures.values()) else 1)


if __name__ == "__main__":
    main()
