"""JSON Lines: one JSON object a line. Lines keep their bytes, so that what passes the contract is byte-identical.

data: {train: {type: jsonl, path: data/triage/train.jsonl}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.core.component import StrictConfig
from components.core.errors import DataError
from components.core.kinds import register
from components.interfaces import RawRow, Reader


@register("reader", "jsonl")
class JsonlReader(Reader):
    """Rows of a JSON Lines file."""

    class Config(StrictConfig):
        path: Path

    config: Config

    def files(self) -> Sequence[Path]:
        path = self.config.path
        if not path.is_file():
            tracked = path.parts and Path(f"{path.parts[0]}.dvc").is_file()
            remedy = f"; run: dvc pull {path.parts[0]}.dvc" if tracked else ""
            raise DataError(f"data file '{path}' does not exist{remedy}")
        return [path]

    def rows(self) -> Iterator[RawRow]:
        for path in self.files():
            with path.open("rb") as handle:
                for number, raw in enumerate(handle, start=1):
                    if raw.strip():
                        yield _parse(number, raw)


def _parse(number: int, raw: bytes) -> RawRow:
    try:
        return RawRow(number, raw, json.loads(raw.decode("utf-8")))
    except UnicodeDecodeError as error:
        return RawRow(number, raw, error=f"not UTF-8: byte {error.start}")
    except (json.JSONDecodeError, RecursionError) as error:
        return RawRow(number, raw, error=f"not JSON: {error}")
