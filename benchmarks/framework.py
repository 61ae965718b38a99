"""What the framework itself costs: plugins, services, events, configuration, start-up.

    make bench-framework

Each figure is the median of many runs. Cold figures are taken in a fresh interpreter each, in turn with their
baseline. "Beside" stands the number that the design documents promise for the same thing.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import Figure, publish
from components.core.component import Component, StrictConfig
from components.core.container import Container
from components.core.documents import load_document
from components.core.events import EventBus, TrainStep
from components.core.recipe import load_recipe
from components.core.registry import Kind, Registry
from components.core.service import serves

PLUGINS = 50
KEYS = 200
COLD_RUNS = 15
LIGHT_RUNS = 7
KINDS = (
    *("models", "data/readers", "data/formats", "trainers", "optimizers", "optimization", "presets", "backends"),
    *("benchmarks", "gates", "trackers", "sinks", "probes"),
)
HEAVY = ("torch", "transformers", "mlflow", "prefect")


# ---------------------------------------------------------------- in this process


def microseconds(work: Callable[[], object], calls: int = 2000, rounds: int = 25) -> float:
    """Median over rounds of the mean time of a call."""
    work()
    samples = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        samples.append((time.perf_counter() - started) / calls * 1e6)
    return statistics.median(samples)


class Clock:
    """A service without dependencies."""


class Ledger:
    """A service with one."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock


@serves("desk", lifetime="transient")
class Desk:
    """A service with two, made anew each time."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger, self.clock = ledger, clock


class Tool(Component):
    """A component with a configuration."""

    class Config(StrictConfig):
        size: int = 1
        label: str = "x"


def services() -> dict[str, Figure]:
    """Making a service, and resolving one."""
    registry = Registry([Kind("service", object), Kind("tool", Tool)])
    for name, cls in {"clock": Clock, "ledger": Ledger, "desk": Desk}.items():
        registry.add("service", name, cls)
    registry.add("tool", "plain", Tool)
    with Container(registry) as container, container.scope() as scope:
        made, found = microseconds(lambda: scope.get(Desk)), microseconds(lambda: container.get(Ledger))
    component = microseconds(lambda: registry.create("tool", "plain", size=2))
    return {
        "service_created": Figure(made, "us", "<= 50", "5 ms"),
        "dependency_resolved": Figure(found, "us", "<= 20", "10 ms"),
        "component_created": Figure(component, "us", "", ""),
    }


def events() -> dict[str, Figure]:
    """One event to ten handlers."""
    bus, heard = EventBus(), []
    for _ in range(10):
        bus.on(TrainStep, lambda event: heard.append(event.step) if len(heard) < 10 else None)
    emitted = microseconds(lambda: bus.emit(TrainStep(step=1, total=10, loss=0.5)))
    return {"event_to_10_handlers": Figure(emitted, "us", "<= 20", "")}


# ---------------------------------------------------------------- in fresh interpreters


def fresh(code: str, *arguments: str, path: Path | None = None) -> Any:
    """What a program prints last, as JSON, run in a new interpreter."""
    prepared = f"import sys; sys.path.insert(0, {str(path)!r})\n{code}" if path else code
    done = subprocess.run([sys.executable, "-c", prepared, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


SCAN = """
import time, json
from importlib import metadata
started = time.perf_counter(); metadata.entry_points(group="postmill.plugins")
print(json.dumps((time.perf_counter() - started) * 1e3))
"""
LOAD = """
import time, json
from components.core.component import Component
from components.core.events import EventBus
from components.core.plugins import PluginManager
from components.core.registry import Kind, Registry
registry = Registry([Kind("tool", Component)])
started = time.perf_counter()
reports = PluginManager(registry, EventBus()).load_all()
spent = (time.perf_counter() - started) * 1e3
assert len(registry.names("tool")) == 50, [str(report) for report in reports if report.outcome != "loaded"]
print(json.dumps(spent))
"""


def plugins(folder: Path) -> dict[str, Figure]:
    """Fifty installed plugins, each needing the one before it, beside whatever else is installed here."""
    for number in range(PLUGINS):
        install(folder, number)
    scan, load = [], []
    for _ in range(COLD_RUNS):
        scan.append(fresh(SCAN, path=folder))
        load.append(fresh(LOAD, path=folder))
    own = statistics.median(load) - statistics.median(scan)
    return {
        "plugins_50_loaded": Figure(own, "ms", "<= 60", "100 ms"),
        "metadata_scan": Figure(statistics.median(scan), "ms", "", ""),
    }


def install(folder: Path, number: int) -> None:
    """A distribution as pip leaves it."""
    name = f"bench_plugin_{number}"
    needs = f"Requires-Dist: bench-plugin-{number - 1}>=1\n" if number else ""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: bench-plugin-{number}\nVersion: 1.0\n"
    (info / "METADATA").write_text(f"{head}Requires-Dist: postmill>=0.1,<1\n{needs}")
    (info / "entry_points.txt").write_text(f"[postmill.plugins]\nbench{number} = {name}:Bench\n")
    (folder / f"{name}.py").write_text(
        "from components.core.component import Component\n"
        "from components.core.plugins import Plugin\n"
        "class Tool(Component):\n    'A tool.'\n"
        "class Bench(Plugin):\n"
        "    def register(self, api):\n"
        f"        api.component('tool', 'tool{number}', Tool)\n"
    )


COLD_RECIPE = """
import sys, time, json
from pathlib import Path
begun = time.perf_counter()
from components.core.recipe import load_recipe
imported = time.perf_counter()
load_recipe(Path(sys.argv[1]))
print(json.dumps([(imported - begun) * 1e3, (time.perf_counter() - imported) * 1e3]))
"""


def recipes(folder: Path) -> dict[str, Figure]:
    """A recipe of 200 keys, in a process that has loaded one before, and in one that has not."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(large_recipe(), sort_keys=False), encoding="utf-8")
    document = load_document(path)
    assert leaves(document.data) == KEYS, leaves(document.data)
    warm = microseconds(lambda: load_recipe(path), calls=5) / 1e3
    cold = [fresh(COLD_RECIPE, str(path)) for _ in range(COLD_RUNS)]
    return {
        "recipe_200_keys_warm": Figure(warm, "ms", "<= 5", "20 ms"),
        "recipe_200_keys_cold": Figure(statistics.median(load for _, load in cold), "ms", "<= 60", "20 ms"),
        "recipe_imports_cold": Figure(statistics.median(imports for imports, _ in cold), "ms", "", ""),
    }


def large_recipe() -> dict[str, Any]:
    """The quickstart with more variants, up to 200 leaves."""
    plain: dict[str, Any] = yaml.safe_load(Path("configs/quickstart.yaml").read_text(encoding="utf-8"))
    number = 0
    while leaves(plain) <= KEYS - 4:
        number += 1
        chain = [{"type": "merge_adapter", "max_logit_difference": 0.01}, {"type": "onnx", "precision": "int4"}]
        plain["optimize"][f"variant{number}"] = chain
    for kind in ("bytes", "peak_rss", "mean_kl", "ttft_ms")[: KEYS - leaves(plain)]:
        plain["gate"].append({"type": "budget", "max": {kind: 1.0e9}})
        if leaves(plain) > KEYS:
            plain["gate"].pop()
    while leaves(plain) < KEYS:
        plain["optimize"][f"preset{leaves(plain)}"] = "enhanced"
    return plain


def leaves(value: Any) -> int:
    """Plain values in nested data."""
    if isinstance(value, dict | list):
        return sum(leaves(item) for item in (value.values() if isinstance(value, dict) else value))
    return 1


LIGHT = """
import sys, time, json, importlib, pkgutil
import components.core, components.interfaces, components.runtime
for module in pkgutil.iter_modules(components.core.__path__):
    importlib.import_module(f"components.core.{module.name}")
started = time.perf_counter()
importlib.import_module(sys.argv[1])
print(json.dumps((time.perf_counter() - started) * 1e3))
"""


def modules() -> dict[str, Figure]:
    """Each component's module (none imports an ML library), in a process that has the framework; the slowest one."""
    folders = [Path(f"components/{place}") for place in KINDS]
    files = sorted(file for folder in folders for file in folder.glob("[!_]*.py"))
    names = [".".join(file.with_suffix("").parts) for file in files]
    times = {name: statistics.median(fresh(LIGHT, name) for _ in range(LIGHT_RUNS)) for name in names}
    worst = max(times, key=lambda name: times[name])
    return {"light_module_loaded": Figure(times[worst], "ms", "<= 5", f"50 ms; slowest of {len(times)}: {worst}")}


HELP = """
import sys, json
from typer.testing import CliRunner
from flows.cli import app
assert CliRunner().invoke(app, ["--help"]).exit_code == 0
print(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))
"""


def start_up() -> dict[str, Figure]:
    """`postmill --help` as a whole process."""
    command, samples = [str(Path(sys.executable).with_name("postmill")), "--help"], []
    for _ in range(COLD_RUNS):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        samples.append(time.perf_counter() - started)
    imported = len(fresh(HELP, *HEAVY))
    return {
        "help": Figure(statistics.median(samples), "s", "<= 0.35", ""),
        "help_heavy_imports": Figure(imported, "of torch, transformers, mlflow, prefect", "<= 0", ""),
    }


def main() -> int:
    """Measure everything and publish it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "plugins").mkdir()
        figures = {
            **plugins(folder / "plugins"),
            **services(),
            **recipes(folder),
            **modules(),
            **events(),
            **start_up(),
        }
    notes: dict[str, object] = {"cold_runs": COLD_RUNS, "python": sys.version.split()[0]}
    return 0 if publish("framework", figures, notes) else 1


if __name__ == "__main__":
    sys.exit(main())
