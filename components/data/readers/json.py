"""JSON: a file that holds one list of rows. It is read element by element, so that it may be of any size.

data: {train: {type: json, path: data/alpaca.json}}
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

from components.core.errors import DataError
from components.core.kinds import register
from components.data.readers._files import File, FileReader
from components.data.readers._json import bad_json
from components.data.readers._lines import Held, Oversize
from components.data.readers._streams import TextConfig, text_of
from components.interfaces import Framing, RawRow

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
# up to the next byte that matters: inside an element brackets only, between elements commas too
_INNER = re.compile(rb"(?:" + _STRING + rb'|[^"\[\]{}]++)*+', re.DOTALL)
_OUTER = re.compile(rb"(?:" + _STRING + rb'|[^"\[\]{},]++)*+', re.DOTALL)
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_LEAD = re.compile(rb"\s*\[(\s{0,100})")
_SPACE = b" \t\r\n"


@register("reader", "json")
class JsonReader(FileReader):
    """Elements of JSON files that hold one list each."""

    Config = TextConfig
    suffixes = (".json",)

    def read(self, file: File, last: bool) -> Iterator[RawRow]:
        limit, name = self.config.max_row_bytes, file.name
        for line, raw in _Elements(name, text_of(file, self.config).blocks, limit):
            try:
                value = orjson.loads(raw)  # type: ignore[arg-type]
            except orjson.JSONDecodeError:
                yield bad_json(line, raw, limit, name)
            else:
                yield RawRow(line, raw, value, None, "parse", name)  # type: ignore[arg-type]

    def framing(self) -> Framing:
        text = text_of(self.files()[0], self.config)
        found = _LEAD.match(next((block for block in text.blocks if block), b""))
        lead = found[1] if found else b"\n"
        close = b"\n]\n" if b"\n" in lead else b"]\n"
        return Framing("json", text.bom + b"[" + lead, b"," + (lead or b" "), close)


class _Elements:
    """The elements of one list, each with the line it begins on. Looks at brackets and quotes only."""

    def __init__(self, name: str, blocks: Iterator[bytes], limit: int) -> None:
        self.name, self.blocks, self.limit = name, blocks, limit
        self.buffer = bytearray()
        self.pos = 0
        self.line = self.began = 1
        self.depth = 0
        self.in_string = False
        self.held = Held(limit)

    def __iter__(self) -> Iterator[tuple[int, bytes | Oversize]]:
        if not self._open():
            return
        count = 0
        while True:
            end = self._next_end()
            if end is None:
                if not self._more():
                    raise DataError(
                        f"'{self.name}' is truncated: it ends in or after element {count + 1} of its list "
                        f"(line {self.line}), which is never closed by ']'"
                    )
                continue
            closing = self.buffer[end] == ord("]")
            line, element = self._take(end)
            # an empty list, and only that, ends without an element
            if element or not closing or count:
                yield line, element
            count += 1
            if closing:
                return self._close()

    def _open(self) -> bool:
        """Go behind the opening bracket. False: the file is empty."""
        while not (head := self.buffer.lstrip(_SPACE)):
            if not self._more():
                return False
        if head[0] != ord("["):
            raise DataError(f"'{self.name}' {_what_else(bytes(head))}")
        self._drop(len(self.buffer) - len(head) + 1)
        return True

    def _close(self) -> None:
        while True:
            if rest := self.buffer.lstrip(_SPACE):
                raise DataError(
                    f"'{self.name}' goes on after the end of its list, line {self.line}: {bytes(rest[:40])!r}"
                )
            self._drop(len(self.buffer))
            if not self._more():
                return

    def _more(self) -> bool:
        """Read a block; what is behind us of an element that is too big is let go first."""
        if self.pos > self.limit or self.held.size:
            self._hold(self.pos)
            self._drop(self.pos)
        for block in self.blocks:
            if block:
                self.buffer += block
                return True
        return False

    def _drop(self, count: int) -> None:
        self.line += self.buffer.count(b"\n", 0, count)
        del self.buffer[:count]
        self.pos = 0

    def _next_end(self) -> int | None:
        """Where the element ends that the buffer begins with: at a comma or bracket. None: not in the buffer."""
        buffer, pos = self.buffer, self.pos
        while pos < len(buffer):
            if self.in_string:
                pos = _REST_OF_STRING.match(buffer, pos).end()  # type: ignore[union-attr]
                if pos >= len(buffer) or buffer[pos] != ord('"'):
                    break  # a lone backslash waits for the byte after it
                pos, self.in_string = pos + 1, False
                continue
            pos = (_INNER if self.depth else _OUTER).match(buffer, pos).end()  # type: ignore[union-attr]
            if pos >= len(buffer):
                break
            found = buffer[pos]
            if found == ord('"'):  # of a string that the buffer does not end
                self.in_string = True
            elif found in b"[{":
                self.depth += 1
            elif self.depth:
                self.depth -= 1
            elif found in b",]":
                return pos
            pos += 1
        self.pos = pos
        return None

    def _hold(self, end: int) -> None:
        """Keep the buffer up to `end` as part of the element, from its first byte on."""
        piece = bytes(self.buffer[:end])
        if not self.held.size:
            stripped = piece.lstrip(_SPACE)
            self.began = self.line + piece.count(b"\n", 0, len(piece) - len(stripped))
            piece = stripped
        self.held.add(piece)

    def _take(self, end: int) -> tuple[int, bytes | Oversize]:
        self._hold(end)
        self._drop(end + 1)
        element = self.held.take()
        return self.began, element if isinstance(element, Oversize) else element.rstrip(_SPACE)


def _what_else(head: bytes) -> str:
    """What a file holds that does not begin with a bracket, and the remedy."""
    first, _, rest = head.partition(b"\n")
    if head[0] != ord("{"):
        return f"holds no list of rows; it begins with {head[:40]!r}"
    if rest.strip() and _reads(first):
        return "is JSON Lines, a value a line, not one list of rows; write 'type: jsonl'"
    key = re.match(rb'\{\s*("(?:[^"\\]|\\.)*")', head)
    named = f" whose first key is {key[1].decode('utf-8', 'replace')}" if key else ""
    return f"holds an object{named}, not a list of rows; write the list alone into a file: jq .KEY FILE > rows.json"


def _reads(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True
