"""Families by configuration: the file, detection, sizes, presets, FLOPs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError, ModelLoadError
from components.core.families import Sizes, facts, families, family_of, read_families, sizes, target_modules, targets
from components.training.flops import flops_per_token, matrix_weights, training_flops
from tests import tiny, tiny_families

ROOT = Path(__file__).resolve().parents[2]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASE = """
base:
  abstract: true
  title: Base
  layers: {attention: [q], mlp: [up], embeddings: [table]}
  attention: {cpu: sdpa, cuda: sdpa}
  padding_side: left
  notes: of the base
generic: {extends: base, title: Any}
"""


def directory(path: Path, **config: Any) -> Path:
    """A directory with a config.json and nothing else."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_importing_needs_no_library() -> None:
    """The families are known without importing an ML library (A27)."""
    code = (
        "import sys; from components.core.families import families; families(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'optimum', 'peft')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_family_is_documented() -> None:
    """Each family of the file stands in the guide with its types, and the other way round (D3)."""
    guide = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").partition("## Families")[2].partition("\n## ")[0]
    named = {line.split("`")[1] for line in guide.splitlines() if line.startswith("| `")}
    assert named == set(families())
    for family in families().values():
        assert all(f"`{model_type}`" in guide for model_type in family.model_types), family.name


def test_every_type_exists() -> None:
    """The file names no model type that transformers does not know (D3)."""
    from transformers import CONFIG_MAPPING

    assert [t for f in families().values() for t in f.model_types if t not in CONFIG_MAPPING] == []


def test_inheritance() -> None:
    """An entry takes over what it does not say itself, preset by preset; notes are not passed on."""
    text = BASE + "own: {extends: base, title: Own, model_types: [own], layers: {mlp: [fc]}}\n"
    own = read_families(text)["own"]
    assert (own.layers.attention, own.layers.mlp, own.notes) == (("q",), ("fc",), "")
    assert list(read_families(text)) == ["generic", "own"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("x: {extends: base, model_types: [x], colour: red}", "family 'x': colour: Extra inputs"),
        ("x: {extends: base, model_types: [x], padding_side: middle}", "family 'x': padding_side: Input should be"),
        ("x: {extends: base}", "family 'x': it: .*names no model_types"),
        ("x: {extends: bas, model_types: [x]}", "'x' extends unknown 'bas'; did you mean 'base'"),
        ("x: {extends: y}\ny: {extends: x}", "x -> y -> x extend each other"),
    ],
)
def test_mistakes_in_the_file(entry: str, message: str) -> None:
    """A mistake in the file is named with the family it stands in (A27)."""
    with pytest.raises(ConfigError, match=message):
        read_families(f"{BASE}{entry}\n")


def test_the_last_resort_is_required() -> None:
    """Without `generic` an unknown model would have no family."""
    with pytest.raises(ConfigError, match="no family 'generic'"):
        read_families(BASE.partition("generic:")[0])


@pytest.mark.parametrize(
    ("name", "config", "family"),
    [
        ("dolphin-2.9", {"model_type": "llama"}, "llama"),
        ("dolphin", {"model_type": "unheard_of"}, "generic"),
        ("phi-in-name-only", {"model_type": "qwen3"}, "qwen"),
        ("SmolLM2-135M-Instruct", {"model_type": "llama"}, "smollm"),
        ("smollamas", {"model_type": "llama"}, "llama"),
        ("a", {"model_type": "llama", "_name_or_path": "HuggingFaceTB/SmolLM-360M"}, "smollm"),
        ("b", {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, "gemma"),
        ("c", {"model_type": "llava", "text_config": {"model_type": "mistral"}}, "mistral"),
        ("DeepSeek-R1-Distill-Qwen-1.5B", {"model_type": "qwen2"}, "qwen"),
        ("d", {}, "generic"),
    ],
)
def test_detection(tmp_path: Path, name: str, config: dict[str, Any], family: str) -> None:
    """The type in config.json decides; the name only chooses between families of that type (D4)."""
    assert family_of(directory(tmp_path / name, **config)).name == family


def test_name_beside_the_directory(tmp_path: Path) -> None:
    """The recipe's name of the model is a hint as good as the directory's (D4)."""
    path = directory(tmp_path / "0123abcd", model_type="llama")
    assert family_of(path, "HuggingFaceTB/SmolLM2-1.7B").name == "smollm"
    assert family_of(path).name == "llama"


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_no_configuration(tmp_path: Path, content: str | None) -> None:
    """A directory without a usable config.json is named (D4)."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelLoadError, match="config.json"):
        family_of(tmp_path)


def test_sizes_of_unknown_and_partial(tmp_path: Path) -> None:
    """Sizes that a configuration does not have are None; an unknown type is read all the same."""
    path = directory(tmp_path / "x", model_type="unheard_of", hidden_size=8, num_attention_heads=2, vocab_size=5)
    assert sizes(path) == Sizes(8, None, 2, 2, 4, None, 5, None)


def test_sizes_of_text_and_images() -> None:
    """Of a model of text and images the sizes are those of its text part (D3)."""
    from transformers import Gemma3Config

    text = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "head_dim": 16}
    found = sizes(Gemma3Config(text_config=text))
    assert (found.hidden_size, found.layers, found.heads, found.head_dim) == (48, 3, 2, 16)


def test_one_size_a_layer() -> None:
    """A size given for each layer counts with the largest."""
    assert sizes(tiny_families.configuration("gemma3n_text")).intermediate_size == 64


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("attention", ["q_proj", "k_proj", "v_proj", "o_proj"]),
        ("attention+down_proj", ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]),
        (["mlp", "q_proj"], ["gate_proj", "up_proj", "down_proj", "q_proj"]),
        (["self_attn.q_proj"], ["self_attn.q_proj"]),
        ("embeddings", ["embed_tokens", "lm_head"]),
        ("all-linear", "all-linear"),
        ("all-linear + embeddings", [*LINEAR, "embed_tokens", "lm_head"]),
    ],
)
def test_presets(wanted: Any, expected: Any) -> None:
    """Presets may be joined, mixed with names, and mean layers of this network (D12)."""
    assert target_modules(tiny.network(), wanted, families()["llama"]) == expected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("q_prj", r"target_modules='q_prj': 'q_prj' matches no layer .*; did you mean 'q_proj'\?; known: .*v_proj"),
        ("attntion", "did you mean 'attention'"),
        (["q_proj", "proj"], "'proj' matches no layer"),
        ("attention+", "'' matches no layer"),
    ],
)
def test_unknown_layers(wanted: Any, message: str) -> None:
    """A name that means nothing here is refused with the layers that exist (D12)."""
    with pytest.raises(ConfigError, match=message):
        target_modules(tiny.network(), wanted, families()["llama"])


def test_preset_of_another_family() -> None:
    """A preset that fits no layer of this network is refused, not ignored (D12)."""
    with pytest.raises(ConfigError, match="preset 'mlp' of family 'gpt2' matches no layer"):
        target_modules(tiny.network(), "mlp", families()["gpt2"])


def test_experts_are_addressed_as_parameters() -> None:
    """Fused experts and the dense layers beside them are adapted, the router is not (D12)."""
    network = tiny_families.network("deepseek_v3")
    found = targets(network, "mlp", families()["deepseek"])
    assert found.modules == []
    assert set(found.parameters) == {
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
        *(f"{part}.{name}_proj.weight" for part in ("mlp", "shared_experts") for name in ("gate", "up", "down")),
    }
    assert targets(network, "attention+mlp", families()["deepseek"]) == targets(
        network, "all-linear", families()["deepseek"]
    )


# ------------------------------------------------------------ for people


def test_facts(tmp_path: Path) -> None:
    """A model's facts are its family, its sizes, and its makers' sampling, its own configuration first (D4)."""
    path = tiny.write_model(tmp_path / "tiny")
    told = facts(path)
    assert (told["family"], told["generation"]) == ("llama", {"temperature": 0.6, "top_p": 0.9})
    assert (told["sizes"]["layers"], told["sizes"]["kv_heads"]) == (2, 2)
    (path / "generation_config.json").write_text(json.dumps({"temperature": 0.2, "top_k": 40, "eos_token_id": 2}))
    assert facts(path)["generation"] == {"temperature": 0.2, "top_p": 0.9, "top_k": 40}


# ------------------------------------------------------------ FLOPs


def test_flops_by_hand() -> None:
    """Full training costs 6N plus attention, with an adapter 4N and its own (PaLM appendix B)."""
    shape = Sizes(64, 2, 4, 2, 16, 128, 259, 2048)
    attention = 12 * 2 * 4 * 16 * 100
    assert training_flops(1000, 1000, shape, 100) == 6 * 1000 + attention
    assert training_flops(1010, 10, shape, 100) == 4 * 1000 + 6 * 10 + attention
    assert training_flops(1000, 1000, Sizes(*[None] * 8), 100) == 6000


def test_flops_of_a_network() -> None:
    """Norms and the looked-up embedding cost nothing; what is frozen saves its own gradient."""
    network = tiny.network()
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
    weights = 2 * layer + 64 * 259
    assert matrix_weights(network) == (weights, weights)
    full = flops_per_token(network, 128)
    assert full == 6 * weights + 12 * 2 * 4 * 16 * 128
    network.requires_grad_(False)
    assert full - flops_per_token(network, 128) == 2 * weights


def test_flops_of_tied_embeddings_and_experts() -> None:
    """A tied embedding counts as the output matrix; of the experts, those count that a token is sent to."""
    tied = tiny.network(tie_word_embeddings=True)
    assert matrix_weights(tied) == matrix_weights(tiny.network())
    mixture = tiny_families.network("mixtral")
    experts = sum(p.numel() for name, p in mixture.named_parameters() if ".experts." in name)
    others = sum(p.numel() for n, p in mixture.named_parameters() if p.ndim == 2 and "embed_tokens" not in n)
    assert matrix_weights(mixture)[0] == others + experts * 2 / 4
