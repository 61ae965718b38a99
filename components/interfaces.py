"""The base class of every component kind, and the plain records that pass between them.

A component extends one of these, registers under a name, and owns its `Config`. Nothing here imports an ML library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from components.core.artifacts import Artifact
from components.core.chat import Message
from components.core.component import Component, StrictConfig
from components.core.events import EventBus
from components.core.health import Health
from components.core.recipe import Action as Action  # a part of what rules declare
from components.core.recipe import OfKind, Spec
from components.core.rows import normalised, prompt_text, row_digest, spoken


@dataclass(frozen=True)
class StepContext:
    """What a component gets besides its inputs: the seed of the run, and the bus to report progress on."""

    seed: int
    bus: EventBus


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


# ---------------------------------------------------------------- data

Row = dict[str, Any]
"""A row in its one internal shape:

conversation  {"messages": [...], "tools": [...] if there are any}
text          {"text": "..."}
preference    {"prompt": [...], "chosen": [...], "rejected": [...]}
unpaired      {"prompt": [...], "completion": [...], "label": true or false}
prompt        {"prompt": [...], "tools": [...] if there are any}

Every list but `tools` is of messages: {"role": ..., "content": ...}, with `tool_calls`, `name`, `tool_call_id` where
there are any; the content of a message that only calls tools is null.
"""
SHAPES = ("conversation", "text", "preference", "unpaired", "prompt")


class RawRow(NamedTuple):
    """One row as it stands in its file."""

    line: int
    """Line it begins on, from 1; its number where a file has no lines."""
    raw: bytes
    """Its bytes, line end included; a line of JSON where the file is binary, UTF-8 where it has another encoding."""
    value: Any = None
    """What was parsed from them; None if they do not parse."""
    error: str | None = None
    """Why they do not parse."""
    rule: str = "parse"
    """The rule that `error` breaks: parse, encoding or too_big."""
    file: str = ""
    """Path or address of the file."""
    part: int = 0
    """Which of the reader's `parts()` it comes from."""


class Framing(NamedTuple):
    """What a file needs around its rows so that it reads as a file of its kind; `suffix` is the kind's own."""

    suffix: str = "jsonl"
    begin: bytes = b""
    between: bytes = b""
    end: bytes = b""


class ReaderConfig(StrictConfig):
    """Keys of every reader."""

    format: Annotated[Spec | None, OfKind("format", optional=True)] = Field(
        None, description="how its rows read; detected where neither this nor data.format says it"
    )
    max_row_bytes: PositiveInt = Field(1_000_000, description="longer rows are not read, but quarantined")


class Reader(Component, ABC):
    """Reads rows from a source, one at a time, in memory that does not grow with the source."""

    config: Any

    @abstractmethod
    def fingerprint(self) -> Mapping[str, str]:
        """sha256 of every file behind the source, by path or address; a DataError if there are none."""

    def identity(self) -> Mapping[str, Any]:
        """What decides the rows: the configuration, and the content of the files in order. Where the files lie does not
        matter unless their names decide how they are read."""
        config = self.config.model_dump(mode="json", exclude={"path"})
        return {"config": config, "files": list(self.fingerprint().values())}

    def classes(self) -> Sequence[type]:
        """The classes whose code reads the rows."""
        return (type(self),)

    @abstractmethod
    def rows(self) -> Iterator[RawRow]:
        """Every row in order, malformed ones included (with `error` set).

        A DataError where a file itself is broken (truncated, of another kind), naming it: its rest cannot be trusted.
        """

    def parts(self) -> Sequence[Reader]:
        """The readers behind a mixture; `RawRow.part` counts in them."""
        return (self,)

    def framing(self) -> Framing:
        """How the good rows are written down again, byte for byte."""
        return Framing()


class BadRow(Exception):
    """A value is not a row of the format; the message says why."""


class FormatConfig(StrictConfig):
    """Keys of every format."""

    columns: dict[str, str] = Field({}, description="column map: the format's own name -> the name in the data")


class Format(Component, ABC):
    """Understands one form of row and turns it into an internal shape."""

    shape: ClassVar[str]
    """One of SHAPES."""
    config: Any

    @classmethod
    @abstractmethod
    def fits(cls, value: Any) -> bool:
        """Whether a value looks like this form, for detection. At most one form should say so; never raises."""

    @abstractmethod
    def convert(self, value: Any) -> Row:
        """The row in its internal shape; BadRow with the reason if it is not of this form."""

    def restore(self, row: Row) -> Any:
        """The other way round, for `postmill data convert`; BadRow if the row cannot be written in this form."""
        raise BadRow(f"{type(self).__name__} does not write rows")


class Batch:
    """Some rows of one split that parsed, with what rules ask of them. Texts are columns, so that rules are fast."""

    def __init__(
        self,
        split: str,
        positions: Sequence[int],
        raws: Sequence[RawRow],
        rows: Sequence[Row],
        shape: str,
        tokens: Mapping[str, Any] | None = None,
    ) -> None:
        self.split = split
        self.positions = positions
        """Where each row stands in the split, counting rows that parsed; those that were thrown out leave holes."""
        self.raws, self.rows, self.shape = raws, rows, shape
        self.tokens = tokens
        """Facts by row once tokenised, numpy arrays; see `Encoder.facts`."""

    def some(self, chosen: Sequence[int], tokens: Mapping[str, Any] | None = None) -> Batch:
        """Some of the rows, in a batch of their own."""
        positions, raws = [self.positions[i] for i in chosen], [self.raws[i] for i in chosen]
        made = Batch(self.split, positions, raws, [self.rows[i] for i in chosen], self.shape, tokens)
        for name in ("digests", "prompts"):
            if name in vars(self):
                vars(made)[name] = [vars(self)[name][i] for i in chosen]
        if len(chosen) == len(self.rows) and "messages" in vars(self):
            vars(made)["messages"] = self.messages
        return made

    @cached_property
    def digests(self) -> list[bytes]:
        """Identity of each row's content, 16 bytes."""
        return [row_digest(row) for row in self.rows]

    @cached_property
    def prompts(self) -> list[str]:
        """What the user says in each row, letter case and spacing aside (a text row: the text)."""
        return [normalised(prompt_text(row)) for row in self.rows]

    @cached_property
    def messages(self) -> Any:
        """polars: `row` (position in the batch), `role` ("text" for a text row), `content` of every message."""
        import polars as pl

        parts = [(i, role, content) for i, row in enumerate(self.rows) for role, content in spoken(row)]
        numbers, roles, contents = zip(*parts, strict=True) if parts else ((), (), ())
        schema = {"row": pl.Int32, "role": pl.String, "content": pl.String}
        return pl.DataFrame({"row": numbers, "role": roles, "content": contents}, schema=schema)

    @cached_property
    def table(self) -> Any:
        """polars, a line a row: `row`, `bytes` (as read), and the columns of `tokens` once there are any."""
        import polars as pl

        facts = {"row": range(len(self.rows)), "bytes": [len(raw.raw) for raw in self.raws]}
        return pl.DataFrame({**facts, **(self.tokens or {})})


class RuleConfig(StrictConfig):
    """Keys of every rule. `action: ignore` switches it off, `fail` stops the run at the first row that breaks it."""

    action: Action = "quarantine"


class Rule(Component, ABC):
    """One condition of the data contract. One instance sees a whole validation: test rows, then eval, then train."""

    Config: ClassVar[type[StrictConfig]] = RuleConfig
    config: Any

    def shown(self, text: str) -> str:
        """A row that breaks it, as it may be shown and kept: without what nobody is to see."""
        return text

    shapes: ClassVar[tuple[str, ...]] = SHAPES
    """Shapes of row that it says something about."""
    on_tokens: ClassVar[bool] = False
    """True: it reads the columns of `Batch.tokens`, and waits for the rows to be tokenised."""
    compares: ClassVar[bool] = False
    """True: it compares rows, and sees only those that no other rule refused."""
    guess: ClassVar[bool] = False
    """True: it estimates, and is asked after the exact ones."""

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        """Called once before the first batch. `scratch` takes files that do not fit in memory; it is thrown away."""

    @abstractmethod
    def check(self, batch: Batch) -> Mapping[int, str]:
        """Rows that break it: position in the batch -> reason. Only batches of its `shapes` come here."""

    def finish(self, split: str) -> Mapping[int, str]:
        """Rows found only once all of a split were seen: position in the split -> reason. Asked once a split."""
        return {}


class ColumnRule(Rule):
    """A rule that is one polars expression on a column. All of them are checked in one go, through pandera."""

    column: ClassVar[str] = "content"
    """Of `Batch.messages` (`content`) or else of `Batch.table`."""

    @abstractmethod
    def broken(self) -> Any:
        """polars expression: true where the rule is broken. May read every column of its table."""

    @property
    @abstractmethod
    def reason(self) -> str:
        """What is wrong with a row that breaks it, for people."""

    def check(self, batch: Batch) -> Mapping[int, str]:
        table = batch.messages if self.column == "content" else batch.table
        return dict.fromkeys(table.filter(self.broken())["row"].to_list(), self.reason)


@dataclass(frozen=True)
class ModelFacts:
    """What rules may ask of the model that will be trained."""

    tokenizer: Any
    context: int
    """Tokens that fit into it."""


# ---------------------------------------------------------------- training and optimization


class Trainer(Component, ABC):
    """Turns a model and a data set into a trained artifact."""

    shapes: ClassVar[tuple[str, ...]] = ("conversation",)
    """Shapes of row that it learns from."""

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

    @abstractmethod
    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        """Train and write the result to `out`; returns measured figures for the manifest."""


class Pass(Component, ABC):
    """One optimization: reads an artifact, never changes it, writes another, and reports what it measured."""

    consumes: ClassVar[tuple[str, ...]]
    produces: ClassVar[str]

    @abstractmethod
    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        """Write the result to `out`. `parents` are the inputs of `source` by role (an adapter's base is "model")."""

    def estimated_bytes(self, parameters: int) -> int:
        """Disk the result will take for a model of this many weights."""
        return parameters * 4


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
    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Generation]:
        """Greedy answers to a batch of token-id prompts, in the same order."""

    @abstractmethod
    def stream(self, prompt: Sequence[int], max_new_tokens: int, stop: bool = True) -> Iterator[int]:
        """Greedy token ids one by one, up to and with the end of turn; `stop=False` goes on after it, for timing."""

    @abstractmethod
    def logits(self, ids: Sequence[int]) -> Any:
        """Logits at every position, a float32 array of shape (len(ids), vocabulary)."""


# ---------------------------------------------------------------- benchmarks and gates


@dataclass(frozen=True)
class Metric:
    """A figure that a benchmark reports: how it is called, its unit, and which way is better."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    title: str


class Subject(BaseModel):
    """Something that is benchmarked: `base`, `trained`, or a variant, with the artifacts needed to open it."""

    model_config = ConfigDict(frozen=True)
    name: str
    artifact: Artifact
    parents: dict[str, Artifact] = {}


class Measurement(BaseModel):
    """What a benchmark found out about one subject. `rows` are its per-row results, the evidence for paired tests."""

    model_config = ConfigDict(frozen=True)
    subject: str
    benchmark: str
    metrics: dict[str, float]
    rows: list[dict[str, Any]] = []
    notes: dict[str, Any] = {}


@dataclass(frozen=True)
class EvalRows:
    """The conversations to measure on, each ending with the expected answer."""

    conversations: list[list[Message]]
    ids: list[str] = field(default_factory=list)


class Benchmark(Component, ABC):
    """Measures subjects through the artifact that will be served."""

    metrics: ClassVar[tuple[Metric, ...]]
    together: ClassVar[bool] = False
    """True if the subjects must be measured in one go (interleaved timing, distance to a reference)."""

    @abstractmethod
    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        """One measurement a subject (subjects it says nothing about may be left out)."""


@dataclass(frozen=True)
class Scoreboard:
    """All measurements of a run."""

    measurements: Sequence[Measurement]

    def metrics(self, subject: str) -> dict[str, float]:
        """Every metric of a subject, by name."""
        merged: dict[str, float] = {}
        for measurement in self.measurements:
            if measurement.subject == subject:
                merged |= measurement.metrics
        return merged

    def rows(self, subject: str, metric: str) -> dict[str, float]:
        """A metric row by row, by row id."""
        return {
            row["id"]: float(row[metric])
            for measurement in self.measurements
            if measurement.subject == subject
            for row in measurement.rows
            if metric in row
        }

    def subjects(self) -> list[str]:
        """Names in the order they were measured."""
        return list(dict.fromkeys(m.subject for m in self.measurements))


class Check(BaseModel):
    """One condition of a gate on one variant: what was required, what was found."""

    model_config = ConfigDict(frozen=True)
    gate: str
    passed: bool
    summary: str
    figures: dict[str, Any] = {}


class Gate(Component, ABC):
    """Decides from the scoreboard whether a variant may be registered as accepted."""

    @classmethod
    @abstractmethod
    def needs(cls, config: Any) -> Iterable[str]:
        """Metrics the gate reads, so that a recipe without them is refused before any work."""

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


# ---------------------------------------------------------------- the framework's own


class Preset(Component):
    """A chain of passes under one name. Never built: `chain` is written into the recipe in its place."""

    chain: ClassVar[tuple[Mapping[str, Any], ...]]


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
