"""A tiny random model of every family, with the tests' tokenizer: no network, milliseconds each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny

COMMON: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
TIED = {"head_dim": 8, "tie_word_embeddings": True}
DEEPSEEK = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}
GEMMA_3N = {
    "head_dim": 8,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "laurel_rank": 4,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 259,
    "altup_num_inputs": 2,
    "activation_sparsity_pattern": [0.0, 0.0],
    "intermediate_size": [64, 64],
    "tie_word_embeddings": True,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen", {}),
    "qwen2_moe": ("qwen", EXPERTS | {"shared_expert_intermediate_size": 16}),
    "qwen3": ("qwen", TIED),
    "qwen3_moe": ("qwen", EXPERTS | {"head_dim": 8}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
    "phimoe": ("phi3", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "llama": ("llama", {}),
    "smollm3": ("smollm", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v2": ("deepseek", DEEPSEEK),
    "deepseek_v3": ("deepseek", DEEPSEEK),
    "gemma": ("gemma", TIED),
    "gemma2": ("gemma", TIED),
    "gemma3_text": ("gemma", TIED),
    "gemma3n_text": ("gemma", GEMMA_3N),
    "gpt2": (
        "gpt2",
        {"tie_word_embeddings": True, "n_inner": 64, "num_key_value_heads": None, "intermediate_size": None},
    ),
    "gpt_neox": ("generic", {"num_key_value_heads": None}),
    "olmo2": ("generic", {}),
}
"""By model_type: the family, and what differs from COMMON."""
MIXTURES = ("qwen2_moe", "qwen3_moe", "phimoe", "mixtral", "deepseek_v2", "deepseek_v3")


def configuration(model_type: str) -> Any:
    """The configuration of a tiny model."""
    from transformers import AutoConfig

    settings = COMMON | MODELS[model_type][1]
    return AutoConfig.for_model(model_type, **{key: value for key, value in settings.items() if value is not None})


def network(model_type: str, seed: int = 0) -> Any:
    """The tiny model, with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(configuration(model_type)).eval()


def write_model(directory: Path, model_type: str) -> Path:
    """The tiny model as a directory of safetensors, config and tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    network(model_type).save_pretrained(directory, safe_serialization=True)
    tiny.tokenizer().save_pretrained(directory)
    return directory
