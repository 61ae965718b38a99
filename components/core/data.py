"""The base classes of the data stage: readers, formats, rules, and the records that pass between them.

Components import them from `components.interfaces`, with those of every other kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field, PositiveInt

from components.core.component import Component, StrictConfig
from components.core.recipe import Action, OfKind, Spec
from components.core.rows import normalised, prompt_text, row_digest, spoken

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
