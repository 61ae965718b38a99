"""A set of digests in 16 bytes each and some room, filled a batch at a time: a hash table with open addresses in numpy.

Python's own set takes about 100 bytes a digest. All 128 bits are compared. While it grows, what it holds goes through a
file, so that the old and the new table are never in memory together. At most 28 bytes a digest (40 with numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from components.core.rows import DIGEST_BYTES

SMALLEST = 4096
FULL = 0.85
"""Share of the slots that are taken before the table grows."""
GROWTH = 1.4
CHUNK = 1 << 16


class Digests:
    """Digests that were seen, each with a number if wanted. The digest of sixteen zero bytes stands for a free slot."""

    def __init__(self, scratch: Path, numbered: bool = False) -> None:
        self._scratch, self._numbered = scratch, numbered
        self._count = 0
        self._allocate(SMALLEST)

    def _allocate(self, size: int) -> None:
        import numpy as np

        self._size = _prime(size)
        self._keys = np.zeros(self._size, f"S{DIGEST_BYTES}")
        self._numbers = np.zeros(self._size if self._numbered else 0, np.uint64)

    def add(self, digests: Sequence[bytes], numbers: Any = None) -> Any:
        """Remember digests that differ from each other; numpy: which were there already.

        In `numbers` (numpy uint64) the number of those is replaced by the one that they were first seen with.
        """
        import numpy as np

        if (self._count + len(digests)) > self._size * FULL:
            self._grow(self._count + len(digests))
        keys = np.frombuffer(b"".join(digests), self._keys.dtype)
        known = self._insert(keys, numbers)
        self._count += len(known) - int(known.sum())
        return known

    def _insert(self, keys: Any, numbers: Any) -> Any:
        import numpy as np

        halves = keys.view(np.uint64).reshape(-1, 2)
        slots = halves[:, 0] % np.uint64(self._size)
        # the size is prime, so steps of any length pass every slot
        steps = halves[:, 1] % np.uint64(self._size - 1) + np.uint64(1)
        known, left = np.zeros(len(keys), bool), np.arange(len(keys))
        while len(left):
            wanted, there = keys[left], self._keys[slots]
            same, free = there == wanted, there == b""
            known[left[same]] = True
            if self._numbered:
                numbers[left[same]] = self._numbers[slots[same]]
            # of two that want the same slot the last gets it
            self._keys[slots[free]] = wanted[free]
            placed = free & (self._keys[slots] == wanted)
            if self._numbered:
                self._numbers[slots[placed]] = numbers[left[placed]]
            open_ = ~(same | placed)
            left, steps = left[open_], steps[open_]
            slots = (slots[open_] + steps) % np.uint64(self._size)
        return known

    def _grow(self, needed: int) -> None:
        import numpy as np

        with TemporaryFile(dir=self._scratch) as keys, TemporaryFile(dir=self._scratch) as numbers:
            taken = self._keys != b""
            for start in range(0, self._size, CHUNK):
                part = slice(start, start + CHUNK)
                keys.write(self._keys[part][taken[part]].tobytes())
                if self._numbered:
                    numbers.write(self._numbers[part][taken[part]].tobytes())
            kind, old = self._keys.dtype, self._size
            del self._keys, self._numbers
            self._allocate(int(max(old * GROWTH, needed / FULL)) + 1)
            keys.seek(0)
            numbers.seek(0)
            while len(some := np.frombuffer(keys.read(CHUNK * DIGEST_BYTES), kind)):
                self._insert(some, np.frombuffer(bytearray(numbers.read(CHUNK * 8)), np.uint64))


def _prime(least: int) -> int:
    """The first prime from here on."""
    number = least | 1
    while any(number % factor == 0 for factor in range(3, int(number**0.5) + 1, 2)):
        number += 2
    return number
