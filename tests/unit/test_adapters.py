"""Adapters on PEFT: what is refused, what is trained, and that what is saved belongs on the original base."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.core.errors import ConfigError, MissingExtraError
from components.core.families import families
from components.core.safeload import load_adapter, load_causal_lm
from components.training import adapters
from components.training.adapters import Adapter, Lora, attach, peft_config, quantization_config, save_adapter
from components.training.flops import matrix_weights
from tests import tiny, tiny_families

LLAMA = families()["llama"]
OPTIONS: dict[str, dict[str, Any]] = {
    "adalora": {"total_step": 10},
    "adaption_prompt": {"adapter_layers": 1, "adapter_len": 4},
    "cartridge": {"num_virtual_tokens": 4},
    "c3a": {"block_size": 8},
    "cpt": {"cpt_token_ids": [5, 6], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 1]},
    "fourierft": {"n_frequency": 10},
    "miss": {"r": 8},
    "oft": {"oft_block_size": 8},
    "boft": {"boft_block_size": 4},
    "p_tuning": {"num_virtual_tokens": 4, "encoder_hidden_size": 16},
    "prefix_tuning": {"num_virtual_tokens": 4},
    "prompt_tuning": {"num_virtual_tokens": 4},
    "psoft": {"r": 8},
    "road": {"group_size": 8},
    "shira": {"r": 2},
    "trainable_tokens": {"token_indices": [5, 6, 7, 8]},
    "vblora": {"vector_length": 8, "num_vectors": 16},
    "waveft": {"n_frequency": 100},
}
"""What a method must be told on so small a network, or at all."""
WARNS = ("beft", "boft", "frod", "ln_tuning")
"""Methods of which PEFT itself warns: no merging, slow without a compiler, beta, norms it does not know."""


def batch() -> Any:
    """Two rows of tokens."""
    import torch

    return torch.randint(3, 259, (2, 16), generator=torch.Generator().manual_seed(1))


def trained(network: Any, steps: int = 2) -> Any:
    """A few steps of AdamW on one batch."""
    import torch

    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    network.train()
    for _ in range(steps):
        network(input_ids=batch(), labels=batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.eval()


def logits(network: Any) -> Any:
    """What it answers to the batch."""
    import torch

    with torch.no_grad():
        return network(input_ids=batch()).logits


def apart(one: Any, other: Any) -> float:
    """Largest difference between two sets of logits."""
    return float((one - other).abs().max())


# ------------------------------------------------------------ what a recipe may say


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"init": "pisa"}, "unknown init 'pisa'; did you mean 'pissa'"),
        ({"init": "pissa_niter_0"}, "unknown init"),
        ({"init": "eva"}, "known: default, gaussian, orthogonal, olora, pissa, pissa_niter_4"),
        ({"init": "orthogonal", "r": 3}, "needs an even r, found 3"),
        ({"init": "pissa", "dora": True, "quantize": "int4"}, "pissa does not go with dora, quantize"),
        ({"init": "olora", "modules_to_save": ["lm_head"]}, "does not go with modules_to_save"),
        ({"quantize": "int2"}, "int4"),
        ({"rank": 8}, "Extra inputs"),
    ],
)
def test_refused_keys(config: dict[str, Any], message: str) -> None:
    """What cannot work, or could not be saved truly, is refused before anything is loaded (A27)."""
    with pytest.raises(ValidationError, match=message):
        Lora(**config)


def test_lora_keys_reach_peft() -> None:
    """Every key of the section arrives in PEFT's own configuration (D9)."""
    lora = Lora(r=8, alpha=4, dropout=0.1, target_modules="mlp", rslora=True, dora=True, rank_pattern={"up_proj": 2})
    made = peft_config(lora, tiny.network(), LLAMA)
    assert (made.r, made.lora_alpha, made.lora_dropout, made.use_rslora, made.use_dora) == (8, 4, 0.1, True, True)
    assert (made.target_modules, made.rank_pattern) == ({"gate_proj", "up_proj", "down_proj"}, {"up_proj": 2})
    assert (made.init_lora_weights, made.task_type) == (True, "CAUSAL_LM")
    assert peft_config(Lora(init="gaussian"), tiny.network(), LLAMA).init_lora_weights == "gaussian"


def test_unknown_method() -> None:
    """A method that PEFT does not have is refused with those that it has (D9)."""
    with pytest.raises(ConfigError, match=r"unknown adapter method 'ia4'; did you mean 'ia3'\? \(known: ada.*vera"):
        peft_config(Adapter(method="ia4"), tiny.network(), LLAMA)


@pytest.mark.parametrize("method", adapters.UNFIT)
def test_unfit_method(method: str) -> None:
    """A method that cannot be trained here is refused with the reason (D9)."""
    with pytest.raises(ConfigError, match=f"'{method}' cannot be used here: it "):
        peft_config(Adapter(method=method), tiny.network(), LLAMA)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lokr", {"rnk": 4, "alpa": 1}, r"no option 'rnk'.*\n.*no option 'alpa'; did you mean 'alpha'\? \(known: .*r,"),
        ("lokr", {"target_modules": "q_prj"}, "did you mean 'q_proj'"),
        ("adalora", {}, "adapter 'adalora': .*total_step"),
        ("prompt_tuning", {"tokenizer_name_or_path": "x"}, "no option 'tokenizer_name_or_path'"),
        ("vera", {"inference_mode": True}, "no option 'inference_mode'"),
    ],
)
def test_unknown_option(method: str, options: dict[str, Any], message: str) -> None:
    """An option that a method does not have is named with those that it has; none makes PEFT read files (A27)."""
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        peft_config(Adapter(method=method, options=options), tiny.network(), LLAMA)


def test_options_that_do_not_fit_the_network(tmp_path: Path) -> None:
    """PEFT's own complaint about this network is told as a mistake of the recipe."""
    with pytest.raises(ConfigError, match="adapter 'miss' does not fit this model: .*less than or equal"):
        attach(tiny.network(), Adapter(method="miss", options={"r": 500}), LLAMA, tmp_path)


@pytest.mark.parametrize("change", [{"dropout": 0.1}, {"dora": True}, {"init": "pissa"}])
def test_experts_take_plain_lora_only(change: dict[str, Any]) -> None:
    """What PEFT cannot do on fused experts is refused; on the attention of the same network it works (D12)."""
    network, family = tiny_families.network("mixtral"), families()["mixtral"]
    with pytest.raises(ConfigError, match="does not go with LoRA on fused experts.*target_modules: attention"):
        peft_config(Lora(**change), network, family)
    assert not peft_config(Lora(target_modules="attention", **change), network, family).target_parameters


def test_quantised_layers_beside_experts() -> None:
    """Dense layers beside fused experts cannot be of few bits and adapted; the error says what can be done (D12)."""
    network, family = tiny_families.network("deepseek_v3"), families()["deepseek"]
    with pytest.raises(ConfigError, match="quantize does not go with LoRA on fused experts"):
        peft_config(Lora(quantize="int4"), network, family)
    assert peft_config(Lora(quantize="int4", target_modules="attention"), network, family)


def test_other_methods_cannot_adapt_experts() -> None:
    """Only LoRA reaches fused experts; another method that was told to is refused."""
    with pytest.raises(ConfigError, match="are fused experts, which only lora can adapt"):
        peft_config(
            Adapter(method="lokr", options={"target_modules": "mlp"}),
            tiny_families.network("mixtral"),
            families()["mixtral"],
        )


def test_tied_embeddings() -> None:
    """LoRA on an embedding that is the output matrix too would be lost in merging, so it is refused with a remedy."""
    with pytest.raises(ConfigError, match=r"modules_to_save: \[embed_tokens\]"):
        peft_config(Lora(target_modules="embeddings"), tiny.network(tie_word_embeddings=True), LLAMA)
    with pytest.raises(ConfigError, match="init: pissa does not go with LoRA on embeddings"):
        peft_config(Lora(target_modules="embeddings", init="pissa"), tiny.network(), LLAMA)


# ------------------------------------------------------------ what is saved


@pytest.mark.parametrize(
    "change",
    [
        {"rslora": True},
        {"dora": True},
        {"rank_pattern": {"up_proj": 2}},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": "embeddings"},
    ],
    ids=str,
)
def test_variants_are_saved_truly(change: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """Every variant of LoRA answers the same after saving, loading through the safe door, and merging (D9, E16)."""
    network = trained(attach(load_causal_lm(tiny_model), Lora(r=4, **change), LLAMA, tmp_path))
    save_adapter(network, tmp_path / "out", tmp_path)
    loaded = load_adapter(load_causal_lm(tiny_model), tmp_path / "out")
    assert apart(logits(network), logits(loaded)) == 0
    assert apart(logits(network), logits(loaded.merge_and_unload())) < 1e-4
    assert apart(logits(network), logits(load_causal_lm(tiny_model))) > 1e-3
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_tied_embeddings_in_full(tmp_path: Path) -> None:
    """A tied embedding that is trained in full stays tied, and is merged truly (D12)."""
    directory = tiny_families.write_model(tmp_path / "base", "smollm3")
    lora = Lora(r=4, modules_to_save=["embed_tokens"])
    network = trained(attach(load_causal_lm(directory), lora, families()["smollm"], tmp_path))
    save_adapter(network, tmp_path / "out", tmp_path)
    merged = load_adapter(load_causal_lm(directory), tmp_path / "out").merge_and_unload()
    assert apart(logits(network), logits(merged)) < 1e-4
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("init", adapters.INITS)
def test_every_start_fits_the_original_base(init: str, rslora: bool, tiny_model: Path, tmp_path: Path) -> None:
    """Also from PiSSA and OLoRA, which change the base, the saved adapter belongs on the base as it was (D9)."""
    base = load_causal_lm(tiny_model)
    before = logits(base)
    network = attach(base, Lora(r=4, init=init, rslora=rslora), LLAMA, tmp_path)
    assert apart(before, logits(network.eval())) < 1e-4
    after = logits(trained(network))
    save_adapter(network, tmp_path / "out", tmp_path)
    loaded = load_adapter(load_causal_lm(tiny_model), tmp_path / "out")
    assert apart(after, logits(loaded)) < 1e-4
    assert apart(after, logits(network)) == 0
    assert apart(after, before) > 1e-3


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_resumed_base_is_the_same(init: str, tiny_model: Path, tmp_path: Path) -> None:
    """A resumed run finds the base as the first one changed it, bit by bit, though the fast decomposition is random."""
    import torch

    first = attach(load_causal_lm(tiny_model), Lora(r=4, init=init), LLAMA, tmp_path).state_dict()
    torch.manual_seed(99)
    again = attach(load_causal_lm(tiny_model), Lora(r=4, init=init), LLAMA, tmp_path).state_dict()
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_lost_initial_state(tiny_model: Path, tmp_path: Path) -> None:
    """Without the initial state such an adapter fits no base; saving it is refused, not done wrongly."""
    network = attach(load_causal_lm(tiny_model), Lora(r=4, init="olora"), LLAMA, tmp_path)
    with pytest.raises(ConfigError, match="is gone, without which an adapter of init olora fits no base"):
        save_adapter(network, tmp_path / "out", tmp_path / "elsewhere")


@pytest.mark.parametrize("method", adapters.methods())
def test_every_method_of_peft(method: str, tiny_model: Path, tmp_path: Path, recwarn: Any) -> None:
    """Each method trains, leaves safetensors only, and answers the same when loaded through the safe door (D9)."""
    import warnings

    warnings.simplefilter("ignore" if method in WARNS else "error", UserWarning)
    adapter = Adapter(method=method, options=OPTIONS.get(method, {}))
    network = trained(attach(load_causal_lm(tiny_model), adapter, LLAMA, tmp_path))
    trainable, total = adapters.trainable_parameters(network)
    assert 0 < trainable < total
    save_adapter(network, tmp_path / "out", tmp_path)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    loaded = load_adapter(load_causal_lm(tiny_model), tmp_path / "out")
    assert apart(logits(network), logits(loaded)) < 1e-5


def test_ia3_sits_where_it_should() -> None:
    """IA3 scales keys, values and inputs of the feed-forward layers; a preset says which (D12)."""
    made = peft_config(Adapter(method="ia3"), tiny.network(), LLAMA)
    assert made.feedforward_modules == {"gate_proj", "up_proj", "down_proj"} < made.target_modules
    attention = peft_config(Adapter(method="IA3", options={"target_modules": "attention"}), tiny.network(), LLAMA)
    assert attention.feedforward_modules == set()


def test_trainable_parameters(tmp_path: Path) -> None:
    """Trainable and all weights are counted, on a plain network too (E21)."""
    total = sum(p.numel() for p in tiny.network().parameters())
    assert adapters.trainable_parameters(tiny.network()) == (total, total)
    network = attach(tiny.network(), Lora(r=4, target_modules=["q_proj"]), LLAMA, tmp_path)
    assert adapters.trainable_parameters(network) == (2 * 4 * (64 + 64), total + 2 * 4 * (64 + 64))


# ------------------------------------------------------------ QLoRA


def test_no_quantisation() -> None:
    """Without `quantize` the base is loaded as it is."""
    assert quantization_config(None) is None
    assert quantization_config(Lora()) is None


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bitsandbytes the error names the extra that brings it (D9)."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'postmill\[qlora\]'"):
        quantization_config(Lora(quantize="int4"))


def test_no_code_for_this_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bitsandbytes that cannot compute here is refused before the model is loaded."""
    library = pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(library, "supported_torch_devices", {"mps"})
    with pytest.raises(ConfigError, match="lora.quantize=int8: bitsandbytes .* has no code for the device"):
        quantization_config(Lora(quantize="int8"))


@pytest.mark.parametrize("quantize", ["int4", "int8"])
@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_qlora(quantize: Any, tiny_model: Path, tmp_path: Path) -> None:
    """On a base of few bits an adapter learns, is saved, and goes on that base and on the full one (D9)."""
    pytest.importorskip("bitsandbytes")
    lora = Lora(r=4, quantize=quantize)

    def base() -> Any:
        return load_causal_lm(tiny_model, quantization=quantization_config(lora))

    layer = base().model.layers[0].mlp.up_proj
    assert layer.weight.element_size() == 1
    network = attach(base(), lora, LLAMA, tmp_path)
    total = sum(p.numel() for p in attach(tiny.network(), Lora(r=4), LLAMA, tmp_path).parameters())
    assert adapters.trainable_parameters(network)[1] == total
    assert matrix_weights(network)[0] == matrix_weights(attach(tiny.network(), Lora(r=4), LLAMA, tmp_path))[0]
    start = float(network(input_ids=batch(), labels=batch()).loss.detach())
    assert float(trained(network, 8)(input_ids=batch(), labels=batch()).loss.detach()) < start - 0.1
    save_adapter(network, tmp_path / "out", tmp_path)
    loaded = load_adapter(base(), tmp_path / "out")
    if quantize == "int4":  # in evaluation bitsandbytes rounds once more on some CPUs, though not while we train
        assert apart(logits(network), logits(network.train())) == 0
        loaded.train()
    assert apart(logits(network), logits(loaded)) < 1e-6
    load_adapter(load_causal_lm(tiny_model), tmp_path / "out").merge_and_unload()
