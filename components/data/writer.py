"""The files of one split: good rows byte for byte, the same rows in their internal shape, and an index with tokens.

A split's index is an Arrow stream, read memory-mapped: `digest` and `said` (identity of the row and of what the user
says), where the row stands (`file`, `line`), and, once tokenised, `input_ids` and `spans` of its sequences.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

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
        self._handle.write(self.framing.end)
        self._handle.close()

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
    """Writes the good rows of a split as they come, and takes some out again if they turn out bad in the end."""

    def __init__(self, folder: Path, split: str, shape: str, reader: Reader, tokenised: bool) -> None:
        self.folder, self.split = folder, split
        self.prefixes = PREFIXES.get(shape, ("",)) if tokenised else ()
        self.framings = [part.framing() for part in reader.parts()]
        self.files: dict[str, int] = {}
        self.seen = array("q")
        """Position in the split (rows that parsed counted) of every row that was written."""
        self._parts = array("h")
        self._raw: dict[int, RawFile] = {}
        self._rows = self.path("rows.jsonl").open("wb")
        self._index: Any = None

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.split}.{ending}"

    def raw_path(self, part: int) -> Path:
        """Where the good rows of one source stand, as a file of the source's own kind."""
        number = f"{part}." if len(self.framings) > 1 else ""
        return self.path(f"{number}{self.framings[part].suffix}")

    def write(self, batch: Batch, chosen: Sequence[int], encoded: Sequence[EncodedRow]) -> None:
        """The rows at these positions of the batch; `encoded` belongs to them, and is empty without a tokenizer."""
        for position in chosen:
            self._write_raw(batch.raws[position])
        self._rows.write(b"".join([orjson.dumps(batch.rows[i], option=orjson.OPT_APPEND_NEWLINE) for i in chosen]))
        self.seen.extend([batch.start + position for position in chosen])
        self._append(self._table(batch, chosen, encoded))

    def _write_raw(self, row: RawRow) -> None:
        if row.part not in self._raw:
            self._raw[row.part] = RawFile(self.raw_path(row.part), self.framings[row.part])
        self._raw[row.part].write(row.raw)
        self._parts.append(row.part)

    def _table(self, batch: Batch, chosen: Sequence[int], encoded: Sequence[EncodedRow]) -> Any:
        import pyarrow as pa

        raws = [batch.raws[i] for i in chosen]
        columns = {
            "digest": pa.array([batch.digests[i] for i in chosen], pa.binary(16)),
            "said": pa.array([said_digest(batch.prompts[i]) for i in chosen], pa.binary(16)),
            "file": pa.array([self.files.setdefault(raw.file, len(self.files)) for raw in raws], pa.int32()),
            "line": pa.array([raw.line for raw in raws], pa.int64()),
        }
        for number, prefix in enumerate(self.prefixes):
            sequences = [row.sequences[number] for row in encoded]
            columns[f"{prefix}input_ids"] = _lists([sequence.ids for sequence in sequences])
            columns[f"{prefix}spans"] = _lists([list(chain.from_iterable(sequence.spans)) for sequence in sequences])
        return pa.record_batch(columns)

    def _append(self, table: Any) -> None:
        import pyarrow as pa

        if self._index is None:
            self._index = pa.ipc.new_stream(str(self.path("arrow")), table.schema)
        self._index.write_batch(table)

    def close(self) -> None:
        """Finish all files."""
        for raw in self._raw.values():
            raw.close()
        self._rows.close()
        if self._index is not None:
            self._index.close()

    def remove(self, positions: Collection[int]) -> Iterator[tuple[int, str, int, bytes]]:
        """Take out rows that were written, after `close`: position in the split, file, line and bytes of each."""
        keep = [position not in positions for position in self.seen]
        names = list(self.files)
        places = self._filter_index(keep)
        rows = self._filter_raw(keep)
        self._filter_rows(keep)
        positions_in_order = [position for position, kept in zip(self.seen, keep, strict=True) if not kept]
        for position, (file, line), raw in zip(positions_in_order, places, rows, strict=True):
            yield position, names[file], line, raw
        self.seen = array("q", [position for position, kept in zip(self.seen, keep, strict=True) if kept])

    def _filter_raw(self, keep: Sequence[bool]) -> list[bytes]:
        old = {part: raw.reread() for part, raw in self._raw.items()}
        new = {part: RawFile(raw.path.with_suffix(".new"), raw.framing) for part, raw in self._raw.items()}
        removed = []
        for part, kept in zip(self._parts, keep, strict=True):
            raw = next(old[part])
            new[part].write(raw) if kept else removed.append(raw)
        for part, file in new.items():
            file.close()
            file.path = file.path.replace(self._raw[part].path)
        self._raw = new
        self._parts = array("h", [part for part, kept in zip(self._parts, keep, strict=True) if kept])
        return removed

    def _filter_rows(self, keep: Sequence[bool]) -> None:
        path = self.path("rows.jsonl")
        with path.open("rb") as old, path.with_suffix(".new").open("wb") as new:
            new.writelines(line for line, kept in zip(old, keep, strict=True) if kept)
        path.with_suffix(".new").replace(path)

    def _filter_index(self, keep: Sequence[bool]) -> list[tuple[int, int]]:
        """Rewrite the index; gives (file, line) of what was taken out."""
        import pyarrow as pa
        import pyarrow.compute  # `pa.compute` is there only once imported

        path, start = self.path("arrow"), 0
        removed: list[tuple[int, int]] = []
        with (
            pa.memory_map(str(path)) as source,
            pa.ipc.open_stream(source) as old,
            pa.ipc.new_stream(str(path.with_suffix(".new")), old.schema) as new,
        ):
            for batch in old:
                mask = pa.array(keep[start : start + len(batch)])
                start += len(batch)
                new.write_batch(batch.filter(mask))
                out = batch.filter(pa.compute.invert(mask))
                removed += zip(out["file"].to_pylist(), out["line"].to_pylist(), strict=True)
        path.with_suffix(".new").replace(path)
        return removed


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
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
        for batch in batches:
            numbers = np.frombuffer(b"".join(batch["digest"].to_pylist()), dtype=np.uint64)
            total += numbers.reshape(-1, 2).sum(axis=0, dtype=np.uint64)
    return total.tobytes().hex()
