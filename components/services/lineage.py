"""Where a row has been: the data sets it stands in, the models trained on it or measured on it, what of them is served.

    LineageService(workspace, registry).find(Wanted(row_digest(row).hex()))

Reads manifests and memory-mapped indexes only: a million rows take a fraction of a second. Files are not verified.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from components.core.artifacts import MANIFEST, REQUIRED
from components.core.errors import DataError
from components.core.kinds import service
from components.core.rows import DIGEST_BYTES
from components.services.model_registry import ModelRegistryService
from components.services.workspace import Workspace

Relation = Literal["trained on", "measured on"]
"""What a row was to a model. Test rows are neither: no step reads them."""
MOST = 10_000
"""Places that are listed of one split; all of them are counted."""
_Key = tuple[str, str, str]
"""Stage, key and digest: what a manifest calls its parents by."""
_NO_MODELS = ("measurement", "verdict")
"""Kinds of artifact that nothing is trained in."""


@dataclass(frozen=True)
class Wanted:
    """Digests to look for, whole or the first digits of one; `said`: of what the user says, not of the row."""

    digits: str
    said: bool = False

    def __post_init__(self) -> None:
        if not self.digits or len(self.digits) > 2 * DIGEST_BYTES or set(self.digits) - set("0123456789abcdef"):
            raise DataError(f"'{self.digits}' is no digest: write up to {2 * DIGEST_BYTES} of the digits 0-9 and a-f")

    @property
    def column(self) -> str:
        return "said" if self.said else "digest"

    @property
    def bounds(self) -> tuple[bytes, bytes]:
        """The lowest and the highest digest that begin like this."""
        low, high = (bytes.fromhex(self.digits.ljust(2 * DIGEST_BYTES, digit)) for digit in "0f")
        return low, high


@dataclass(frozen=True)
class Place:
    """A row of a data set: its split, and where it stood when it was read."""

    split: str
    file: str
    line: int
    digest: str
    said: str


@dataclass(frozen=True)
class Descendant:
    """A model, in any form, that the row was trained into or that was measured on it."""

    stage: str
    key: str
    kind: str
    type: str
    relation: Relation


@dataclass(frozen=True)
class Version:
    """A registered version whose recipe had the data set, and what the row was to it."""

    model: str
    version: str
    aliases: tuple[str, ...]
    variant: str
    relation: Relation


@dataclass(frozen=True)
class Sighting:
    """A data set that holds the row."""

    key: str
    digest: str
    created: str
    rows: Mapping[str, int]
    count: int
    """Rows that match; `places` may list fewer."""
    places: tuple[Place, ...]
    artifacts: tuple[Descendant, ...]
    versions: tuple[Version, ...]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@service("lineage")
class LineageService:
    """Finds every data set, model and registered version that saw a row."""

    def __init__(self, workspace: Workspace, registry: ModelRegistryService) -> None:
        self.workspace, self.registry = workspace, registry

    @cached_property
    def manifests(self) -> dict[_Key, dict[str, Any]]:
        """Every manifest of the store."""
        found = (_manifest(path) for path in self.workspace.store.root.glob(f"*/[!.]*/{MANIFEST}"))
        return {_key(manifest): manifest for manifest in found if manifest}

    @property
    def datasets(self) -> list[_Key]:
        """Data sets of the store, the newest first."""
        keys = [key for key, manifest in self.manifests.items() if manifest["kind"] == "dataset"]
        return sorted(keys, key=lambda key: self.manifests[key].get("created", ""), reverse=True)

    def find(self, wanted: Wanted) -> list[Sighting]:
        """The data sets that hold the row, the newest first."""
        return [sighting for key in self.datasets if (sighting := self._sighting(key, wanted))]

    def _sighting(self, key: _Key, wanted: Wanted) -> Sighting | None:
        folder, manifest = self.workspace.store.place(*key[:2]), self.manifests[key]
        found = {split: _matches(folder, split, wanted) for split in manifest["meta"].get("rows", {})}
        found = {split: table for split, table in found.items() if len(table)}
        if not found:
            return None
        relations = self._touched(key, found.keys())
        return Sighting(
            key=key[1],
            digest=manifest["digest"],
            created=manifest.get("created", ""),
            rows=manifest["meta"]["rows"],
            count=sum(map(len, found.values())),
            places=tuple(place for split, table in found.items() for place in _places(manifest, split, table)),
            artifacts=tuple(self._descendant(key, relation) for key, relation in relations.items()),
            versions=tuple(self._versions(manifest["digest"], found.keys(), relations)),
        )

    @cached_property
    def _children(self) -> dict[str, list[_Key]]:
        """What was made of an artifact, by its content: training again to the same bytes changes nothing below."""
        children: dict[str, list[_Key]] = {}
        for key, manifest in self.manifests.items():
            for parent in manifest["parents"].values():
                children.setdefault(parent["digest"], []).append(key)
        return children

    def _touched(self, dataset: _Key, splits: Collection[str]) -> dict[_Key, Relation]:
        """Every model that the row came into or was measured on; what it was trained on counts for more."""
        relations: dict[_Key, Relation] = {}
        if "train" in splits:
            relations |= dict.fromkeys(self._trained(dataset), "trained on")
        if "eval" in splits:
            relations = {**dict.fromkeys(self._measured(dataset), "measured on"), **relations}
        return relations

    def _descendant(self, key: _Key, relation: Relation) -> Descendant:
        manifest = self.manifests[key]
        type_ = str(manifest.get("identity", {}).get("config", {}).get("type", ""))
        return Descendant(key[0], key[1], manifest["kind"], type_, relation)

    def _trained(self, dataset: _Key) -> Iterator[_Key]:
        """What descends from the data set by training and optimization, each once and after what it was made of."""
        waiting, seen = [dataset], {dataset}
        while waiting:
            for key in sorted(self._children.get(waiting.pop(0)[2], ())):
                if key not in seen and self.manifests[key]["kind"] not in _NO_MODELS:
                    seen.add(key)
                    waiting.append(key)
                    yield key

    def _measured(self, dataset: _Key) -> Iterator[_Key]:
        """What benchmarks measured with the data set, base models too."""
        for key in sorted(self._children.get(dataset[2], ())):
            if self.manifests[key]["kind"] == "measurement":
                subjects = map(_key, self.manifests[key]["parents"].values())
                yield from (subject for subject in subjects if subject != dataset and subject in self.manifests)

    def _versions(self, dataset: str, splits: Collection[str], relations: Mapping[_Key, Relation]) -> Iterator[Version]:
        """Versions whose recipe had the data set, and those with the files of something that came of it."""
        own: Relation = "trained on" if "train" in splits else "measured on"
        asked = {("postmill.dataset", dataset): own} if {"train", "eval"} & set(splits) else {}
        asked |= {("postmill.digest", key[2]): relation for key, relation in relations.items()}
        known: set[tuple[str, str]] = set()
        for (tag, digest), relation in asked.items():
            for entry in self.registry.versions(tag, digest):
                if (entry.name, entry.version) not in known:
                    known.add((entry.name, entry.version))
                    variant = entry.tags.get("postmill.variant", "")
                    yield Version(entry.name, entry.version, entry.aliases, variant, relation)


def _key(entry: Mapping[str, Any]) -> _Key:
    return entry["stage"], entry["key"], entry["digest"]


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of an artifact that is being replaced, or damaged: nothing can be said about it
        return None
    return manifest if isinstance(manifest, dict) and manifest.keys() >= REQUIRED else None


def _matches(folder: Path, split: str, wanted: Wanted) -> Sequence[Any]:
    """The rows of a split's index that match, an Arrow table without the tokens."""
    import pyarrow as pa
    import pyarrow.compute as pc

    path = folder / f"{split}.arrow"
    if not path.is_file():
        return ()
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all().select(["digest", "said", "file", "line"])
        low, high = (pa.scalar(bound, pa.binary(DIGEST_BYTES)) for bound in wanted.bounds)
        column = table[wanted.column]
        mask = (
            pc.equal(column, low)
            if low == high
            else pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))
        )
        found: Sequence[Any] = table.filter(mask)
    return found


def _places(manifest: Mapping[str, Any], split: str, table: Any) -> list[Place]:
    names = manifest["meta"]["sources"][split]
    return [
        Place(split, names[row["file"]], row["line"], row["digest"].hex(), row["said"].hex())
        for row in table.slice(0, MOST).to_pylist()
    ]
