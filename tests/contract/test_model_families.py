"""What holds for a model of every family: loaded, recognised, measured, adapted and trained in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError
from components.core.families import PRESETS, families, family_of, sizes, targets
from components.core.safeload import load_adapter, load_causal_lm
from components.training.adapters import Lora, attach, save_adapter
from tests import tiny, tiny_families

pytestmark = pytest.mark.parametrize("model_type", tiny_families.MODELS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Path]:
    """One directory a model type."""
    root = tmp_path_factory.mktemp("families")
    return {name: tiny_families.write_model(root / name, name) for name in tiny_families.MODELS}


def test_every_family_has_a_model(model_type: str) -> None:
    """No family is listed without a model that is tested."""
    assert {family for family, _ in tiny_families.MODELS.values()} == set(families())
    tested = set(tiny_families.MODELS)
    assert {t for f in families().values() for t in f.model_types} - tested == set()


def test_recognised_and_measured(model_type: str, models: dict[str, Path]) -> None:
    """A directory passes the safe door, its family is told from its type, and its sizes are read (D3, D4)."""
    network = load_causal_lm(models[model_type])
    assert network.config.model_type == model_type
    assert family_of(models[model_type]).name == tiny_families.MODELS[model_type][0]
    found = sizes(models[model_type])
    assert (found.hidden_size, found.layers, found.heads, found.vocab_size) == (32, 2, 4, 259)
    own = tiny_families.COMMON | tiny_families.MODELS[model_type][1]
    assert (found.kv_heads, found.positions) == (own["num_key_value_heads"] or 4, 512)
    assert found.head_dim == (16 if model_type.startswith("deepseek") else 8)
    assert found.intermediate_size == 64


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(model_type: str, preset: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Each preset means layers of this network; LoRA there learns, and answers the same loaded and merged (D12)."""
    import torch

    directory, tokens = models[model_type], torch.arange(3, 35).reshape(2, 16)
    family, network = family_of(directory), load_causal_lm(directory)
    lora = Lora(r=4, target_modules=preset)
    if preset == "embeddings" and network.config.tie_word_embeddings:
        with pytest.raises(ConfigError, match="would not survive merging"):
            attach(network, lora, family, tmp_path)
        return
    wanted = targets(network, preset, family)
    before = network(tokens).logits.detach()
    adapted = attach(network, lora, family, tmp_path)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    adapted(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    after = adapted(tokens).logits.detach()
    assert not torch.allclose(before, after)
    _check_places(adapted, wanted)
    save_adapter(adapted, tmp_path / "out", tmp_path)
    loaded = load_adapter(load_causal_lm(directory), tmp_path / "out")
    assert torch.equal(loaded(tokens).logits, after)
    assert torch.allclose(loaded.merge_and_unload()(tokens).logits, after, atol=1e-4)


def _check_places(adapted: Any, wanted: Any) -> None:
    """Every layer and parameter that was wanted carries an adapter."""
    carriers = {
        name
        for name, m in adapted.named_modules()
        if getattr(m, "lora_A", None) or getattr(m, "lora_embedding_A", None)
    }
    names = [] if isinstance(wanted.modules, str) else wanted.modules
    for ending in [*names, *(p.rpartition(".")[0] for p in wanted.parameters)]:
        assert any(name.endswith(f".{ending}") for name in carriers), ending
    assert wanted.modules != [] or wanted.parameters


def test_same_recipe(model_type: str, models: dict[str, Path], tmp_path: Path, request: Any) -> None:
    """One recipe trains a model of any family; only its name in it changes (D14)."""
    if model_type == "phimoe":
        reason = "TRL 1.16 reads `num_experts` of every mixture's configuration, which Phi-3.5-MoE calls otherwise"
        request.applymarker(pytest.mark.xfail(reason=reason, raises=AttributeError, strict=True))
    from components.core.recipe import parse_recipe
    from components.services.data import DataService
    from components.services.model import ModelService
    from components.services.training import TrainingService
    from components.services.workspace import Workspace

    steps = [{"type": "sft", "max_steps": 2, "batch_size": 2, "lora": {"r": 4, "target_modules": "attention+mlp"}}]
    plan = parse_recipe(tiny.recipe(tmp_path, models[model_type], train=steps))
    workspace = Workspace(tmp_path)
    base = ModelService(workspace).fetch(plan.model)
    dataset = DataService(workspace).validate(plan.data, base)
    artifact = TrainingService(workspace).train(plan.train, base, dataset, plan.seed)
    network = load_adapter(load_causal_lm(base.path), artifact.path)
    moved = [name for name, p in network.named_parameters() if "lora_B" in name and p.abs().sum() > 0]
    assert moved
