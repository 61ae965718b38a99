"""What every backend promises."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from components.core.chat import encode_prompt
from components.core.errors import ModelLoadError
from components.core.events import EventBus, ModelLoaded
from components.core.families import family_of
from components.core.kinds import registry
from components.core.recipe import OfKind
from components.interfaces import Backend, Generation, Subject
from components.runtime import backend_for, opened
from components.services.model import ModelService
from components.services.optimization import OptimizationService
from components.services.workspace import Workspace
from tests import tiny
from tests.contract.common import check_component, named

SUBJECTS = {
    "torch": ("base", "trained", "merged"),
    "onnx_genai": ("fp32", "int4"),
    "gguf": ("gguf",),
    "packed": ("packed",),
}
"""For every backend: what it is tried on."""
CASES = [subject for subjects in SUBJECTS.values() for subject in subjects]


@pytest.fixture(scope="module", params=CASES)
def backend(request: pytest.FixtureRequest, lab: Any) -> Iterator[Backend]:
    """Every artifact, opened by the backend that serves it."""
    with opened(lab.subject(request.param), dtype="float32") as backend:
        yield backend


def prompts(backend: Backend) -> list[list[int]]:
    """Prompts of clearly different length."""
    conversations = [tiny.conversation(n) for n in (0, 3, 8)]
    conversations.append([{"role": "user", "content": "Hi"}])
    return [encode_prompt(backend.tokenizer, conversation) for conversation in conversations]


def test_all_backends_are_covered() -> None:
    """A new backend has to be added to this file's table."""
    assert set(SUBJECTS) == set(registry.names("backend"))


@named("backend")
def test_component(name: str) -> None:
    """Every backend is described, strictly configured, and says what it serves (A27, E11)."""
    check_component("backend", name)
    assert registry.get("backend", name).serves


def test_no_two_backends_serve_one_kind() -> None:
    """It is never by chance which backend opens an artifact."""
    served = [kind for name in registry.names("backend") for kind in registry.get("backend", name).serves]
    assert len(served) == len(set(served))


def test_batch_equals_one_by_one(backend: Backend) -> None:
    """A prompt's answer does not depend on its neighbours in the batch, whatever their length (B18)."""
    together = backend.generate(prompts(backend), 12)
    alone = [backend.generate([prompt], 12)[0] for prompt in prompts(backend)]
    assert together == alone


@pytest.mark.parametrize("subject", ["base", "trained"])
def test_padding_of_the_family(lab: Any, monkeypatch: pytest.MonkeyPatch, subject: str) -> None:
    """Prompts of a family that is not to be filled up in front are answered one by one, with the same answers (D3)."""
    with opened(lab.subject(subject), dtype="float32") as backend:
        together = backend.generate(prompts(backend), 6)
    family = family_of(lab.base.path).model_copy(update={"padding_side": "right"})
    monkeypatch.setattr("components.backends.torch.family_of", lambda *_: family)
    with opened(lab.subject(subject), dtype="float32") as backend:
        generate, sizes = backend._model.generate, list[int]()  # type: ignore[attr-defined]

        def counted(**given: Any) -> Any:
            sizes.append(len(given["input_ids"]))
            return generate(**given)

        backend._model.generate = counted  # type: ignore[attr-defined]
        assert backend.generate(prompts(backend), 6) == together
    assert sizes == [1, 1, 1, 1]


def test_order_of_the_batch_does_not_matter(backend: Backend) -> None:
    """Answers come in the order of the prompts."""
    forward = backend.generate(prompts(backend), 8)
    assert backend.generate(prompts(backend)[::-1], 8) == forward[::-1]


def test_generation_is_repeatable(backend: Backend) -> None:
    """Greedy answers are always the same."""
    assert backend.generate(prompts(backend), 8) == backend.generate(prompts(backend), 8)


def test_stream_equals_generate(backend: Backend) -> None:
    """Token by token gives what generation gives, up to the end of the turn (B18)."""
    for prompt in prompts(backend):
        tokens = list(backend.stream(prompt, 10))
        end = backend.tokenizer.eos_token_id
        assert len(tokens) == 10 or tokens[-1] == end
        said = tokens[: tokens.index(end)] if end in tokens else tokens
        answer = backend.generate([prompt], 10)[0]
        assert answer.text == backend.tokenizer.decode(said, skip_special_tokens=True)
        assert answer.finished == (end in tokens)
        assert answer.tokens == len(said) + answer.finished


def test_logits(backend: Backend) -> None:
    """Logits come as float32 for every position and token, and their greatest is what is generated next (D1)."""
    prompt = prompts(backend)[0]
    logits = backend.logits(prompt)
    assert logits.shape == (len(prompt), 259)
    assert logits.dtype == np.float32
    assert int(logits[-1].argmax()) == next(iter(backend.stream(prompt, 1)))


def test_logits_are_causal(backend: Backend) -> None:
    """What comes later does not change logits further up."""
    prompt = prompts(backend)[0]
    np.testing.assert_allclose(backend.logits(prompt)[:20], backend.logits(prompt[:20]), atol=1e-3)


def test_one_token(backend: Backend) -> None:
    """A prompt of one token and an answer of one token work."""
    assert backend.generate([[5]], 1)[0].tokens == 1


def test_answer_is_no_longer_than_asked(backend: Backend) -> None:
    """No answer has more tokens than allowed."""
    assert all(answer.tokens <= 3 for answer in backend.generate(prompts(backend), 3))


@pytest.mark.parametrize("name", CASES)
def test_health_follows_the_weights(lab: Any, name: str) -> None:
    """A backend is well while its weights are open, and degraded before and after."""
    subject = lab.subject(name)
    cls = backend_for(subject.artifact.kind)
    with cls(cls.Config()) as backend:
        assert (backend.health().status, backend.health().detail) == ("degraded", "not opened")
        backend.open(subject.artifact, subject.parents)
        assert backend.health().status == "ok"
        assert "open" in backend.health().detail
    assert backend.health().status == "degraded"


@pytest.mark.parametrize(("name", "registered"), [(s, name) for name, subjects in SUBJECTS.items() for s in subjects])
def test_opening_is_told(lab: Any, name: str, registered: str) -> None:
    """A bus is told which backend opened which subject, and how long that took (B5)."""
    bus, loaded = EventBus(), list[ModelLoaded]()
    bus.on(ModelLoaded, loaded.append)
    subject = lab.subject(name)
    with opened(subject, bus=bus):
        assert [(event.subject, event.kind, event.backend) for event in loaded] == [
            (name, subject.artifact.kind, registered)
        ]
    assert 0 < loaded[0].seconds < 60


def test_adapter_without_its_base(lab: Any) -> None:
    """An adapter without its base is refused with a sentence (D9)."""
    with (
        pytest.raises(ModelLoadError, match="needs its base model"),
        opened(Subject(name="trained", artifact=lab.trained)),
    ):
        pass


@pytest.mark.parametrize("name", ["base", "fp32"])
def test_damaged_weights(lab: Any, tmp_path: Any, name: str) -> None:
    """Weights that cannot be read are a ModelLoadError that names the path (E29)."""
    import shutil

    artifact = getattr(lab, name)
    shutil.copytree(artifact.path, tmp_path / "damaged")
    for file in [*(tmp_path / "damaged").glob("*.safetensors"), *(tmp_path / "damaged").glob("*.onnx*")]:
        file.write_bytes(file.read_bytes()[:100])
    subject = Subject(name=name, artifact=artifact.model_copy(update={"path": tmp_path / "damaged"}))
    with pytest.raises(ModelLoadError, match="cannot load"), opened(subject):
        pass


def test_padding_token_in_the_prompt(lab: Any) -> None:
    """An end-of-turn token inside a prompt, as every conversation has, is not taken for padding (D15)."""
    with opened(lab.subject("fp32")) as exported, opened(lab.subject("merged"), dtype="float32") as reference:
        turns = [*tiny.conversation(1), {"role": "user", "content": "And now?"}]
        prompt = encode_prompt(exported.tokenizer, turns)
        both = [prompt, prompt + [5]]
        assert exported.generate(both, 8) == reference.generate(both, 8)


def test_bfloat16(lab: Any) -> None:
    """The torch backend also runs in bfloat16 (E18)."""
    with opened(lab.subject("trained"), dtype="bfloat16") as backend:
        assert backend.logits([5, 6, 7]).dtype == np.float32


@pytest.fixture(scope="module", params=["torch", "onnx_genai"])
def silent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A model that ends its turn at once, in the form that each backend serves."""
    workspace = Workspace(tmp_path_factory.mktemp("silent"))
    directory = tiny.write_silent_model(workspace.root / "silent")
    model = ModelService(workspace).fetch(OfKind("model").parse({"type": "pretrained", "name": str(directory)}))
    if request.param == "onnx_genai":
        chain = [OfKind("pass").parse({"type": "onnx", "precision": "fp32"})]
        model = OptimizationService(workspace).variant("fp32", chain, model, seed=0)
    with opened(Subject(name="silent", artifact=model), dtype="float32") as backend:
        yield backend


def test_answers_end_at_the_end_of_turn(silent: Backend) -> None:
    """Generation and streaming stop at the end of turn; only timing may go on after it."""
    prompt = prompts(silent)[0]
    end = silent.tokenizer.eos_token_id
    assert silent.generate([prompt], 6) == [Generation(text="", tokens=1, finished=True)]
    assert list(silent.stream(prompt, 6)) == [end]
    assert len(list(silent.stream(prompt, 6, stop=False))) == 6
    assert [answer.tokens for answer in silent.generate(prompts(silent), 5, stop=False)] == [5] * 4


def test_the_runtime_uses_every_core(lab: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime gets as many threads as there are cores, whatever it counts itself; a choice of the artifact stays
    (B22)."""
    from components.backends import onnx_genai

    monkeypatch.setattr(onnx_genai, "compute_threads", lambda: 2)
    options = onnx_genai._threads(lab.fp32)["model"]["decoder"]["session_options"]
    assert options == {"intra_op_num_threads": 2}

    def started() -> int:
        before = len(os.listdir("/proc/self/task"))
        with opened(lab.subject("fp32")):
            return len(os.listdir("/proc/self/task")) - before

    # the second one; the first is the caller. Threads of other libraries may come and go meanwhile
    assert 1 in [started() for _ in range(3)]
    chosen = tmp_path / "chosen"
    shutil.copytree(lab.fp32.path, chosen)
    plain = json.loads((chosen / "genai_config.json").read_text())
    plain["model"]["decoder"]["session_options"]["intra_op_num_threads"] = 1
    (chosen / "genai_config.json").write_text(json.dumps(plain))
    assert onnx_genai._threads(lab.fp32.model_copy(update={"path": chosen})) == {}
