"""A new model: an architecture with random weights, and a tokenizer trained on the user's text or given.

    model:
      type: new
      family: llama                                          # any causal model_type of transformers
      sizes: {hidden_size: 256, num_hidden_layers: 4}        # any key of that family's configuration
      tokenizer: {train_on: ["books/*.txt"], vocab_size: 4096}
      seed: 17

It knows nothing: `train: [{type: from_scratch}]` is what comes next. The seed decides the weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from components.core.artifacts import hash_file
from components.core.component import StrictConfig
from components.core.errors import ConfigError, ModelLoadError, did_you_mean
from components.core.kinds import register
from components.core.safeload import BUILDING
from components.interfaces import ModelSource
from components.models._tokenizer import GIVEN, NewTokenizer, TokenIds, given_tokenizer, ids_of, text_files, train

SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}
"""Sizes where a recipe names none: about four million weights, minutes of training on a CPU."""
DECIDED = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
"""Keys that the tokenizer decides."""


@register("model", "new")
class NewModel(ModelSource):
    """A model with random weights: an architecture by name and sizes, and a tokenizer of its own."""

    libraries = ("tokenizers", "torch", "transformers")

    class Config(StrictConfig):
        family: str = Field("llama", description="model_type of transformers: llama, qwen3, gemma2, mistral, gpt2, ...")
        sizes: dict[str, Any] = Field(
            {},
            description=f"keys of the family's configuration; else {', '.join(f'{k} {v}' for k, v in SMALL.items())}",
        )
        tokenizer: NewTokenizer | Path = Field(description="a directory that has one, or what to train one on")
        seed: int = Field(17, ge=0, lt=2**31, description="of the weights")

        @model_validator(mode="after")
        def _is_an_architecture(self) -> Any:
            configuration(self.family, self.sizes, TokenIds(300, 0, 1, 2))
            return self

    config: Config

    def identity(self) -> Mapping[str, Any]:
        given = self.config.tokenizer
        files = text_files(given) if isinstance(given, NewTokenizer) else _given_files(given)
        digests = sorted(hash_file(file) for file in files)  # where they lie does not matter
        return {
            **self.config.model_dump(mode="json", exclude={"tokenizer"}),
            "vocab_size": given.vocab_size if isinstance(given, NewTokenizer) else None,
            "files": digests,
        }

    def fetch(self, out: Path) -> Mapping[str, Any]:
        import torch

        ids = ids_of(self.tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            network = self._network(ids)
        network.generation_config.update(bos_token_id=ids.bos, eos_token_id=ids.eos, pad_token_id=ids.pad)
        network.save_pretrained(out, safe_serialization=True)
        self.tokenizer.model_max_length = self._context(network)
        self.tokenizer.save_pretrained(out)
        return {"name": f"new-{self.config.family}", "parameters": _count(network), "untrained": True}

    def parameters(self) -> int:
        import torch

        given = self.config.tokenizer
        # a trained vocabulary has exactly the size that was asked for, so nothing needs to be trained to count
        ids = TokenIds(given.vocab_size, 0, 1, 2) if isinstance(given, NewTokenizer) else ids_of(self.tokenizer)
        with torch.device("meta"):
            return _count(self._network(ids))

    @cached_property
    def tokenizer(self) -> Any:
        """transformers' tokenizer, trained on the text or read from the directory."""
        given = self.config.tokenizer
        return train(given) if isinstance(given, NewTokenizer) else given_tokenizer(given)

    def _network(self, ids: TokenIds) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        plain = configuration(self.config.family, self.config.sizes, ids)
        try:
            with BUILDING:
                return AutoModelForCausalLM.from_config(plain, dtype=torch.float32)
        except (AttributeError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelLoadError(f"no {self.config.family} can be built of these sizes: {error}") from error

    @staticmethod
    def _context(network: Any) -> int:
        return int(getattr(network.config, "max_position_embeddings", None) or SMALL["max_position_embeddings"])


def _given_files(directory: Path) -> list[Path]:
    return [directory / name for name in GIVEN if (directory / name).is_file()]


def _count(network: Any) -> int:
    """Weights, each once: the output matrix may be the embeddings."""
    return sum({id(weight): weight.numel() for weight in network.parameters()}.values())


def configuration(family: str, sizes: Mapping[str, Any], ids: TokenIds) -> Any:
    """transformers' configuration of an architecture; a ConfigError that names what it does not know or take."""
    cls = _class_of(family)
    known = _keys(cls)
    wrong = [f"sizes.{key}: unknown key of {family}{_hint(key, known)}" for key in sizes if key not in known]
    wrong += [f"sizes.{key}: must be a positive number" for key in SMALL if not _positive(sizes.get(key, 1))]
    if wrong:
        raise ConfigError(wrong)
    chosen = {**{key: value for key, value in SMALL.items() if key in known}, **sizes}
    names = dict(zip(DECIDED, ids, strict=True))
    try:
        return cls(**{**_derived(chosen, known), **chosen, **names})
    except Exception as error:  # the configuration classes raise errors of several libraries
        reason = " ".join(str(error).split())
        raise ConfigError(f"sizes: {family} does not take them: {reason}") from error


def _class_of(family: str) -> Any:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    # of a model of text and images only the text part is trained on text, and that has a name of its own
    fitting = [name for name in CAUSAL if name in CONFIG_MAPPING and not CONFIG_MAPPING[name].sub_configs]
    if family not in fitting:
        hint = did_you_mean(family, fitting) or "; for example llama, qwen3, gemma2, mistral, phi3, gpt2"
        raise ConfigError(f"family: transformers has no causal language model '{family}'{hint}")
    return CONFIG_MAPPING[family]


def _keys(cls: Any) -> list[str]:
    """What the architecture itself can be told, under its own names and the common ones."""
    return sorted({*vars(cls).get("__annotations__", {}), *cls.attribute_map} - {*DECIDED, "model_type"})


def _derived(chosen: Mapping[str, Any], known: list[str]) -> dict[str, Any]:
    """Sizes that follow from others where nobody says them: the makers' defaults are those of large models."""
    hidden, heads = int(chosen.get("hidden_size", 0)), int(chosen.get("num_attention_heads", 0))
    if not (hidden and heads):
        return {}
    found = {
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "intermediate_size": -(-hidden * 8 // 3 // 64) * 64,
    }
    return {key: value for key, value in found.items() if key in known}


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _hint(key: str, known: list[str]) -> str:
    if key in DECIDED:
        return "; the tokenizer decides it"
    return did_you_mean(key, known) or f" (known: {', '.join(known)})"
