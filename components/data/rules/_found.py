"""What a rule found in a whole split, in ten bytes a row: many rows share a reason."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, Sequence
from typing import Any

CHUNK = 1 << 16


class Found(Mapping[int, str]):
    """Position in the split -> reason; in the order of the positions."""

    def __init__(self, positions: Any, kinds: Any, reasons: Sequence[str]) -> None:
        self.positions = positions
        """numpy, ascending."""
        self.kinds, self.reasons = kinds, reasons

    def __getitem__(self, position: int) -> str:
        import numpy as np

        at = int(np.searchsorted(self.positions, position))
        if at == len(self.positions) or self.positions[at] != position:
            raise KeyError(position)
        return self.reasons[int(self.kinds[at])]

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self), CHUNK):
            yield from self.positions[start : start + CHUNK].tolist()

    def items(self) -> ItemsView[int, str]:
        return _Items(self)


class _Items(ItemsView[int, str]):
    """Pairs without a search for each."""

    _mapping: Found

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for position, kind in zip(self._mapping, self._mapping.kinds, strict=True):
            yield position, self._mapping.reasons[kind]
