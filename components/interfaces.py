"""The base class of every component kind, and the plain records that pass between them.

A component extends one of these, registers under a name, and owns its `Config`. Nothing here imports an ML library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

from components.core.artifacts import Artifact
from components.core.chat import Message
from components.core.component import Component, StrictConfig
from components.core.data import (
    SHAPES,
    BadRow,
    Batch,
    ColumnRule,
    Format,
    FormatConfig,
    Framing,
    ModelFacts,
    RawRow,
    Reader,
    ReaderConfig,
    Row,
    Rule,
    RuleConfig,
)
from components.core.events import EventBus
from components.core.export import ExportJob
from components.core.health import Health
from components.core.kinds import registry
from components.core.measured import Check, Measurement, Metric, Scoreboard
from components.core.recipe import Action, Spec
from components.core.space import Point

# those of the data stage, and the records of what was measured, stand in files of their own
__all__ = [
    "Action",
    "BadRow",
    "Batch",
    "Check",
    "ColumnRule",
    "ExportJob",
    "Format",
    "FormatConfig",
    "Framing",
    "Measurement",
    "Metric",
    "ModelFacts",
    "RawRow",
    "Reader",
    "ReaderConfig",
    "Row",
    "Rule",
    "RuleConfig",
    "SHAPES",
    "Scoreboard",
]


Keep = Callable[[str, Mapping[str, Any], Mapping[str, Artifact], Callable[[Path], Any]], Path]
"""`keep(name, config, parents, make)`: the directory that `make(directory)` filled once for these, or fills now."""


@dataclass(frozen=True)
class StepContext:
    """What a component gets besides its inputs: the seed of the run, and the bus to report progress on.

    `scratch`: a folder that survives a kill and belongs to this step with these inputs (`identity`), for checkpoints.
    `inputs`: the further models that a trainer or a pass asked for (`inputs` of its class), by role.
    `dataset`: validated rows, for a pass that calibrates or heals (`Pass.needs_rows`).
    `keep`: stores what a benchmark needs again with other subjects (its reference), under the benchmark's own code.
    """

    seed: int
    bus: EventBus
    scratch: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    dataset: Artifact | None = None
    keep: Keep | None = None


# ---------------------------------------------------------------- models


class ModelSource(Component, ABC):
    """Brings a base model into the store as a directory of safetensors, config and tokenizer."""

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What decides the content (revision, file digests), found without loading weights."""

    @abstractmethod
    def fetch(self, out: Path) -> Mapping[str, Any]:
        """Write the model directory to `out`; returns facts about it for the manifest."""

    @abstractmethod
    def parameters(self) -> int | None:
        """Number of weights if it can be told without loading them, for estimates."""


# ---------------------------------------------------------------- training and optimization


class Trainer(Component, ABC):
    """Turns a model and a data set into a trained artifact."""

    shapes: ClassVar[tuple[str, ...]] = ("conversation",)
    """Shapes of row that it learns from."""
    continues: ClassVar[bool] = True
    """Whether it goes on from the weights of the model that it is given."""

    @classmethod
    def incomplete(cls, config: Any) -> str | None:
        """What a step of a recipe must say and this one does not; a pass that trains may fill it in."""
        return None

    def problem(self, dataset: Artifact) -> str | None:
        """Why it cannot be trained on this data set, told before any work; None if it can."""
        shape = dataset.meta["shape"]
        if shape in self.shapes:
            return None
        return f"this trainer takes rows of shape {' or '.join(self.shapes)}, the data set holds {shape}"

    @classmethod
    @abstractmethod
    def produces_kind(cls, config: Any) -> str:
        """`"adapter"` or `"model"`, depending on the configuration."""

    @classmethod
    def inputs(cls, config: Any) -> Mapping[str, Spec]:
        """Models it needs besides the one it trains (a teacher), by role: fetched beforehand, parents of the result."""
        return {}

    @abstractmethod
    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        """Train and write the result to `out`; returns measured figures for the manifest."""


class RewardConfig(StrictConfig):
    """Keys of every reward. A negative weight punishes what it finds."""

    weight: float = 1.0


class Reward(Component, ABC):
    """Says how good answers are, for trainers that learn from that: `{type: grpo, rewards: [{type: regex}]}`."""

    Config: ClassVar[type[StrictConfig]] = RewardConfig
    config: Any
    shapes: ClassVar[tuple[str, ...]] = ("conversation", "prompt")
    """Shapes of row that it can judge; those that compare with an expected answer need one."""

    @abstractmethod
    def score(self, prompts: list[list[Message]], answers: list[str], rows: list[dict[str, Any]]) -> list[float]:
        """One number an answer, higher is better; each with its prompt and its row (in its internal shape)."""


class TrainingCallback(Component, ABC):
    """Looks on while a model is trained, and may step in: `train: [{type: sft, callbacks: [{type: ema}]}]`."""

    replaces_result: ClassVar[bool] = False
    """Whether it puts other weights in the place of the trained ones when training ends."""

    @abstractmethod
    def hook(self) -> Any:
        """A `transformers.TrainerCallback`; with `tensors() -> dict` and `restore(dict)` its state survives kills."""


class Pass(Component, ABC):
    """One optimization: reads an artifact, never changes it, writes another, and reports what it measured."""

    consumes: ClassVar[tuple[str, ...]]
    produces: ClassVar[str]
    not_after: ClassVar[frozenset[str]] = frozenset()
    """Effects of earlier passes that it cannot follow: what is quantized is not quantized again."""
    extras: ClassVar[Mapping[str, str]] = {}
    """Optional modules that it imports, each with the extra of ours that brings it."""
    alone: ClassVar[bool] = False
    """Draws torch's random numbers, sets its threads or measures time: in a search no other pass runs beside it."""
    keeps_opening: ClassVar[bool] = False
    """Hands on what passes before it decided about the opening of the model (its cache, compilation)."""

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        """What it does to a model that a later pass may mind: `quantized`, `sparse`."""
        return frozenset()

    @classmethod
    def needs_rows(cls, config: Any) -> bool:
        """Whether it reads the run's rows, to calibrate or to heal."""
        return False

    @classmethod
    def inputs(cls, config: Any) -> Mapping[str, Spec]:
        """Models it needs besides its source (a student), by role: fetched beforehand, parents of the result."""
        return {}

    @classmethod
    def refusal(cls, config: Any, kind: str, effects: frozenset[str]) -> str | None:
        """Why it cannot take an artifact of this kind, on which earlier passes had these effects; None if it can."""
        if kind not in cls.consumes:
            return f"takes {' or '.join(cls.consumes)}, but the step before it gives {kind}"
        if met := cls.not_after & effects:
            return f"cannot follow a pass that leaves the model {' and '.join(sorted(met))}"
        if "opened" in effects and not cls.keeps_opening:
            return "would lose how a pass before it has the model opened (compiled, attention, cache); put it first"
        return None

    @abstractmethod
    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        """Write the result to `out`. `parents` are the inputs of `source` by role (an adapter's base is "model")."""

    def estimated_bytes(self, parameters: int) -> int:
        """Disk the result will take for a model of this many weights."""
        return parameters * 4

    def estimated_memory(self, parameters: int) -> int:
        """Memory it takes at its peak, in bytes, for a model of this many weights: one copy and room to work."""
        return parameters * 8


class Exporter(Component, ABC):
    """Writes a causal language model as a graph for ONNX Runtime GenAI: model.onnx, its data, genai_config.json."""

    place: ClassVar[int]
    """Where it stands when `auto` looks for one that is right: the lowest is tried first."""
    kinds: ClassVar[tuple[str, ...]] = ("model",)
    """Kinds of artifact that it reads."""
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    """What it rounds weights to by itself; other precisions are made from its float32 graph."""

    @abstractmethod
    def export(self, job: ExportJob) -> None:
        """Write the graph to `job.out`. Raises ModelLoadError with its reason where it cannot."""


# ---------------------------------------------------------------- inference


@dataclass(frozen=True)
class Generation:
    """An answer and its cost. Times in seconds."""

    text: str
    tokens: int
    finished: bool


class Backend(Component, ABC):
    """Runs a model artifact. Opened on a path, closed by `close` or the end of a `with` block."""

    serves: ClassVar[tuple[str, ...]]
    """Kinds of artifact that this backend runs."""

    @abstractmethod
    def open(self, artifact: Artifact, parents: Mapping[str, Artifact]) -> None:
        """Load the weights."""

    @abstractmethod
    def close(self) -> None:
        """Release the weights."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The artifact's own tokenizer (transformers' interface)."""

    @abstractmethod
    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: bool = True) -> list[Generation]:
        """Greedy answers to a batch of token-id prompts, in the same order; `stop=False` ends none of them before
        `max_new_tokens`, for timing."""

    @abstractmethod
    def stream(self, prompt: Sequence[int], max_new_tokens: int, stop: bool = True) -> Iterator[int]:
        """Greedy token ids one by one, up to and with the end of turn; `stop=False` goes on after it, for timing."""

    @abstractmethod
    def logits(self, ids: Sequence[int]) -> Any:
        """Logits at every position, a float32 array of shape (len(ids), vocabulary)."""


# ---------------------------------------------------------------- benchmarks and gates


class Subject(BaseModel):
    """Something that is benchmarked: `base`, `trained`, or a variant, with the artifacts needed to open it."""

    model_config = ConfigDict(frozen=True)
    name: str
    artifact: Artifact
    parents: dict[str, Artifact] = {}
    passes: list[Subject] = []
    """Of a variant: what each pass of its chain made, under the pass's name, in order; the last is the variant."""


@dataclass(frozen=True)
class EvalRows:
    """What to measure on: conversations, each ending with the expected answer, or else plain texts."""

    conversations: list[list[Message]]
    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Benchmark(Component, ABC):
    """Measures subjects through the artifact that will be served."""

    metrics: ClassVar[tuple[Metric, ...]]
    """What it reports where the configuration does not change that; see `reports`."""
    together: ClassVar[bool] = False
    """True if the subjects must be measured in one go (interleaved timing, distance to a reference)."""
    every_pass: ClassVar[bool] = False
    """True if it measures what every pass of a variant's chain made, too (`Subject.passes`)."""
    shapes: ClassVar[tuple[str, ...]] = ("conversation", "preference", "unpaired")
    """Shapes of row that it can measure on; these have an answer to compare with."""

    @classmethod
    def reports(cls, config: Any) -> tuple[Metric, ...]:
        """What it reports with this configuration."""
        return cls.metrics

    def identity(self) -> Mapping[str, Any]:
        """What decides the result besides the configuration: the content of files that it reads."""
        return {}

    @classmethod
    def uses(cls, config: Any) -> Sequence[type]:
        """Every backend: which one opens a subject is told by its kind."""
        sound = (name for name in registry.names("backend") if not registry.broken("backend", name))
        return [registry.get("backend", name) for name in sound]

    def problem(self, dataset: Artifact) -> str | None:
        """Why it cannot measure on this data set, told before any work; None if it can."""
        shape = dataset.meta["shape"]
        if shape in self.shapes:
            return None
        return f"this benchmark takes rows of shape {' or '.join(self.shapes)}, the data set holds {shape}"

    @abstractmethod
    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        """One measurement a subject (subjects it says nothing about may be left out)."""


class Scorer(Component, ABC):
    """Says how right an answer is: `{type: generative, scorer: {type: number}}`. Nothing that it reads is executed."""

    needs_answer: ClassVar[bool] = True
    """Whether there must be an expected answer to compare with."""

    @abstractmethod
    def score(self, answer: str, expected: str | None) -> float:
        """From 0, wrong, to 1, right; `expected` is None where a question names no answer."""


class Gate(Component, ABC):
    """Decides from the scoreboard whether a variant may be registered as accepted."""

    @classmethod
    @abstractmethod
    def needs(cls, config: Any) -> Iterable[str]:
        """Metrics the gate reads, so that a recipe without them is refused before any work."""

    @classmethod
    def compares_with(cls, config: Any) -> Iterable[str]:
        """Subjects it reads besides the variant: `base`, `trained`, a variant, or `champion`, the registered one."""
        return ()

    @abstractmethod
    def judge(self, variant: str, board: Scoreboard) -> list[Check]:
        """The gate's checks for one variant."""


# ---------------------------------------------------------------- tracking


class Tracker(Component, ABC):
    """Remembers a run: parameters, metrics over time, files."""

    @abstractmethod
    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Open a run and return its id."""

    @abstractmethod
    def tag(self, tags: Mapping[str, str]) -> None:
        """Add tags to the run."""

    @abstractmethod
    def metrics(self, values: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Record figures, each set with its step, in one write."""

    @abstractmethod
    def file(self, path: Path, folder: str = "") -> None:
        """Attach a file."""

    @abstractmethod
    def finish(self, status: Literal["FINISHED", "FAILED"]) -> None:
        """Close the run."""

    def child(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Tracker | None:
        """A run of its own below this one, opened; None where a tracker knows no runs inside of runs."""
        return None


# ---------------------------------------------------------------- the framework's own


class Preset(Component):
    """A chain of passes under one name. Never built: `chain` is written into the recipe in its place."""

    chain: ClassVar[tuple[Mapping[str, Any], ...]]


class Sampler(Component, ABC):
    """Says which chain of a search is tried next: `optimize: {search: {sampler: {type: tpe}, ...}}`."""

    @abstractmethod
    def rule(self, seed: int) -> Any:
        """An `optuna.samplers.BaseSampler`."""

    def points(self, space: Any) -> list[Point] | None:
        """The points that it tries, where they are known beforehand; a ConfigError if it cannot search this space."""
        return None


class Optimizer(Component, ABC):
    """The rule that turns gradients into steps."""

    @abstractmethod
    def rule(self, learning_rate: float) -> tuple[type, dict[str, Any]]:
        """The `torch.optim.Optimizer` class and its arguments; `learning_rate` where the configuration names none."""

    def build(self, parameters: Any, learning_rate: float = 1e-3) -> Any:
        """An optimizer on these parameters (or parameter groups)."""
        cls, arguments = self.rule(learning_rate)
        return cls(parameters, **arguments)


class Sink(Component, ABC):
    """Carries events out of the process: to a file, an orchestrator, a pager.

    Every registered sink is attached and set up before a run and closed after it; `features: {NAME: false}` in the
    settings switches one off. `setup` subscribes to `self.bus`, `close` unsubscribes.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    """Sinks that must run before this one."""
    bus: EventBus
    folder: Path

    def attach(self, bus: EventBus, folder: Path) -> Self:
        """Say which events to carry, and where a sink that writes files puts them."""
        self.bus, self.folder = bus, folder
        return self

    @abstractmethod
    def setup(self) -> None: ...


class Probe(Component, ABC):
    """One question that `postmill doctor` asks of this machine and installation."""

    @abstractmethod
    def ask(self) -> Health:
        """The finding: a status, one sentence with the remedy, and figures."""
