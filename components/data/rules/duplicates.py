"""Rows that stand in a split twice.

A repeated row is trained on twice as often as the others and is counted twice where it is measured. The first one
stays. 16 bytes of each row are kept, about 100 with Python's own; texts never.

Try it: `data: {contract: {rules: {duplicate: fail, duplicate_id: {column: ticket}}}}` in a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from components.core.kinds import register
from components.core.rows import DIGEST_BYTES
from components.interfaces import Batch, ModelFacts, RawRow, Rule, RuleConfig


@register("rule", "duplicate")
class Duplicate(Rule):
    """No row has the same content as one further up in its split."""

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        self._seen: set[bytes] = set()

    def check(self, batch: Batch) -> Mapping[int, str]:
        seen, found = self._seen, {}
        for position, digest in enumerate(batch.digests):
            if digest in seen:
                found[position] = f"a row with the same content stands further up in {batch.split}"
            else:
                seen.add(digest)
        return found

    def finish(self, split: str) -> Mapping[int, str]:
        self._seen = set()
        return {}


@register("rule", "duplicate_id")
class DuplicateId(Rule):
    """No two rows of a split have the same id but different content."""

    class Config(RuleConfig):
        column: str = "id"

    config: Config

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        self._content: dict[bytes, bytes] = {}

    def check(self, batch: Batch) -> Mapping[int, str]:
        column, content, found = self.config.column, self._content, {}
        keys = [_key(raw, column) for raw in batch.raws]
        if any(keys):
            for position, (key, digest) in enumerate(zip(keys, batch.digests, strict=True)):
                if key and content.setdefault(key, digest) != digest:
                    found[position] = f"another row further up in {batch.split} has the same '{column}'"
        return found

    def finish(self, split: str) -> Mapping[int, str]:
        self._content = {}
        return {}


def _key(raw: RawRow, column: str) -> bytes | None:
    """The id in 16 bytes, None where there is none. The parts of a mixture may count alike."""
    identity = raw.value.get(column) if isinstance(raw.value, dict) else None
    if identity is None or identity == "" or not isinstance(identity, str | int):
        return None
    return blake2b(f"{raw.part}:{identity}".encode("utf-8", "replace"), digest_size=DIGEST_BYTES).digest()
