"""Rows that stand in a split twice.

A repeated row is trained on twice as often as the others and is counted twice where it is measured. The first one
stays. At most 28 bytes of each row are kept (40 with ids), about 100 with Python's own; texts never.

Try it: `data: {contract: {rules: {duplicate: fail, duplicate_id: {column: ticket}}}}` in a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

from components.core.kinds import register
from components.core.rows import DIGEST_BYTES
from components.data.rules._digests import Digests
from components.interfaces import Batch, ModelFacts, RawRow, Rule, RuleConfig


@register("rule", "duplicate")
class Duplicate(Rule):
    """No row has the same content as one further up in its split."""

    compares: ClassVar[bool] = True

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        self._scratch = scratch
        self._seen = Digests(scratch)

    def check(self, batch: Batch) -> Mapping[int, str]:
        # a later assignment wins: the first row of each
        first = {digest: position for position, digest in reversed(list(enumerate(batch.digests)))}
        known = self._seen.add(list(first))
        stay = {position for position, before in zip(first.values(), known.tolist(), strict=True) if not before}
        reason = f"a row with the same content stands further up in {batch.split}"
        return {position: reason for position in range(len(batch.rows)) if position not in stay}

    def finish(self, split: str) -> Mapping[int, str]:
        self._seen = Digests(self._scratch)
        return {}


@register("rule", "duplicate_id")
class DuplicateId(Rule):
    """No two rows of a split have the same id but different content."""

    class Config(RuleConfig):
        column: str = "id"

    config: Config
    compares: ClassVar[bool] = True

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        self._scratch = scratch
        self._content = Digests(scratch, numbered=True)

    def check(self, batch: Batch) -> Mapping[int, str]:
        import numpy as np

        column = self.config.column
        keys = [_key(raw, column) for raw in batch.raws]
        if not any(keys):
            return {}
        # 64 bits tell the contents of one id apart
        content = np.frombuffer(b"".join(batch.digests), np.uint64)[::2]
        first = {key: position for position, key in reversed(list(enumerate(keys))) if key}
        numbers = content[list(first.values())]
        self._content.add(list(first), numbers)
        expected = dict(zip(first, numbers.tolist(), strict=True))
        reason = f"another row further up in {batch.split} has the same '{column}'"
        given = zip(keys, content.tolist(), strict=True)
        return {position: reason for position, (key, number) in enumerate(given) if key and expected[key] != number}

    def finish(self, split: str) -> Mapping[int, str]:
        self._content = Digests(self._scratch, numbered=True)
        return {}


def _key(raw: RawRow, column: str) -> bytes | None:
    """The id in 16 bytes, None where there is none. The parts of a mixture may count alike."""
    identity = raw.value.get(column) if isinstance(raw.value, dict) else None
    if identity is None or identity == "" or not isinstance(identity, str | int):
        return None
    return blake2b(f"{raw.part}:{identity}".encode("utf-8", "replace"), digest_size=DIGEST_BYTES).digest()
