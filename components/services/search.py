"""Searches chains of passes for models that are small, fast and still the same: `optimize: {search: {...}}`.

Every trial is made through the store, so equal beginnings of chains are made once, by whoever comes first. A trial
whose size is outside the budget, or that a finished trial already beats in size and quality, is pruned before the
costly measurements. Its speed is not known then: what is larger and worse than another one is not wanted for it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, write_json
from components.core.component import Component
from components.core.errors import PostmillError, TrainingInterrupted
from components.core.events import StageSkipped, TrialFinished
from components.core.kinds import service
from components.core.machine import human_bytes
from components.core.recipe import Spec
from components.core.search import SEARCH, TRIAL, Search, parsed_chain
from components.core.secret import masked
from components.interfaces import Subject
from components.services.benchmarking import BenchmarkService, scoreboard
from components.services.elsewhere.turns import Turns, timed
from components.services.optimization import OptimizationService
from components.services.report.pareto import front_page, front_picture, lead
from components.services.trials import Study, Trial, front, outside, show, winners
from components.services.workspace import Workspace

log = logging.getLogger(__name__)
CLEARLY = 1.05
"""A trial is beaten when one figure is so many times worse, and none is better: less may be rounding."""
REPORT = "search.json"
PAGES = (REPORT, "pareto.png", "pareto.html")


class _Report(Component):
    """Gives the stage its identity."""

    libraries = ("matplotlib", "plotly")


@service("search")
class SearchService:
    """Tries chains, gives up early on those that lead nowhere, and reports what was found."""

    def __init__(self, workspace: Workspace, passes: OptimizationService, benchmarks: BenchmarkService) -> None:
        self.workspace, self.passes, self.benchmarks = workspace, passes, benchmarks
        self._turns = Turns()

    def study(self, search: Search, seed: int) -> Study:
        """Where the chains come from."""
        return Study(search, seed)

    def run(
        self,
        search: Search,
        trial: Trial,
        subjects: Sequence[Subject],
        dataset: Artifact,
        seed: int,
        finished: Sequence[Trial] = (),
    ) -> Trial:
        """Make and measure one trial. A chain that fails is a failed trial, and the search goes on.

        `subjects`: what is optimized stands last; a benchmark may compare with any of them. `finished`: those that
        may beat it.
        """
        begun = self.begin(search, trial, subjects, dataset, seed, finished)
        return self.finish(search, begun, subjects, dataset, seed)

    def begin(
        self,
        search: Search,
        trial: Trial,
        subjects: Sequence[Subject],
        dataset: Artifact,
        seed: int,
        finished: Sequence[Trial] = (),
    ) -> Trial:
        """The part of `run` that may be done beside other work: all but the measurements of time. The trial waits for
        them, unless it has ended."""
        with _failing(trial) as kept:
            made = kept[0] = self._made(search, trial, subjects, dataset, seed)
            reason = self._hopeless(search, made, finished)
            if reason:
                return made.ended("pruned", reason)
            figures = dict(made.figures)
            for spec in search.measure:
                figures |= {} if timed(spec) else self._measured(spec, made, subjects, dataset, seed)
            return made.model_copy(update={"figures": figures})
        return kept[0]

    def finish(self, search: Search, trial: Trial, subjects: Sequence[Subject], dataset: Artifact, seed: int) -> Trial:
        """The rest of `run`; a trial that has ended stays as it is."""
        if trial.state != "waiting":
            return trial
        with _failing(trial) as kept:
            figures = dict(trial.figures)
            for spec in search.measure:
                figures |= self._measured(spec, trial, subjects, dataset, seed) if timed(spec) else {}
            over = outside(figures, search)
            return trial.ended("finished", f"outside the budget: {'; '.join(over)}" if over else "", figures=figures)
        return kept[0]

    def tell(self, trial: Trial) -> None:
        """Say on the bus what became of a trial."""
        artifact = f"{trial.artifact.stage}/{trial.artifact.key}" if trial.artifact else ""
        told = trial.model_dump(include={"number", "state", "reason", "chain"})
        self.workspace.bus.emit(TrialFinished(**told, figures=trial.figures, artifact=artifact))

    def report(self, search: Search, trials: Sequence[Trial], source: Artifact) -> Artifact:
        """Table, picture and page of all trials, as an artifact; `read_search` opens the table."""
        found = summary(search, trials)
        if not found["winners"]:
            self.workspace.bus.emit(StageSkipped(stage="optimize", name=SEARCH, reason=_nothing(search, trials)))

        def make(out: Path) -> Mapping[str, Any]:
            write_json(out / REPORT, found)
            front_picture(found, out / PAGES[1])
            front_page(found, out / PAGES[2])
            return {"trials": len(trials), "winners": found["winners"]}

        return self.workspace.stage(SEARCH, "report", _Report, found, {"source": source}, "search", make)

    # ------------------------------------------------------------ one trial

    def _made(self, search: Search, trial: Trial, subjects: Sequence[Subject], dataset: Artifact, seed: int) -> Trial:
        """The trial with its artifact, its size, and its quality on few rows."""
        chain = parsed_chain(trial.chain)
        with self._turns.taken(any(spec.component.alone for spec in chain)):
            artifact = self.passes.variant(f"trial {trial.number}", chain, subjects[-1].artifact, seed, dataset)
        made = trial.model_copy(update={"artifact": artifact, "figures": {"bytes": float(artifact.size)}})
        if search.quick is None or outside(made.figures, search):
            return made
        return made.model_copy(update={"quick": self._measured(search.quick, made, subjects, dataset, seed)})

    def _measured(
        self, spec: Spec, trial: Trial, subjects: Sequence[Subject], dataset: Artifact, seed: int
    ) -> dict[str, float]:
        assert trial.artifact is not None
        subject = Subject(name=TRIAL, artifact=trial.artifact, parents=self.passes.parents(trial.artifact))
        with_what = [other for other in subjects if other.name == getattr(spec.config, "reference", None)]
        # other rows than those that the gate decides on, as far as there are more: winners are chosen by these
        rows = seed + 1
        with self._turns.taken(spec.component.depends_on_machine):
            found = self.benchmarks.run(spec, [*with_what, subject], dataset, rows)
        return scoreboard(found).metrics(TRIAL)

    def _hopeless(self, search: Search, trial: Trial, finished: Sequence[Trial]) -> str:
        over = outside(trial.figures, search)
        if over:
            return f"outside the budget: {'; '.join(over)}"
        better = next((other for other in finished if _beaten(trial, other, search)), None)
        if better is None:
            return ""
        known = _known(trial, search)
        told = [
            f"{name} {show(name, value, search)} against {show(name, _known(better, search)[name], search)}"
            for name, value in known.items()
        ]
        return f"dominated by trial {better.number}: {', '.join(told)}"


@contextmanager
def _failing(trial: Trial) -> Iterator[list[Trial]]:
    """The trial as far as it came, in a list; an error in the block ends it as failed."""
    kept = [trial]
    try:
        yield kept
    except TrainingInterrupted:
        raise
    except Exception as error:
        log.info("trial %d failed", trial.number, exc_info=error)
        kept[0] = kept[0].ended("failed", masked(f"{type(error).__name__}: {error}"))


def _known(trial: Trial, search: Search) -> dict[str, float]:
    """The objectives that are known before the costly measurements, on the same rows for every trial."""
    found = {"bytes": float(trial.artifact.size) if trial.artifact else 0.0, **trial.quick}
    return {name: found[name] for name in search.objectives if name in found}


def _beaten(trial: Trial, other: Trial, search: Search) -> bool:
    """Whether the other one is at least as good in all that is known of this one, and clearly better in something."""
    mine, theirs = _known(trial, search), _known(other, search)
    if other.state != "finished" or len(mine) < 2 or mine.keys() != theirs.keys():
        return False
    lower = {name: search.metrics()[name].better == "lower" for name in mine}
    worse = [mine[n] / max(theirs[n], 1e-12) if lower[n] else theirs[n] / max(mine[n], 1e-12) for n in mine]
    return min(worse) >= 1 and max(worse) >= CLEARLY


def _nothing(search: Search, trials: Sequence[Trial]) -> str:
    """Why there is no winner. If nothing could even be made, that is an error."""
    if trials and all(trial.state == "failed" for trial in trials):
        raise PostmillError(f"every trial of the search failed; the first one: {trials[0].reason}")
    states = ", ".join(f"trial {trial.number}: {trial.reason or trial.state}" for trial in trials[:4])
    return f"none of {len(trials)} trials is within the budget ({states}); allow more, or widen the space"


def summary(search: Search, trials: Sequence[Trial]) -> dict[str, Any]:
    """Everything about a search as plain data."""
    best, chosen = front(trials, search), winners(trials, search)
    metrics = search.metrics()
    return {
        "objectives": [
            {"name": name, "title": metrics[name].title, "unit": metrics[name].unit, "better": metrics[name].better}
            for name in search.objectives
        ],
        "budget": search.budget,
        "sampler": search.sampler.type,
        "front": [trial.number for trial in best],
        "winners": {variant_name(trial): trial.number for trial in chosen},
        "trials": [{**trial.model_dump(mode="json", exclude={"artifact"}), "passes": trial.passes} for trial in trials],
    }


def variant_name(trial: Trial) -> str:
    """How a winner is called when it is benchmarked and judged."""
    return f"{SEARCH}-{trial.number}"


def variants(search: Search, trials: Sequence[Trial]) -> dict[str, Artifact]:
    """The winners by name."""
    return {variant_name(trial): trial.artifact for trial in winners(trials, search) if trial.artifact is not None}


def add_search(folder: Path, report: Artifact) -> None:
    """Put the report of a search into the evidence of its run."""
    for name in PAGES:
        shutil.copyfile(report.path / name, folder / name)
    with (folder / "report.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{search_markdown(read_search(report))}")


def search_markdown(found: Mapping[str, Any]) -> str:
    """The table of all trials as Markdown."""
    titles = [objective["title"] for objective in found["objectives"]]
    rows = [["trial", "passes", *titles, "what became of it"], ["---"] * (len(titles) + 3)]
    rows += [[cells[0], f"`{cells[1]}`", *cells[2:]] for cells in search_cells(found)]
    lines = ["## search", "", "![Pareto front](pareto.png)", "", lead(found), ""]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)]) + "\n"


def search_cells(found: Mapping[str, Any]) -> list[list[str]]:
    """A row a trial: its number, its passes, the objectives as far as known, and what became of it."""
    names = {number: name for name, number in found["winners"].items()}
    rows = []
    for trial in found["trials"]:
        known, number = {**trial["quick"], **trial["figures"]}, trial["number"]
        word = names.get(number) or ("on the front" if number in found["front"] else trial["state"])
        fate = f"{word}: {trial['reason']}" if trial["reason"] else word
        rows.append([str(number), trial["passes"], *(_cell(each, known) for each in found["objectives"]), fate])
    return rows


def _cell(objective: Mapping[str, Any], known: Mapping[str, float]) -> str:
    value = known.get(objective["name"])
    if value is None:
        return "-"
    return human_bytes(value) if objective["unit"] == "bytes" else f"{value:.4g}"


def read_search(artifact: Artifact) -> dict[str, Any]:
    """The table that a report holds."""
    found: dict[str, Any] = artifact.read_json(REPORT)
    return found
