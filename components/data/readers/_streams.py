"""The bytes of a file as text readers want them: unpacked, in UTF-8, in big blocks, without a byte order mark.

Compression is told by the first bytes, not by the name. What cannot be unpacked is a DataError that names the file.
"""

from __future__ import annotations

import codecs
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Annotated, Any, BinaryIO, NamedTuple

from pydantic import AfterValidator, Field

from components.core.errors import DataError, PostmillError
from components.data.readers._files import PACKED, File, FilesConfig, unreadable

BLOCK = 1 << 18
"""Bytes read at once."""
BOM = codecs.BOM_UTF8
_WIDE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x03\x04": "zip",
}


def _encoding(name: str) -> str:
    try:
        known = codecs.lookup(name)
    except LookupError:
        known = None
    if known is None or not known._is_text_encoding:
        raise ValueError(f"no encoding is called '{name}'; common ones: utf-8, utf-16, cp1252, latin-1, shift_jis")
    return name


class TextConfig(FilesConfig):
    """Keys of every reader of text files."""

    encoding: Annotated[str, AfterValidator(_encoding)] = Field(
        "utf-8", description="of the files; rows in another one are kept in UTF-8"
    )

    @property
    def transcoded(self) -> bool:
        """Whether the files are in another encoding than UTF-8."""
        return codecs.lookup(self.encoding).name != "utf-8"


class Text(NamedTuple):
    """A file's text: its byte order mark, if any, and the UTF-8 bytes after it."""

    bom: bytes
    blocks: Iterator[bytes]


def text_of(file: File, config: TextConfig) -> Text:
    """Begin to read a file; it is closed at its end."""
    blocks = unpacked(file)
    if config.transcoded:
        return Text(b"", _transcoded(file.name, blocks, config.encoding))
    first = next(blocks, b"")
    _refuse_wide(file.name, first)
    bom = BOM if first.startswith(BOM) else b""
    return Text(bom, chain([first[len(bom) :]], blocks))


def unpacked(file: File) -> Iterator[bytes]:
    """The bytes of a file in blocks, decompressed if need be."""
    packing = None
    try:
        with ExitStack() as stack:
            handle = stack.enter_context(file.open())
            first = handle.read(8)
            packing = _packing(file.name, first)
            if handle.seekable():
                handle.seek(0)
            else:  # a web server that sends from the beginning only
                handle = stack.enter_context(file.open())
            source = stack.enter_context(_opened(file.name, handle, packing)) if packing else handle
            while block := source.read(BLOCK):
                yield block
    except EOFError as error:
        raise DataError(f"'{file.name}' is truncated: its {packing} data ends early; fetch it again") from error
    except (OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        if "Truncated" in str(error):  # what pyarrow says
            raise DataError(f"'{file.name}' is truncated: its {packing} data ends early; fetch it again") from error
        if packing is None:
            raise unreadable(file.name, error) from error
        raise DataError(f"'{file.name}' is no valid {packing} data: {error}; fetch it again") from error
    except Exception as error:
        if not file.remote or isinstance(error, PostmillError):
            raise
        raise unreadable(file.name, error) from error  # every file system has a family of its own


def _packing(name: str, first: bytes) -> str | None:
    if not first and name.endswith(PACKED):
        raise DataError(f"'{name}' is truncated: it is empty, which no compressed file is; fetch it again")
    found = next((packing for magic, packing in _MAGIC.items() if first.startswith(magic)), None)
    # three letters are little: text may begin with them
    return None if found == "bzip2" and first[4:] != b"1AY&" else found


def _opened(name: str, handle: Any, packing: str) -> BinaryIO:
    if packing == "gzip":
        import gzip

        return gzip.GzipFile(fileobj=handle)  # type: ignore[return-value]
    if packing == "bzip2":
        import bz2

        return bz2.BZ2File(handle)  # type: ignore[return-value]
    if packing == "xz":
        return lzma.LZMAFile(handle)  # type: ignore[return-value]
    if packing == "zip":
        return _only_member(name, zipfile.ZipFile(handle))
    import pyarrow

    # the package zstandard ends a truncated stream without a word
    return pyarrow.CompressedInputStream(handle, "zstd")  # type: ignore[no-any-return]


def _only_member(name: str, archive: zipfile.ZipFile) -> BinaryIO:
    members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        listed = ", ".join(m.filename for m in members[:5])
        raise DataError(f"'{name}' holds {len(members)} files ({listed}); unpack it, or pack one file only")
    if members[0].flag_bits & 1:
        raise DataError(f"'{name}' is encrypted; unpack it with its password first")
    return archive.open(members[0])  # type: ignore[return-value]


def _refuse_wide(name: str, first: bytes) -> None:
    encoding = next((encoding for mark, encoding in _WIDE.items() if first.startswith(mark)), None)
    head = first[:4]
    if encoding is None and len(head) == 4 and head.count(0) == 2:  # text without a mark has no NUL
        encoding = "utf-16-le" if head[1::2] == b"\0\0" else "utf-16-be" if head[::2] == b"\0\0" else None
    if encoding:
        raise DataError(
            f"'{name}' is {encoding.upper()}, not UTF-8; write 'encoding: {encoding}' beside its path, "
            f"or convert it: iconv -f {encoding} -t utf-8"
        )


def _transcoded(name: str, blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Text in UTF-8. What does not decode is passed on as bytes that no UTF-8 has, so that its row is found."""
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    errors = "surrogatepass" if wide else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    for block in chain(blocks, [b""]):
        try:
            text = decoder.decode(block, not block).encode("utf-8", errors)
        except UnicodeError as error:  # an encoding that does not find its place again, or a tail that is cut off
            reason = getattr(error, "reason", None) or str(error)
            raise DataError(f"'{name}' does not read as {encoding} ({reason}); {_remedy(encoding)}") from error
        yield text


def _remedy(encoding: str) -> str:
    wide = next((wide for wide in ("utf-16", "utf-32") if codecs.lookup(encoding).name == wide), None)
    if wide:
        return (
            f"if it has no byte order mark write 'encoding: {wide}-le' or '{wide}-be', if it is cut off fetch it again"
        )
    return "write the encoding that it is in as 'encoding:', or fetch it again if it is cut off"
