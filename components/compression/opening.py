"""How a model directory is opened in PyTorch: `runtime.json` beside its weights, written by passes, honoured by the
backend that serves it.

    {"dtype": "bfloat16", "attention": "sdpa", "compile": {"backend": "inductor"}, "cache": {"type": "quantized"}}

What does not stand there is as the backend's own configuration says.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError, model_validator

from components.core.artifacts import MANIFEST, write_json
from components.core.component import StrictConfig
from components.core.errors import ConfigError, ModelLoadError

RUNTIME = "runtime.json"
EFFECT = frozenset({"opened"})
"""Of passes that decide it, other than by the dtype of the weights: those stay what they are in another format."""
Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa"]


class Compilation(StrictConfig):
    """torch.compile's arguments."""

    backend: Literal["inductor", "aot_eager"] = "inductor"
    mode: Literal["default", "reduce-overhead", "max-autotune"] = Field("default", description="of inductor only")

    @model_validator(mode="after")
    def _fit(self) -> Compilation:
        if self.backend != "inductor" and self.mode != "default":
            raise ConfigError(f"mode: {self.mode} is one of inductor's; take backend: inductor, or leave the mode out")
        return self


class KeyValueCache(StrictConfig):
    """Where keys and values of earlier tokens are kept."""

    type: Literal["dynamic", "static", "quantized", "offloaded"] = "dynamic"
    bits: Literal[8, 4] = Field(8, description="of quantized")
    recent: PositiveInt = Field(64, description="newest tokens that quantized keeps as they are")


class Runtime(StrictConfig):
    """What passes have decided about the opening of a model."""

    dtype: Dtype | None = None
    attention: Attention | None = None
    compile: Compilation | None = None
    cache: KeyValueCache = KeyValueCache()


def read_runtime(directory: Path) -> Runtime:
    """What stands in the directory; the defaults where nothing does."""
    file = directory / RUNTIME
    if not file.is_file():
        return Runtime()
    try:
        return Runtime.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ModelLoadError(f"'{file}' does not say how to open a model: {error.errors()[0]['msg']}") from error


def write_runtime(directory: Path, before: Runtime, **changes: Any) -> Runtime:
    """Write what was decided before and now."""
    runtime = before.model_copy(update=changes)
    write_json(directory / RUNTIME, runtime.model_dump(mode="json", exclude_none=True))
    return runtime


def copy_model(source: Path, out: Path) -> None:
    """Every file of a model directory but the manifest of its artifact."""
    shutil.copytree(source, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
