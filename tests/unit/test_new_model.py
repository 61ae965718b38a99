"""New models: an architecture with random weights, and a tokenizer that is trained or given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from components.core.artifacts import hash_directory
from components.core.chat import encode_chat
from components.core.config import validation_problems
from components.core.encoding import turn_ends
from components.core.errors import DataError, ModelLoadError
from components.core.kinds import registry
from components.core.safeload import check_model_directory, load_causal_lm, load_tokenizer
from tests import tiny

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Some text, in two files."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(2):
        lines = (tiny.conversation(n)[1]["content"] for n in range(number, 80, 2))
        (folder / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def source(text: Path, vocab_size: int = 300, **config: Any) -> Any:
    """A new model whose tokenizer is trained on the text."""
    tokenizer = {"train_on": [f"{text}/*.txt"], "vocab_size": vocab_size}
    return registry.create("model", "new", **({"tokenizer": tokenizer, "sizes": TINY} | config))


def fetched(model: Any, out: Path) -> Path:
    out.mkdir()
    model.fetch(out)
    return out


def refused(**config: Any) -> str:
    """Why a configuration is refused."""
    cls = registry.get("model", "new")
    with pytest.raises(ValidationError) as caught:
        cls.Config(**({"tokenizer": "somewhere"} | config))
    return "; ".join(text for _, text in validation_problems(caught.value, cls.Config))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mistral", "phi3", "gpt2"])
def test_any_family(family: str, text: Path, tmp_path: Path) -> None:
    """Any causal architecture of transformers can be made by name; it loads, and predicts nothing better than any
    other token (E13)."""
    model = source(text, family=family)
    out = fetched(model, tmp_path / "out")
    check_model_directory(out)
    network = load_causal_lm(out)
    assert network.config.model_type == family
    assert (network.config.vocab_size, network.config.hidden_size) == (300, 32)
    assert sum(weight.numel() for weight in network.parameters()) == model.parameters()
    ids = torch.tensor([load_tokenizer(out)("order 7: refund")["input_ids"]])
    with torch.no_grad():
        loss = network(ids, labels=ids).loss
    assert float(loss) == pytest.approx(torch.log(torch.tensor(300.0)).item(), rel=0.15)


def test_special_tokens(text: Path, tmp_path: Path) -> None:
    """Padding, beginning and end are three tokens, which the network knows; the end of a turn ends generation."""
    out = fetched(source(text), tmp_path / "out")
    tokenizer, config = load_tokenizer(out), json.loads((out / "config.json").read_text())
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert sorted(ids) == [0, 1, 2]
    assert [config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]] == ids
    assert turn_ends(tokenizer, out) == {tokenizer.eos_token_id}
    assert tokenizer.model_max_length == config["max_position_embeddings"]


def test_it_can_chat(text: Path, tmp_path: Path) -> None:
    """Its chat template marks what the assistant says, so that supervised training works on it (E13, E14)."""
    tokenizer = load_tokenizer(fetched(source(text), tmp_path / "out"))
    encoded = encode_chat(tokenizer, tiny.conversation(3))
    said = tokenizer.decode([token for token, trained in zip(encoded.ids, encoded.mask, strict=True) if trained])
    assert said == tiny.conversation(3)[-1]["content"] + "<|im_end|>"


@pytest.mark.parametrize("wild", ["", "naïve café 日本語 🎉", "\ttabs\r\n  and\x00 bytes", "<|im_end|>"])
def test_no_text_is_unknown(wild: str, text: Path) -> None:
    """Every text comes back as it was, whatever the tokenizer was trained on."""
    tokenizer = source(text).tokenizer
    assert tokenizer.decode(tokenizer(wild)["input_ids"]) == wild


def test_weights_follow_the_seed(text: Path, tmp_path: Path) -> None:
    """The same seed gives the same bytes, another seed other weights; torch's own random numbers stay as they are."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    digests = [
        hash_directory(fetched(source(text, seed=seed), tmp_path / name))
        for name, seed in (("1", 1), ("2", 1), ("3", 2))
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1]
    assert {name for name in digests[0] if digests[0][name] != digests[2][name]} == {"model.safetensors"}


def test_tokenizer_is_the_same_in_another_process(text: Path, tmp_path: Path) -> None:
    """Neither the number of threads nor the hashes of a process decide the vocabulary."""
    code = (
        "import sys; from components.core.kinds import registry\n"
        "config = {'train_on': [sys.argv[1] + '/*.txt'], 'vocab_size': 400}\n"
        "print(registry.create('model', 'new', tokenizer=config).tokenizer.backend_tokenizer.to_str())"
    )
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "PYTHONHASHSEED": "99"}
    command = [sys.executable, "-W", "ignore", "-c", code, str(text)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == source(text, vocab_size=400).tokenizer.backend_tokenizer.to_str()


def test_identity(text: Path, tmp_path: Path) -> None:
    """Text, sizes, seed, family and vocabulary decide the identity; where the text lies does not."""
    first = source(text).identity()
    moved = text.rename(tmp_path / "moved")
    assert source(moved).identity() == first
    (moved / "0.txt").rename(moved / "9.txt")
    assert source(moved).identity() == first
    others: list[dict[str, Any]] = [
        {"seed": 3},
        {"vocab_size": 301},
        {"family": "qwen3"},
        {"sizes": TINY | {"head_dim": 8}},
    ]
    assert all(source(moved, **other).identity() != first for other in others)
    (moved / "9.txt").write_text("something else")
    assert source(moved).identity() != first


def test_rows_of_json(text: Path, tmp_path: Path) -> None:
    """Of JSON Lines the texts inside are trained on, not the brackets around them."""
    tiny.write_rows(tmp_path / "rows.jsonl", range(80))
    config = {"train_on": [str(tmp_path / "rows.jsonl")], "vocab_size": 320}
    vocabulary = registry.create("model", "new", tokenizer=config).tokenizer.get_vocab()
    assert not [token for token in vocabulary if "messages" in token]
    assert [token for token in vocabulary if "category" in token]


def test_given_tokenizer(tmp_path: Path) -> None:
    """A tokenizer that a directory holds is taken as it is, with its template; the directory needs no weights."""
    given = tmp_path / "given"
    tiny.tokenizer().save_pretrained(given)
    model = registry.create("model", "new", tokenizer=str(given), sizes=TINY)
    tokenizer = load_tokenizer(fetched(model, tmp_path / "out"))
    assert tokenizer.get_vocab() == tiny.tokenizer().get_vocab()
    assert tokenizer.chat_template == tiny.CHAT_TEMPLATE
    assert tokenizer.special_tokens_map == tiny.tokenizer().special_tokens_map


def test_padding_of_its_own(tmp_path: Path) -> None:
    """A given tokenizer that pads with its end of text gets a token for padding; the network has room for it."""
    given = tmp_path / "given"
    other = tiny.tokenizer()
    other.pad_token = other.eos_token
    other.save_pretrained(given)
    out = fetched(registry.create("model", "new", tokenizer=str(given), sizes=TINY), tmp_path / "out")
    tokenizer = load_tokenizer(out)
    assert tokenizer.pad_token_id == len(tiny.tokenizer().get_vocab()) == load_causal_lm(out).config.vocab_size - 1


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"family": "lama"}, "no causal language model 'lama'; did you mean 'llama'?"),
        ({"family": "zzzzz"}, "for example llama"),
        ({"family": "gemma3"}, "'gemma3'; did you mean"),
        ({"sizes": {"hiden_size": 4}}, "sizes.hiden_size: unknown key of llama; did you mean 'hidden_size'?"),
        ({"sizes": {"zzz": 4}}, "(known: attention_bias, "),
        ({"sizes": {"vocab_size": 4}}, "sizes.vocab_size: unknown key of llama; the tokenizer decides it"),
        ({"sizes": {"hidden_size": 0}}, "sizes.hidden_size: must be a positive number"),
        ({"sizes": {"hidden_size": True}}, "sizes.hidden_size: must be a positive number"),
        ({"sizes": {"hidden_size": 100, "num_attention_heads": 3}}, "not a multiple of the number of attention heads"),
        ({"sizes": {"tie_word_embeddings": "often"}}, "llama does not take them"),
        ({"sizes": {"auto_map": {"a": "b"}}}, "unknown key"),
        ({"tokenizer": {"train_on": []}}, "at least 1 item"),
        ({"tokenizer": {"train_on": ["a"], "vocab_size": 200}}, "greater than or equal to 259"),
    ],
)
def test_refused_configurations(config: dict[str, Any], expected: str) -> None:
    """What the architecture does not know or take is refused while the recipe is read, with the remedy (A38)."""
    assert expected in refused(**config)


def test_text_that_is_missing_or_too_short(text: Path, tmp_path: Path) -> None:
    """A pattern without files, a text without enough different pieces, and a file that is no text are refused."""
    with pytest.raises(DataError, match="no file matches"):
        source(tmp_path / "absent").identity()
    with pytest.raises(DataError, match=r"gives only \d+ tokens, vocab_size=5000; lower it"):
        _ = source(text, vocab_size=5000).tokenizer
    (text / "2.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"2.txt' is not UTF-8 text"):
        _ = source(text).tokenizer


def test_directories_without_a_tokenizer(tmp_path: Path) -> None:
    """A directory without a usable tokenizer is refused with what it lacks."""
    with pytest.raises(ModelLoadError, match=r"no usable tokenizer.json"):
        _ = registry.create("model", "new", tokenizer=str(tmp_path)).tokenizer
    tiny.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="names no eos_token"):
        _ = registry.create("model", "new", tokenizer=str(tmp_path)).tokenizer
