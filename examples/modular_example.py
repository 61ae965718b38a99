"""The framework in one file: a plugin, a component, a service, events, and a recipe built in Python.

    python -m examples.modular_example

Nothing is trained; it runs in a second.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from components import Application, EventBus, Instances, Pipeline, PluginSettings, Settings, create, registry, step
from components.core.events import ComponentMoved, PluginLoaded

PLUGIN = '''
from components import Component, Plugin, StrictConfig


class Mill(Component):
    """Grinds a number."""

    class Config(StrictConfig):
        stones: int = 2

    def setup(self):
        self.turning = True

    def close(self):
        self.turning = False

    def grind(self, grain: int) -> int:
        return grain // self.config.stones


class MillSection(StrictConfig):
    river: str = "Nidda"


class MillPlugin(Plugin):
    name = "mill"
    version = "1.0"
    host = ">=0.1,<1"

    def register(self, api):
        api.kind("mill", Mill)
        api.component("mill", "water", Mill)
        api.section("milling", MillSection)
'''


def main() -> None:
    """Walk through the framework; prints what it does."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mill.py").write_text(PLUGIN, encoding="utf-8")
        settings = Settings(root=Path(folder), plugins=PluginSettings(directories=(Path(folder),)))
        bus = EventBus()
        bus.on(PluginLoaded, lambda event: print(f"plugin {event.plugin} brings {', '.join(event.provides)}"))
        with Application(settings, bus) as app:
            components_with_a_life(bus)
            services(app)
        print(f"unloaded: kind 'mill' is {'still there' if 'mill' in registry.kinds() else 'gone'}")


def components_with_a_life(bus: EventBus) -> None:
    """Components by id, started in order of what they need and always stopped."""
    bus.on(ComponentMoved, lambda event: print(f"  {event.id}: {event.before} -> {event.after}"))
    with Instances(registry, bus) as running:
        running.create("lower", "mill", "water", stones=3, requires=("upper",))
        running.create("upper", "mill", "water")
        running.start_all()
        print(f"  12 grains give {running.get('lower').grind(12)}")
    print(f"made directly: {create('mill', 'water', stones=4).grind(12)}")


def services(app: Application) -> None:
    """A recipe in Python, with the plugin's section; the services that a run of it would use."""
    recipe = (
        Pipeline("example")
        .model("packaged_gguf")
        .data(train=step("jsonl", path="train.jsonl"), eval=step("jsonl", path="eval.jsonl"))
        .train("sft", max_steps=1, lora={"r": 4})
        .optimize("small", "enhanced")
        .benchmark("latency")
        .gate("budget", max={"bytes": "300MB"})
        .section("milling", river="Main")
        .build()
    )
    print(f"recipe '{recipe.name}' at the {recipe.dump()['milling']['river']}: {recipe.dump()['optimize']['small']}")
    with app.container(recipe) as container:
        print(f"roles: {', '.join(sorted(choice.role for choice in container.choices))}")


if __name__ == "__main__":
    main()
