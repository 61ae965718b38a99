"""Half precision: frozen weights are rounded once instead of in every pass, and nothing that is learnt changes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.artifacts import hash_directory
from components.core.events import CheckpointLoaded, EventBus
from components.core.families import families
from components.core.kinds import registry
from components.core.recipe import OfKind
from components.interfaces import StepContext
from components.services.model import ModelService
from components.training.adapters import Adapter, Lora, attach, save_adapter
from components.training.distilled import SafeOnPolicyDistillation
from components.training.frozen import hold_frozen, may_hold, without_casts
from components.training.supervised import SafeSft
from tests import tiny, tiny_families
from tests.unit.test_adapters import OPTIONS, batch
from tests.unit.test_training_run import Killed, killing, train

HELD: dict[str, Lora | Adapter] = {
    "plain": Lora(r=4),
    "dropout": Lora(r=4, dropout=0.1),
    "rslora": Lora(r=4, rslora=True),
    "ranks": Lora(r=4, rank_pattern={"up_proj": 2}),
    "gaussian": Lora(r=4, init="gaussian"),
    "orthogonal": Lora(r=4, init="orthogonal"),
    "pissa": Lora(r=4, init="pissa"),
    "pissa_niter_4": Lora(r=4, init="pissa_niter_4"),
    "olora": Lora(r=4, init="olora"),
    "head in full": Lora(r=4, modules_to_save=["lm_head"]),
    "embeddings in full": Lora(r=4, modules_to_save=["embed_tokens"]),
    "on embeddings": Lora(r=4, target_modules="embeddings"),
    "ia3": Adapter(method="ia3"),
    "ln_tuning": Adapter(method="ln_tuning"),
}
"""Adapters whose base may be held, by what the proof found."""


def adapted(adapter: Lora | Adapter, scratch: Path, network: Any = None, family: str = "llama") -> Any:
    """The adapter on a network, the same one each time."""
    torch.manual_seed(5)
    return attach(network or tiny.network(), adapter, families()[family], scratch)


def learnt(network: Any, steps: int = 3) -> list[Any]:
    """Logits and gradients of a few steps under autocast."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer, seen = torch.optim.AdamW(trained, lr=1e-2), list[Any]()
    network.train()
    torch.manual_seed(7)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            found = network(input_ids=batch(), labels=batch())
        found.loss.backward()
        seen += [found.logits.detach(), *(weight.grad.clone() for weight in trained)]
        optimizer.step()
        optimizer.zero_grad()
    return seen


# ------------------------------------------------------------ held weights


@pytest.mark.filterwarnings("ignore")  # ln_tuning on norms that PEFT does not know
@pytest.mark.parametrize("casts", [True, False])
@pytest.mark.parametrize("name", HELD)
def test_held_is_as_not_held(name: str, casts: bool, tmp_path: Path, one_thread: None) -> None:
    """Logits, gradients and the saved adapter are the same bit by bit, held or not."""
    results = []
    for held in (False, True):
        out = tmp_path / str(held)
        network = adapted(HELD[name], out / "scratch")
        assert may_hold(network)
        if held:
            hold_frozen(network, torch.bfloat16)
            assert network.get_base_model().model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
        with nullcontext() if casts else without_casts(network, torch.bfloat16):
            seen = learnt(network)
        save_adapter(network, out / "saved", out / "scratch")
        results.append((seen, hash_directory(out / "saved")))
    (plain, saved), (rounded, saved_of_held) = results
    assert len(plain) == len(rounded)
    assert all(map(torch.equal, plain, rounded))
    assert saved == saved_of_held


@pytest.mark.parametrize("method", ["glora", "hira", "shira", "supertuning", "vera", "oft"])
def test_methods_without_proof_are_not_held(method: str, tmp_path: Path) -> None:
    """Methods that read the frozen weights themselves, or that nobody looked at, keep them as they are."""
    assert not may_hold(adapted(Adapter(method=method, options=OPTIONS.get(method, {})), tmp_path))


def test_lora_that_reads_the_weights_is_not_held(tmp_path: Path) -> None:
    """DoRA computes their lengths, and LoRA on fused experts adds to them."""
    assert not may_hold(adapted(Lora(r=4, dora=True), tmp_path))
    mixture = adapted(Lora(r=4), tmp_path, tiny_families.network("qwen2_moe"), "qwen")
    assert mixture.peft_config["default"].target_parameters
    assert not may_hold(mixture)
    assert not may_hold(tiny.network())


def test_what_stays_in_full_precision(tmp_path: Path) -> None:
    """What is trained, tied heads, embeddings, norms and biases keep float32."""
    network = adapted(Lora(r=4, modules_to_save=["lm_head"]), tmp_path)
    hold_frozen(network, torch.bfloat16)
    assert all(weight.dtype == torch.float32 for weight in network.parameters() if weight.requires_grad)
    assert network.base_model.model.lm_head.original_module.weight.dtype == torch.bfloat16
    assert network.get_input_embeddings().weight.dtype == torch.float32
    tied = adapted(Lora(r=4), tmp_path, tiny.network(tie_word_embeddings=True))
    before = tied.get_input_embeddings().weight.clone()
    hold_frozen(tied, torch.bfloat16)
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    assert torch.equal(tied.get_output_embeddings().weight, before)
    biased = adapted(Lora(r=4), tmp_path, tiny.network(attention_bias=True, mlp_bias=True))
    hold_frozen(biased, torch.bfloat16)
    kept = {name.rpartition(".")[2] for name, w in biased.named_parameters() if w.dtype == torch.bfloat16}
    assert kept == {"weight"}


@pytest.mark.parametrize("kind", ["qwen2", "phi3", "gemma3_text", "gpt2", "deepseek_v3"])
def test_held_in_other_families(kind: str, tmp_path: Path, one_thread: None) -> None:
    """Biases, fused projections, tied heads, transposed layers and routers give the same bits, held or not."""
    found = []
    for held in (False, True):
        family = tiny_families.MODELS[kind][0]
        network = adapted(Lora(r=4, target_modules="attention"), tmp_path, tiny_families.network(kind), family)
        if held:
            hold_frozen(network, torch.bfloat16)
        found.append(learnt(network, steps=2))
    assert all(map(torch.equal, *found))


# ------------------------------------------------------------ casts


def test_casts_are_put_back(tmp_path: Path) -> None:
    """The switch is turned where a layer has one, and put back as it was; other layers get none."""
    for adapter in (Lora(r=4), Adapter(method="ia3")):
        network = adapted(adapter, tmp_path)
        switches = [module for module in network.modules() if hasattr(module, "cast_input_dtype_enabled")]
        assert bool(switches) == isinstance(adapter, Lora)
        for module in switches[:1]:
            module.cast_input_dtype_enabled = False
        with without_casts(network, torch.bfloat16):
            assert not any(module.cast_input_dtype_enabled for module in switches)
        assert [module.cast_input_dtype_enabled for module in switches] == [
            number > 0 for number in range(len(switches))
        ]
        now = [module for module in network.modules() if hasattr(module, "cast_input_dtype_enabled")]
        assert now == switches


def test_casts_stay_where_they_matter(tmp_path: Path) -> None:
    """In float32 nothing is to be gained, and DoRA would take the lengths of rounded weights."""
    for change, dtype in (({}, torch.float32), ({"dora": True}, torch.bfloat16)):
        network = adapted(Lora(r=4, **change), tmp_path)
        with without_casts(network, dtype):
            assert all(getattr(module, "cast_input_dtype_enabled", True) for module in network.modules())


@pytest.mark.parametrize("method", ["ia3", "vera", "fourierft", "ln_tuning", "oft"])
@pytest.mark.filterwarnings("ignore")
def test_other_methods_in_half_precision(method: str, lab: Any, tmp_path: Path) -> None:
    """Methods whose layers know no switch for casts are trained in bfloat16 too."""
    adapter = {"method": method, "options": OPTIONS.get(method, {})}
    figures = train(lab, tmp_path / "out", lora=None, adapter=adapter, dtype="bfloat16", max_steps=2)
    assert figures["dtype"] == "bfloat16"
    assert len(figures["losses"]) == 2


# ------------------------------------------------------------ going on


@pytest.mark.parametrize("init", ["default", "pissa"])
def test_resume_is_exact_in_half_precision(
    init: str, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run with dropout over held weights goes on to the same losses and bytes."""
    settings = {"dtype": "bfloat16", "lora": {"r": 4, "dropout": 0.1, "init": init}}
    seen, step = set[Any](), SafeSft.training_step

    def look(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        seen.add(self.model.get_base_model().model.layers[0].mlp.up_proj.weight.dtype)
        return step(self, model, *args, **kwargs)

    monkeypatch.setattr(SafeSft, "training_step", look)
    whole = train(lab, tmp_path / "whole", **settings)
    bus = killing(6)
    with monkeypatch.context() as patch:
        bus.patch(patch)  # type: ignore[attr-defined]
        with pytest.raises(Killed):
            train(lab, tmp_path / "out", bus, **settings)
    torch.manual_seed(99)
    loaded, again = list[CheckpointLoaded](), EventBus()
    again.on(CheckpointLoaded, loaded.append)
    resumed = train(lab, tmp_path / "out", again, **settings)
    assert [event.step for event in loaded] == [6]
    assert seen == {torch.bfloat16}
    assert resumed["losses"] == whole["losses"]
    assert resumed["grad_norms"] == whole["grad_norms"]
    assert hash_directory(tmp_path / "out") == hash_directory(tmp_path / "whole")


# ------------------------------------------------------------ trainers that generate

SMALL = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0, "dtype": "bfloat16"}


def precisions(patch: pytest.MonkeyPatch, cls: type, name: str) -> list[bool]:
    """Whether each call of that method runs under autocast to bfloat16."""
    original, seen = getattr(cls, name), list[bool]()

    def look(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
        return original(self, *args, **kwargs)

    patch.setattr(cls, name, look)
    return seen


@pytest.mark.parametrize("lora", [None, {"r": 4, "dropout": 0.1}])
def test_on_policy_distillation(lora: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both networks compute in bfloat16 where the recipe says so, with an adapter and without, in evaluation too."""
    source = {"type": "pretrained", "name": str(tiny.write_model(tmp_path / "teacher", seed=1))}
    teacher = ModelService(lab.workspace).fetch(OfKind("model").parse(source))  # type: ignore[arg-type]
    passes = precisions(monkeypatch, SafeOnPolicyDistillation, "_get_last_hidden_state")
    own = {"teacher": source, "mode": "on_policy", "max_completion_length": 6, "lora": lora}
    trainer = registry.create("trainer", "distillation", **SMALL, **own, evaluate={"every": 2, "rows": 2})
    (tmp_path / "out").mkdir()
    context = StepContext(17, EventBus(), inputs={"teacher": teacher})
    figures = trainer.train(lab.base, lab.dataset, tmp_path / "out", context)
    assert figures["dtype"] == "bfloat16"
    assert len(passes) == 6  # of student and teacher, in two steps and an evaluation
    assert all(passes)
    assert len(figures["evaluations"]) == 1


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_grpo(lora: Any, lab: Any, tmp_path: Path) -> None:
    """Answers are generated in the precision that is trained in, over held weights too."""
    (tmp_path / "out").mkdir()
    own = {"num_generations": 2, "max_completion_length": 6, "rewards": [{"type": "length", "budget": 2}]}
    trainer = registry.create("trainer", "grpo", **SMALL, **own, lora=lora)
    figures = trainer.train(lab.base, lab.dataset, tmp_path / "out", StepContext(17, EventBus()))
    assert figures["dtype"] == "bfloat16"
    assert figures["steps"] == 2
