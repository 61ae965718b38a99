"""Model families by configuration: which layers a preset means, how a model is sampled, how large it is.

    family = family_of(directory)                       # from config.json; the name is a hint only
    target_modules(network, "attention+mlp", family)    # ['q_proj', 'k_proj', ...], as far as this network has them

`families.yaml` holds one entry a family; unknown types are `generic`, so any causal language model works.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, ValidationError, model_validator

from components.core.component import StrictConfig
from components.core.documents import parse_yaml
from components.core.errors import ConfigError, ModelLoadError, did_you_mean

FILE = Path(__file__).with_name("families.yaml")
GENERIC = "generic"
ALL_LINEAR = "all-linear"
PRESETS = ("attention", "mlp", ALL_LINEAR, "embeddings")


class Layers(StrictConfig):
    """Names of layers, as they end, by preset."""

    attention: tuple[str, ...] = Field(min_length=1)
    mlp: tuple[str, ...] = Field(min_length=1)
    embeddings: tuple[str, ...] = Field(min_length=1)


class Generation(StrictConfig):
    """Sampling as the makers publish it; None where they publish nothing. For people: Postmill answers greedily."""

    temperature: NonNegativeFloat | None = None
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: PositiveInt | None = None


class Attention(StrictConfig):
    """Attention code by device."""

    cpu: Literal["eager", "sdpa"]
    cuda: Literal["eager", "sdpa", "flash_attention_2"]


class Family(StrictConfig):
    """One entry of `families.yaml`."""

    name: str
    title: str
    model_types: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    layers: Layers
    experts: tuple[str, ...] = ()
    attention: Attention
    padding_side: Literal["left", "right"]
    generation: Generation = Generation()
    end_of_turn: tuple[str, ...] = ()
    notes: str = ""

    @model_validator(mode="after")
    def _can_be_found(self) -> Family:
        if not self.model_types and self.name != GENERIC:
            raise ValueError("names no model_types, so no model would ever belong to it")
        return self


@cache
def families() -> Mapping[str, Family]:
    """All families by name, in the order of the file."""
    return read_families(FILE.read_text(encoding="utf-8"))


def read_families(text: str) -> dict[str, Family]:
    """The families of a YAML text; every mistake is named with the family it stands in."""
    entries = parse_yaml(text, FILE.name, {})
    found: dict[str, Family] = {}
    for name in entries:
        entry = _inherited(entries, name, ())
        if entry.pop("abstract", False):
            continue
        try:
            found[name] = Family(name=name, **entry)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors()]
            raise ConfigError([f"{FILE.name}: family '{name}': {problem}" for problem in problems]) from error
    if GENERIC not in found:
        raise ConfigError(f"{FILE.name} has no family '{GENERIC}'")
    return found


def _inherited(entries: Mapping[str, Any], name: str, below: tuple[str, ...]) -> dict[str, Any]:
    """An entry on top of what it extends; `layers` are merged preset by preset."""
    if name not in entries:
        raise ConfigError(f"{FILE.name}: '{below[-1]}' extends unknown '{name}'{did_you_mean(name, entries)}")
    if name in below:
        raise ConfigError(f"{FILE.name}: {' -> '.join((*below, name))} extend each other")
    own = dict(entries[name])
    parent = own.pop("extends", None)
    if parent is None:
        return own
    base = _inherited(entries, parent, (*below, name))
    for key in ("abstract", "notes"):  # what is said of one family is not true of the next
        base.pop(key, None)
    own["layers"] = base.get("layers", {}) | own.get("layers", {})
    return base | own


# ------------------------------------------------------------ which family


def family_of(directory: Path, name: str = "") -> Family:
    """The family of a model directory, by the `model_type` of its config.json; of any unknown type: `generic`.

    `name` and the directory's own name decide between families of one type (SmolLM 2 is a Llama), nothing else.
    """
    config = _read_config(directory)
    text = config.get("text_config")
    types = [part.get("model_type") for part in (text if isinstance(text, dict) else {}, config)]
    for model_type in filter(None, types):
        fitting = [family for family in families().values() if model_type in family.model_types]
        if fitting:
            words = _words(f"{name} {directory.name} {config.get('_name_or_path', '')}")
            return next((family for family in fitting if words.intersection(family.hints)), fitting[0])
    return families()[GENERIC]


def _words(name: str) -> set[str]:
    """`"HuggingFaceTB/SmolLM2-135M"` -> whole words without the version: "dolphin" does not contain "phi"."""
    return {word.rstrip("0123456789.") for word in re.split(r"[^a-z0-9.]+", name.lower())}


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"'{directory}' has no readable config.json: {error}") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"'{directory / 'config.json'}' is not a mapping")
    return config


SAMPLING = "generation_config.json"


def facts(directory: Path, name: str = "") -> dict[str, Any]:
    """What a person may want to know of a model directory: its family, its sizes, and how its makers sample from it.

    A generation_config.json beside the weights goes first.
    """
    family = family_of(directory, name)
    sampling = family.generation.model_dump(exclude_none=True) | _own_sampling(directory)
    shape = {key: size for key, size in asdict(sizes(directory)).items() if size is not None}
    return {"family": family.name, "sizes": shape, "generation": sampling}


def _own_sampling(directory: Path) -> dict[str, Any]:
    file = directory / SAMPLING
    own = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {key: own[key] for key in Generation.model_fields if own.get(key) is not None}


# ------------------------------------------------------------ how large


@dataclass(frozen=True)
class Sizes:
    """Shape of a network in one vocabulary; None where its configuration has no such size. `positions`: tokens."""

    hidden_size: int | None
    layers: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    intermediate_size: int | None
    vocab_size: int | None
    positions: int | None


def sizes(config: Any) -> Sizes:
    """Sizes of a transformers configuration or of a model directory. Of a model of text and images: the text part."""
    from optimum.utils import NormalizedConfigManager, NormalizedTextConfig

    if isinstance(config, (str, Path)):
        config = _configuration(Path(config))
    config = config.get_text_config()
    try:
        normalized = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    except KeyError:
        normalized = NormalizedTextConfig(config)
    hidden, heads = _size(normalized, "hidden_size"), _size(normalized, "num_attention_heads")
    share = hidden // heads if hidden and heads else None
    return Sizes(
        hidden_size=hidden,
        layers=_size(normalized, "num_layers"),
        heads=heads,
        kv_heads=_size(normalized, "num_key_value_heads", "num_kv_heads") or heads,
        head_dim=_size(normalized, "qk_head_dim", "head_dim") or share,
        intermediate_size=_size(normalized, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
        vocab_size=_size(normalized, "vocab_size"),
        positions=_size(normalized, "max_position_embeddings", "max_seq_len", "n_positions"),
    )


def _size(normalized: Any, *names: str) -> int | None:
    """The first of these sizes that the configuration knows; of a size for each layer, the largest."""
    for name in names:
        try:
            value = getattr(normalized, name)
        except (AttributeError, ValueError, RuntimeError):
            continue
        if isinstance(value, (list, tuple)) and value:
            value = max(value)
        if isinstance(value, int):
            return value
    return None


def _configuration(directory: Path) -> Any:
    """The configuration object of a directory, without a loader that could run the directory's code."""
    from transformers import CONFIG_MAPPING, PretrainedConfig

    plain = _read_config(directory)
    known = plain.get("model_type") in CONFIG_MAPPING
    return (CONFIG_MAPPING[plain["model_type"]] if known else PretrainedConfig).from_dict(plain)


# ------------------------------------------------------------ which layers


@dataclass(frozen=True)
class Targets:
    """Where an adapter goes: layers by name, and parameters that are no layer of their own (fused experts)."""

    modules: list[str] | str
    parameters: list[str]


def target_modules(network: Any, wanted: str | list[str], family: Family) -> list[str] | str:
    """Layers that `wanted` means in this network: presets joined by '+', or names. See `targets` for experts."""
    return targets(network, wanted, family).modules


def targets(network: Any, wanted: str | list[str], family: Family) -> Targets:
    """Layers and expert parameters that `wanted` means in this network; a ConfigError if a part of it means nothing.

    In a network with fused experts the layers beside them (dense and shared MLPs) are addressed by parameter too: by
    layer name PEFT 0.21 takes `gate_proj` for the experts, and leaves the dense layers of DeepSeek out unsaid.
    """
    layers, experts = _adaptable(network), _present(family.experts, _fused(network))
    if wanted in (ALL_LINEAR, [ALL_LINEAR]) and not _fused(network):
        return Targets(ALL_LINEAR, [])
    names: dict[str, None] = {}
    parameters: dict[str, None] = {}
    for word in wanted.split("+") if isinstance(wanted, str) else wanted:
        found, found_parameters = _expanded(word.strip(), family, layers, experts, network)
        if not (found or found_parameters):
            raise ConfigError(_no_match(wanted, word.strip(), family, layers, experts))
        names |= dict.fromkeys(found)
        parameters |= dict.fromkeys(found_parameters)
    if not experts:
        return Targets(list(names), list(parameters))
    plain = {*family.layers.attention, *family.layers.embeddings}
    beside = [name for name in names if not _present(plain, [name])]
    parameters |= dict.fromkeys(part for name in beside for part in _as_parameters(name, layers))
    return Targets([name for name in names if name not in beside], list(parameters))


def _expanded(
    word: str, family: Family, layers: Iterable[str], experts: list[str], network: Any
) -> tuple[list[str], list[str]]:
    """Layer names and expert parameters of one preset or name."""
    if word == ALL_LINEAR:
        every = _linear(network) if not _fused(network) else [*family.layers.attention, *family.layers.mlp]
        return _present(every, layers), experts
    if word in PRESETS:
        return _present(getattr(family.layers, word), layers), experts if word == "mlp" else []
    return _present([word], layers), [name for name in experts if name == word or name.endswith(f".{word}")]


def _linear(network: Any) -> list[str]:
    """Names, as they end, of the linear layers but the output."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head = network.get_output_embeddings()
    found = [n for n, m in network.named_modules() if isinstance(m, (Linear, Conv1D)) and m is not head]
    return list(dict.fromkeys(name.rpartition(".")[2] for name in found))


def _adaptable(network: Any) -> list[str]:
    """Full names of the layers with a matrix of weights."""
    weights = ((name, getattr(module, "weight", None)) for name, module in network.named_modules())
    return [name for name, weight in weights if getattr(weight, "ndim", 0) == 2]


def _fused(network: Any) -> list[str]:
    """Full names of the parameters that hold the weights of several experts."""
    return [name for name, p in network.named_parameters() if p.ndim == 3 and ".experts." in name]


def _present(endings: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those endings that whole names, cut at dots, end in."""
    dotted = [f".{name}" for name in names]
    return [ending for ending in endings if any(name.endswith(f".{ending}") for name in dotted)]


def _as_parameters(ending: str, layers: Iterable[str]) -> list[str]:
    """`gate_proj` -> `mlp.gate_proj.weight`, `shared_experts.gate_proj.weight`."""
    found = [name for name in layers if f".{name}".endswith(f".{ending}")]
    return list(dict.fromkeys(".".join(name.split(".")[-2:]) + ".weight" for name in found))


def _no_match(wanted: Any, word: str, family: Family, layers: Iterable[str], experts: list[str]) -> str:
    known = sorted({name.rpartition(".")[2] for name in layers} | set(experts))
    if word in PRESETS:
        reason = f"preset '{word}' of family '{family.name}' matches no layer of this model"
    else:
        reason = f"'{word}' matches no layer of this model{did_you_mean(word, [*known, *PRESETS])}"
    return f"target_modules={wanted!r}: {reason}; known: {', '.join(known)}; presets: {', '.join(PRESETS)}"
