"""The files of one split: good rows byte for byte, the same rows in their internal shape, and an index with tokens.

A split's index is an Arrow stream, read memory-mapped: `digest` and `said` (identity of the row and of what the user
says), where the row stands (`file`, `line`), and, once tokenised, `input_ids` and `spans` of its sequences.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, Self

import orjson

from components.core.encoding import EncodedRow
from components.core.rows import said_digest
from components.interfaces import Batch, Framing, RawRow, Reader

PREFIXES = {"preference": ("chosen_", "rejected_")}


class RawFile:
    """Rows as they stood in their source, in a file of the same kind."""

    def __init__(self, path: Path, framing: Framing) -> None:
        self.path, self.framing = path, framing
        self.lengths = array("q")
        self._last = b"\n"
        self._handle = path.open("wb")
        self._handle.write(framing.begin)

    def write(self, raw: bytes) -> None:
        if self.lengths:
            self._handle.write(self._separator())
        self._handle.write(raw)
        self.lengths.append(len(raw))
        self._last = raw[-1:]

    def _separator(self) -> bytes:
        # the last line of a file may lack its end, and another file follow
        return self.framing.between or (b"" if self._last == b"\n" else b"\n")

    def close(self) -> None:
        with self._handle:
            self._handle.write(self.framing.end)

    def reread(self) -> Iterator[bytes]:
        """The rows once more, in order."""
        with self.path.open("rb") as handle:
            handle.seek(len(self.framing.begin))
            self._last = b"\n"
            for number, length in enumerate(self.lengths):
                if number:
                    handle.seek(len(self._separator()), 1)
                raw = handle.read(length)
                self._last = raw[-1:]
                yield raw


class SplitWriter:
    """Writes the good rows of a split as they come, and takes some out again if they turn out bad in the end.

    A context manager: whatever happens within, its files are closed.
    """

    def __init__(self, folder: Path, split: str, shape: str, reader: Reader, tokenised: bool) -> None:
        self.folder, self.split = folder, split
        self.prefixes = PREFIXES.get(shape, ("",)) if tokenised else ()
        self.framings = [part.framing() for part in reader.parts()]
        self.files: dict[str, int] = {}
        self.seen = array("q")
        """Position in the split (rows that parsed counted) of every row that was written."""
        self._parts = array("h")
        self._raw: dict[int, RawFile] = {}
        self._open = ExitStack()
        self._rows = self._open.enter_context(self.path("rows.jsonl").open("wb"))
        self._index: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.split}.{ending}"

    def raw_path(self, part: int) -> Path:
        """Where the good rows of one source stand, as a file of the source's own kind."""
        number = f"{part}." if len(self.framings) > 1 else ""
        return self.path(f"{number}{self.framings[part].suffix}")

    def write(self, batch: Batch, encoded: Sequence[EncodedRow]) -> None:
        """Good rows; `encoded` belongs to them, and is empty without a tokenizer."""
        if not batch.rows:
            return
        for raw in batch.raws:
            self._write_raw(raw)
        self._rows.write(b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in batch.rows]))
        self.seen.extend(batch.positions)
        self._append(self._table(batch, encoded))

    def _write_raw(self, row: RawRow) -> None:
        if row.part not in self._raw:
            self._raw[row.part] = RawFile(self.raw_path(row.part), self.framings[row.part])
            self._open.callback(self._raw[row.part].close)
        self._raw[row.part].write(row.raw)
        self._parts.append(row.part)

    def _table(self, batch: Batch, encoded: Sequence[EncodedRow]) -> Any:
        import pyarrow as pa

        columns = {
            "digest": pa.array(batch.digests, pa.binary(16)),
            "said": pa.array([said_digest(prompt) for prompt in batch.prompts], pa.binary(16)),
            "file": pa.array([self.files.setdefault(raw.file, len(self.files)) for raw in batch.raws], pa.int32()),
            "line": pa.array([raw.line for raw in batch.raws], pa.int64()),
        }
        for number, prefix in enumerate(self.prefixes):
            sequences = [row.sequences[number] for row in encoded]
            columns[f"{prefix}input_ids"] = _lists([sequence.ids for sequence in sequences])
            columns[f"{prefix}spans"] = _lists([list(chain.from_iterable(sequence.spans)) for sequence in sequences])
        return pa.record_batch(columns)

    def _append(self, table: Any) -> None:
        import pyarrow as pa

        if self._index is None:
            self._index = self._open.enter_context(pa.ipc.new_stream(str(self.path("arrow")), table.schema))
        self._index.write_batch(table)

    def close(self) -> None:
        """Finish all files; once more is harmless."""
        self._open.close()

    def kept(self, positions: Collection[int]) -> Any:
        """numpy, one a row that was written: false for those at these positions of the split."""
        import numpy as np

        seen = np.array(self.seen, dtype=np.int64)
        taken = positions if isinstance(positions, np.ndarray) else np.fromiter(positions, np.int64, len(positions))
        places = np.searchsorted(seen, taken)
        keep = np.ones(len(seen), dtype=bool)
        places, taken = places[places < len(seen)], taken[places < len(seen)]
        keep[places[seen[places] == taken]] = False
        return keep

    def remove(self, positions: Collection[int]) -> Iterator[tuple[int, str, int, bytes]]:
        """Take out rows at these positions of the split, after `close`: position, file, line and bytes of each.

        Positions that were not written (a Collection or numpy) do not matter. Rows are handed over as they are passed
        and none is kept in memory; the files are replaced, and `seen` with them, only when the iterator was exhausted.
        """
        import numpy as np

        keep = self.kept(positions)
        if keep.all():
            return
        paths = [self.path("rows.jsonl"), self.path("arrow"), *(raw.path for raw in self._raw.values())]
        try:
            with ExitStack() as files:
                new = {part: RawFile(_new(raw.path), raw.framing) for part, raw in self._raw.items()}
                for raw in new.values():
                    files.callback(raw.close)
                yield from self._copy(files, new, keep)
        except BaseException:
            for path in paths:
                _new(path).unlink(missing_ok=True)
            raise
        for path in paths:
            _new(path).replace(path)
        for part, raw in new.items():
            raw.path = self._raw[part].path
        self._raw = new
        self._parts = array("h", np.array(self._parts, dtype=np.int16)[keep].tobytes())
        self.seen = array("q", np.array(self.seen, dtype=np.int64)[keep].tobytes())

    def _copy(self, files: ExitStack, new: dict[int, RawFile], keep: Any) -> Iterator[tuple[int, str, int, bytes]]:
        """Rows, raw rows and index in step: those to keep into new files, the others handed over."""
        import pyarrow as pa

        names, start = list(self.files), 0
        old = {part: raw.reread() for part, raw in self._raw.items()}
        rows = files.enter_context(self.path("rows.jsonl").open("rb"))
        kept_rows = files.enter_context(_new(self.path("rows.jsonl")).open("wb"))
        # not memory-mapped: all of it is read, and would stay
        source = files.enter_context(pa.OSFile(str(self.path("arrow"))))
        index = files.enter_context(pa.ipc.open_stream(source))
        kept_index = files.enter_context(pa.ipc.new_stream(str(_new(self.path("arrow"))), index.schema))
        for batch in index:
            kept = keep[start : start + len(batch)]
            kept_index.write_batch(batch.filter(pa.array(kept)))
            places = zip(kept.tolist(), batch["file"].to_pylist(), batch["line"].to_pylist(), strict=True)
            for at, (stays, file, line) in enumerate(places, start):
                part, row = self._parts[at], next(rows)
                raw = next(old[part])
                if stays:
                    new[part].write(raw)
                    kept_rows.write(row)
                else:
                    yield self.seen[at], names[file], line, raw
            start += len(batch)


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _lists(values: Sequence[list[int]]) -> Any:
    """Lists of token ids as one Arrow column: a flat array and where each list begins."""
    import numpy as np
    import pyarrow as pa

    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    flat = np.fromiter(chain.from_iterable(values), dtype=np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def index_content(path: Path) -> str:
    """Identity of a split's content, whatever the order of its rows: the sum of their digests."""
    import numpy as np
    import pyarrow as pa

    if not path.is_file():
        return ""
    total = np.zeros(2, dtype=np.uint64)
    # not memory-mapped: pages that were touched would stay
    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as batches:
        for batch in batches:
            numbers = np.frombuffer(b"".join(batch["digest"].to_pylist()), dtype=np.uint64)
            total += numbers.reshape(-1, 2).sum(axis=0, dtype=np.uint64)
    return total.tobytes().hex()
