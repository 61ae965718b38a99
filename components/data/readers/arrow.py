"""Arrow files: IPC files, IPC streams (what the package datasets writes) and feather.

data: {train: {type: arrow, path: data/train.arrow}}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from components.core.errors import DataError, PostmillError
from components.core.kinds import register
from components.data.readers._arrow import BATCH_BYTES, BATCH_ROWS, TableReader, broken
from components.data.readers._files import File

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


@register("reader", "arrow")
class ArrowReader(TableReader):
    """Rows of Arrow and feather files."""

    suffixes = (".arrow", ".feather", ".ipc", ".arrows")

    def schema(self, file: File) -> Any:
        try:
            with file.open() as handle:
                return _opened(file.name, handle).schema
        except PostmillError:
            raise
        except Exception as error:
            raise broken(file.name, error) from error

    def batches(self, file: File) -> Iterator[Any]:
        with file.open() as handle:
            source = _opened(file.name, handle)
            for whole in _batches(source):
                batch = whole.select(self.config.columns) if self.config.columns else whole
                row_bytes = max(1, batch.nbytes // max(1, batch.num_rows))
                size = max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
                for begin in range(0, batch.num_rows, size):
                    yield batch.slice(begin, size)


def _opened(name: str, handle: BinaryIO) -> Any:
    from pyarrow import ipc, memory_map

    first = handle.read(6)
    if first.startswith(b"FEA1"):
        raise DataError(f"'{name}' is in feather's first version; write it again with pyarrow.feather.write_feather")
    handle.seek(-min(8, handle.seek(0, 2)), 2)
    whole = first == b"ARROW1" or handle.read(8) == _END_OF_STREAM
    handle.seek(0)
    # a local file is mapped: its batches then take no memory of ours
    source = memory_map(handle.name) if isinstance(getattr(handle, "name", None), str) else handle
    opened = ipc.open_file(source) if first == b"ARROW1" else ipc.open_stream(source)
    if not whole:  # pyarrow would take a stream that ends between two batches for a whole one
        raise DataError(f"'{name}' is truncated: the mark at the end of the stream is missing; fetch it again")
    return opened


def _batches(source: Any) -> Iterator[Any]:
    count = getattr(source, "num_record_batches", None)
    return iter(source) if count is None else map(source.get_batch, range(count))
