"""One run of a trainer: it resumes bit by bit, stops itself when it should, and adapts when memory runs out."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.artifacts import hash_directory
from components.core.errors import TrainingError, TrainingInterrupted
from components.core.events import (
    CheckpointLoaded,
    CheckpointSaved,
    Event,
    EventBus,
    SampleGenerated,
    SpeedChosen,
    TrainingAdapted,
    TrainingEvaluated,
    TrainStep,
)
from components.core.kinds import registry
from components.interfaces import StepContext
from components.training.memory import is_out_of_memory, next_setting
from components.training.meter import Meter
from components.training.setting import Setting, applied
from components.training.state import load_tensors
from tests import tiny

HARD = {
    "max_steps": 8,
    "batch_size": 4,
    "accumulate": 2,  # 24 rows: passes end after 3 steps, so resumes cross them
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "dtype": "float32",
    "lora": {"r": 4, "dropout": 0.1},
    "checkpoint": {"every": 2},
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program handles it."""


def train(lab: Any, out: Path, bus: EventBus | None = None, scratch: Path | None = None, **config: Any) -> Any:
    """Train on the tiny model, with a folder for checkpoints beside the output."""
    out.mkdir(exist_ok=True)
    trainer = registry.create("trainer", "sft", **(HARD | config))
    identity = {"train": trainer.config.model_dump(mode="json")}
    place = scratch or out.parent / f"{out.name}-checkpoints"
    return trainer.train(lab.base, lab.dataset, out, StepContext(17, bus or EventBus(), place, identity))


def killing(step: int) -> EventBus:
    """A bus whose listener kills the run right after the checkpoint of this step."""
    from components.training.guarded import Guarded

    bus, save = EventBus(), Guarded._save_checkpoint

    def saved(self: Any, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        if self.state.global_step == step:
            raise Killed

    bus.patch = lambda patch: patch.setattr(Guarded, "_save_checkpoint", saved)  # type: ignore[attr-defined]
    return bus


VARIANTS: dict[str, dict[str, Any]] = {
    "lora with dropout": {},
    "full": {"lora": None},
    "average of weights": {"callbacks": [{"type": "ema", "decay": 0.5}]},
    "best of evaluations": {"evaluate": {"every": 3, "rows": 4, "keep": "best"}},
    "sgd": {"optimizer": {"type": "sgd"}},
    "packed": {"packing": True, "max_length": 512, "batch_size": 1},
    "pissa": {"lora": {"r": 4, "init": "pissa_niter_4"}},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("killed_at", [2, 6])
def test_resume_is_exact(name: str, killed_at: int, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed and goes on ends with the same losses and bytes as one that was not (B16, F6)."""
    whole = train(lab, tmp_path / "whole", **VARIANTS[name])
    bus = killing(killed_at)
    with monkeypatch.context() as patch:
        bus.patch(patch)  # type: ignore[attr-defined]
        with pytest.raises(Killed):
            train(lab, tmp_path / "out", bus, **VARIANTS[name])
    torch.manual_seed(99)  # a new process knows nothing of the old one's random numbers
    loaded, again = list[CheckpointLoaded](), EventBus()
    again.on(CheckpointLoaded, loaded.append)
    resumed = train(lab, tmp_path / "out", again, **VARIANTS[name])
    assert [event.step for event in loaded] == [killed_at]
    assert resumed["resumed_from"] == [killed_at]
    for figure in ("losses", "grad_norms", "learning_rates", "tokens", "evaluations"):
        assert resumed.get(figure) == whole.get(figure), figure
    assert hash_directory(tmp_path / "out") == hash_directory(tmp_path / "whole")


def test_begin_anew_on_request(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`resume: false` removes the checkpoints and trains from the first step."""
    scratch, bus = tmp_path / "kept", killing(4)
    settings = {"checkpoint": {"every": 2, "resume": False}}
    with monkeypatch.context() as patch:
        bus.patch(patch)  # type: ignore[attr-defined]
        with pytest.raises(Killed):
            train(lab, tmp_path / "out", bus, scratch, **settings)
    steps, again = list[TrainStep](), EventBus()
    again.on(TrainStep, steps.append)
    train(lab, tmp_path / "out", again, scratch, **settings)
    assert [step.step for step in steps] == list(range(1, 9))


def test_another_configuration_is_refused(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named folder that holds another run's checkpoints is refused with what differs; they stay."""
    bus, scratch = killing(4), tmp_path / "mine"
    with monkeypatch.context() as patch:
        bus.patch(patch)  # type: ignore[attr-defined]
        with pytest.raises(Killed):
            train(lab, tmp_path / "out", bus, scratch)
    with pytest.raises(TrainingError, match=r"(?s)another run \(at step 4\).*train.learning_rate: 0.01 -> 0.02"):
        train(lab, tmp_path / "other", None, scratch, learning_rate=2e-2)
    assert train(lab, tmp_path / "out", None, scratch)["resumed_from"] == [4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(number: int, lab: Any, tmp_path: Path) -> None:
    """SIGTERM and Ctrl+C end the step, save, and stop with a message; the next run goes on to the same end."""
    whole = train(lab, tmp_path / "whole")
    bus, before = EventBus(), signal.getsignal(number)
    bus.on(TrainStep, lambda event: os.kill(os.getpid(), number) if event.step == 3 else None)
    with pytest.raises(
        TrainingInterrupted, match=f"stopped by {signal.Signals(number).name} after step 4 of 8|step 3 of"
    ):
        train(lab, tmp_path / "out", bus)
    assert signal.getsignal(number) is before
    resumed = train(lab, tmp_path / "out")
    assert resumed["losses"] == whole["losses"]
    assert hash_directory(tmp_path / "out") == hash_directory(tmp_path / "whole")


@pytest.mark.parametrize("way", [{}, {"lora": None}, {"callbacks": [{"type": "ema", "decay": 0.5}]}])
def test_a_signal_in_the_last_step(lab: Any, tmp_path: Path, way: dict[str, Any]) -> None:
    """Told to stop when all steps are done, the run saves and stops; the next one has only the result to write, the
    average of the weights among it."""
    whole = train(lab, tmp_path / "whole", **way)
    bus, steps = EventBus(), list[TrainStep]()
    bus.on(TrainStep, lambda event: os.kill(os.getpid(), signal.SIGTERM) if event.step == 8 else None)
    with pytest.raises(TrainingInterrupted, match="after step 8 of 8; the checkpoint is saved"):
        train(lab, tmp_path / "out", bus, **way)
    again = EventBus()
    again.on(TrainStep, steps.append)
    figures = train(lab, tmp_path / "out", again, **way)
    assert not steps
    assert hash_directory(tmp_path / "out") == hash_directory(tmp_path / "whole")
    assert (figures["resumed_from"], figures["losses"]) == ([8], whole["losses"])
    assert 0 < figures["train_seconds"] < 60, "not the time since the machine was started"


def test_a_stop_that_cannot_save(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the checkpoint of a stop fails, the error says so and still ends the whole run, not this step alone."""
    from components.training.checkpoints import CheckpointFolder

    def full(*_: Any) -> None:
        raise TrainingError("the disk is full; make room")

    monkeypatch.setattr(CheckpointFolder, "save", full)
    bus = EventBus()
    bus.on(TrainStep, lambda event: os.kill(os.getpid(), signal.SIGTERM) if event.step == 1 else None)
    with pytest.raises(TrainingInterrupted, match="told to stop by SIGTERM; before that: the disk is full; make room"):
        train(lab, tmp_path / "out", bus, checkpoint={"every": None})


def test_a_signal_before_the_first_step(
    lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is told to stop while it asks its reference stops there, instead of asking about all rows first."""
    from components.training.preference import SafeDpo

    asked, ask = list[int](), SafeDpo.compute_ref_log_probs

    def interrupted(self: Any, *args: Any) -> Any:
        asked.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return ask(self, *args)

    monkeypatch.setattr(SafeDpo, "compute_ref_log_probs", interrupted)
    trainer = registry.create("trainer", "dpo", max_steps=2, batch_size=4, lora={"r": 4})
    context = StepContext(17, EventBus(), tmp_path / "checkpoints", {})
    (tmp_path / "out").mkdir()
    with pytest.raises(TrainingInterrupted, match="stopped by SIGTERM before the first step"):
        trainer.train(lab.base, datasets_by_shape["preference"], tmp_path / "out", context)
    assert len(asked) == 1


def test_padding_stays_within_the_positions(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows fill all positions that a model has learnt, batches are not padded beyond them."""
    from components.training import run

    longest, check = list[int](), run.check_fits

    def just_fits(network: Any, tokenizer: Any, most: int) -> int:
        longest.append(most)
        check(network, tokenizer, most)
        return most

    monkeypatch.setattr(run, "check_fits", just_fits)
    figures = train(lab, tmp_path / "out", dtype="bfloat16", max_steps=1)
    assert longest[0] % 16, "the control: rows are no multiple of the padding"
    assert figures["speed"]["choice"]["pad_to"] == 1


def test_a_signal_while_the_result_is_saved(lab: Any, tmp_path: Path) -> None:
    """A signal that comes when training is over and its result is being saved is passed on, not swallowed."""
    received, bus, out = list[int](), EventBus(), tmp_path / "out"
    bus.on(CheckpointSaved, lambda event: os.kill(os.getpid(), signal.SIGTERM) if event.path == str(out) else None)
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        train(lab, out, bus)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert (out / "adapter_model.safetensors").is_file()


def test_full_disk(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that does not fit stops the run with the remedy, and the last good one is gone on from."""
    import components.training.guarded as guarded

    write, count = guarded.save_optimizer, iter(range(99))

    def full(optimizer: Any, folder: Path) -> None:
        write(optimizer, folder)
        if next(count) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(guarded, "save_optimizer", full)
    with pytest.raises(TrainingError, match=r"checkpoint of step 4 cannot be written .*step 2 is intact"):
        train(lab, tmp_path / "out")
    assert train(lab, tmp_path / "out")["resumed_from"] == [2]


# ---------------------------------------------------------------- guards


def test_the_poisoned_row_is_named(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one row alone makes the loss no number, the error names it among the rows of the batch (E31)."""
    from components.training.supervised import SafeSft

    compute, poison = SafeSft.compute_loss, 4242

    def poisoned(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, model, inputs, *args, **kwargs)
        return loss * float("nan") if (inputs["input_ids"].sum(1) == poison).any() else loss

    from components.core.dataset import index

    rows = index(lab.dataset, "train")
    poison = sum(rows[5]["input_ids"])
    monkeypatch.setattr(SafeSft, "compute_loss", poisoned)
    with pytest.raises(TrainingError, match=r"alone, only this does: \S*train.jsonl:6; look at it"):
        train(lab, tmp_path / "out", batch_size=8, accumulate=1)


def test_gradient_that_is_no_number(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient without a finite norm stops the run before the optimizer uses it."""
    from components.training.supervised import SafeSft

    def huge(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = model(**inputs, fused_lm_head=True).loss
        if loss.requires_grad:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(SafeSft, "compute_loss", huge)
    with pytest.raises(
        TrainingError, match="gradient's norm became (nan|inf) at step 1, before any weight was changed"
    ):
        train(lab, tmp_path / "out")


def test_divergence_is_stopped(lab: Any, tmp_path: Path) -> None:
    """A learning rate that blows the loss up is stopped with the loss and the remedy."""
    settings = {"learning_rate": 30.0, "max_steps": 60, "scheduler": "constant", "max_grad_norm": 1e9, "lora": None}
    with pytest.raises(TrainingError, match=r"training diverged.*lower learning_rate=30|became (nan|inf)"):
        train(lab, tmp_path / "out", optimizer={"type": "sgd", "momentum": 0}, **settings)


def test_watch_for_divergence() -> None:
    """Only losses that stay above the limit count, and only after the first steps."""
    calm = Meter(losses=[6.0] * 5 + [9.5] * 9 + [5.0])
    assert calm.above(1.5, None, 10) is None
    assert Meter(losses=[6.0] * 5 + [9.5] * 10).above(1.5, None, 10) == 9.0
    assert Meter(losses=[6.0] * 5 + [9.5] * 10).above(None, None, 10) is None
    assert Meter(losses=[6.0] * 3).above(None, 5.0, 3) == 5.0
    assert Meter(losses=[0.0] * 20).above(1.5, None, 10) is None


def test_early_stopping_and_best_weights(lab: Any, tmp_path: Path) -> None:
    """Without a lower eval loss training ends early, and the best weights are the result if asked for."""
    evaluate = {"every": 1, "rows": 4, "patience": 2, "min_delta": 100.0, "keep": "best"}
    told, bus = list[TrainingEvaluated](), EventBus()
    bus.on(TrainingEvaluated, told.append)
    figures = train(lab, tmp_path / "out", bus, evaluate=evaluate)
    assert figures["steps"] == 3
    assert figures["best_step"] == 1
    assert [event.step for event in told] == [1, 2, 3]
    # the weights after the first step of the same run, not those after the third
    stopped = EventBus()
    stopped.on(TrainStep, lambda event: os.kill(os.getpid(), signal.SIGTERM) if event.step == 1 else None)
    with pytest.raises(TrainingInterrupted):
        train(lab, tmp_path / "first", stopped, evaluate=None, checkpoint={"every": 1})
    first = load_tensors(tmp_path / "first-checkpoints" / "step-00000001" / "weights.safetensors")
    result = load_tensors(tmp_path / "out" / "adapter_model.safetensors")
    assert len(first) == len(result)
    for name, weight in result.items():
        assert torch.equal(weight, first[name.replace(".weight", ".default.weight")]), name


def test_a_stop_is_remembered(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that stopped early and was killed before it was saved does not train on when it goes on."""
    from components.training import run

    evaluate = {"every": 1, "rows": 4, "patience": 2, "min_delta": 100.0, "keep": "best"}

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "_finish", killed)
        with pytest.raises(Killed):
            train(lab, tmp_path / "out", evaluate=evaluate, checkpoint={"every": 3})
    steps, bus = list[TrainStep](), EventBus()
    bus.on(TrainStep, steps.append)
    figures = train(lab, tmp_path / "out", bus, evaluate=evaluate, checkpoint={"every": 3})
    assert not steps
    assert (figures["steps"], figures["best_step"]) == (3, 1)


def test_eval_rows_that_are_all_too_long(lab: Any, tmp_path: Path) -> None:
    """Eval rows beyond `max_length` leave nothing to evaluate on, which is said before the first step."""
    settings = {"max_length": 142, "max_too_long_fraction": 0.9, "evaluate": {"every": 1}}
    dataset = lab.dataset.model_copy(update={"path": tmp_path / "dataset"})
    import shutil

    shutil.copytree(lab.dataset.path, dataset.path)
    shutil.copyfile(dataset.path / "train.arrow", dataset.path / "eval.arrow")
    from components.training.rows import eval_rows

    config = registry.get("trainer", "sft").Config(**(HARD | settings | {"max_length": 16}))
    with pytest.raises(TrainingError, match="every eval row is longer than max_length=16"):
        eval_rows(dataset, tiny.tokenizer(), config)


def test_empty_eval_split(lab: Any, tmp_path: Path) -> None:
    """Evaluation without eval rows is refused before any work."""
    rows = {**lab.dataset.meta["rows"], "eval": 0}
    dataset = lab.dataset.model_copy(update={"meta": {**lab.dataset.meta, "rows": rows}})
    trainer = registry.create("trainer", "sft", **HARD, evaluate={"every": 1})
    with pytest.raises(TrainingError, match="need rows in the eval split, which has none"):
        trainer.train(lab.base, dataset, tmp_path, StepContext(17, EventBus()))


def test_rows_beyond_the_positions(lab: Any, tmp_path: Path) -> None:
    """Packs longer than the model has positions are refused with the number that fits."""
    with pytest.raises(TrainingError, match=r"up to 4096 tokens do not fit .* 2048 positions; set max_length: 2048"):
        train(lab, tmp_path / "out", packing=True, max_length=4096)


def test_tokenizer_of_another_model(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer with ids that the model has no embedding for is refused."""
    from components.training import run

    monkeypatch.setattr(run, "load_causal_lm", lambda *_, **__: tiny.network(vocab_size=100))
    with pytest.raises(TrainingError, match="ids up to 258, but the model has embeddings for 100 tokens only"):
        train(lab, tmp_path / "out")


def test_samples_change_nothing(lab: Any, tmp_path: Path) -> None:
    """Sample answers are told and recorded, and the result is the same to the last bit."""
    told, bus = list[SampleGenerated](), EventBus()
    bus.on(SampleGenerated, told.append)
    figures = train(lab, tmp_path / "out", bus, samples={"every": 4, "prompts": 2, "max_new_tokens": 3})
    train(lab, tmp_path / "plain")
    assert [event.step for event in told] == [4, 4, 8, 8]
    assert [sample["step"] for sample in figures["samples"]] == [4, 4, 8, 8]
    assert hash_directory(tmp_path / "out") == hash_directory(tmp_path / "plain")


# ---------------------------------------------------------------- memory and speed

BASE = Setting("cuda", "float32", 8, 1, 2, None)


def test_ladder_keeps_the_effective_batch() -> None:
    """Each rung in turn, and the rows in a step stay the same; at the bottom there is nothing left (E30)."""
    rungs = ("smaller_batch", "activation_checkpointing", "lower_precision", "cpu")
    seen, now = [BASE], next_setting(BASE, rungs)
    while now is not None:
        seen.append(now)
        now = next_setting(now, rungs)
    assert [way.micro_batch for way in seen[:4]] == [8, 4, 2, 1]
    assert all(way.micro_batch * way.accumulate == 8 for way in seen)
    assert seen[4].activation_checkpointing
    assert seen[5].dtype == "bfloat16"
    assert (seen[6].device, seen[6].dtype) == ("cpu", "float32")
    assert next_setting(BASE, []) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    """Allocators' errors are told from others, by class or by their words (E29, E30)."""
    assert is_out_of_memory(error) is expected


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Forward passes over more than two rows fail, as an allocator does."""
    from components.training.supervised import SafeSft

    compute, sizes = SafeSft.compute_loss, list[int]()

    def limited(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2 and len(sizes) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SafeSft, "compute_loss", limited)
    return sizes


def test_out_of_memory_goes_on_smaller(lab: Any, tmp_path: Path, short_of_memory: list[int]) -> None:
    """After running out of memory training goes on from the last checkpoint with smaller batches, the same steps, and
    says so (E30)."""
    told, bus = list[Event](), EventBus()
    bus.on_any(told.append)
    figures = train(lab, tmp_path / "out", bus, batch_size=8, accumulate=1, lora={"r": 4}, checkpoint={"every": 2})
    adapted = [event for event in told if isinstance(event, TrainingAdapted)]
    assert [event.action for event in adapted] == [
        "micro_batch 8 -> 4, accumulate 1 -> 2",
        "micro_batch 4 -> 2, accumulate 2 -> 4",
    ]
    assert [note["step"] for note in figures["adapted"]] == [4, 4]
    assert figures["steps"] == 8
    assert figures["resumed_from"] == [4]
    assert figures["determinism"] == "exact until memory ran out"


def test_the_same_steps_with_smaller_batches(lab: Any, tmp_path: Path) -> None:
    """Micro-batches of another size see the same rows in each step, so losses agree to rounding (B15)."""
    settings = {"accumulate": 1, "batch_size": 8, "lora": {"r": 4}}
    whole = train(lab, tmp_path / "whole", **settings)
    from components.training import run

    with pytest.MonkeyPatch.context() as patch:
        rules = run.by_rules
        patch.setattr(run, "by_rules", lambda *args: rules(*args).changed(micro_batch=2, accumulate=4))
        parts = train(lab, tmp_path / "parts", **settings)
    assert parts["losses"] == pytest.approx(whole["losses"], abs=2e-4)
    assert parts["tokens"] == whole["tokens"]


def test_bottom_of_the_ladder(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is left to try the error says what was allowed and what else would help (E30)."""
    from components.training.supervised import SafeSft

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(SafeSft, "compute_loss", fail)
    with pytest.raises(TrainingError, match=r"memory ran out with 4 rows.*nothing is left to try.*train an adapter"):
        train(lab, tmp_path / "out", out_of_memory=[])


def test_memory_that_runs_out_while_measuring(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`speed: auto` that runs out of memory leaves it to the ladder, and says so."""
    from components.training import speed

    def greedy(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(speed, "fastest", greedy)
    figures = train(lab, tmp_path / "out", speed="auto", max_steps=1)
    assert figures["steps"] == 1
    assert figures["speed"]["tried"][0]["skipped"] == "memory ran out"


def test_measured_speed(lab: Any, tmp_path: Path) -> None:
    """`speed: auto` tells what it tried and chose, trains that way, and starts from untouched weights."""
    told, bus = list[SpeedChosen](), EventBus()
    bus.on(SpeedChosen, told.append)
    figures = train(lab, tmp_path / "out", bus, speed="auto")
    assert len(told) == 1
    assert {entry["lever"] for entry in told[0].tried} >= {
        "rules",
        "attention",
        "bucketing",
        "activation_checkpointing",
    }
    assert all(entry["tokens_per_s"] > 0 for entry in told[0].tried if "skipped" not in entry)
    assert figures["speed"]["choice"] == told[0].choice
    pinned = {key: told[0].choice[key] for key in ("threads", "attention", "activation_checkpointing", "bucketing")}
    again = train(lab, tmp_path / "again", speed=pinned)
    assert again["losses"] == figures["losses"]


def test_threads_and_determinism_are_given_back(one_thread: None) -> None:
    """What a run sets for the whole process is as before when it ends."""
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    with applied(BASE.changed(threads=2), "exact"):
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_saved_checkpoints_are_told(lab: Any, tmp_path: Path) -> None:
    """Each checkpoint is told with its size once it is committed, and the result at the end (B5)."""
    saved, bus = list[tuple[int, bool]](), EventBus()
    bus.on(CheckpointSaved, lambda event: saved.append((event.step, event.size > 0)))
    train(lab, tmp_path / "out", bus)
    assert saved == [(2, True), (4, True), (6, True), (8, False)]


def test_passes_decide_the_steps(lab: Any, tmp_path: Path) -> None:
    """`epochs` gives the number of steps, `max_steps` caps it (E13)."""
    settings = {"batch_size": 4, "accumulate": 2, "epochs": 1.0}
    assert train(lab, tmp_path / "one", max_steps=None, **settings)["steps"] == 3
    assert train(lab, tmp_path / "two", max_steps=2, **settings)["steps"] == 2


def test_packs_in_half_precision(lab: Any, tmp_path: Path) -> None:
    """Packing goes with an adapter on frozen weights that are held in bfloat16."""
    figures = train(lab, tmp_path / "out", dtype="bfloat16", packing=True, max_length=256, batch_size=2, max_steps=2)
    assert figures["packs"] > 0
    assert figures["steps"] == 2
