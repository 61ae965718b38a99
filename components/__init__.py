"""Postmill's public Python API; everything here is imported when it is first asked for.

    from components import Pipeline, Application, TrainingService, create

The rest of the tree is open to read and to import, but only these names keep their place.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "components.core.builder": ("Pipeline", "step"),
    "components.core.component": ("Component", "StrictConfig"),
    "components.core.container": ("Container",),
    "components.core.events": ("Event", "EventBus"),
    "components.core.health": ("Health",),
    "components.core.kinds": ("register", "registry", "service"),
    "components.core.lifecycle": ("Instances", "State"),
    "components.core.plugins": ("Plugin", "PluginManager", "PluginSettings"),
    "components.core.recipe": ("Recipe", "load_recipe", "parse_recipe", "save_recipe"),
    "components.core.registry": ("Kind", "Registry"),
    "components.core.secret": ("Secret",),
    "components.core.settings": ("Settings", "load_settings"),
    "components.services.application": ("Application", "current"),
    "components.services.benchmarking": ("BenchmarkService",),
    "components.services.configuration": ("LiveConfig",),
    "components.services.data": ("DataService",),
    "components.services.inference": ("InferenceService",),
    "components.services.judging": ("JudgingService",),
    "components.services.model": ("ModelService",),
    "components.services.model_registry": ("ModelRegistryService",),
    "components.services.optimization": ("OptimizationService",),
    "components.services.promotion": ("PromotionService",),
    "components.services.recording": ("RecordingService",),
    "components.services.training": ("TrainingService",),
    "components.services.workspace": ("Workspace",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = [*sorted(_HOME), "create"]


def create(kind: str, name: str, /, **config: Any) -> Any:
    """A component by kind and name, its configuration checked: `create("gate", "budget", max={"bytes": "1GB"})`."""
    return import_module("components.core.kinds").registry.create(kind, name, **config)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'components' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
