"""What a person sees of training: the live line with losses, pace and memory, and what happens in between.

`TrainingDisplay(console, update).handlers()` is what `flows.display.Display` listens with; `update` changes the line of
the training step that runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from components.core.events import (
    CheckpointLoaded,
    CheckpointSaved,
    Event,
    SampleGenerated,
    SpeedChosen,
    TrainingAdapted,
    TrainingEvaluated,
    TrainingStarted,
    TrainStep,
)
from components.core.machine import human_bytes

BARS = "▁▂▃▄▅▆▇█"
SPARKS = 16
"""Losses in the sparkline."""
WINDOW = 50
"""Steps that the pace is measured on: it follows when training gets slower or faster."""
AROUND = 36
"""Columns of a live line that its name, spinner and clock take."""
EVERY = 10
"""Steps from one line to the next where lines cannot be live."""


def sparkline(values: Iterable[float]) -> str:
    """`[3.0, 2.0, 1.0]` -> `█▅▁`: each value between the smallest and the largest; a dot where it is not a number."""
    shown = list(values)
    real = [value for value in shown if abs(value) < float("inf")]
    low, high = min(real, default=0.0), max(real, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] if abs(value) < float("inf") else "·" for value in shown)


def duration(seconds: float) -> str:
    """`48` -> `0:48`, `3723` -> `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def words(choice: Mapping[str, Any]) -> str:
    """`{"micro_batch": 2, "compile": False}` -> `micro batch 2, compile off`; what was not chosen is left out."""
    return ", ".join(f"{name.replace('_', ' ')} {_word(v)}" for name, v in choice.items() if v is not None)


def _word(value: Any) -> str:
    if value is None:
        return "-"
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def bar_width(console: Console) -> int:
    """Columns of a bar: none on a narrow terminal, where the figures need the room."""
    return min(max((console.width - 104) // 2, 0), 24)


@dataclass
class Pace:
    """Seconds that are left, from the steps seen in this process; after a resume the first one is not step 1."""

    seen: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, step: int, at: float) -> None:
        """A step ended at this time (seconds since the epoch)."""
        if self.seen and step <= self.seen[-1][0]:
            self.seen.clear()
        self.seen.append((step, at))

    def left(self, total: int) -> float | None:
        """Seconds until the last step; None until two steps were seen."""
        (first, since), (last, until) = self.seen[0], self.seen[-1]
        return (until - since) / (last - first) * (total - last) if last > first else None


class TrainingDisplay:
    """Training on a console: one line that is live on a terminal, and in a log comes every ten steps."""

    def __init__(self, console: Console, update: Callable[..., None]) -> None:
        self.console, self.update = console, update
        self._begin()

    def handlers(self) -> dict[type[Event], Callable[[Any], None]]:
        """What to call for which event."""
        return {
            TrainingStarted: lambda _: self._begin(),
            TrainStep: self._on_step,
            CheckpointSaved: self._on_saved,
            CheckpointLoaded: self._on_loaded,
            SpeedChosen: self._on_speed,
            TrainingAdapted: self._on_adapted,
            TrainingEvaluated: self._on_evaluated,
            SampleGenerated: self._on_sample,
        }

    def _begin(self) -> None:
        self.pace, self.losses, self.saved = Pace(), deque[float](maxlen=SPARKS), ""
        self._figures: dict[str, str] = {}

    def _on_step(self, event: TrainStep) -> None:
        self.pace.add(event.step, event.time)
        self.losses.append(event.loss)
        self._figures = self._told(event)
        self._refresh(total=event.total, completed=event.step)
        if not self.console.is_terminal and (event.step % EVERY == 0 or event.step == event.total):
            self._say("train: " + "  ".join([*self._figures.values(), *filter(None, [self.saved])]))
            self.saved = ""  # said once

    def _told(self, event: TrainStep) -> dict[str, str]:
        left, memory = self.pace.left(event.total), event.figures.get("memory")
        figures = {
            "step": f"step {event.step}/{event.total}",
            "loss": f"loss {event.loss:.3f}",
            "tokens": f"{event.tokens_per_s:,.0f} tokens/s" if event.tokens_per_s else "",
            "left": f"ETA {duration(left)}" if left is not None and event.step < event.total else "",
            "memory": human_bytes(memory) if memory else "",
        }
        return {name: text for name, text in figures.items() if text}

    def _refresh(self, **fields: Any) -> None:
        """Put into the live line what fits the terminal, the most wanted first; in order it reads left to right."""
        sparks = "" if self.console.options.ascii_only or len(self.losses) < 2 else sparkline(self.losses)
        shown = {"sparks": sparks, **self._figures, "saved": self.saved}
        room = self.console.width - AROUND - bar_width(self.console)
        fitting = set()
        for name in ("step", "loss", "left", "tokens", "memory", "sparks", "saved"):
            needed = len(shown.get(name, "")) + 2
            if 2 < needed <= room + 2:
                fitting.add(name)
                room -= needed
        styles = {"sparks": "cyan", "saved": "dim"}
        texts = [f"[{styles.get(name, 'default')}]{text}[/]" for name, text in shown.items() if name in fitting]
        self.update(note="  ".join(texts), **fields)

    def _on_saved(self, event: CheckpointSaved) -> None:
        self.saved = f"saved at {event.step}"
        self._refresh()

    def _on_loaded(self, event: CheckpointLoaded) -> None:
        self.pace = Pace()
        self._say(f"train: goes on from step {event.step}")

    def _on_speed(self, event: SpeedChosen) -> None:
        self._say(f"train: speed: {words(event.choice)}")
        if event.tried:
            self.console.print(Padding(levers(event.tried), (0, 0, 0, 4), expand=False))

    def _on_adapted(self, event: TrainingAdapted) -> None:
        self.pace = Pace()  # the steps that follow take another time
        self._say(f"train: memory ran out at step {event.step}; {event.action}", "yellow")

    def _on_evaluated(self, event: TrainingEvaluated) -> None:
        figures = ", ".join(f"{name.removeprefix('eval_')} {figure(v)}" for name, v in event.figures.items())
        self._say(f"train: step {event.step}: eval {figures}")

    def _on_sample(self, event: SampleGenerated) -> None:
        width = max(self.console.width - 6, 20)
        answer = [line for line in event.answer.splitlines() if line.strip()]
        lines = [f"step {event.step}: {cut(event.prompt, width - 10)}"]
        lines += [f"  {cut(line, width)}" for line in answer[:3] or ["(nothing)"]]
        if len(answer) > 3:
            lines[-1] = f"{lines[-1].removesuffix('…')}…"
        for line in lines:
            self._say(f"  {line}", "dim")

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(f"  {escape(text)}", style=style or None, highlight=False, soft_wrap=True)


def figure(value: float) -> str:
    """Three digits that count, or whole numbers from 1,000: `0.913`, `12.3`, `4,096`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cut(text: str, width: int) -> str:
    """The text in one line of at most this many characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1].rstrip()}…"


def levers(tried: Iterable[Mapping[str, Any]]) -> Table:
    """What each lever of speed gave, against the one before it."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("lever", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("tokens/s", justify="right")
    table.add_column("gain", justify="right")
    table.add_column("")
    for entry in tried:
        pace, gain = entry.get("tokens_per_s"), entry.get("gain")
        cells = [escape(str(entry.get("lever", "-"))), escape(_word(entry.get("value")))]
        cells += ["-" if pace is None else f"{pace:,.0f}", "-" if gain is None else f"×{gain:.2f}"]
        table.add_row(*cells, "[green]chosen[/]" if entry.get("chosen") else "")
    return table
