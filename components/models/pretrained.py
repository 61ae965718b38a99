"""A base model from a local directory or from the Hugging Face hub.

model: {type: pretrained, name: HuggingFaceTB/SmolLM2-135M-Instruct}
model: {type: pretrained, name: /models/SmolLM2-135M-Instruct}
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from components.core.artifacts import hash_file, hash_json
from components.core.component import StrictConfig
from components.core.errors import ModelLoadError
from components.core.kinds import register
from components.core.safeload import check_model_directory
from components.core.secret import Secret
from components.interfaces import ModelSource

WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt")


@register("model", "pretrained")
class PretrainedModel(ModelSource):
    """A model directory, or a model of the Hugging Face hub."""

    class Config(StrictConfig):
        name: str
        revision: str = "main"
        token: Secret | None = Field(None, description="for models that are not public: env:HF_TOKEN")

    config: Config

    @cached_property
    def directory(self) -> Path:
        """The model's files on this machine; fetched from the hub (or its local cache) if `name` is no directory."""
        local = Path(self.config.name).expanduser()
        if not local.is_dir():
            # its cache is made of links; the copy that `fetch` makes of it is checked before anything opens it
            return self._snapshot()
        check_model_directory(local)
        return local

    def identity(self) -> Mapping[str, Any]:
        return {"files": hash_json({file.name: hash_file(file) for file in self._files()})}

    def fetch(self, out: Path) -> Mapping[str, Any]:
        for file in self._files():
            shutil.copyfile(file, out / file.name)
        return {"name": self.config.name, "parameters": self.parameters()}

    def _files(self) -> list[Path]:
        return sorted({file for pattern in WANTED for file in self.directory.glob(pattern)})

    def parameters(self) -> int | None:
        return sum(_tensor_sizes(file) for file in self.directory.glob("*.safetensors")) or None

    def _snapshot(self) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

        unknown = (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError)
        token = self.config.token.reveal() if self.config.token else None
        try:
            return Path(
                snapshot_download(
                    self.config.name,
                    revision=self.config.revision,
                    allow_patterns=list(WANTED),
                    token=token,
                )
            )
        except Exception as error:  # the hub client raises its own, requests', httpx' and OSError families
            raise ModelLoadError(
                f"model '{self.config.name}' is neither a directory here nor reachable on the hub "
                f"({type(error).__name__}: {str(error).splitlines()[0]}); give a local directory, or go online once",
                "missing" if isinstance(error, unknown) else "network",
            ) from error


def _tensor_sizes(file: Path) -> int:
    """Number of weights in a safetensors file, from its header alone (8 bytes of length, then JSON)."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(min(length, 100_000_000)))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for size in tensor["shape"]:
                count *= size
            total += count
    return total
