"""Parquet files, some rows at a time. A row is kept as the line of JSON that says the same.

data: {train: {type: parquet, path: "data/train-*.parquet"}}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from components.core.errors import PostmillError
from components.core.kinds import register
from components.data.readers._arrow import BATCH_BYTES, BATCH_ROWS, TableReader, broken
from components.data.readers._files import File


@register("reader", "parquet")
class ParquetReader(TableReader):
    """Rows of parquet files."""

    suffixes = (".parquet", ".pq")

    def schema(self, file: File) -> Any:
        from pyarrow import parquet

        try:
            with file.open() as handle:
                return parquet.read_schema(handle)
        except PostmillError:
            raise
        except Exception as error:
            raise broken(file.name, error) from error

    def batches(self, file: File) -> Iterator[Any]:
        from pyarrow import parquet

        with file.open() as handle:
            table = parquet.ParquetFile(handle, pre_buffer=False, buffer_size=BATCH_BYTES)
            for group in range(table.num_row_groups):
                facts = table.metadata.row_group(group)
                row_bytes = max(1, facts.total_byte_size // max(1, facts.num_rows))
                size = max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
                options = {"batch_size": size, "row_groups": [group], "use_threads": False}
                for batch in table.iter_batches(columns=self.config.columns, **options):
                    yield batch.select(self.config.columns) if self.config.columns else batch
