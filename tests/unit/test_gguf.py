"""The way out to llama.cpp and Ollama."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from components.compression.gguf.ollama import MESSAGES, turn_of
from components.compression.gguf.tokenizer import check_tokenizer, splitting_name
from components.core.chat import encode_prompt, render
from components.core.errors import ArtifactError, ConfigError, ModelLoadError
from components.core.events import EventBus
from components.core.kinds import registry
from components.interfaces import StepContext, Subject
from components.runtime import opened
from tests import tiny


def written(source: Any, out: Path, **config: Any) -> dict[str, Any]:
    """The pass applied to an artifact."""
    out.mkdir(exist_ok=True)
    return registry.create("pass", "gguf", **config).apply(source, {}, out, StepContext(17, EventBus()))


def model(lab: Any, path: Path, network: Any) -> Any:
    """A network with the tiny tokenizer as an artifact."""
    network.save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return lab.merged.model_copy(update={"path": path})


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_every_type_is_read_back_as_it_was_written(kind: str, lab: Any, tmp_path: Path) -> None:
    """transformers reads the file and gives the logits of the rounded weights (C33, E28)."""
    facts = written(lab.merged, tmp_path / "out", weights=kind, embedding=kind)
    assert facts["max_logit_difference"] < 1e-4
    assert facts["weights"] == ({"F32": 21} if kind == "F32" else {kind: 16, "F32": 5})
    assert (facts["mean_kl"] < 1e-6) == (kind == "F32")


def test_fewer_bits_are_smaller_and_further_away(lab: Any, tmp_path: Path) -> None:
    """Size falls and distance to the source rises from float16 over eight to four bits (E28)."""
    kinds = ("F16", "Q8_0", "Q4_0")
    facts = [written(lab.merged, tmp_path / kind, weights=kind, embedding=kind) for kind in kinds]
    sizes = [(tmp_path / kind / "model.gguf").stat().st_size for kind in kinds]
    assert sizes == sorted(sizes, reverse=True)
    distances = [found["mean_kl"] for found in facts]
    assert distances == sorted(distances)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_other_families(family: str, lab: Any, tmp_path: Path) -> None:
    """Qwen 2 (with biases), Qwen 3 (norms of query and key) and Mistral are read back as well (E28)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = lab.merged.read_json("config.json")
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    plain = {key: settings[key] for key in (*kept, "num_key_value_heads", "max_position_embeddings")}
    head = {"head_dim": 128} if family == "qwen3" else {}  # transformers reads no other size for Qwen 3
    config = AutoConfig.for_model(family, **plain, **head, tie_word_embeddings=True, sliding_window=None)
    facts = written(model(lab, tmp_path / "in", AutoModelForCausalLM.from_config(config)), tmp_path / "out")
    assert facts["max_logit_difference"] < 1e-4
    names = {tensor.name for tensor in GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    assert "output.weight" not in names
    assert ("blk.0.attn_q.bias" in names) == (family == "qwen2")
    assert ("blk.0.attn_q_norm.weight" in names) == (family == "qwen3")


def test_architecture_that_is_not_covered_is_refused_by_name(lab: Any, tmp_path: Path) -> None:
    """An architecture without a mapping is refused with its name and those that are known (E28)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    network = GPT2LMHeadModel(GPT2Config(vocab_size=259, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(ModelLoadError, match="architecture 'gpt2' is not covered .* llama, mistral, qwen2, qwen3"):
        written(model(lab, tmp_path / "in", network), tmp_path / "out")


def test_scaled_positions_are_refused(lab: Any, tmp_path: Path) -> None:
    """A detail that the file would lose is refused by name: the result would be another model."""
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ModelLoadError, match="positions of type 'linear' are not covered"):
        written(model(lab, tmp_path / "in", tiny.network(rope_parameters=rope)), tmp_path / "out")


def test_parity_failure_is_told(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in a wrong order are found by reading back, and nothing is handed on (C27)."""
    wrong = {"llama": type(next(iter_architectures()))("llama", False)}
    monkeypatch.setattr("components.compression.gguf.weights.ARCHITECTURES", wrong)
    with pytest.raises(ArtifactError, match="its sizes or its order of rows are wrong"):
        written(lab.merged, tmp_path / "out", weights="F32")


def iter_architectures() -> Any:
    """The architectures that are covered."""
    from components.compression.gguf.weights import ARCHITECTURES

    return iter(ARCHITECTURES.values())


def test_sizes_are_whole_blocks(lab: Any, tmp_path: Path) -> None:
    """Rows that are no whole blocks of 32 stay in float16, and the facts say how many (C27)."""
    network = tiny.network(intermediate_size=80)
    facts = written(model(lab, tmp_path / "in", network), tmp_path / "out", weights="Q4_0")
    assert facts["weights"]["F16"] == 2  # down_proj of both layers
    assert facts["max_logit_difference"] < 1e-4


def test_tokenizer_round_trip(lab: Any, tmp_path: Path) -> None:
    """Tokens, merges, special tokens and the chat template are in the file; another tokenizer is told apart (E28)."""
    written(lab.merged, tmp_path / "out", weights="F32")
    reader, own = GGUFReader(tmp_path / "out" / "model.gguf"), tiny.tokenizer()
    assert check_tokenizer(reader, own) > 100
    assert reader.fields["tokenizer.chat_template"].contents() == tiny.CHAT_TEMPLATE
    assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == own.eos_token_id
    own.add_tokens(["kettle"])
    own.backend_tokenizer.add_tokens(["dog"])
    with pytest.raises(ArtifactError, match="the tokenizer in the GGUF file reads"):
        check_tokenizer(reader, own)


def test_tokenizer_with_merges(tmp_path: Path) -> None:
    """Splitting is found by what it does: gpt-2's, Qwen's, Llama 3's, SmolLM's; one without a name is refused."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    def named(*parts: Any) -> str:
        core = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
        core.pre_tokenizer = pre_tokenizers.Sequence(list(parts))
        return splitting_name(json.loads(core.to_str()))

    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    raw = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert named(words) == "gpt-2"
    assert named(pre_tokenizers.Digits(individual_digits=True), words) == "smollm"
    assert named(pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"), raw) == "qwen2"
    three = PRETOKENIZE_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    assert named(pre_tokenizers.Split(Regex(three), "isolated"), raw) == "llama-bpe"
    with pytest.raises(ModelLoadError, match="llama.cpp has no name that we know"):
        named(raw)


@pytest.mark.parametrize(
    ("template", "system"),
    [
        (tiny.CHAT_TEMPLATE, ""),
        (
            "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
            + tiny.CHAT_TEMPLATE,
            "Be kind.",
        ),
        (
            "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
            "{{ m.content + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
            "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
            "",
        ),
    ],
    ids=["chatml", "default-system", "llama3"],
)
def test_modelfile_template_renders_as_the_models_own(template: str, system: str) -> None:
    """Turns are framed by the Go template as by the Jinja template, the default system message included (E28)."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    turn = turn_of(tokenizer)
    assert turn is not None
    assert turn.system == system
    assert turn.render(MESSAGES) == render(tokenizer, MESSAGES, reply=True)
    assert turn.template.count("{{ .Role }}") == 1


def test_modelfile_without_a_known_form_leaves_the_template_out(lab: Any, tmp_path: Path) -> None:
    """Where the chat template is of another form, the Modelfile has no TEMPLATE, and the facts say so."""
    plain = tmp_path / "in"
    source = model(lab, plain, tiny.network())
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}"
    tokenizer.save_pretrained(plain)
    facts = written(source, tmp_path / "out")
    assert facts["modelfile_template"].startswith("none")
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text == 'FROM ./model.gguf\nPARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 2048\n'


def test_quantized_codes_become_blocks(lab: Any, tmp_path: Path) -> None:
    """Codes of four bits are written as they are: the file stands for the same weights (E28)."""
    from components.compression.layers import block_linears
    from components.compression.quantization.checkpoint import load_quantized, save_quantized
    from components.compression.quantization.grid import Grid, round_to_nearest
    from components.core.safeload import load_gguf

    network = tiny.network()
    grids = [Grid(4, 32), Grid(4, 64), Grid(8, 32)]
    linears = block_linears(network)
    codes = {name: round_to_nearest(m.weight.data, grids[i % 3]) for i, (name, m) in enumerate(linears.items())}
    save_quantized(lab.merged.path, network, codes, tmp_path / "in")
    source = lab.merged.model_copy(update={"path": tmp_path / "in", "kind": "quantized"})
    facts = written(source, tmp_path / "out", weights="Q4_1", embedding="F32")
    assert facts["weights"] == {"Q4_1": 10, "Q8_0": 4, "F32": 7}
    expected, found = load_quantized(tmp_path / "in").state_dict(), load_gguf(tmp_path / "out").state_dict()
    for name, made in codes.items():
        lost = (expected[f"{name}.weight"] - found[f"{name}.weight"]).abs().max()
        step = made.scales.max()
        assert lost < step * (0.02 if made.grid.bits == 4 else 1)  # scales in float16; eight bits round again


def test_backend_reads_and_answers(lab: Any, tmp_path: Path) -> None:
    """The backend opens the file, says which engine runs, and answers as the source does (E24)."""
    written(lab.merged, tmp_path / "out", weights="F32", embedding="F32")
    artifact = lab.merged.model_copy(update={"path": tmp_path / "out", "kind": "gguf"})
    found = {}
    for name, subject in (("merged", lab.subject("merged")), ("gguf", Subject(name="gguf", artifact=artifact))):
        with opened(subject, engine="transformers") as backend:
            prompt = encode_prompt(backend.tokenizer, tiny.conversation(1))
            found[name] = (backend.logits(prompt), list(backend.stream(prompt, 8)), backend.generate([prompt], 8))
            health = backend.health().detail
    assert "transformers, its weights expanded" in health
    assert np.abs(found["gguf"][0] - found["merged"][0]).max() < 1e-4
    assert found["gguf"][1:] == found["merged"][1:]


def test_backend_refuses_a_folder_without_one_file(lab: Any, tmp_path: Path) -> None:
    """A folder with two GGUF files is refused: nobody can tell which one is meant."""
    written(lab.merged, tmp_path / "out", weights="F32")
    (tmp_path / "out" / "other.gguf").write_bytes(b"GGUF")
    artifact = lab.merged.model_copy(update={"path": tmp_path / "out", "kind": "gguf"})
    with (
        pytest.raises(ModelLoadError, match=r"expected one \.gguf file .* found 2"),
        opened(Subject(name="gguf", artifact=artifact), engine="transformers"),
    ):
        pass


def test_unknown_type_is_refused() -> None:
    """A type that the gguf package cannot write is refused when the recipe is read (A22)."""
    with pytest.raises((ConfigError, ValueError), match="weights"):
        registry.create("pass", "gguf", weights="Q4_K_M")
