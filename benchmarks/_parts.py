"""Benchmarks of several parts: each can be run alone, and its figures take their place among those of earlier runs.

sys.exit(run_parts("training", {"sft": partial(sft, bench), ...}, only=options.only, about={"cores": 2}))
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, Figure, publish, write
from components.core.provenance import git_state

Measured = tuple[dict[str, Figure], dict[str, object]]
Parts = Mapping[str, Callable[[], Measured]]
Figures = dict[str, dict[str, Figure]]


def run_parts(name: str, parts: Parts, only: Iterable[str], about: Mapping[str, object]) -> int:
    """Run these parts and publish everything; the exit status: 0 if none failed and every target is met.

    `about`: stands in the notes of each part that is run. What a part found is in the file as soon as it is done.
    """
    figures, notes = _earlier(name, parts)
    state, failed = git_state(Path.cwd()), []  # of the code: what is written from here on are its results
    for part in only:
        try:
            figures[part], notes[part] = _measured(parts[part], {**state, **about})
        except Exception:  # whatever it is: what other parts measure would be lost with it
            traceback.print_exc()
            failed.append(part)
        else:
            write(name, _in_order(parts, figures), notes, state)
    holds = publish(name, _in_order(parts, figures), notes, state)
    if failed:
        print(f"failed, and left as they were: {', '.join(failed)}")
    return 0 if holds and not failed else 1


def _measured(part: Callable[[], Measured], about: Mapping[str, object]) -> tuple[dict[str, Figure], dict[str, Any]]:
    """A part's figures, and its notes with their names and what they were taken with."""
    started = time.perf_counter()
    figures, notes = part()
    spent, date = round(time.perf_counter() - started), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return figures, {"figures": list(figures), "date": date, "seconds": spent, **about, **notes}


def _in_order(parts: Parts, figures: Figures) -> dict[str, Figure]:
    return {key: figure for part in parts if part in figures for key, figure in figures[part].items()}


def _earlier(name: str, parts: Parts) -> tuple[Figures, dict[str, Any]]:
    """Figures by part and notes by part, as an earlier run left them."""
    try:
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, {}
    notes = {part: note for part, note in found["notes"].items() if part in parts}
    figures = {key: Figure(**{k: v for k, v in f.items() if k != "holds"}) for key, f in found["figures"].items()}
    return {part: {key: figures[key] for key in note["figures"]} for part, note in notes.items()}, notes
