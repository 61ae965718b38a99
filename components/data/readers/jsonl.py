"""JSON Lines: one JSON value a line. Lines keep their bytes, so that what passes the contract is byte-identical.

data: {train: {type: jsonl, path: data/triage/train.jsonl}}
data: {train: {type: jsonl, path: "data/**/*.jsonl.gz", max_row_bytes: 5000000}}
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from components.core.kinds import register
from components.data.readers._files import File, FileReader
from components.data.readers._json import bad_json
from components.data.readers._lines import Oversize, line_batches
from components.data.readers._streams import TextConfig, text_of
from components.interfaces import Framing, RawRow


@register("reader", "jsonl")
class JsonlReader(FileReader):
    """Rows of JSON Lines files."""

    Config = TextConfig
    suffixes = (".jsonl", ".ndjson", ".jsonlines")

    def read(self, file: File, last: bool) -> Iterator[RawRow]:
        limit, name, number = self.config.max_row_bytes, file.name, 0
        loads = orjson.loads  # the loop below runs once a row
        for lines in line_batches(text_of(file, self.config).blocks, limit, last):
            for raw in lines:
                number += 1
                try:
                    value = loads(raw)  # type: ignore[arg-type]
                except orjson.JSONDecodeError:
                    if isinstance(raw, Oversize) or raw.strip():
                        yield bad_json(number, raw, limit, name)
                else:
                    yield RawRow(number, raw, value, None, "parse", name)  # type: ignore[arg-type]

    def framing(self) -> Framing:
        return Framing(begin=text_of(self.files()[0], self.config).bom)
