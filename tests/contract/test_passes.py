"""What every optimization pass promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.artifacts import hash_directory
from components.core.chat import encode_chat, encode_prompt
from components.core.errors import ArtifactError, ModelLoadError, UnsafeModelError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.safeload import check_model_directory
from components.interfaces import StepContext
from components.runtime import backend_for, opened
from components.services.optimization import OptimizationService
from tests import tiny
from tests.contract.common import check_component, named

CASES = {
    "merge_adapter": ("trained", {}),
    "onnx": ("merged", {"precision": "fp32"}),
    "quantize_gptq": (
        "merged",
        {"rows": 8, "max_length": 64, "tune": {"steps": 2, "rows": 8, "tokens": 128}},
    ),
    "quantize_awq": (
        "merged",
        {"rows": 8, "max_length": 64, "tune": {"steps": 2, "rows": 8, "tokens": 128}},
    ),
    "quantize_dynamic": ("fp32", {}),
    "quantize_static": ("fp32", {"rows": 2, "max_length": 48}),
    "gguf": ("merged", {}),
    "compressed_tensors": ("merged", {}),
    "gptq_layout": ("merged", {}),
    "quantize_bnb": ("merged", {}),
    "quantize_qat": (
        "merged",
        {"steps": 12, "learning_rate": 1e-3, "rows": 20, "max_length": 96, "measure": 4},
    ),
    "onnx_adapters": ("trained", {"rows": 0, "base": [{"type": "onnx", "precision": "fp32"}]}),
    "attention": ("merged", {"rounds": 1, "tokens": 4}),
    "cast": ("merged", {}),
    "kv_cache": ("merged", {"cache": "quantized", "recent": 4, "length": 32, "rounds": 1, "tokens": 4}),
    "memory": ("merged", {"target_memory_reduction": None, "tokens": 2}),
    "runtime_options": ("fp32", {"threads": [1], "rounds": 1, "tokens": 4}),
    "torch_compile": ("merged", {"backend": "aot_eager", "force": True, "rounds": 1, "tokens": 4}),
    "prune_depth": ("merged", {"layers": 1, "rows": {"calibrate": 2, "measure": 2}}),
    "prune_width": ("merged", {"channels": 0.5, "heads": 1, "rows": {"calibrate": 2, "measure": 2}}),
    "prune_magnitude": ("merged", {"force": True, "rows": {"calibrate": 2, "measure": 2}}),
    "prune_wanda": ("merged", {"force": True, "rows": {"calibrate": 2, "measure": 2}}),
    "prune_sparsegpt": ("merged", {"force": True, "rows": {"calibrate": 2, "measure": 2}}),
    "distill": ("merged", {"trainer": {"type": "distillation", "max_steps": 1, "batch_size": 2, "dtype": "float32"}}),
}
"""For every pass: what it is tried on, and its configuration."""


def inputs_of(name: str, lab: Any) -> list[Any]:
    subject = lab.subject(CASES[name][0])
    return [subject.artifact, *subject.parents.values()]


def applied(name: str, lab: Any, out: Path, **config: Any) -> dict[str, Any]:
    """Run a pass on its example."""
    for module in registry.get("pass", name).extras:
        pytest.importorskip(module)
    subject = lab.subject(CASES[name][0])
    out.mkdir(exist_ok=True)
    step = registry.create("pass", name, **(CASES[name][1] | config))
    context = StepContext(17, EventBus(), dataset=lab.dataset if step.needs_rows(step.config) else None)
    return step.apply(subject.artifact, subject.parents, out, context)


def test_all_passes_are_covered() -> None:
    """A new pass has to be added to this file's table."""
    assert set(CASES) == set(registry.names("pass"))


@named("pass")
def test_component(name: str) -> None:
    """Every pass is described, strictly configured, and says what it takes and gives (A27, C27)."""
    check_component("pass", name)
    cls = registry.get("pass", name)
    assert cls.consumes
    assert isinstance(cls.consumes, tuple)
    assert backend_for(cls.produces)


@named("pass")
def test_input_is_never_changed(name: str, lab: Any, tmp_path: Path) -> None:
    """A pass writes to its own directory only; its inputs keep every byte (C27)."""
    before = [hash_directory(artifact.path) for artifact in inputs_of(name, lab)]
    applied(name, lab, tmp_path / "out")
    assert [hash_directory(artifact.path) for artifact in inputs_of(name, lab)] == before
    check_model_directory(tmp_path / "out")


@named("pass")
def test_estimate_is_of_the_right_size(name: str, lab: Any) -> None:
    """The estimated bytes are neither zero nor absurd."""
    step = registry.create("pass", name, **CASES[name][1])
    assert 100_000_000 * 0.4 <= step.estimated_bytes(100_000_000) <= 100_000_000 * 8


@pytest.mark.parametrize("name", ["merged", "fp32", "int4"])
def test_output_opens_and_answers(name: str, lab: Any) -> None:
    """The backend that serves the output's kind opens it and answers (E24)."""
    with opened(lab.subject(name)) as backend:
        answer = backend.generate([encode_prompt(backend.tokenizer, tiny.conversation(1))], 4)[0]
    assert answer.tokens > 0


@pytest.mark.parametrize("name", ["merged", "fp32"])
def test_parity_with_the_trained_model(name: str, lab: Any) -> None:
    """Merged and exported in float32: logits within 1e-3 and the same greedy tokens (E24)."""
    found: dict[str, Any] = {}
    for subject in ("trained", name):
        with opened(lab.subject(subject), dtype="float32") as backend:
            conversation = tiny.conversation(7)
            prompt = encode_prompt(backend.tokenizer, conversation)
            logits = backend.logits(encode_chat(backend.tokenizer, conversation).ids)
            found[subject] = (logits, list(backend.stream(prompt, 16)))
    (expected, tokens), (logits, same) = found["trained"], found[name]
    assert np.abs(expected - logits).max() < 1e-3
    assert same == tokens


def test_rounded_weights_are_close_and_smaller(lab: Any) -> None:
    """Four-bit weights take less room than float32 and stay near it, without being it (E28)."""
    ids = list(range(3, 60))
    logits = {}
    for name in ("fp32", "int4"):
        with opened(lab.subject(name)) as backend:
            logits[name] = backend.logits(ids)
    spread = logits["fp32"].std()
    assert 0 < np.abs(logits["fp32"] - logits["int4"]).mean() < spread
    assert lab.int4.size < lab.fp32.size
    assert lab.int4.meta["precision"] == "int4"


def test_int8(lab: Any, tmp_path: Path) -> None:
    """Eight-bit weights lie between four-bit and float32 in size, and open (E28)."""
    facts = applied("onnx", lab, tmp_path / "int8", precision="int8", extra={"int4_block_size": 32})
    assert facts["precision"] == "int8"
    size = sum(file.stat().st_size for file in (tmp_path / "int8").iterdir())
    assert lab.int4.size < size < lab.fp32.size
    artifact = lab.fp32.model_copy(update={"path": tmp_path / "int8"})
    with opened(lab.subject("fp32").model_copy(update={"artifact": artifact})) as backend:
        assert backend.generate([[5, 6, 7]], 2)


def test_merge_refuses_a_foreign_adapter(lab: Any, tmp_path: Path) -> None:
    """An adapter of a base with other shapes is refused with a sentence (D9, D19)."""
    other = tmp_path / "other"
    tiny.network(1, hidden_size=32).save_pretrained(other)
    tiny.tokenizer().save_pretrained(other)
    base = lab.base.model_copy(update={"path": other})
    step = registry.create("pass", "merge_adapter")
    with pytest.raises(ModelLoadError, match="does not fit this model"):
        step.apply(lab.trained, {"model": base}, tmp_path, StepContext(17, EventBus()))


def test_merge_refuses_a_lossy_merge(lab: Any, tmp_path: Path) -> None:
    """A merge that changes the logits beyond the limit is refused, and the difference is told (D10)."""
    with pytest.raises(ArtifactError, match="merging changed the logits by"):
        applied("merge_adapter", lab, tmp_path, max_logit_difference=1e-12)


def test_export_refuses_unsafe_input(lab: Any, tmp_path: Path) -> None:
    """The exporter too goes through the safe door."""
    unsafe = tiny.write_model(tmp_path / "unsafe")
    (unsafe / "pytorch_model.bin").write_bytes(b"x")
    step = registry.create("pass", "onnx")
    source = lab.merged.model_copy(update={"path": unsafe})
    with pytest.raises(UnsafeModelError):
        step.apply(source, {}, tmp_path, StepContext(17, EventBus()))


def test_export_of_an_unknown_architecture(lab: Any, tmp_path: Path) -> None:
    """A model that the exporter does not know is refused with its last words (E31)."""
    strange = tiny.write_model(tmp_path / "strange")
    config = (strange / "config.json").read_text().replace("LlamaForCausalLM", "StrangeForCausalLM")
    (strange / "config.json").write_text(config)
    source = lab.merged.model_copy(update={"path": strange})
    with pytest.raises(ModelLoadError, match="the ONNX builder failed on this model"):
        registry.create("pass", "onnx", exporter="builder").apply(source, {}, tmp_path, StepContext(17, EventBus()))


def test_chains_share_work(lab: Any) -> None:
    """Two variants that begin with the same pass do it once (C39)."""
    events: list[tuple[str, str]] = []
    off = lab.workspace.bus.on_any(lambda event: events.append((event.topic, event.data.get("name", ""))))
    OptimizationService(lab.workspace).variant("again", lab.plan.optimize["int4"], lab.trained, lab.plan.seed)
    off()
    assert events == [("stage.cached", "again/merge_adapter"), ("stage.cached", "again/onnx")]
