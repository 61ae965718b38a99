"""Pruning with healing, and distillation into a smaller model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import hash_directory
from components.core.errors import ConfigError, DataError, ModelLoadError, TrainingError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.recipe import parse_recipe
from components.core.safeload import load_causal_lm
from components.interfaces import StepContext
from components.runtime import opened
from components.services.optimization import OptimizationService
from tests import tiny, tiny_families

FEW = {"calibrate": 4, "measure": 3}
TRAINED = {"max_steps": 2, "batch_size": 2, "dtype": "float32", "learning_rate": 1e-3}
TAUGHT = {"type": "distillation", **TRAINED}
ADAPTED = {"type": "lora", **TRAINED}
ZEROED = ("magnitude", "wanda", "sparsegpt")


def random_rows(count: int = 6, length: int = 40) -> list[Any]:
    import torch

    from components.compression.distance import ScoredRow

    torch.manual_seed(1)
    return [ScoredRow(torch.randint(3, 259, (1, length)), torch.arange(length - 1)) for _ in range(count)]


def logits(network: Any, rows: list[Any]) -> list[Any]:
    from components.compression.pruning.pruning import logits_of

    return [logits_of(network, row) for row in rows]


def far(network: Any, other: Any, rows: list[Any]) -> float:
    """Mean squared difference of logits."""
    pairs = zip(logits(network, rows), logits(other, rows), strict=True)
    return sum(float((a - b).square().mean()) for a, b in pairs)


def pruned(lab: Any, name: str, out: Path, **config: Any) -> dict[str, Any]:
    step = registry.create("pass", name, **({"rows": FEW} | config))
    out.mkdir()
    return step.apply(lab.merged, {}, out, StepContext(17, EventBus(), dataset=lab.dataset))


# ---------------------------------------------------------------- depth


def test_influence_finds_the_block_that_does_nothing() -> None:
    """A block that hands hidden states on as they come has no influence, and is the first to go (C34)."""
    import torch

    from components.compression.pruning.influence import Blocks, block_influence, greedily, least_influential

    network = tiny.network(num_hidden_layers=4)
    with torch.no_grad():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            network.model.layers[2].get_submodule(name).weight.zero_()
    blocks, rows = Blocks(network), random_rows()
    influence = block_influence(blocks, rows)
    assert influence[2] == pytest.approx(0, abs=1e-6)
    assert least_influential(influence, 1) == [2]
    assert greedily(blocks, rows, 1) == [2]


def test_greedy_removes_what_costs_least() -> None:
    """The greedy choice is the block whose absence measures the least KL, by trying each (C34)."""
    from components.compression.distance import divergence, log_probabilities
    from components.compression.pruning.influence import Blocks, greedily

    blocks, rows, told = Blocks(tiny.network(num_hidden_layers=4)), random_rows(3), []
    expected = [log_probabilities(blocks.network, row) for row in rows]
    costs = []
    for number in range(4):
        with blocks.bypassed([number]):
            found = [log_probabilities(blocks.network, row) for row in rows]
        costs.append(sum(float(divergence(a, b).sum()) for a, b in zip(expected, found, strict=True)))
    assert greedily(blocks, rows, 1, told.append) == [costs.index(min(costs))]
    assert told == [1]


@pytest.mark.parametrize("model_type", [name for name in sorted(tiny_families.MODELS) if name != "gemma3n_text"])
def test_depth_of_every_family(model_type: str, tmp_path: Path) -> None:
    """Without a block, the written model of every family gives the logits of the whole one that skips it (C34)."""
    from components.compression.pruning.depth import remove_layers
    from components.compression.pruning.influence import Blocks
    from components.compression.pruning.pruning import prove

    network, rows = tiny_families.network(model_type), random_rows(2)
    blocks = Blocks(network)
    with blocks.bypassed([0]):
        expected = logits(network, rows)
    assert remove_layers(network, [0]) == [1]
    network.save_pretrained(tmp_path)
    prove(tmp_path, rows, expected)


def test_depth_that_a_configuration_cannot_express(tmp_path: Path) -> None:
    """A family whose embeddings hang on the number of layers is refused with a sentence (C34)."""
    from components.compression.pruning.depth import remove_layers
    from components.compression.pruning.pruning import prove

    network = tiny_families.network("gemma3n_text")
    remove_layers(network, [0])
    network.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="cannot express what was taken away"):
        prove(tmp_path, [], [])


def test_lists_and_rules_about_layers_follow() -> None:
    """What a configuration says layer by layer, or by rules about their numbers, holds for those that stay (C34)."""
    from transformers import AutoConfig

    from components.compression.pruning.depth import shallower

    kept, total = [0, 2, 3], 4
    smollm = AutoConfig.for_model("smollm3", num_hidden_layers=4, no_rope_layers=[1, 0, 1, 0])
    assert shallower(smollm, kept, total).no_rope_layers == [1, 1, 0]
    kinds = ["sliding_attention", "full_attention"] * 2
    gemma = AutoConfig.for_model("gemma2", num_hidden_layers=4, layer_types=kinds, eos_token_id=[1, 2, 3, 4])
    found = shallower(gemma, kept, total)
    assert found.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]
    assert found.eos_token_id == [1, 2, 3, 4]
    qwen = AutoConfig.for_model("qwen2_moe", num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3])
    found = shallower(qwen, kept, total)
    assert (found.num_hidden_layers, found.mlp_only_layers, found.decoder_sparse_step) == (3, [0, 1, 2], 1)
    deepseek = AutoConfig.for_model("deepseek_v3", num_hidden_layers=4, first_k_dense_replace=2)
    assert shallower(deepseek, kept, total).first_k_dense_replace == 1


@pytest.mark.parametrize(
    ("asked", "count"), [(0.25, 8), (0.5, 15), (7, 7), (1, 1), (0.04, 1)], ids=["quarter", "half", "7", "one", "tiny"]
)
def test_shares_and_counts(asked: float, count: int) -> None:
    """Below 1 it is a share, halves rounded up; from 1 on a count (C34)."""
    from components.compression.pruning.depth import share_of

    assert share_of(asked, 30, "layers") == count


@pytest.mark.parametrize("asked", [0.001, 0.99, 30, 31])
def test_nothing_or_everything_is_refused(asked: float) -> None:
    """A share that takes no layer, or all of them, is refused with what it comes to (C34)."""
    from components.compression.pruning.depth import share_of

    with pytest.raises(ConfigError, match="at least one must go, and at least one must stay"):
        share_of(asked, 30, "layers")


def test_blocks_at_equal_distances() -> None:
    """`by: even` keeps the first and the last block, and as many as asked for (C34)."""
    from components.compression.pruning.influence import evenly

    removed = evenly(30, 8)
    assert len(removed) == 8
    assert 0 not in removed
    assert 29 not in removed


# ---------------------------------------------------------------- width


@pytest.mark.parametrize(
    "model_type", ["llama", "qwen2", "qwen3", "olmo2", "phi", "phi3", "gemma2", "gpt2", "gpt_neox"]
)
def test_channels_of_every_family(model_type: str, tmp_path: Path) -> None:
    """Narrowed MLPs are written as a plain model, and least squares makes good part of what went (C34)."""
    from components.compression.pruning.pruning import prove
    from components.compression.pruning.width import Cuts, narrow

    rows, whole = random_rows(), tiny_families.network(model_type)
    fitted, bare = tiny_families.network(model_type), tiny_families.network(model_type)
    narrow(fitted, rows, Cuts(None, 32))
    narrow(bare, rows, Cuts(None, 32), compensate=False)
    fitted.save_pretrained(tmp_path)
    prove(tmp_path, rows, logits(fitted, rows))
    assert 0 < far(fitted, whole, rows) < far(bare, whole, rows)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "olmo2", "mixtral", "smollm3"])
def test_heads_go_in_whole_groups(model_type: str, tmp_path: Path) -> None:
    """Queries go with the key and value that they share; the written model says so and gives the same logits (C34)."""
    from components.compression.pruning.pruning import prove
    from components.compression.pruning.width import Cuts, narrow

    network, rows = tiny_families.network(model_type), random_rows()
    narrow(network, rows, Cuts(1, None))
    network.save_pretrained(tmp_path)
    prove(tmp_path, rows, logits(network, rows))
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (2, 1, 8)


def test_narrowing_is_masking() -> None:
    """Cut out, uncompensated, is the same as set to zero in the whole network (C34)."""
    import torch

    from components.compression.pruning.width import Cuts, narrow

    whole, network, rows = tiny.network(), tiny.network(), random_rows()
    narrow(network, rows, Cuts(1, 96), compensate=False)
    with torch.no_grad():
        for mine, theirs in zip(whole.model.layers, network.model.layers, strict=True):
            for name in ("self_attn.o_proj", "mlp.down_proj"):
                wide, narrowed = mine.get_submodule(name).weight, theirs.get_submodule(name).weight
                for column in range(wide.shape[1]):
                    if not (narrowed == wide[:, column : column + 1]).all(0).any():
                        wide[:, column] = 0
    assert far(whole, network, rows) < 1e-8


def test_experts_keep_their_width() -> None:
    """Channels of experts, and heads in one matrix, are refused with a sentence (C34)."""
    from components.compression.pruning.width import Cuts, narrow

    with pytest.raises(ConfigError, match="has experts, whose widths stay as they are"):
        narrow(tiny_families.network("mixtral"), random_rows(), Cuts(None, 32))
    with pytest.raises(ConfigError, match="no matrices of its own for q, k and v"):
        narrow(tiny_families.network("gpt2"), random_rows(), Cuts(1, None))


# ---------------------------------------------------------------- zeros


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("model_type", [*tiny_families.MIXTURES, "llama", "gpt2"])
def test_zeros_of_every_family(model_type: str, pattern: Any) -> None:
    """Half of every matrix is zero, experts in three-dimensional parameters included; SparseGPT loses least (C34)."""
    from components.compression.pruning.sparsity import matrices, sparsity
    from components.compression.pruning.unstructured import magnitude, sparsegpt, wanda

    rows, whole, lost = random_rows(), tiny_families.network(model_type), {}
    for method in (magnitude, wanda, sparsegpt):
        network = tiny_families.network(model_type)
        given = () if method is magnitude else (rows,)
        rest = () if method is magnitude else (lambda done: None,)
        assert not method(network, *given, 0.5, pattern, *rest)  # no matrix is without inputs
        assert sparsity(network)["sparsity"] == 0.5
        for matrix in matrices(network):
            zero = matrix.weight == 0
            assert zero.float().mean() == 0.5
            if pattern == "2:4":
                assert (zero.reshape(-1, 4).sum(1) == 2).all()
        lost[method.__name__] = far(network, whole, rows)
    assert lost["sparsegpt"] < min(lost["magnitude"], lost["wanda"])


def test_wanda_counts_inputs() -> None:
    """A large weight on an input that is next to nothing goes before a small one on a large input (C34)."""
    import torch

    from components.compression.pruning.sparsity import kept

    weight, norms = torch.tensor([[4.0, 1.0]]), torch.tensor([0.1, 10.0])
    assert kept(weight.abs() * norms, 0.5, "unstructured", "row").tolist() == [[False, True]]
    assert kept(weight.abs(), 0.5, "unstructured", "row").tolist() == [[True, False]]


def test_sparsegpt_mends() -> None:
    """With inputs that say the same twice, what one zeroed weight gave the other one gives (C34)."""
    import torch

    from components.compression.pruning.unstructured import mended

    inputs = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    inputs += 0.01 * torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    found = mended(torch.tensor([[1.0, 1.1]]), inputs.T @ inputs, 0.5, "unstructured")
    assert (found == 0).sum() == 1
    assert float(found.sum()) == pytest.approx(2.1, abs=0.05)


def test_an_expert_that_no_token_reaches(tmp_path: Path) -> None:
    """An expert without tokens loses its smallest weights, and the figures count it (C34)."""
    from components.compression.pruning.sparsity import sparsity
    from components.compression.pruning.unstructured import sparsegpt, wanda

    for method in (wanda, sparsegpt):
        network = tiny_families.network("mixtral")
        assert method(network, random_rows(1, 2), 0.5, "unstructured", lambda done: None) > 0
        assert sparsity(network)["sparsity"] == 0.5


def test_pattern_that_does_not_fit() -> None:
    """Two of four takes matrices whose inputs come in fours (C34)."""
    from components.compression.pruning.sparsity import check_pattern

    with pytest.raises(ConfigError, match="takes? .*unstructured"):
        check_pattern(tiny.network(intermediate_size=130), "2:4")
    with pytest.raises(ConfigError, match="is a sparsity of 0.5"):
        registry.create("pass", "prune_wanda", pattern="2:4", sparsity=0.3)


@pytest.mark.parametrize("name", ZEROED)
def test_zeros_are_refused_unless_forced(name: str, lab: Any) -> None:
    """A pass that brings neither bytes nor speed says so and names those that do, before anything runs (C34, B14)."""
    with pytest.raises(ConfigError, match=r"neither smaller nor faster.*prune_depth or prune_width.*force: true"):
        OptimizationService(lab.workspace).named([f"prune_{name}"], lab.merged, dataset=lab.dataset)


@pytest.mark.parametrize("healing", [TAUGHT, ADAPTED], ids=["all weights", "adapter"])
def test_healing_keeps_zeros(healing: Any, lab: Any, tmp_path: Path) -> None:
    """Healed by all weights or by an adapter, as much is zero as before, and weights have changed (C34)."""
    from components.compression.pruning.sparsity import matrices

    bare = pruned(lab, "prune_wanda", tmp_path / "bare", force=True)
    facts = pruned(lab, "prune_wanda", tmp_path / "healed", force=True, heal=healing)
    assert facts["sparsity"] == bare["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert facts["sparsity_before"] < 0.01
    # all weights are held to it while they are trained, an adapter is cut when it is folded in
    assert (facts["zeros_set_again"] > 0) == (healing["type"] == "lora")
    before, after = (matrices(load_causal_lm(tmp_path / name)) for name in ("bare", "healed"))
    for one, other in zip(before, after, strict=True):
        assert ((one.weight == 0) <= (other.weight == 0)).all()
    assert any((one.weight != other.weight).any() for one, other in zip(before, after, strict=True))


# ---------------------------------------------------------------- healing


@pytest.mark.parametrize("healing", [TAUGHT, ADAPTED, {"type": "sft", **TRAINED}], ids=["taught", "adapter", "sft"])
def test_depth_and_healing(healing: Any, lab: Any, tmp_path: Path) -> None:
    """Before and after are measured, on rows that trained nothing; what is left is a plain smaller model (C27, C34)."""
    facts = pruned(lab, "prune_depth", tmp_path / "out", layers=1, heal=healing)
    network = load_causal_lm(tmp_path / "out")
    count = sum(weight.numel() for weight in network.parameters())
    assert facts["parameters"] == count < facts["parameters_before"]
    assert network.config.num_hidden_layers == 1
    assert facts["measured_on"] == "eval"
    assert facts["mean_kl"] > 0
    assert facts["mean_kl_unhealed"] != facts["mean_kl"]
    assert facts["heal"]["trainer"] == healing["type"]
    assert facts["heal"]["steps"] == 2
    assert not [file for file in (tmp_path / "out").iterdir() if file.is_dir()]
    json.dumps(facts)


def test_healing_heals(lab: Any, tmp_path: Path) -> None:
    """Trained on the teacher's probabilities, a pruned model comes nearer to it than it was (C34, C35)."""
    healing = {**TAUGHT, "max_steps": 40, "learning_rate": 1e-2, "batch_size": 4, "alpha": 1.0}
    facts = pruned(lab, "prune_depth", tmp_path / "out", layers=1, heal=healing)
    assert facts["mean_kl"] < 0.8 * facts["mean_kl_unhealed"]


def test_chain_from_adapter_to_export(lab: Any) -> None:
    """adapter -> merge -> prune and heal -> ONNX runs as one chain, and the end of it answers (C34, C39, E24)."""
    steps = [
        "merge_adapter",
        {"type": "prune_depth", "layers": 1, "rows": FEW, "heal": TAUGHT},
        {"type": "prune_width", "channels": 0.5, "heads": 1, "rows": FEW},
        {"type": "onnx", "precision": "fp32"},
    ]
    service = OptimizationService(lab.workspace)
    exported = service.named(steps, lab.trained, lab.plan.seed, lab.dataset)
    subject = lab.subject("fp32").model_copy(update={"artifact": exported, "parents": {}})
    with opened(subject) as backend:
        assert backend.generate([[5, 6, 7]], 2)[0].tokens > 0
    assert exported.size < lab.fp32.size
    assert not list((lab.workspace.root / "checkpoints").glob("*/step-*"))


def test_healing_goes_on_after_a_kill(lab: Any, tmp_path: Path) -> None:
    """A pass that was killed while it healed goes on from its checkpoint, and ends as one that was not (C34)."""
    healing = {**TAUGHT, "max_steps": 4, "checkpoint": {"every": 2}}
    step = registry.create("pass", "prune_depth", layers=1, rows=FEW, heal=healing)
    bus, killed = EventBus(), []

    def kill(event: Any) -> None:
        if event.topic == "checkpoint.saved" and not killed:
            killed.append(event)
            raise KeyboardInterrupt

    bus.on_any(kill)
    for name in ("first", "second", "whole"):
        (tmp_path / name).mkdir()
    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        step.apply(lab.merged, {}, tmp_path / "first", StepContext(17, bus, scratch, {}, dataset=lab.dataset))
    facts = step.apply(lab.merged, {}, tmp_path / "second", StepContext(17, bus, scratch, {}, dataset=lab.dataset))
    assert facts["heal"]["resumed_from"] == [2]
    step.apply(lab.merged, {}, tmp_path / "whole", StepContext(17, bus, dataset=lab.dataset))
    assert hash_directory(tmp_path / "second") == hash_directory(tmp_path / "whole")


@pytest.mark.parametrize(
    ("healing", "reason"),
    [
        ({"type": "from_scratch"}, "begins with weights of its own"),
        ({"type": "reward"}, "makes a reward_model, no language model"),
        ({"type": "sft", "launcher": {"processes": 2}}, "heals in one process"),
        ({"type": "sft", "checkpoint": {"folder": "here"}}, "has a folder of its own"),
        ({"type": "sft", "data": {"train": {"type": "jsonl", "path": "x"}, "split": {}}}, "heals on the rows"),
    ],
    ids=["scratch", "reward", "processes", "folder", "rows"],
)
def test_what_cannot_heal(healing: Any, reason: str, tmp_path: Path) -> None:
    """A trainer that would lose the pruned weights, or cannot run inside a pass, is refused when it is read (C34)."""
    chain = [{"type": "merge_adapter"}, {"type": "prune_depth", "heal": healing}]
    with pytest.raises(ConfigError, match=rf"optimize\.v\.1\.heal: .*{reason}"):
        parse_recipe(tiny.recipe(tmp_path, tmp_path, optimize={"v": chain}))


def test_pruning_without_rows(lab: Any, tmp_path: Path) -> None:
    """A pruning pass without rows is refused, in a chain before anything runs (C34)."""
    with pytest.raises(ConfigError, match="'prune_depth' needs rows to calibrate or heal with; give a dataset"):
        OptimizationService(lab.workspace).named(["prune_depth"], lab.merged)
    with pytest.raises(DataError, match="was given no data set"):
        registry.create("pass", "prune_depth").apply(lab.merged, {}, tmp_path, StepContext(17, EventBus()))


# ---------------------------------------------------------------- distillation


def test_student_of_the_teachers_own_blocks(lab: Any, tmp_path: Path) -> None:
    """A student has the share of blocks, channels and heads that is asked for, and begins as its teacher was (C35)."""
    shape = {"layers": 0.5, "intermediate": 0.75, "heads": 1}
    facts = pruned(lab, "distill", tmp_path / "out", student=shape, trainer=TAUGHT)
    config = load_causal_lm(tmp_path / "out").config
    assert (config.num_hidden_layers, config.intermediate_size) == (1, 96)
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
    assert facts["heal"]["trainer"] == "distillation"
    assert facts["parameters"] < facts["parameters_before"]


def test_student_from_elsewhere(lab: Any, tmp_path: Path) -> None:
    """Another model with the same tokenizer can be the student; its content counts in the identity (C35)."""
    other = tiny.write_model(tmp_path / "other", seed=5)
    steps = [{"type": "distill", "student": {"type": "pretrained", "name": str(other)}, "rows": FEW, "trainer": TAUGHT}]
    service = OptimizationService(lab.workspace)
    first = service.named(steps, lab.merged, 17, lab.dataset)
    assert set(first.parents) == {"source", "student", "dataset"}
    assert first.meta["parameters"] == lab.base.meta["parameters"]
    tiny.network(6).save_pretrained(other, safe_serialization=True)
    second = service.named(steps, lab.merged, 17, lab.dataset)
    assert second.key != first.key
    assert hash_directory(second.path) != hash_directory(first.path)


def test_teacher_is_named_in_a_recipe(lab: Any, tmp_path: Path) -> None:
    """Only a pass fills the teacher in: a training step that names none is refused when the recipe is read (C35)."""
    plain = tiny.recipe(tmp_path, tmp_path, train=[TAUGHT])
    with pytest.raises(ConfigError, match=r"train\.0: name the model to learn from: teacher"):
        parse_recipe(plain)
    trainer = registry.create("trainer", "distillation")
    with pytest.raises(TrainingError, match="name the model to learn from"):
        trainer.train(lab.base, lab.dataset, tmp_path / "out", StepContext(17, EventBus()))
