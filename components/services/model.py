"""Brings base models into the store: `ModelService(workspace).fetch(recipe.model)`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact
from components.core.kinds import service
from components.core.recipe import Spec
from components.core.safeload import check_model_directory
from components.interfaces import ModelSource
from components.services.workspace import Workspace


@service("model")
class ModelService:
    """Fetches base models."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def fetch(self, spec: Spec) -> Artifact:
        """The base model as an artifact of kind "model"."""
        source: ModelSource = spec.build()

        def make(out: Path) -> Mapping[str, Any]:
            facts = source.fetch(out)
            check_model_directory(out)
            return facts

        identity = {"type": spec.type, **source.identity()}

        def needs_bytes() -> int:
            return (source.parameters() or 0) * 4

        return self.workspace.stage("model", spec.type, spec.component, identity, {}, "model", make, needs_bytes)
