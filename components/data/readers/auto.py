"""Chooses the reader by the ending of a file, and by its first bytes where the ending does not say it.

data: {train: {type: auto, path: data/anything.json}}
postmill data inspect data/anything.json
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson

from components.core.errors import DataError
from components.core.kinds import register, registry
from components.data.readers._files import PACKED, File, find, of_kind
from components.data.readers._streams import BOM, TextConfig, unpacked
from components.interfaces import Framing, RawRow, Reader

_BESIDE = ("readme", "license", "licence", "changelog", "dataset_info", "state.json", "dataset_dict.json")
"""What stands beside data without being data."""
_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"FEA1": "arrow", b"\xff\xff\xff\xff": "arrow"}


@register("reader", "auto")
class AutoReader(Reader):
    """Rows of files whose kind is told by their names or first bytes."""

    Config = TextConfig
    config: TextConfig

    @cached_property
    def inner(self) -> Reader:
        """The reader that was chosen."""
        return self._chosen[1]

    @cached_property
    def _chosen(self) -> tuple[str, Reader]:
        given = {key: getattr(self.config, key) for key in self.config.model_fields_set if key != "path"}
        return reader_for(self.config.path, **given)

    def fingerprint(self) -> Mapping[str, str]:
        return self.inner.fingerprint()

    def identity(self) -> Mapping[str, Any]:
        return {"type": self._chosen[0], **self.inner.identity()}

    def classes(self) -> Sequence[type]:
        return (type(self), *self.inner.classes())

    def rows(self) -> Iterator[RawRow]:
        return self.inner.rows()

    def framing(self) -> Framing:
        return self.inner.framing()


def reader_for(path: str | Sequence[str], **keys: Any) -> tuple[str, Reader]:
    """The reader for a path or address, by name and made. `keys` of its configuration are passed on if it has them."""
    if isinstance(path, str) and _is_dataset(path):
        name, given = "hub", dict[str, Any](name=path)
    else:
        files = _data_files(path)
        name = _kind(path, files)
        names = [file.name for file in files]
        given = {"path": names if len(names) > 1 else names[0]}
        if name == "text" and all(of_kind(each, (".md", ".markdown")) for each in names):
            given["unit"] = "section"
    known = registry.get("reader", name).Config.model_fields
    reader = registry.create("reader", name, **given, **{key: keys[key] for key in keys if key in known})
    return name, reader


def _is_dataset(path: str) -> bool:
    """hf://owner/dataset, but not a file inside of one: hf://datasets/owner/dataset/rows.jsonl."""
    rest = path.removeprefix("hf://").strip("/")
    return path.startswith("hf://") and rest.removeprefix("datasets/").count("/") == 1


def _data_files(path: str | Sequence[str]) -> list[File]:
    files = find(path)
    return [file for file in files if not _base(file).startswith(_BESIDE)] or files


def _base(file: File) -> str:
    return file.name.rsplit("/", 1)[-1].lower()


def _kind(path: str | Sequence[str], files: list[File]) -> str:
    kinds: dict[str, str] = {}
    for file in files:
        kinds.setdefault(_kind_of(file), file.name)
    if len(kinds) > 1:
        listed = ", ".join(f"{kind} ({example})" for kind, example in sorted(kinds.items()))
        raise DataError(f"'{path}' holds several kinds of files: {listed}; name the reader: {{type: NAME, path: ...}}")
    return next(iter(kinds))


def _kind_of(file: File) -> str:
    by_name = next((name for name, suffixes in _suffixes().items() if of_kind(file.name, suffixes)), None)
    # many a .json file is JSON Lines
    if by_name and by_name != "json":
        return by_name
    head = next(unpacked(file), b"")
    found = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None) or _json_kind(head)
    if found or by_name:
        return found or by_name or ""
    endings = ", ".join(ending for suffixes in _suffixes().values() for ending in suffixes)
    raise DataError(
        f"cannot tell how '{file.name}' is to be read; name the reader: {{type: NAME, path: ...}} "
        f"with one of {', '.join(registry.names('reader'))}, or end its name in one of {endings} "
        f"(and one of {', '.join(PACKED)})"
    )


def _suffixes() -> dict[str, tuple[str, ...]]:
    """The endings of every reader of files."""
    names = [name for name in registry.names("reader") if not registry.broken("reader", name)]
    return {name: cls.suffixes for name in names if hasattr(cls := registry.get("reader", name), "suffixes")}


def _json_kind(head: bytes) -> str | None:
    text = head.removeprefix(BOM).lstrip()
    if not text.startswith((b"[", b"{")):
        return None
    first, end, rest = text.partition(b"\n")
    if text.startswith(b"["):
        return "jsonl" if _reads(first) and rest.strip() else "json"
    return "jsonl" if _reads(first) or not end else "json"


def _reads(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True
