"""How every benchmark reports: a table on the terminal, and `benchmarks/results/NAME.json` to commit."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from components.core.machine import machine
from components.core.provenance import git_state

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """A measured value and the target it is held against, e.g. `"<= 360"`."""

    value: float
    unit: str
    target: str
    beside: str = ""
    """A number of somebody else's to read it against."""

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if not self.target:
            return None
        sign, limit = self.target.split()
        return self.value <= float(limit) if sign == "<=" else self.value >= float(limit)


def publish(
    name: str, figures: dict[str, Figure], notes: dict[str, object], state: dict[str, object] | None = None
) -> bool:
    """Print the table and write the file; True if every target is met. `state`: of the code, else as it is."""
    table = Table(title=f"bench-{name}", title_justify="left")
    for column in ("figure", "value", "unit", "target", "", "beside"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for key, figure in figures.items():
        mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}[figure.holds]
        table.add_row(key, f"{figure.value:,.4g}", figure.unit, figure.target, mark, figure.beside)
    Console(width=110).print(table)
    write(name, figures, notes, state or git_state(Path.cwd()))
    return all(figure.holds is not False for figure in figures.values())


def write(name: str, figures: dict[str, Figure], notes: dict[str, object], state: dict[str, object]) -> None:
    """Write the file that is committed."""
    result = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": asdict(machine()),
        **state,
        "figures": {key: {**asdict(figure), "holds": figure.holds} for key, figure in figures.items()},
        "notes": notes,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
