"""Adapters on PEFT: LoRA and its variants as typed keys, every other method of PEFT by its name.

    lora: {r: 16, target_modules: attention+mlp, dora: true}
    adapter: {method: ia3, options: {target_modules: attention}}

A trainer calls `attach` before training and `save_adapter` after it. What is saved belongs on the *original* base
model: PiSSA and OLoRA move a part of the base weights into the adapter, so their adapter is saved as the difference
to its initial state, which `attach` keeps in the trainer's scratch folder.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, PositiveInt, field_validator, model_validator

from components.core.artifacts import Artifact, write_json
from components.core.component import StrictConfig
from components.core.errors import ConfigError, did_you_mean, require
from components.core.families import Family, targets
from components.core.machine import machine

INITS = ("default", "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_4")
INITIAL = "initial_adapter"
UNFIT = {
    "lora": "it has a section of its own: lora: {r: 16}",
    "xlora": "it mixes adapters that are trained already",
    "poly": "it needs the number of a task with every row",
    "multitask_prompt_tuning": "it needs the number of a task with every row",
    "shadow": "it needs a second model",
}
"""Methods of PEFT that a trainer of conversations cannot use, and why."""
OURS = ("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision")
"""Fields of a PEFT configuration that are not the recipe's to set, with `inference_mode`."""


class Lora(StrictConfig):
    """Low-rank adapter (Hu et al. 2021, arXiv:2106.09685): rank, scale, and the layers it is put on."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = Field(
        "all-linear", description="attention, mlp, all-linear, embeddings, several joined by '+', or names of layers"
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(r): higher ranks keep learning (arXiv:2312.03732)")
    dora: bool = Field(False, description="learn the length of weights apart from their direction (arXiv:2402.09353)")
    init: str = Field("default", description=f"how it starts: {', '.join(INITS)}")
    quantize: Literal["int4", "int8"] | None = Field(None, description="keep the base in few bits (QLoRA)")
    modules_to_save: list[str] | None = Field(None, description="layers that are trained in full beside the adapter")
    rank_pattern: dict[str, PositiveInt] | None = Field(None, description="another rank for layers by name")

    @field_validator("init")
    @classmethod
    def _known_init(cls, value: str) -> str:
        if value not in INITS and not re.fullmatch(r"pissa_niter_[1-9]\d*", value):
            raise ValueError(f"unknown init '{value}'{did_you_mean(value, INITS)} (known: {', '.join(INITS)})")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Lora:
        if self.init == "orthogonal" and self.r % 2:
            raise ValueError(f"init: orthogonal needs an even r, found {self.r}")
        apart = [name for name in ("dora", "quantize", "modules_to_save", "rank_pattern") if getattr(self, name)]
        if self.changes_base and apart:
            raise ValueError(
                f"init: {self.init} does not go with {', '.join(apart)}: it changes the base weights, and PEFT cannot "
                "write such an adapter for the original base; use another init or leave those out"
            )
        return self

    @property
    def changes_base(self) -> bool:
        """Whether the adapter starts with a part of the base weights in it (PiSSA, OLoRA)."""
        return self.init.startswith(("pissa", "olora"))


class Adapter(StrictConfig):
    """Any other method of PEFT by its name, with PEFT's own options. `target_modules` takes presets here too."""

    method: str
    options: dict[str, JsonValue] = Field(default_factory=dict)


# ------------------------------------------------------------ configuration


def peft_config(adapter: Lora | Adapter, network: Any, family: Family) -> Any:
    """PEFT's configuration of this adapter on this network; a ConfigError names what does not fit."""
    if isinstance(adapter, Lora):
        return _lora_config(adapter, network, family)
    return _other_config(adapter, network, family)


def _lora_config(lora: Lora, network: Any, family: Family) -> Any:
    from peft import LoraConfig

    wanted = targets(network, lora.target_modules, family)
    _check_experts(lora, wanted.parameters)
    _check_embeddings(lora, wanted.modules, network, family)
    tied = _tied(network) and {"embed_tokens", "lm_head"}.intersection(lora.modules_to_save or ())
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=wanted.modules,
        target_parameters=wanted.parameters or None,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        init_lora_weights=True if lora.init == "default" else lora.init,
        modules_to_save=list(lora.modules_to_save) if lora.modules_to_save else None,
        rank_pattern=dict(lora.rank_pattern or {}),
        ensure_weight_tying=bool(tied),
        fan_in_fan_out=_transposed(network),
        task_type="CAUSAL_LM",
    )


def _check_experts(lora: Lora, parameters: list[str]) -> None:
    """PEFT puts LoRA on fused experts by adding to the weights, which leaves no place for these."""
    apart = [name for name in ("dropout", "dora", "changes_base") if getattr(lora, name)]
    if lora.quantize and any(name.endswith(".weight") for name in parameters):  # layers beside the experts
        apart.append("quantize")
    if parameters and apart:
        names = ", ".join({"changes_base": f"init: {lora.init}"}.get(name, name) for name in apart)
        raise ConfigError(
            f"{names} does not go with LoRA on fused experts (target_modules={lora.target_modules!r}); "
            "leave it out, or set target_modules: attention"
        )


def _check_embeddings(lora: Lora, modules: list[str] | str, network: Any, family: Family) -> None:
    found = [name for name in modules if name in family.layers.embeddings] if isinstance(modules, list) else []
    if found and _tied(network):
        raise ConfigError(
            f"target_modules={lora.target_modules!r}: input and output embeddings of this model are one matrix, and "
            f"LoRA on {', '.join(found)} would not survive merging; train it in full with "
            f"modules_to_save: [{family.layers.embeddings[0]}]"
        )
    if found and lora.changes_base:
        raise ConfigError(f"init: {lora.init} does not go with LoRA on embeddings ({', '.join(found)})")


def _tied(network: Any) -> bool:
    head = network.get_output_embeddings()
    return head is not None and head.weight is network.get_input_embeddings().weight


def _transposed(network: Any) -> bool:
    """Whether weights lie the other way round (GPT-2)."""
    return any(type(module).__name__ == "Conv1D" for module in network.modules())


def methods() -> dict[str, Any]:
    """PEFT's own table of methods by name, without the unfit ones."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    table = {str(kind.value).lower(): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    return {name: table[name] for name in sorted(table) if name not in UNFIT}


def _other_config(adapter: Adapter, network: Any, family: Family) -> Any:
    known = methods()
    name = adapter.method.lower()
    if name in UNFIT:
        raise ConfigError(f"adapter method '{name}' cannot be used here: {UNFIT[name]}")
    if name not in known:
        raise ConfigError(f"unknown adapter method '{name}'{did_you_mean(name, known)} (known: {', '.join(known)})")
    fields = _options(known[name])
    problems = [_option_problem(name, option, fields) for option in adapter.options if option not in fields]
    if problems:
        raise ConfigError(problems)
    values = dict(adapter.options)
    if "target_modules" in fields and name not in ("adaption_prompt", "trainable_tokens"):  # which mean other things
        values |= _layers(name, values, network, family)
    if "fan_in_fan_out" in fields:
        values.setdefault("fan_in_fan_out", _transposed(network))
    try:
        return known[name](task_type="CAUSAL_LM", **values)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"adapter '{name}': {error}") from error


def _options(cls: Any) -> list[str]:
    """What a recipe may set. Nothing that makes PEFT read a file or a tokenizer of its own."""
    names = (field.name for field in dataclasses.fields(cls) if field.init)
    hidden = (*OURS, "inference_mode")
    return [name for name in names if name not in hidden and not re.search(r"path|tokenizer", name)]


def _option_problem(method: str, option: str, fields: list[str]) -> str:
    return f"adapter '{method}' has no option '{option}'{did_you_mean(option, fields)} (known: {', '.join(fields)})"


def _layers(method: str, values: dict[str, Any], network: Any, family: Family) -> dict[str, Any]:
    """`target_modules` (presets resolved) and what a method needs beside it, the same for every family."""
    if method == "ln_tuning" and "target_modules" not in values:
        norms = (name.rpartition(".")[2] for name, m in network.named_modules() if "norm" in type(m).__name__.lower())
        return {"target_modules": sorted(set(norms))}
    wanted = values.get("target_modules") or "all-linear"
    modules = targets(network, wanted, family).modules
    if not modules:
        raise ConfigError(f"adapter '{method}': target_modules={wanted!r} are fused experts, which only lora can adapt")
    if method != "ia3":
        return {"target_modules": modules}
    if isinstance(modules, str):
        modules = targets(network, "attention+mlp", family).modules
    forward = values.get("feedforward_modules", [name for name in modules if name in family.layers.mlp])
    return {"target_modules": modules, "feedforward_modules": forward}


def quantization_config(lora: Lora | None) -> Any:
    """How transformers loads the base in few bits (QLoRA, arXiv:2305.14314: NF4, double quantisation), or None."""
    if lora is None or lora.quantize is None:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    library = require("bitsandbytes", "qlora")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in getattr(library, "supported_torch_devices", ()):
        raise ConfigError(
            f"lora.quantize={lora.quantize}: bitsandbytes {library.__version__} has no code for the device '{device}'; "
            "install postmill[qlora] anew, or train without quantize"
        )
    if lora.quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    dtype = "bfloat16" if device == "cuda" else machine().dtype()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


# ------------------------------------------------------------ on the network


def attach(network: Any, adapter: Lora | Adapter, family: Family, scratch: Path) -> Any:
    """Put a fresh adapter on a network. `scratch` outlives a restart: there the initial state is kept and found again.

    A resumed run must start from the same changed base: PiSSA's fast variant is random, so it is not computed anew.
    """
    from peft import get_peft_model, prepare_model_for_kbit_training

    if getattr(network, "is_quantized", False):
        network = _exact(prepare_model_for_kbit_training(network, use_gradient_checkpointing=False))
    config = peft_config(adapter, network, family)
    if not (isinstance(adapter, Lora) and adapter.changes_base):
        return _with(get_peft_model, network, config)
    initial = scratch / INITIAL
    if initial.is_dir():
        return _restored(network, config, initial)
    adapted = _with(get_peft_model, network, config)
    part = scratch / f"{INITIAL}.part"
    shutil.rmtree(part, ignore_errors=True)
    adapted.save_pretrained(part, safe_serialization=True)
    part.rename(initial)
    return adapted


def _exact(network: Any) -> Any:
    """On some CPUs bitsandbytes 0.50 repacks 4-bit weights when it is first evaluated, and rounds their scales then.

    Training would go on with other weights than it began with, so that shortcut stays off while we train.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return network


def _with(get_peft_model: Any, network: Any, config: Any) -> Any:
    try:
        return get_peft_model(network, config)
    except ValueError as error:  # PEFT's own words on layers, sizes and methods that do not fit this network
        method = str(config.peft_type.value).lower()
        raise ConfigError(f"adapter '{method}' does not fit this model: {error}") from error


def _restored(network: Any, config: Any, initial: Path) -> Any:
    """The adapter in its kept initial state, on a base without what went into it."""
    import torch
    from peft import get_peft_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import load_file

    init, config.init_lora_weights = config.init_lora_weights, True
    adapted = get_peft_model(network, config)
    set_peft_model_state_dict(adapted, load_file(initial / "adapter_model.safetensors"))
    with torch.no_grad():
        for layer in adapted.modules():
            if isinstance(layer, LoraLayer):
                weight = layer.get_base_layer().weight
                weight -= layer.get_delta_weight("default").to(weight.dtype)
    adapted.peft_config["default"].init_lora_weights = init
    return adapted


def save_adapter(network: Any, out: Path, scratch: Path) -> None:
    """Write the adapter as safetensors, for the original base. `scratch`: the one that `attach` was given."""
    initial = scratch / INITIAL
    init = str(getattr(network.peft_config["default"], "init_lora_weights", ""))
    changed = init.startswith(("pissa", "olora"))
    if changed and not initial.is_dir():
        raise ConfigError(f"'{initial}' is gone, without which an adapter of init {init} fits no base; train anew")
    with warnings.catch_warnings():
        # PEFT warns of a second adapter on a changed base, and loads one itself to take the difference
        warnings.filterwarnings("ignore", message=".* changes the base weights of the model")
        network.save_pretrained(
            out,
            safe_serialization=True,
            save_embedding_layers=False,  # "auto" adds the base's embeddings if LoRA sits on them, and asks the hub
            path_initial_model_for_weight_conversion=str(initial) if changed else None,
        )
    (out / "README.md").unlink(missing_ok=True)


def trainable_parameters(network: Any) -> tuple[int, int]:
    """Weights that training changes, and all of them; weights of few bits are counted, not their bytes."""
    from peft import PeftModel

    trainable, total = PeftModel.get_nb_trainable_parameters(network)
    return int(trainable), int(total)


def stable_adapter_config(path: Path, model: Artifact) -> None:
    """Same adapter, same bytes: PEFT writes sets in random order, and the path of the base on this machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = f"sha256:{model.digest}"
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[key] = sorted(value)
    write_json(path, dict(sorted(config.items())))
