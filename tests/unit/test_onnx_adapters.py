"""One compressed base and the adapters that it can be switched to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from components.core.artifacts import hash_directory
from components.core.chat import encode_chat
from components.core.errors import ArtifactError, ConfigError, DataError, ModelLoadError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.safeload import load_adapter, load_causal_lm
from components.interfaces import StepContext, Subject
from components.runtime import opened
from tests import tiny

FLOAT = [{"type": "onnx", "precision": "fp32", "exporter": "builder"}]
INT4 = [{"type": "onnx", "precision": "int4", "exporter": "builder"}]


def write_adapter(base: Any, directory: Path, **changes: Any) -> Path:
    """A random adapter of the base in PEFT's format, far enough from nothing to be seen."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"]} | changes
    adapted = get_peft_model(load_causal_lm(base.path), LoraConfig(**settings))
    torch.manual_seed(5)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(directory, save_embedding_layers=False)
    return directory


def applied(lab: Any, out: Path, **config: Any) -> dict[str, Any]:
    """The pass on the lab's trained adapter."""
    out.mkdir()
    step = registry.create("pass", "onnx_adapters", **({"rows": 0} | config))
    return step.apply(lab.trained, {"model": lab.base}, out, StepContext(17, EventBus(), dataset=lab.dataset))


def answers(lab: Any, out: Path, adapter: str | None) -> Any:
    """Logits of the written graph with an adapter."""
    artifact = lab.fp32.model_copy(update={"path": out})
    with opened(Subject(name="swap", artifact=artifact), adapter=adapter) as backend:
        return backend.logits(encode_chat(backend.tokenizer, tiny.conversation(7)).ids)


@pytest.fixture(scope="module")
def exports(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base's own graphs, by precision."""
    made = {}
    for step in (*FLOAT, *INT4):
        out = made[step["precision"]] = tmp_path_factory.mktemp(step["precision"])
        config = {key: value for key, value in step.items() if key != "type"}
        registry.create("pass", "onnx", **config).apply(lab.base, {}, out, StepContext(17, EventBus()))
    return made


@pytest.fixture(scope="module", autouse=True)
def _exported_once(exports: dict[str, Path]) -> Iterator[None]:
    """The export is the same every time and takes seconds: it is copied."""

    def copied(self: Any, source: Any, parents: Any, out: Path, context: Any) -> dict[str, Any]:
        shutil.copytree(exports[self.config.precision], out, dirs_exist_ok=True)
        return {"precision": self.config.precision}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.get("pass", "onnx"), "apply", copied)
        yield


@pytest.fixture(scope="module")
def swap(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """(what was written, the further adapter, facts) with a base in float32."""
    root = tmp_path_factory.mktemp("swap")
    other = write_adapter(lab.base, root / "other")
    facts = applied(lab, root / "out", base=FLOAT, adapters={"other": str(other)})
    return root / "out", other, facts


def in_torch(lab: Any, adapter: Path | None) -> Any:
    """Logits of the base in PyTorch with an adapter."""
    import torch

    network = load_causal_lm(lab.base.path)
    network = load_adapter(network, adapter) if adapter else network
    ids = encode_chat(tiny.tokenizer(), tiny.conversation(7)).ids
    with torch.inference_mode():
        return network(torch.tensor([ids])).logits[0].numpy()


def test_every_adapter_does_what_it_does_in_pytorch(lab: Any, swap: Any) -> None:
    """Base, trained adapter and further adapter give PyTorch's logits, all from one graph (D10, E24)."""
    out, other, facts = swap
    for name, place in (("base", None), ("trained", lab.trained.path), ("other", other)):
        assert np.abs(answers(lab, out, name) - in_torch(lab, place)).max() < 1e-3, name
    assert facts["base"]["mean_kl"] < 1e-5
    assert all(found["mean_kl"] < 1e-5 < found["mean_kl_without_it"] for found in facts["adapters"].values())


def test_the_trained_adapter_answers_by_default(lab: Any, swap: Any) -> None:
    """Without a name the artifact answers as what was trained, so that benchmarks measure that (B14)."""
    out, *_ = swap
    assert (answers(lab, out, None) == answers(lab, out, "trained")).all()
    assert (answers(lab, out, None) != answers(lab, out, "base")).any()


def test_base_is_unchanged_when_no_adapter_is_active(
    lab: Any, swap: Any, exports: dict[str, Path], tmp_path: Path
) -> None:
    """The graph without an adapter gives the very logits of the base's own export, in float and in four bits (D10)."""
    applied(lab, tmp_path / "out", base=INT4)
    for precision, out in (("fp32", swap[0]), ("int4", tmp_path / "out")):
        assert (answers(lab, out, "base") == answers(lab, exports[precision], None)).all()


def test_compressed_base_with_adapters(lab: Any, tmp_path: Path) -> None:
    """On four bits the adapters stay in float32; size and divergence of each are told (C33, D10)."""
    other = write_adapter(lab.base, tmp_path / "other")
    facts = applied(lab, tmp_path / "out", base=INT4, adapters={"other": str(other)})
    assert set(facts["adapters"]) == {"trained", "other"}
    for name, found in facts["adapters"].items():
        assert 0 < found["mean_kl"] < found["mean_kl_without_it"]
        assert found["bytes"] == (tmp_path / "out" / f"{name}.onnx_adapter").stat().st_size
    assert facts["base"]["mean_kl"] > 0
    assert facts["base"]["onnx"]["precision"] == "int4"


def test_switching_in_one_process(lab: Any, swap: Any) -> None:
    """Adapters are switched on one open model, and each switch is whole: going back gives the first answer again."""
    import onnxruntime_genai as og

    out, *_ = swap
    model = og.Model(str(out))
    adapters = og.Adapters(model)
    for name in ("trained", "other"):
        adapters.load(str(out / f"{name}.onnx_adapter"), name)
    ids = np.array(encode_chat(tiny.tokenizer(), tiny.conversation(7)).ids, dtype=np.int32)
    found = []
    for name in ("trained", "other", None, "trained"):
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + 1)
        generator = og.Generator(model, params)
        if name:
            generator.set_active_adapter(adapters, name)
        generator.append_tokens(ids)
        found.append(np.array(generator.get_output("logits")))
    assert (found[0] == found[3]).all()
    assert (found[2][0] == answers(lab, out, "base")).all()
    assert (found[0] != found[1]).any()


def test_measured_on_held_out_rows(lab: Any, tmp_path: Path) -> None:
    """With `rows` the divergence is measured on the run's held-out rows; without a data set that is refused."""
    facts = applied(lab, tmp_path / "out", base=FLOAT, rows=2)
    assert facts["adapters"]["trained"]["mean_kl"] < 1e-5
    step = registry.create("pass", "onnx_adapters", base=FLOAT, rows=2)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="give one, or rows: 0"):
        step.apply(lab.trained, {"model": lab.base}, tmp_path / "none", StepContext(17, EventBus()))


def test_unknown_adapter_is_refused(lab: Any, swap: Any) -> None:
    """An adapter that the artifact does not have is refused with those that it has (D9)."""
    with pytest.raises(
        ConfigError, match="has no adapter 'othr'; did you mean 'other'\\?; known: base, trained, other"
    ):
        answers(lab, swap[0], "othr")


def test_adapter_of_another_base_is_refused(lab: Any, tmp_path: Path) -> None:
    """By the digest in its manifest, or, from elsewhere, because its shapes do not fit (D9, D19)."""
    other = write_adapter(lab.base, tmp_path / "other")
    (other / "manifest.json").write_text(json.dumps({"parents": {"model": {"digest": "f" * 64}}}))
    with pytest.raises(ModelLoadError, match=r"adapter 'other' in .* was trained on base ffffffffffff, this base is"):
        applied(lab, tmp_path / "out", base=FLOAT, adapters={"other": str(other)})
    wide = lab.base.model_copy(update={"path": tmp_path / "wide"})
    tiny.network(hidden_size=32).save_pretrained(wide.path)
    tiny.tokenizer().save_pretrained(wide.path)
    foreign = write_adapter(wide, tmp_path / "foreign")
    with pytest.raises(ModelLoadError, match="does not fit this model"):
        applied(lab, tmp_path / "out2", base=FLOAT, adapters={"foreign": str(foreign)})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "whole modules beside it"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "is no linear layer"),
        ({"target_modules": ["lm_head"]}, "changes 'lm_head', which has no place in the graph"),
    ],
    ids=["dora", "modules_to_save", "embedding", "head"],
)
def test_adapter_that_cannot_be_swapped_is_refused(
    changes: dict[str, Any], reason: str, lab: Any, tmp_path: Path
) -> None:
    """What is more than LoRA at the blocks' linear layers is refused by name, with the remedy (D9)."""
    other = write_adapter(lab.base, tmp_path / "other", **changes)
    with pytest.raises(ModelLoadError, match=f"{reason}.*; merge it instead|{reason}.*merge it instead"):
        applied(lab, tmp_path / "out", base=FLOAT, adapters={"other": str(other)})


def test_adapter_too_far_off_fails_the_pass(lab: Any, tmp_path: Path) -> None:
    """`max_kl` fails a pass whose base is compressed beyond what an adapter bears (C29)."""
    with pytest.raises(ArtifactError, match=r"adapter 'trained' is .* nats .* at most 1e-12 are allowed \(max_kl\)"):
        applied(lab, tmp_path / "out", base=INT4, max_kl=1e-12)


def test_mistakes_in_the_recipe(lab: Any, tmp_path: Path) -> None:
    """A path without an adapter, a changed adapter, names that are taken, chains that do not end in ONNX (A22, C39)."""
    cls = registry.get("pass", "onnx_adapters").Config
    other = write_adapter(lab.base, tmp_path / "other")
    with pytest.raises(ValidationError, match="holds no adapter: it has no adapter_config.json and no adapter_model"):
        cls(adapters={"a": str(tmp_path)})
    pinned = cls(adapters={"a": str(other)}).adapters["a"]
    assert cls(adapters={"a": pinned.model_dump()}).adapters["a"] == pinned
    with pytest.raises(ValidationError, match="it changed, or is another one"):
        cls(adapters={"a": {"path": str(other), "sha256": "0" * 64}})
    with pytest.raises(ValidationError, match="'base' and 'trained' are taken"):
        cls(adapters={"base": str(other)})
    with pytest.raises(ValidationError, match="base: pass 'merge_adapter' takes adapter"):
        cls(base=[{"type": "merge_adapter"}])
    with pytest.raises(ValidationError, match="base: the chain gives gguf; end it with a pass that gives onnx"):
        cls(base=[{"type": "gguf"}])


def test_inputs_are_not_changed(lab: Any, tmp_path: Path) -> None:
    """Base and adapters keep every byte (C27)."""
    other = write_adapter(lab.base, tmp_path / "other")
    before = [hash_directory(path) for path in (lab.base.path, lab.trained.path, other)]
    applied(lab, tmp_path / "out", base=FLOAT, adapters={"other": str(other)})
    assert [hash_directory(path) for path in (lab.base.path, lab.trained.path, other)] == before
