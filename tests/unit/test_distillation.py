"""Distillation: the loss on a teacher's likeliest tokens, the teacher asked once, and what makes it refuse one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from components.core.artifacts import hash_directory
from components.core.dataset import IGNORED, index
from components.core.errors import ConfigError, TrainingError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.recipe import OfKind
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import StepContext
from components.services.model import ModelService
from components.services.training import TrainingService
from components.training import distilled
from components.training.config import TrainingConfig
from components.training.distilled import TEACHER, SafeDistillation, SafeOnPolicyDistillation
from components.training.divergence import Mix, likeliest, taught_loss, taught_sums
from components.training.rows import supervised_rows
from tests import tiny

SMALL = {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0, "dtype": "float32"}
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Class:
    """A student, a teacher and rows."""

    lab: Any
    teacher: Any
    source: dict[str, str]

    def trainer(self, **config: Any) -> Any:
        return registry.create("trainer", "distillation", teacher=self.source, **(SMALL | config))

    def train(self, out: Path, scratch: Path | None = None, teacher: Any = None, **config: Any) -> Any:
        out.mkdir(exist_ok=True)
        inputs = {"teacher": teacher or self.teacher}
        context = StepContext(17, EventBus(), scratch, {"run": "distillation"}, inputs)
        return self.trainer(**config).train(self.lab.base, self.lab.dataset, out, context)

    def distance(self, directory: Path) -> float:
        """Mean KL of a student to the teacher over the whole vocabulary, at the trained tokens of the eval rows."""
        rows = supervised_rows(self.lab.dataset, "eval", load_tokenizer(directory), TrainingConfig())
        networks = [load_causal_lm(place) for place in (self.teacher.path, directory)]
        found = []
        for row in rows:
            kept = torch.tensor(row["labels"][1:]) != IGNORED
            with torch.no_grad():
                theirs, ours = (
                    net(torch.tensor([row["input_ids"]])).logits[0, :-1][kept].log_softmax(-1) for net in networks
                )
            found.append((theirs.exp() * (theirs - ours)).sum(-1))
        return float(torch.cat(found).mean())


@pytest.fixture(scope="module")
def school(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Class:
    """The tiny model as a student of another tiny model, which learnt the task to begin with."""
    steps = [OfKind("trainer").parse({"type": "sft", **SMALL, "max_steps": 20})]
    other = tiny.write_model(tmp_path_factory.mktemp("teacher") / "other", seed=1)
    source = {"type": "pretrained", "name": str(other)}
    start = ModelService(lab.workspace).fetch(OfKind("model").parse(source))  # type: ignore[arg-type]
    return Class(lab, TrainingService(lab.workspace).train(steps, start, lab.dataset, 17), source)  # type: ignore[arg-type]


# ------------------------------------------------------------ the loss


def positions(count: int = 7, vocabulary: int = 50, width: int = 16) -> tuple[Any, ...]:
    """A head, hidden states, labels and a teacher's logits."""
    made = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(width, vocabulary, bias=False)
    torch.nn.init.normal_(head.weight, std=0.5, generator=made)
    hidden = torch.randn(count, width, generator=made)
    labels = torch.randint(0, vocabulary, (count,), generator=made)
    return head, hidden, labels, 3 * torch.randn(count, vocabulary, generator=made)


def with_gradient(head: Any, hidden: Any, loss: Any) -> tuple[Any, ...]:
    """The value of `loss(head, hidden)` and its gradients."""
    leaf = hidden.clone().requires_grad_()
    head.zero_grad()
    value = loss(head, leaf)
    value.backward()
    return value.detach(), leaf.grad, head.weight.grad.clone()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_all_tokens_kept_is_the_plain_divergence(alpha: float, temperature: float) -> None:
    """With k the size of the vocabulary, loss and gradients are those of the textbook formula."""
    head, hidden, labels, teacher = positions()
    mix, taught = Mix(alpha, temperature), likeliest(teacher, 50, temperature)

    def plain(head: Any, hidden: Any) -> Any:
        logits = head(hidden)
        ours, theirs = (found.div(temperature).log_softmax(-1) for found in (logits, teacher))
        kl = functional.kl_div(ours, theirs, reduction="sum", log_target=True)
        return alpha * temperature**2 * kl + (1 - alpha) * functional.cross_entropy(logits, labels, reduction="sum")

    ours = with_gradient(head, hidden, lambda h, x: taught_loss(h, x, labels, taught, mix, 100)[0])
    for found, wanted in zip(ours, with_gradient(head, hidden, plain), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 49])
def test_the_rest_is_one_bucket(k: int) -> None:
    """With k tokens kept, the divergence is that over k + 1 outcomes, and no more than that over all tokens."""
    head, hidden, labels, teacher = positions()
    log_probs, ids = likeliest(teacher, k, 1.0)
    ours, theirs = head(hidden).softmax(-1).double(), teacher.softmax(-1).double()
    outcomes = []
    for found in (theirs, ours):
        known = found.gather(-1, ids.long())
        outcomes.append(torch.cat([known, 1 - known.sum(-1, keepdim=True)], dim=-1))
    wanted = (outcomes[0] * (outcomes[0] / outcomes[1]).log()).sum()
    _, kl, _ = taught_sums(head(hidden), labels, log_probs, ids, Mix(1.0, 1.0))
    whole = (theirs * (theirs / ours).log()).sum().item()
    assert kl.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert kl.item() <= whole * (1 + 1e-5)


def test_pieces_give_the_same_loss() -> None:
    """Computed in pieces, loss and gradients are those of the whole."""
    head, hidden, labels, teacher = positions()
    taught, mix = likeliest(teacher, 5, 2.0), Mix(0.5, 2.0)
    whole, pieces = (
        with_gradient(head, hidden, lambda h, x, chunk=chunk: taught_loss(h, x, labels, taught, mix, chunk)[0])
        for chunk in (100, 3)
    )
    for found, wanted in zip(pieces, whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_sure_teacher_and_a_sure_student() -> None:
    """Probabilities of 0 and 1 give finite losses and gradients."""
    head, hidden, labels, teacher = positions()
    for theirs, ours in ((1e4 * teacher, hidden), (teacher, 1e4 * hidden), (1e4 * teacher, 1e4 * hidden)):
        taught = likeliest(theirs, 5, 1.0)
        mix = Mix(1.0, 1.0)
        found = with_gradient(
            head, ours, lambda h, x, taught=taught, mix=mix: taught_loss(h, x, labels, taught, mix, 100)[0]
        )
        assert all(torch.isfinite(part).all() for part in found)


# ------------------------------------------------------------ training


@pytest.mark.parametrize("lora", [None, {"r": 8}])
def test_the_student_gets_closer_to_the_teacher(school: Class, tmp_path: Path, lora: Any) -> None:
    """Distance to the teacher's distribution falls, on rows that were not trained on."""
    if lora:
        figures = school.train(tmp_path, max_steps=10, alpha=1.0, lora=lora)["figures"]
        assert figures["kl"][-1] < figures["kl"][0]
        return
    school.train(tmp_path, max_steps=20, alpha=1.0)
    assert school.distance(tmp_path) < 0.5 * school.distance(school.lab.base.path)


def test_without_the_teachers_part_it_is_sft(school: Class, tmp_path: Path) -> None:
    """alpha=0 gives the losses of supervised fine-tuning."""
    (tmp_path / "sft").mkdir()
    sft = registry.create("trainer", "sft", **SMALL)
    wanted = sft.train(school.lab.base, school.lab.dataset, tmp_path / "sft", StepContext(17, EventBus()))
    found = school.train(tmp_path / "taught", alpha=0.0)
    assert found["losses"] == pytest.approx(wanted["losses"], abs=2e-5)


def test_the_teacher_is_kept_at_the_trained_positions(school: Class, tmp_path: Path) -> None:
    """What is kept are the teacher's likeliest tokens where labels are, row after row."""
    kept: dict[str, Any] = {}
    original = SafeDistillation.training_step

    def look(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept.update(load_file(self.run.scratch / TEACHER))
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SafeDistillation, "training_step", look)
        school.train(tmp_path / "short", max_steps=1, top_k=4)
        assert int((kept["starts"].diff() > 0).sum()) == SMALL["batch_size"]  # asked about no row that is not used
        school.train(tmp_path / "pass", max_steps=6, top_k=4, temperature=2.0)
    teacher = load_causal_lm(school.teacher.path)
    rows = supervised_rows(school.lab.dataset, "train", load_tokenizer(school.lab.base.path), TrainingConfig())
    for number, row in enumerate(rows):
        where = torch.tensor(row["labels"][1:]) != IGNORED
        with torch.no_grad():
            logits = teacher(torch.tensor([row["input_ids"]])).logits[0, :-1][where]
        first, end = kept["starts"][number], kept["starts"][number + 1]
        wanted = likeliest(logits, 4, 2.0)
        torch.testing.assert_close(kept["log_probs"][first:end], wanted[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(kept["ids"][first:end], wanted[1])


def test_evaluation_is_the_loss_on_answers(school: Class, tmp_path: Path) -> None:
    """Eval rows are judged by their answers alone, whatever the teacher says."""
    facts = school.train(tmp_path, alpha=1.0, evaluate={"every": 4, "rows": 4})
    sft = registry.create("trainer", "sft", **SMALL, evaluate={"every": 4, "rows": 4})
    (tmp_path / "sft").mkdir()
    other = sft.train(school.lab.base, school.lab.dataset, tmp_path / "sft", StepContext(17, EventBus()))
    assert facts["evaluations"][0]["loss"] != other["evaluations"][0]["loss"]
    assert facts["evaluations"][0]["loss"] == pytest.approx(other["evaluations"][0]["loss"], rel=0.8)


def test_the_poisoned_row_is_named(school: Class, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one row makes the loss no number, the error names its place in the data, as for every trainer."""
    compute, poison = SafeDistillation.compute_loss, sum(index(school.lab.dataset, "train")[5]["input_ids"])

    def poisoned(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, model, inputs, *args, **kwargs)
        return loss * float("nan") if (inputs["input_ids"].sum(1) == poison).any() else loss

    monkeypatch.setattr(SafeDistillation, "compute_loss", poisoned)
    with pytest.raises(TrainingError, match=r"alone, only this does: \S*train.jsonl:6; look at it"):
        school.train(tmp_path / "out", max_steps=3, batch_size=8)


# ------------------------------------------------------------ going on


class Killed(BaseException):
    """Nothing in the code under test catches this."""


def die_before(monkeypatch: pytest.MonkeyPatch, cls: type, step: int) -> None:
    original = cls.training_step  # type: ignore[attr-defined]

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, "training_step", training_step)


WAYS = {
    "offline": (SafeDistillation, {"checkpoint": {"every": 1}, "accumulate": 2, "temperature": 2.0}),
    "offline adapter": (SafeDistillation, {"checkpoint": {"every": 2}, "lora": {"r": 4, "dropout": 0.1}}),
    "on policy": (
        SafeOnPolicyDistillation,
        {"checkpoint": {"every": 1}, "mode": "on_policy", "max_completion_length": 6, "accumulate": 2},
    ),
}


@pytest.mark.parametrize(("cls", "way"), WAYS.values(), ids=WAYS)
def test_resumed_run_gives_the_same_bytes(
    school: Class, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: type, way: dict[str, Any]
) -> None:
    """A killed run goes on to the same weights and losses."""
    whole = school.train(tmp_path / "whole", **way)["losses"]
    with monkeypatch.context() as patched:
        die_before(patched, cls, 3)
        with pytest.raises(Killed):
            school.train(tmp_path / "killed", tmp_path / "scratch", **way)
    facts = school.train(tmp_path / "again", tmp_path / "scratch", **way)
    assert facts["resumed_from"]
    assert facts["losses"] == whole
    assert hash_directory(tmp_path / "again") == hash_directory(tmp_path / "whole")


def test_the_teacher_is_asked_once(school: Class, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run finds what the teacher said, and does not even open it again."""
    way = {"checkpoint": {"every": 1}}
    with monkeypatch.context() as patched:
        die_before(patched, SafeDistillation, 2)
        with pytest.raises(Killed):
            school.train(tmp_path / "killed", tmp_path / "scratch", **way)
    asked = list(tmp_path.rglob(TEACHER))
    assert len(asked) == 1
    moment = asked[0].stat().st_mtime_ns
    with monkeypatch.context() as patched:
        patched.setattr(distilled, "load_causal_lm", lambda *_: pytest.fail("the teacher was opened"))
        die_before(patched, SafeDistillation, 3)
        with pytest.raises(Killed):
            school.train(tmp_path / "again", tmp_path / "scratch", **way)
    assert asked[0].stat().st_mtime_ns == moment


# ------------------------------------------------------------ the teacher as an input


def test_teacher_is_a_parent(school: Class) -> None:
    """The service fetches the teacher; it is a parent of the result and, by content, a part of its identity."""
    lab, service = school.lab, TrainingService(school.lab.workspace)

    def train(source: Path | str) -> Any:
        config = {"type": "distillation", **SMALL, "max_steps": 1}
        step = OfKind("trainer").parse({**config, "teacher": {"type": "pretrained", "name": str(source)}})
        return service.train([step], lab.base, lab.dataset, 17)  # type: ignore[list-item]

    first = train(school.source["name"])
    assert first.parents.keys() == {"model", "dataset", "teacher"}
    assert first.parents["teacher"].stage == "model"
    copied = Path(shutil.copytree(school.source["name"], lab.workspace.root / "teacher elsewhere"))
    assert train(copied).key == first.key
    other = train(tiny.write_model(lab.workspace.root / "another teacher", seed=2))
    assert other.key != first.key
    assert other.digest != first.digest


def test_other_vocabulary_is_refused(school: Class, tmp_path: Path) -> None:
    """A teacher that numbers its tokens in another way is refused before any work, with a token that differs."""
    copy = tmp_path / "teacher"
    shutil.copytree(school.teacher.path, copy)
    tokenizer = load_tokenizer(copy)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(copy)
    stranger = school.teacher.model_copy(update={"path": copy})
    with pytest.raises(TrainingError, match="different vocabularies .* for example '<extra>'"):
        school.train(tmp_path / "out", teacher=stranger)
    assert not list((tmp_path / "out").iterdir())


def test_other_template_is_none_of_its_business(school: Class, tmp_path: Path) -> None:
    """A teacher with the same vocabulary and another chat template reads the student's tokens."""
    copy = tmp_path / "teacher"
    shutil.copytree(school.teacher.path, copy)
    tokenizer = load_tokenizer(copy)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(copy)
    facts = school.train(tmp_path / "out", teacher=school.teacher.model_copy(update={"path": copy}), max_steps=1)
    assert facts["steps"] == 1


def test_teacher_of_another_width(school: Class, tmp_path: Path) -> None:
    """The teacher may be larger, and its output may be padded beyond the vocabulary."""
    copy = tmp_path / "teacher"
    shutil.copytree(school.teacher.path, copy)
    (copy / WEIGHTS).unlink()
    tiny.network(3, hidden_size=96, vocab_size=320).save_pretrained(copy, safe_serialization=True)
    teacher = school.teacher.model_copy(update={"path": copy})
    assert school.train(tmp_path / "out", teacher=teacher, max_steps=1, top_k=300)["steps"] == 1


# ------------------------------------------------------------ on policy


def test_on_policy_gets_closer(school: Class, tmp_path: Path, datasets_by_shape: dict[str, Any]) -> None:
    """On its own answers, the student gets closer to the teacher; prompts without an answer will do."""
    (tmp_path / "out").mkdir()
    trainer = school.trainer(mode="on_policy", max_completion_length=8, max_steps=12, beta=0.0)
    context = StepContext(17, EventBus(), inputs={"teacher": school.teacher})
    facts = trainer.train(school.lab.base, datasets_by_shape["prompt"], tmp_path / "out", context)
    assert sum(facts["losses"][-3:]) < 0.8 * sum(facts["losses"][:3])
    assert facts["tokens"] > 0


# ------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"mode": "on_policy", "alpha": 0.5}, "alpha: only for mode: offline, and the mode is on_policy"),
        ({"beta": 0.5}, "beta: only for mode: on_policy, and the mode is offline"),
        ({"temperature": 0}, "greater than 0"),
        ({"alpha": 1.5}, "less than or equal to 1"),
    ],
)
def test_refused_configurations(school: Class, config: dict[str, Any], reason: str) -> None:
    """Keys that say nothing in a mode are refused there, as are numbers that make no sense."""
    with pytest.raises(ConfigError, match=reason):
        school.trainer(**config)


def test_teacher_must_be_named() -> None:
    """There is no default teacher: a recipe's own step has to name one (a pass that heals brings its own)."""
    trainer = registry.get("trainer", "distillation")
    assert "name the model to learn from" in str(trainer.incomplete(trainer.Config()))


@pytest.mark.parametrize(("mode", "shape"), [("offline", "prompt"), ("on_policy", "text"), ("on_policy", "preference")])
def test_rows_of_another_shape(school: Class, datasets_by_shape: dict[str, Any], mode: str, shape: str) -> None:
    """Each mode says which rows it takes."""
    problem = school.trainer(mode=mode).problem(datasets_by_shape[shape])
    assert f"mode {mode} takes rows of shape" in str(problem)
    assert problem.endswith(f"the data set holds {shape}")
