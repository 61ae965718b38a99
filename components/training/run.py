"""One run of a trainer: open the network, go on from where it was killed, train under guard, save, report.

    run = Run(self.config, model, dataset, out, context)
    return run.train(rows, lambda network, arguments: SafeDpo(run=run, model=network, args=DPOConfig(**arguments), ...))

A trainer says what is trained on what; this says everything that is the same for all of them.
"""

from __future__ import annotations

import gc
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact
from components.core.dataset import token_lengths
from components.core.errors import TrainingError, TrainingInterrupted
from components.core.events import CheckpointLoaded, CheckpointSaved, Event, SpeedChosen, TrainingAdapted
from components.core.families import Family, family_of
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import StepContext
from components.training.adapters import attach, quantization_config, save_adapter, stable_adapter_config
from components.training.ceiling import energy_joules
from components.training.checkpoints import Checkpoint, CheckpointFolder
from components.training.config import STEPS, TrainingConfig
from components.training.figures import figures_of
from components.training.fits import check_fits
from components.training.memory import difference, is_out_of_memory, next_setting
from components.training.meter import Meter
from components.training.order import rows_in_a_pass
from components.training.setting import Setting, applied, by_rules
from components.training.signals import StopRequest, stop_request

Build = Callable[[Any, dict[str, Any]], Any]
"""Makes a transformers trainer of a network and the arguments that all trainers share."""


class Run:
    """What a trainer needs besides its own method."""

    watched = True
    """False where the loss does not fall as the model learns (reinforcement): no watch for divergence."""

    def __init__(
        self, config: Any, model: Artifact, dataset: Artifact, out: Path, context: StepContext, learning: bool = True
    ) -> None:
        self.config: TrainingConfig = config
        self.model, self.dataset, self.out, self.context = model, dataset, out, context
        self.watched = learning
        self.meter, self.hooks, self.stop = Meter(), list[Any](), StopRequest()
        self.setting: Setting
        self.paused = self._since = 0.0
        self._joules: float | None = None
        self.rows_in_a_pass = 1
        self.packs: dict[str, float] = {}
        self.tried: list[dict[str, Any]] = []
        self.folder = self._folder()
        self.scratch = self.folder.cache if self.folder else out / ".trainer"

    @cached_property
    def tokenizer(self) -> Any:
        """The model's own."""
        return load_tokenizer(self.model.path)

    @cached_property
    def family(self) -> Family:
        """What is known of models of this kind."""
        return family_of(self.model.path, str(self.model.meta.get("name", "")))

    # ------------------------------------------------------------ the story

    def train(
        self, rows: Any, build: Build, longest: int | None = None, network: Callable[[], Any] | None = None
    ) -> Any:
        """Train on `rows` and save; returns the figures of the whole run, also of what was trained before a kill.

        `longest`: tokens of the longest row or pack. `network` opens something else than the model artifact.
        """
        if self.folder is None and self.config.evaluate and self.config.evaluate.keep == "best":
            raise TrainingError("evaluate.keep: best needs a place for checkpoints; name one with checkpoint.folder")
        self.rows, self.open = rows, network or self._open_network
        self.rows_in_a_pass = rows_in_a_pass(len(rows), self.config.batch_size)
        self.longest = longest or max(token_lengths(rows))
        with self._claimed(), stop_request(self.folder is not None) as self.stop:
            last = self._last_checkpoint()
            setting = Setting(**last.notes["setting"]) if last else self._choose(build)
            while True:
                try:
                    return self._attempt(build, setting, last)
                except Exception as error:
                    if self.stop.name and not self.stop.heeded:
                        # nobody is to take it for a step that failed, and go on with the next one
                        raise TrainingInterrupted(f"told to stop by {self.stop.name}; before that: {error}") from error
                    setting = self._adapted(setting, error)
                # only here has the traceback let go of the network that did not fit
                gc.collect()
                last = self._last_checkpoint()

    def _attempt(self, build: Build, setting: Setting, last: Checkpoint | None) -> dict[str, Any]:
        import torch

        from components.training.frozen import without_casts

        adapted = self.meter.adapted
        self.meter = Meter.restored(last.notes["meter"]) if last else Meter(tried=self.tried)
        self.meter.adapted = adapted or self.meter.adapted
        with applied(setting, self.config.determinism):
            trainer = self.prepare(build, setting)
            if last:
                self.meter.resumed_from.append(last.step)
                self.emit(CheckpointLoaded(path=str(last.path), step=last.step))
            if last and self._was_over(last):
                return self._ended(trainer, last)
            with without_casts(trainer.model, getattr(torch, setting.dtype)):
                trainer.train(resume_from_checkpoint=str(last.path) if last else None)
            if self.stop.heeded:
                raise TrainingInterrupted(
                    f"stopped by {self.stop.name} after step {trainer.state.global_step} of {trainer.args.max_steps}; "
                    "the checkpoint is saved, run again to go on"
                )
            return self._finish(trainer)

    def _ended(self, trainer: Any, last: Checkpoint) -> dict[str, Any]:
        """What is left when all steps were done before the run was stopped: all that happens around them."""
        from transformers.trainer_utils import align_special_tokens

        self.start_clock()
        align_special_tokens(trainer.model, trainer.processing_class)
        trainer._load_from_checkpoint(str(last.path))
        trainer.state.global_step = last.step
        for hook in self.hooks:
            hook.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
        return self._finish(trainer)

    def _was_over(self, last: Checkpoint) -> bool:
        """Whether the last step had been done before the run was stopped: of all, or without a lower loss too long."""
        evaluation = self.config.evaluate
        early = bool(evaluation and evaluation.patience and self.meter.stale >= evaluation.patience)
        return early or last.step >= self.steps()

    def prepare(self, build: Build, setting: Setting) -> Any:
        """The network, opened and wrapped, in its trainer."""
        import torch
        from transformers import set_seed

        from components.training.frozen import hold_frozen, may_hold
        from components.training.frozen_norm import shorten_norms
        from components.training.fused_lora import fuse_lora
        from components.training.short_attention import register_short_attention

        set_seed(self.context.seed)
        network = self.open()
        positions = check_fits(network, self.tokenizer, self.longest)
        if positions and self.longest + -self.longest % setting.pad_to > positions:
            setting = setting.changed(pad_to=1)
        self.setting = setting
        register_short_attention()
        if setting.attention:
            network.set_attn_implementation(setting.attention)
        self.hooks = self._hooks()
        if self.config.peft:
            set_seed(self.context.seed)
            self.scratch.mkdir(parents=True, exist_ok=True)
            network = attach(network, self.config.peft, self.family, self.scratch)
            if setting.dtype != "float32" and may_hold(network):
                hold_frozen(network, getattr(torch, setting.dtype))
                fuse_lora(network)
                shorten_norms(network)
        return build(network, self._arguments(setting))

    def _finish(self, trainer: Any) -> dict[str, Any]:
        evaluation, best = self.config.evaluate, self.meter.best_step
        if evaluation and evaluation.keep == "best" and self.folder and best not in (None, trainer.state.global_step):
            trainer._load_from_checkpoint(str(self._best(best).path))
        if trainer.sharded:  # every process has a part of it
            trainer.save_model(str(self.out))
        if trainer.args.process_index == 0:
            with self._room():
                self._save(trainer.model, weights=not trainer.sharded)
            self.emit(CheckpointSaved(path=str(self.out), step=trainer.state.global_step))
        return figures_of(self, trainer)

    def _best(self, step: int | None) -> Checkpoint:
        found = next((known for known in self.folder.all() if known.step == step), None) if self.folder else None
        if found is None or not found.intact():
            raise TrainingError(f"the checkpoint of step {step}, the best one, is damaged; run again to train anew")
        return found

    @contextmanager
    def _room(self) -> Iterator[None]:
        """A disk that is full at the very end is told like one that is full before."""
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"the result cannot be written to '{self.out.parent}': {error}; make room and run again, training goes "
                "on from the last checkpoint"
            ) from error

    # ------------------------------------------------------------ parts of it

    def _open_network(self) -> Any:
        return load_causal_lm(self.model.path, quantization=quantization_config(self.config.lora))

    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        config = self.config
        if config.epochs is None:
            return config.max_steps or STEPS
        whole = math.ceil(config.epochs * self.rows_in_a_pass / (config.batch_size * config.accumulate))
        return max(1, min(whole, config.max_steps or whole))

    def _arguments(self, setting: Setting) -> dict[str, Any]:
        """Arguments that every TRL trainer takes."""
        config, every = self.config, self.config.evaluate
        return {
            "output_dir": str(self.out / ".trainer"),
            "max_steps": self.steps(),
            "per_device_train_batch_size": setting.micro_batch,
            "per_device_eval_batch_size": setting.micro_batch,
            "gradient_accumulation_steps": setting.accumulate,
            "learning_rate": config.learning_rate,
            "warmup_steps": config.warmup_steps,
            "lr_scheduler_type": config.scheduler,
            "weight_decay": config.weight_decay,
            "max_grad_norm": config.max_grad_norm,
            "use_cpu": setting.device == "cpu",
            "bf16": setting.dtype == "bfloat16",
            "fp16": setting.dtype == "float16",
            "activation_checkpointing": setting.activation_checkpointing,
            "torch_compile": setting.compile,
            "remove_unused_columns": False,  # the columns of a row are made when it is asked for
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "eval_strategy": "steps" if every else "no",
            "eval_steps": every.every if every else None,
            "prediction_loss_only": True,
            "save_strategy": "no",  # checkpoints are asked for, and committed, by components.training.guarded
            "report_to": "none",
            "disable_tqdm": True,
            "seed": self.context.seed,
            "data_seed": self.context.seed,
            "dataloader_pin_memory": setting.device != "cpu",
            **self._strategy(setting),
        }

    def _strategy(self, setting: Setting) -> dict[str, Any]:
        launcher = self.config.launcher
        if launcher.world == 1:
            return {}
        backend = {"ddp_backend": "gloo"} if setting.device == "cpu" else {}
        if launcher.strategy == "fsdp":
            return backend | {"fsdp": True, "fsdp_config": {"version": 2, **launcher.options}}
        if launcher.strategy == "deepspeed":
            return backend | {"deepspeed": dict(launcher.options)}
        return backend

    def _choose(self, build: Build) -> Setting:
        """By rules, or measured: `speed: auto`."""
        setting = by_rules(self.config, self.longest, self.family if self.model else None)
        tried: list[dict[str, Any]] = []
        if self.config.speed == "auto":
            from components.training.speed import fastest

            try:
                setting, tried = fastest(self, build, setting)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # training will meet it again, and go down the ladder
                tried = [{"lever": "rules", "value": "as suggested", "skipped": "memory ran out"}]
            gc.collect()
        self.tried = tried
        self.emit(SpeedChosen(choice=setting.notes(), tried=tried))
        return setting

    def _adapted(self, setting: Setting, error: Exception) -> Setting:
        """The next rung of the ladder after an out-of-memory error; any other error, and the last one, goes on."""
        following = next_setting(setting, self.config.out_of_memory) if is_out_of_memory(error) else None
        several = self.config.launcher.world > 1
        if following is None or several:
            if is_out_of_memory(error):
                raise TrainingError(
                    f"memory ran out with {setting.micro_batch} rows of up to {self.longest} tokens; "
                    + ("several processes do not adapt" if several else "nothing is left to try")
                    + f" (out_of_memory: {self.config.out_of_memory}); lower batch_size or max_length, or train an "
                    "adapter (lora) instead of all weights"
                ) from error
            raise error
        step = len(self.meter.losses)
        note: dict[str, Any] = {"step": step, "reason": "memory ran out", "action": difference(setting, following)}
        self.meter.adapted = [*self.meter.adapted, note]
        self.emit(TrainingAdapted(**note))
        return following

    # ------------------------------------------------------------ checkpoints

    def _folder(self) -> CheckpointFolder | None:
        settings = self.config.checkpoint
        place = self.context.scratch or settings.folder  # the service has said where a relative one is
        anew = not settings.resume
        return CheckpointFolder(place, self.context.identity, settings.keep_last, anew) if place else None

    def _claimed(self) -> AbstractContextManager[Any]:
        return self.folder.claimed() if self.folder and self.main_process() else nullcontext()

    def _last_checkpoint(self) -> Checkpoint | None:
        if self.folder is None:
            return None
        with self.one_after_another():
            return self.folder.latest()

    def one_after_another(self) -> AbstractContextManager[Any]:
        """The main process first, where there are several: it may tidy up."""
        if self.config.launcher.world == 1:
            return nullcontext()
        stack = ExitStack()
        stack.enter_context(_processes().main_process_first())
        return stack

    def kept(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Tensors that are computed once a run: found again after a kill, whole or not at all."""
        from components.training.state import load_tensors, save_tensors

        file = self.scratch / name
        with self.one_after_another():
            if file.is_file():
                return load_tensors(file)
            found = compute()
            if self.main_process():
                file.parent.mkdir(parents=True, exist_ok=True)
                part = file.with_name(f"{file.name}.part")
                save_tensors(found, part)
                part.replace(file)
        return found

    def main_process(self) -> bool:
        """Whether this process is the one that writes."""
        return self.config.launcher.world == 1 or bool(_processes().is_main_process)

    # ------------------------------------------------------------ callbacks

    def _hooks(self) -> list[Any]:
        from components.training.samples import SampleWriter

        samples = self.config.samples
        own = [spec.build().hook() for spec in self.config.callbacks]
        return [*own, SampleWriter(self, samples)] if samples else own

    def callback_state(self) -> dict[str, Any]:
        """Tensors that callbacks want to find again after a resume."""
        stateful = [(at, hook) for at, hook in enumerate(self.hooks) if hasattr(hook, "tensors")]
        return {f"{at}.{name}": tensor for at, hook in stateful for name, tensor in hook.tensors().items()}

    def restore_callback_state(self, saved: Mapping[str, Any]) -> None:
        """Hand each callback its tensors."""
        for at, hook in enumerate(self.hooks):
            if hasattr(hook, "restore"):
                mine = f"{at}."
                hook.restore({key.removeprefix(mine): value for key, value in saved.items() if key.startswith(mine)})

    # ------------------------------------------------------------ telling

    def emit(self, event: Event) -> None:
        """Tell the bus; with several processes the main one speaks for all."""
        if self.main_process():
            self.context.bus.emit(event)

    def told_to_stop(self) -> bool:
        """Whether any process got a signal; all of them must stop after the same step."""
        if self.config.launcher.world == 1:
            return bool(self.stop.name)
        from accelerate.utils import gather_object

        names = [name for name in gather_object([self.stop.name]) if name]
        if names:  # a signal that came meanwhile is told the next time
            self.stop.name = names[0]
        return bool(names)

    def heed(self) -> None:
        """Stop now if told to: for what takes long before the first step, in a place where nothing is half done."""
        if self.stop.name:
            self.stop.heeded = True
            raise TrainingInterrupted(f"stopped by {self.stop.name} before the first step; run again to train")

    def start_clock(self) -> None:
        """Begin to count seconds of training."""
        self._since, self.paused = time.perf_counter(), 0.0
        self._joules = energy_joules()

    def settle_energy(self) -> bool:
        """Take what the machine's counters rose by over into the meter; whether there are any."""
        now = energy_joules()
        if now is not None and self._joules is not None:
            self.meter.joules += max(0.0, now - self._joules)  # a counter that wrapped around tells nothing
        self._joules = now
        return now is not None

    def settle_clock(self) -> None:
        """Take the seconds since the last call over into the meter, without those of evaluations."""
        now = time.perf_counter()
        self.meter.seconds += now - self._since - self.paused
        self._since, self.paused = now, 0.0

    def pause(self, work: Callable[[], None]) -> None:
        """Do something that is no training, off the clock."""
        started = time.perf_counter()
        work()
        self.paused += time.perf_counter() - started

    def row_name(self, rows: Any, number: int) -> str:
        """`train.jsonl:12`, or several where a pack holds several."""
        if hasattr(rows, "packs"):
            return "+".join(self.row_name(rows.rows, row) for row in rows.packs[number])
        if "line" not in rows.column_names:
            return f"row {number + 1}"
        row = rows.with_format("arrow")[number].to_pydict()
        sources = self.dataset.meta["sources"]["train"]
        return f"{sources[row['file'][0]]}:{row['line'][0]}"

    # ------------------------------------------------------------ saving

    def _save(self, network: Any, weights: bool = True) -> None:
        """The result as a directory of safetensors, configuration and tokenizer."""
        (self.out / "training_args.bin").unlink(missing_ok=True)
        if not weights:
            pass  # the processes have written theirs
        elif self.config.peft:
            save_adapter(network, self.out, self.scratch)
        else:
            network.save_pretrained(self.out, safe_serialization=True)
        self.tokenizer.save_pretrained(self.out)
        adapter = self.out / "adapter_config.json"
        if adapter.is_file():
            stable_adapter_config(adapter, self.model)
        (self.out / "README.md").unlink(missing_ok=True)
        shutil.rmtree(self.out / ".trainer", ignore_errors=True)


def _processes() -> Any:
    """accelerate's state of this process, set up for what this machine has."""
    import torch
    from accelerate import PartialState

    # others wait while the first one scores references or asks a teacher
    patience = timedelta(hours=6)
    if torch.cuda.is_available():
        return PartialState(timeout=patience)
    return PartialState(cpu=True, backend="gloo", timeout=patience)
