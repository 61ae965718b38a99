"""Secrets are named in a configuration, never written there, and never printed."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from components.core.component import StrictConfig
from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.recipe import load_recipe, parse_recipe, save_recipe
from components.core.schema import recipe_schema
from components.core.secret import MASK, SHORTEST, Secret, masked, masked_data, refuse_literals, refuse_secrets
from components.interfaces import Gate
from tests import tiny

CANARY = "hf_CANARY123456"


class Holder(StrictConfig):
    """A configuration with secrets."""

    token: Secret
    spare: Secret | None = None


class Guarded(Gate):
    """A throw-away gate that needs a token."""

    class Config(StrictConfig):
        token: Secret
        others: list[Secret] = []

    @classmethod
    def needs(cls, config: Any) -> Any:
        return ()

    def judge(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def guarded() -> Iterator[None]:
    """The throw-away gate, registered for one test."""
    registry.names("gate")
    with registry.owned_by("tests"):
        registry.add("gate", "guarded", Guarded)
    yield
    with registry.owned_by("tests"):
        registry.forget("tests")


def everything_said(error: BaseException) -> str:
    """All text of an error: messages, representations, chained errors and the traceback as Python prints it."""
    texts: list[str] = []
    at: Any = error
    while at is not None:
        texts += [str(at), repr(at), repr(at.args)]
        at = at.__cause__ or at.__context__
    return "\n".join([*texts, *traceback.format_exception(error)])


# ---------------------------------------------------------------- what a secret is


@pytest.mark.parametrize("name", ["HF_TOKEN", "_x", "token2"])
def test_a_reference_is_accepted(name: str) -> None:
    """`env:NAME` names a secret; text, equality and hash are those of the name (C54)."""
    secret = Secret(f"env:{name}")
    assert (str(secret), repr(secret), secret.variable) == (f"env:{name}", f"Secret('env:{name}')", name)
    assert {secret, Secret(f"env:{name}")} == {deepcopy(secret)}
    assert secret != f"env:{name}"
    assert Holder.model_validate({"token": secret, "spare": f"env:{name}"}).spare == secret


WRONG = [CANARY, "", "env:", f"env: {CANARY}", f"env:{CANARY}!", f" env:{CANARY}", f"env:{CANARY}\n", f"ENV:{CANARY}"]
WRONG_TYPES: list[Any] = [123456789, 1.5e300, True, None, [CANARY], {"a": CANARY}, CANARY.encode()]


@pytest.mark.parametrize("value", [*WRONG, *WRONG_TYPES], ids=repr)
def test_a_literal_is_refused_and_not_repeated(value: Any) -> None:
    """A secret that is written out is refused; no part of the error repeats it, chained errors included (C54)."""
    with pytest.raises(ConfigError, match="a secret is not written into a configuration") as direct:
        Secret(value)
    with pytest.raises(ValidationError) as checked:
        Holder.model_validate({"token": value})
    for error in (direct.value, checked.value):
        said = everything_said(error)
        assert "CANARY" not in said
        assert "123456789" not in said


@pytest.mark.parametrize("value", [CANARY, 123456789, [CANARY]], ids=repr)
def test_a_literal_in_a_recipe_is_not_repeated(tmp_path: Path, guarded: None, value: Any) -> None:
    """A recipe with a literal secret is one problem with place and key that does not repeat the value (C54, E3)."""
    plain = tiny.recipe(tmp_path, tmp_path / "model", gate=[{"type": "guarded", "token": value}])
    path = tiny.write_recipe(tmp_path / "recipe.yaml", plain)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    (problem,) = caught.value.problems
    assert "gate.0.token: a secret is not written into a configuration" in problem
    said = everything_said(caught.value)
    assert "CANARY" not in said
    assert "123456789" not in said


@pytest.mark.parametrize("assignment", [f"gate.0.token={CANARY}", f"gate.0.token.x={CANARY}", f"gate.7.token={CANARY}"])
def test_a_literal_on_the_command_line_is_not_repeated(tmp_path: Path, guarded: None, assignment: str) -> None:
    """The same holds for `--set`, right or wrong (C54)."""
    plain = tiny.recipe(tmp_path, tmp_path / "model", gate=[{"type": "guarded", "token": "env:A"}])
    path = tiny.write_recipe(tmp_path / "recipe.yaml", plain)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, [assignment])
    assert "CANARY" not in "".join(caught.value.problems)


# ---------------------------------------------------------------- reveal


def test_reveal(monkeypatch: pytest.MonkeyPatch) -> None:
    """`reveal` fetches the value when it is asked for, not before (C54)."""
    secret = Secret("env:SOME_TOKEN")
    monkeypatch.setenv("SOME_TOKEN", CANARY)
    assert secret.reveal() == CANARY
    monkeypatch.setenv("SOME_TOKEN", "another")
    assert secret.reveal() == "another"


@pytest.mark.parametrize("value", [None, ""])
def test_reveal_what_is_not_set(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """A variable that is missing or empty is a ConfigError that names it (C54)."""
    monkeypatch.delenv("SOME_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_TOKEN", value)
    with pytest.raises(ConfigError, match="the environment variable 'SOME_TOKEN' holds a secret and is not set"):
        Secret("env:SOME_TOKEN").reveal()


# ---------------------------------------------------------------- masked


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "hf_token",
        "MY_SECRET_7",
        "DB_PASSWORD",
        "OPENAI_API_KEY",
        "APIKEY",
        "AWS_ACCESS_KEY_ID",
        "X_CREDENTIALS",
        "PREFECT_API_AUTH_STRING",
        "PROXY_AUTHORIZATION",
    ],
)
def test_masked_knows_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Values of variables that look like secrets by their name are blotted out wherever they stand (C54)."""
    monkeypatch.setenv(name, CANARY)
    assert masked(f"a {CANARY} b{CANARY}") == f"a {MASK} b{MASK}"


def test_masked_knows_what_was_revealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that was revealed is blotted out, whatever its variable is called (C54)."""
    monkeypatch.setenv("HARMLESS_NAME_FOR_THIS_TEST", CANARY)
    assert masked(CANARY) == CANARY
    Secret("env:HARMLESS_NAME_FOR_THIS_TEST").reveal()
    assert masked(CANARY) == MASK


def test_masked_overlapping_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two secrets of which one begins with the other, nothing is left over (C54)."""
    monkeypatch.setenv("A_TOKEN", CANARY)
    monkeypatch.setenv("B_TOKEN", f"{CANARY}-and-more")
    assert masked(f"{CANARY}-and-more {CANARY}") == f"{MASK} {MASK}"


def test_masked_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short values, other variables and text without secrets stay as they are (C54)."""
    monkeypatch.setenv("A_TOKEN", "true")
    monkeypatch.setenv("B_TOKEN", "")
    for name in ("EDITOR_OF_THIS_TEST", "GIT_AUTHOR_NAME", "SSH_AUTH_SOCK", "TOKENIZERS_CACHE"):
        monkeypatch.setenv(name, "emacs-29")
    assert masked("it is true that emacs-29 runs") == "it is true that emacs-29 runs"


# ---------------------------------------------------------------- .env


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file `.env` of an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".env"


def test_a_secret_in_dotenv(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in `.env` is found, below the environment, and masked and refused like any other (A37, C54)."""
    dotenv.write_text(
        f"SOME_TOKEN={CANARY}\nHARMLESS_NAME_IN_DOTENV='another secret'\nEMPTY_TOKEN\n", encoding="utf-8-sig"
    )
    assert masked(f"a {CANARY}, another secret") == f"a {MASK}, another secret"
    assert Secret("env:SOME_TOKEN").reveal() == CANARY
    assert Secret("env:HARMLESS_NAME_IN_DOTENV").reveal() == "another secret"
    assert masked_data({"a": [CANARY, "another secret"]}) == {"a": [MASK, MASK]}
    with pytest.raises(ConfigError, match="the value of SOME_TOKEN stands in the recipe"):
        refuse_secrets({"name": CANARY})
    monkeypatch.setenv("SOME_TOKEN", "stronger")
    assert Secret("env:SOME_TOKEN").reveal() == "stronger"
    assert masked(f"{CANARY} stronger") == f"{MASK} {MASK}"


def test_dotenv_is_followed(dotenv: Path) -> None:
    """A `.env` that changes is read again, one that stays is not, and one that is gone is forgotten (C54)."""
    assert masked(CANARY) == CANARY
    dotenv.write_text(f"A_TOKEN={CANARY}\n")
    assert masked(CANARY) == MASK
    before = dotenv.stat()
    dotenv.write_text("A_TOKEN=another-secret!!\n"[: before.st_size].ljust(before.st_size, "!"))
    os.utime(dotenv, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert masked(CANARY) == MASK
    os.utime(dotenv)
    assert masked(CANARY) == CANARY
    dotenv.unlink()
    assert masked("another-secret!!") == "another-secret!!"


def test_a_dotenv_that_cannot_be_read(dotenv: Path) -> None:
    """A `.env` that is damaged, a folder or a pipe never stops a message from being masked (C54)."""
    dotenv.write_bytes(b"\xff\xfe=\nA_TOKEN=" + CANARY.encode() + b"\n'\n")
    assert masked(CANARY) == MASK
    dotenv.unlink()
    dotenv.mkdir()
    assert masked(CANARY) == CANARY
    dotenv.rmdir()
    os.mkfifo(dotenv)
    assert masked(CANARY) == CANARY


# ---------------------------------------------------------------- in configurations


def test_dumps_as_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dumped to be written or shown is the reference, never the value (C54)."""
    monkeypatch.setenv("HF_TOKEN", CANARY)
    holder = Holder(token=Secret("env:HF_TOKEN"))
    holder.token.reveal()
    assert holder.model_dump(mode="json") == {"token": "env:HF_TOKEN", "spare": None}
    assert json.loads(holder.model_dump_json()) == holder.model_dump(mode="json")
    assert Holder.model_validate(holder.model_dump()) == holder
    assert Holder.model_validate_json(holder.model_dump_json()) == holder
    assert "CANARY" not in repr(holder) + str(holder) + repr(holder.model_dump()) + str(vars(holder.token))


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_json_schema(mode: Any) -> None:
    """The JSON Schema of a secret is text of the right form (A38, C54)."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = TypeAdapter(Secret).json_schema(mode=mode)
    jsonschema.validate("env:HF_TOKEN", schema)
    if mode == "validation":
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(CANARY, schema)


def test_a_component_with_a_secret_round_trips(tmp_path: Path, guarded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A component's secret survives recipe -> file -> recipe as a reference, and the schema knows it (C54, E2)."""
    monkeypatch.setenv("SOME_TOKEN", CANARY)
    gate = {"type": "guarded", "token": "env:SOME_TOKEN", "others": ["env:A", "env:B"]}
    recipe = parse_recipe(tiny.recipe(tmp_path, tmp_path / "model", gate=[gate]))
    assert recipe.gate[0].config.token.reveal() == CANARY
    save_recipe(recipe, tmp_path / "saved.yaml")
    text = (tmp_path / "saved.yaml").read_text()
    assert "env:SOME_TOKEN" in text
    assert "CANARY" not in text + repr(recipe) + json.dumps(recipe.gate[0].identity())
    again = load_recipe(tmp_path / "saved.yaml")
    assert again == recipe
    assert again.gate[0].config.token.reveal() == CANARY
    updated = recipe.with_updates({"gate.0.token": "env:OTHER"})
    assert updated.gate[0].config.token == Secret("env:OTHER")
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(yaml.safe_load(text), recipe_schema())


def test_the_throw_away_component_is_gone() -> None:
    """What a test registers under an owner of its own leaves no trace (A23)."""
    assert "guarded" not in registry.names("gate")
    assert registry.owned("tests") == []


# ---------------------------------------------------------------- what is recorded


def test_masked_from_a_length_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value is blotted out from the shortest length on, not below (C54)."""
    monkeypatch.setenv("A_TOKEN", "x" * (SHORTEST - 1))
    assert masked("x" * (SHORTEST - 1)) == "x" * (SHORTEST - 1)
    monkeypatch.setenv("A_TOKEN", "x" * SHORTEST)
    assert masked("x" * SHORTEST) == MASK


def test_masked_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data is masked text by text, keys too, and what comes out is JSON whatever went in (C54)."""
    nasty = 'hf_"CANARY"\n\\123'
    monkeypatch.setenv("A_TOKEN", nasty)
    data = {"a": [1, 2.5, None, True, nasty], f"k{nasty}": {"x": (nasty, Path("/x"))}, "inf": float("inf"), 7: {nasty}}
    text = json.dumps(masked_data(data), allow_nan=False)
    assert "CANARY" not in text
    assert json.loads(text)["a"] == [1, 2.5, None, True, MASK]
    assert json.loads(text)[f"k{MASK}"] == {"x": [MASK, "/x"]}


def test_a_secret_value_in_a_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe in which the value of a secret stands is refused with the variable's name, not its value (C54)."""
    plain = tiny.recipe(tmp_path, tmp_path / "model", name=f"run-{CANARY}")
    parse_recipe(plain)
    monkeypatch.setenv("A_TOKEN", CANARY)
    with pytest.raises(ConfigError, match="the value of A_TOKEN stands in the recipe") as caught:
        parse_recipe(plain)
    assert "CANARY" not in everything_said(caught.value)
    refuse_secrets("nothing of the kind")


@pytest.mark.parametrize("key", ["token", "api_key", "smtp-password", "webhookSecret", "auth", "Authorization"])
def test_a_literal_under_a_telling_key_is_refused(key: str) -> None:
    """Text under a key that is named like a secret is refused with its place, however deep, and not repeated (C54)."""
    data = {"pager": {"urls": ["x"], "inner": [{key: CANARY}]}, "other": {key: "env:SOME_TOKEN"}}
    with pytest.raises(ConfigError) as caught:
        refuse_literals(data, "sinks")
    (problem,) = caught.value.problems
    assert problem.startswith(f"sinks.pager.inner.0.{key}: a secret is not written into a configuration")
    assert "CANARY" not in everything_said(caught.value)


def test_what_is_no_literal_secret() -> None:
    """References, empty text, numbers and keys that only sound like it pass (C54)."""
    harmless = {"author": "me", "tokenizer": "gpt2", "max_tokens": 5, "auth": True, "password": None, "secret": ""}
    refuse_literals({"a": harmless | {"token": "env:A", "passwords": {"x": 1}}, "b": "token"}, "sinks")


def test_masking_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is gone through once for a piece of data, however many texts it has (C54)."""
    import components.core.secret as module

    asked, values = [], module._values
    monkeypatch.setattr(module, "_values", lambda: asked.append(1) or values())
    module.masked_data({f"key {i}": ["text"] * 10 for i in range(10)})
    assert len(asked) == 1
