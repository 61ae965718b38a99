"""What a search remembers: its trials, which of them no other one beats, and which chain it tries next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from components.core.artifacts import Artifact
from components.core.errors import ConfigError, require
from components.core.machine import human_bytes
from components.core.search import Search
from components.core.space import Choice, Options, Point, Value, points, resolved

FRESH = 30
"""So often a sampler is asked for a chain that was not tried before; then the first such one of the space is taken."""
MOST = 10_000
"""Points of a space among which that one is looked for."""


class Trial(BaseModel):
    """One chain as it is written in the space, and what became of it.

    `quick`: figures on few rows; `figures`: on all, as far as measured.
    """

    model_config = ConfigDict(frozen=True)
    number: int
    chain: list[dict[str, Any]]
    state: Literal["waiting", "finished", "pruned", "failed"] = "waiting"
    reason: str = ""
    quick: dict[str, float] = {}
    figures: dict[str, float] = {}
    artifact: Artifact | None = None

    def ended(self, state: Literal["finished", "pruned", "failed"], reason: str = "", **known: Any) -> Trial:
        return self.model_copy(update={"state": state, "reason": reason, **known})

    @property
    def passes(self) -> str:
        """`merge_adapter > onnx(int4)`, with the options that a chain is told by."""
        return " > ".join(_brief(step) for step in self.chain)


def _brief(step: Mapping[str, Any]) -> str:
    said = [str(value) for key, value in step.items() if key != "type" and not isinstance(value, dict | list)]
    said += [f"{k}={v}" for value in step.values() if isinstance(value, dict) for k, v in value.items()]
    return f"{step['type']}({', '.join(said)})" if said else str(step["type"])


# ------------------------------------------------------------ what is better


def show(name: str, value: float, search: Search) -> str:
    """A figure with its unit."""
    metric = search.metrics()[name]
    return human_bytes(value) if metric.unit == "bytes" else f"{value:.4g} {metric.unit}".removesuffix(" share")


def loss(name: str, value: float, search: Search) -> float:
    """The figure so that less is better."""
    return value if search.metrics()[name].better == "lower" else -value


def outside(figures: Mapping[str, float], search: Search) -> list[str]:
    """Every figure that the budget does not allow."""
    return [
        f"{name} {show(name, figures[name], search)}, the budget is {show(name, limit, search)}"
        for name, limit in search.budget.items()
        if name in figures and loss(name, figures[name], search) > loss(name, limit, search)
    ]


def front(trials: Sequence[Trial], search: Search) -> list[Trial]:
    """Finished trials that no other one equals or beats in every objective."""
    finished = [trial for trial in trials if trial.state == "finished"]
    return [trial for trial in finished if not any(_beats(other, trial, search) for other in finished)]


def _beats(one: Trial, other: Trial, search: Search) -> bool:
    pairs = [
        (loss(name, one.figures[name], search), loss(name, other.figures[name], search)) for name in search.objectives
    ]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def winners(trials: Sequence[Trial], search: Search) -> list[Trial]:
    """The best of the front within the budget by the first objective, then by the second, and so on, up to `keep`."""
    left = [trial for trial in front(trials, search) if not outside(trial.figures, search)]
    chosen: list[Trial] = []
    while left and len(chosen) < search.keep:
        name = search.objectives[len(chosen) % len(search.objectives)]
        best = min(left, key=lambda trial: (loss(name, trial.figures[name], search), trial.number))
        chosen.append(best)
        left = [trial for trial in left if trial.artifact != best.artifact]  # several chains may give the same
    return chosen


# ------------------------------------------------------------ what comes next


class Study:
    """Asks the sampler for chains and tells it what became of them, through optuna."""

    def __init__(self, search: Search, seed: int) -> None:
        optuna = require("optuna", "search")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search, self._pruned = search, optuna.trial.TrialState.PRUNED
        sampler = search.sampler.build()
        metrics = search.metrics()
        ways = {"lower": "minimize", "higher": "maximize"}
        directions = [ways[metrics[name].better] for name in search.objectives]
        self._study = optuna.create_study(directions=directions, sampler=sampler.rule(seed))
        known = sampler.points(search.space_of_all)
        for point in known or ():
            self._study.enqueue_trial({_key(at): value for at, value in point.items()})
        self._left = search.trials if known is None else min(len(known), search.trials)
        self._asked: dict[int, Any] = {}
        self._seen: dict[str, Trial] = {}

    def batch(self) -> list[Trial]:
        """Chains to try now, none of them tried before; an empty list at the end."""
        found: list[Trial] = []
        while self._left > 0 and len(found) < self._search.parallel:
            trial = self._next()
            self._left = self._left - 1 if trial else 0
            found += [trial] if trial else []
        return found

    def tell(self, trial: Trial) -> None:
        """What became of a trial."""
        asked, text = self._asked.pop(trial.number)
        self._seen[text] = trial
        self._report(asked, trial)

    def _report(self, asked: Any, trial: Trial) -> None:
        if trial.state == "finished":
            self._study.tell(asked, [trial.figures[name] for name in self._search.objectives])
        else:
            self._study.tell(asked, state=self._pruned)

    def _next(self) -> Trial | None:
        for _ in range(FRESH):
            asked = self._study.ask()
            point = self._point(asked)
            known = self._seen.get(self._text(point))
            if known is None:
                return self._begun(asked, point)
            self._report(asked, known)
        fresh = next((point for point in self._rest() if self._text(point) not in self._seen), None)
        if fresh is None:
            return None
        self._study.enqueue_trial({_key(at): value for at, value in fresh.items()})
        asked = self._study.ask()
        return self._begun(asked, self._point(asked))

    def _begun(self, asked: Any, point: Point) -> Trial:
        trial, text = Trial(number=len(self._seen), chain=self._search.plain(point)), self._text(point)
        self._seen[text], self._asked[trial.number] = trial, (asked, text)
        return trial

    def _text(self, point: Point) -> str:
        """What makes two chains the same: their passes, defaults filled in."""
        return json.dumps([spec.dump() for spec in self._search.chain(point)], sort_keys=True)

    def _rest(self) -> Iterator[Point]:
        """The points of a space in which ranges have steps; of any other there is always another point to draw."""
        with suppress(ConfigError):
            yield from islice(points(self._search.space_of_all), MOST)

    def _point(self, asked: Any) -> Point:
        point: Point = {}

        def choose(at: str, choice: Choice) -> Value:
            point[at] = _suggested(asked, _key(at), choice)
            return point[at]

        resolved(self._search.space_of_all, choose)
        return point


def _key(at: str) -> str:
    return at or "chain"


def _suggested(asked: Any, name: str, choice: Choice) -> Value:
    value: Value
    if isinstance(choice, Options):
        value = asked.suggest_categorical(name, list(range(len(choice.options))))
    elif choice.whole:
        value = asked.suggest_int(name, choice.low, choice.high, step=choice.step or 1, log=choice.log)
    else:
        value = asked.suggest_float(name, choice.low, choice.high, step=choice.step, log=choice.log)
    return value
