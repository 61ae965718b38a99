"""GRPO: prompts, their order, rewards, the policy's log-probabilities, and going on exactly where a kill fell."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.core.artifacts import hash_directory
from components.core.chat import encode_prompt
from components.core.component import StrictConfig
from components.core.errors import ConfigError, TrainingError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.recipe import Spec
from components.core.safeload import load_tokenizer
from components.interfaces import Reward, RewardConfig, StepContext
from components.training.grpo import SafeGrpo, reward_functions
from components.training.head import add_lean_head
from components.training.policy import Generating, messages_before, prompt_rows
from tests import tiny

SMALL = {
    "batch_size": 2,
    "num_generations": 2,
    "max_completion_length": 6,
    "max_steps": 4,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "dtype": "float32",
}


def trainer(**config: Any) -> Any:
    return registry.create("trainer", "grpo", **(SMALL | config))


def trained(lab: Any, dataset: Any, out: Path, scratch: Path | None = None, **config: Any) -> Any:
    """Train on the tiny model."""
    out.mkdir(exist_ok=True)
    return trainer(**config).train(lab.base, dataset, out, StepContext(17, EventBus(), scratch, {"run": "grpo"}))


# ------------------------------------------------------------ prompts


def test_prompts_are_what_the_template_makes_of_them(lab: Any) -> None:
    """A prompt is the conversation before its last answer, with the opening of that; the row comes with it whole."""
    tokenizer = load_tokenizer(lab.base.path)
    rows = prompt_rows(lab.dataset, "train", tokenizer, trainer().config)
    said = {json.dumps(tiny.conversation(number)) for number in range(24)}
    assert len(rows) == 24
    for row in rows:
        conversation = row["row"]["messages"]
        assert row["prompt"] == list(encode_prompt(tokenizer, conversation))
        assert messages_before(row["row"]) == conversation[:-1]
        said.remove(json.dumps(conversation))
    assert not said


def test_prompt_rows_alone(lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path) -> None:
    """Rows without an answer are trained on too, with rewards that need none."""
    rows = prompt_rows(datasets_by_shape["prompt"], "train", load_tokenizer(lab.base.path), trainer().config)
    assert [messages_before(row["row"]) for row in rows] == [tiny.conversation(number)[:2] for number in range(24)]
    facts = trained(lab, datasets_by_shape["prompt"], tmp_path, rewards=[{"type": "length", "budget": 2}])
    assert len(facts["figures"]["rewards/length/mean"]) == 4


def test_rewards_that_need_an_answer(lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path) -> None:
    """They are refused for rows that have none, before any work."""
    with pytest.raises(TrainingError, match="rewards exact_match compare with an expected answer, which rows of shape"):
        trained(lab, datasets_by_shape["prompt"], tmp_path, rewards=[{"type": "exact_match"}, {"type": "regex"}])


def test_prompts_without_room_for_an_answer(lab: Any, tmp_path: Path) -> None:
    """Prompts too long for an answer stop the run, or are left out and counted where the recipe allows it."""
    with pytest.raises(TrainingError, match=r"24 of 24 prompts leave no room for max_completion_length=6 tokens"):
        trained(lab, lab.dataset, tmp_path, max_length=60)
    facts = trained(lab, lab.dataset, tmp_path, max_length=106, max_too_long_fraction=0.9, max_steps=1)
    assert 0 < facts["rows_left_out"] < 24
    assert facts["rows"] + facts["rows_left_out"] == 24


def test_order_of_prompts() -> None:
    """A round's prompts follow each other, each as often as it is answered; the round comes once a forward pass."""
    stub = SimpleNamespace(
        run=SimpleNamespace(config=SimpleNamespace(batch_size=2, accumulate=2)),
        args=SimpleNamespace(max_steps=5, seed=17, gradient_accumulation_steps=4),
        train_dataset=range(8),
        num_iterations=2,
        num_generations=3,
        _passes=8,
    )
    order = Generating._get_train_sampler(stub)  # type: ignore[arg-type]
    round_size = 2 * 2 * 3
    blocks = [order[start : start + round_size] for start in range(0, len(order), round_size)]
    assert len(blocks) == 3 * 8
    for number in range(3):
        one, *others = blocks[number * 8 : number * 8 + 8]
        assert all(block == one for block in others)
        assert one == [row for row in one[::3] for _ in range(3)]
    assert {row for block in blocks[0:16] for row in block} == set(range(8))


# ------------------------------------------------------------ the policy


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_trl(temperature: float) -> None:
    """The lean head gives TRL's log-probabilities and entropies of answers, at any temperature, with their gradient."""
    from trl.trainer.utils import add_fused_lm_head

    ids = torch.randint(3, 250, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :6] = -100
    found = []
    for lean in (True, False):
        model = tiny.network()
        if lean:
            add_lean_head(model, temperature=temperature, entropy=True)
        else:
            add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
        output = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        output.log_probs[:, -6:].sum().backward()
        gradient = model.model.embed_tokens.weight.grad
        found.append((output.log_probs[:, -6:].detach(), output.entropy[:, -6:], gradient))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_held_to_where_it_started(lab: Any, tmp_path: Path, lora: Any) -> None:
    """With beta, the distance to the model at the start is measured: nothing at first, something later."""
    distance = trained(lab, lab.dataset, tmp_path, beta=0.1, lora=lora)["figures"]["kl"]
    assert distance[0] == pytest.approx(0, abs=1e-4)
    assert distance[-1] > 0.01


def test_learns_what_is_rewarded(lab: Any, tmp_path: Path) -> None:
    """Answers come to have what they are rewarded for: here, to begin with a lower-case letter."""
    more = {"max_steps": 15, "batch_size": 6, "num_generations": 4, "max_completion_length": 2}
    rewards = [{"type": "regex", "pattern": "^[a-z]"}]
    facts = trained(lab, lab.dataset, tmp_path, rewards=rewards, **more)
    reward = facts["figures"]["reward"]
    assert sum(reward[-5:]) / 5 > sum(reward[:5]) / 5 + 0.3


def test_equally_good_answers_teach_nothing(lab: Any, tmp_path: Path) -> None:
    """Where every answer gets the same reward no weight moves, and the figures say so."""
    facts = trained(lab, lab.dataset, tmp_path, rewards=[{"type": "length"}])
    assert facts["figures"]["frac_reward_zero_std"] == [1.0] * 4
    assert set(facts["grad_norms"]) == {0.0}


# ------------------------------------------------------------ rewards


class Watched(Reward):
    """Writes down what it is given."""

    Config = RewardConfig

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.heard: list[Any] = []

    def setup(self) -> None:
        self.heard.append("setup")

    def close(self) -> None:
        self.heard.append("close")

    def score(self, prompts: Any, answers: Any, rows: Any) -> list[float]:
        self.heard.append((prompts, answers, rows))
        return [0.5] * len(answers)


def test_rewards_hear_prompts_answers_and_rows(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward gets the messages before the answer, the answer as text and the whole row; it is set up and closed."""
    watched, original = Watched(), Spec.build
    monkeypatch.setattr(Spec, "build", lambda spec: watched if spec.kind == "reward" else original(spec))
    trained(lab, lab.dataset, tmp_path, rewards=[{"type": "regex"}], max_steps=1)
    first, (prompts, answers, rows), last = watched.heard
    assert (first, last) == ("setup", "close")
    assert len(prompts) == len(answers) == len(rows) == 4
    assert prompts == [row["messages"][:-1] for row in rows]
    assert rows[0] == rows[1] != rows[2] == rows[3]
    assert all(isinstance(answer, str) and "<|" not in answer for answer in answers)


def test_weights_and_names() -> None:
    """Rewards are added up by their weights; two of one type keep their own figures."""
    plain: list[dict[str, Any]] = [{"type": "regex"}, {"type": "length"}, {"type": "regex", "pattern": "x"}]
    specs = trainer(rewards=plain).config.rewards
    functions = reward_functions(specs, [spec.build() for spec in specs])
    assert [function.__name__ for function in functions] == ["regex", "length", "regex-2"]


def test_weighted_sum(lab: Any, tmp_path: Path) -> None:
    """The reward of a step is the weighted sum of its parts."""
    rewards = [{"type": "similarity", "weight": 2.0}, {"type": "length", "budget": 1, "weight": -0.5}]
    figures = trained(lab, lab.dataset, tmp_path, rewards=rewards)["figures"]
    parts = zip(figures["rewards/similarity/mean"], figures["rewards/length/mean"], strict=True)
    assert figures["reward"] == pytest.approx([2 * near - 0.5 * long for near, long in parts], abs=1e-5)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"rewards": []}, "at least 1 item"),
        ({"rewards": [{"type": "exact_mach"}]}, "did you mean 'exact_match'"),
        ({"num_generations": 1}, "greater than or equal to 2"),
        ({"evaluate": {"keep": "best"}}, "the loss of grpo does not say how good a model is"),
        ({"evaluate": {"patience": 2}}, "the loss of grpo does not say how good a model is"),
    ],
)
def test_refused_configurations(config: dict[str, Any], reason: str) -> None:
    """What cannot work is refused when the recipe is read, with the reason."""
    with pytest.raises(ConfigError, match=reason):
        trainer(**config)


def test_a_reward_is_strict() -> None:
    """Every reward's configuration is strict, with a weight."""
    assert issubclass(RewardConfig, StrictConfig)
    with pytest.raises(ConfigError, match="wieght"):
        trainer(rewards=[{"type": "length", "wieght": 2}])


# ------------------------------------------------------------ going on


class Killed(BaseException):
    """Nothing in the code under test catches this."""


def kill_before(monkeypatch: pytest.MonkeyPatch, cls: type, step: int) -> None:
    """Die in the first forward pass after this many steps."""
    original = cls.training_step  # type: ignore[attr-defined]

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, "training_step", training_step)


WAYS = {
    "every step": {"checkpoint": {"every": 1}},
    "in the middle of a round": {"num_iterations": 3, "beta": 0.1, "checkpoint": {"every": 2}, "max_steps": 6},
    "accumulated": {"num_iterations": 2, "accumulate": 2, "lora": {"r": 4, "dropout": 0.1}, "checkpoint": {"every": 3}},
    "over the end of a pass": {"batch_size": 10, "max_steps": 5, "checkpoint": {"every": 3}},
    "with evaluations": {"evaluate": {"every": 2, "rows": 2}, "checkpoint": {"every": 2}},
}


def killed_and_resumed(lab: Any, place: Path, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    scratch = place / "scratch"
    with monkeypatch.context() as patched:
        kill_before(patched, SafeGrpo, 3)
        with pytest.raises(Killed):
            trained(lab, lab.dataset, place / "out", scratch, **way)
    assert list(scratch.glob("step-*"))
    facts = trained(lab, lab.dataset, place / "again", scratch, **way)
    assert facts["resumed_from"]
    return hash_directory(place / "again"), facts["losses"], facts["figures"]["reward"]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_resumed_run_gives_the_same_bytes(
    lab: Any, tmp_path: Path, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run goes on to the same weights, losses and rewards, wherever in a round of answers it was killed."""
    facts = trained(lab, lab.dataset, tmp_path / "whole", **way)
    whole = hash_directory(tmp_path / "whole"), facts["losses"], facts["figures"]["reward"]
    assert killed_and_resumed(lab, tmp_path, way, monkeypatch) == whole


def test_answers_belong_to_a_checkpoint(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: without its answers, a run that was killed in a round gives other weights."""
    way = WAYS["in the middle of a round"]
    trained(lab, lab.dataset, tmp_path / "whole", **way)
    monkeypatch.setattr(Generating, "_unused_answers", lambda self: {})
    assert killed_and_resumed(lab, tmp_path, way, monkeypatch)[0] != hash_directory(tmp_path / "whole")
