"""Reading a validated data set: its rows in their internal shape, and their tokens, memory-mapped.

for row in rows(dataset, "train"): ...
tokens(dataset, "train", tokenizer)     # a datasets.Dataset with `input_ids` and `labels`
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from components.core.artifacts import MANIFEST, Artifact, hash_file
from components.core.chat import Message
from components.core.errors import ArtifactError, DataError

WEIGHTS = (".safetensors", ".gguf", ".onnx", ".data")
IGNORED = -100
"""Label of a token that is not trained on, as in torch and transformers."""


def rows(dataset: Artifact, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a split, one at a time; see `components.interfaces.Row` for their shapes."""
    path = dataset.path / f"{split}.rows.jsonl"
    if not path.is_file():
        raise ArtifactError(f"the data set {dataset.key} has no split '{split}'")
    with path.open("rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def conversation(row: Mapping[str, Any]) -> list[Message]:
    """A row as a conversation that ends with the answer which is wanted; a DataError where it has none."""
    if "messages" in row:
        return list(row["messages"])
    answer = row.get("chosen") or (row.get("completion") if row.get("label", True) else None)
    if not answer:
        raise DataError(f"a row with {', '.join(sorted(row))} has no answer to compare with")
    return [*row["prompt"], *answer]


def tokens(dataset: Artifact, split: str, tokenizer: Any, side: str = "") -> Any:
    """The tokenised rows of a split as a `datasets.Dataset`: `input_ids`, `labels`. Nothing is read until asked for.

    `side`: of preferences, `chosen_` or `rejected_`.

    An ArtifactError if they were not tokenised, or with another tokenizer or chat template than this one.
    """
    made_with = dataset.meta.get("tokenizer")
    if made_with is None:
        raise ArtifactError(f"the data set {dataset.key} holds no tokens; validate it together with the model")
    if made_with != tokenizer_digest(tokenizer):
        raise ArtifactError(
            f"the data set {dataset.key} was tokenised with another tokenizer or chat template ({made_with[:12]}) than "
            f"the model's ({tokenizer_digest(tokenizer)[:12]}); validate it together with this model"
        )
    found = index(dataset, split)
    if side:
        found = found.rename_columns({f"{side}{column}": column for column in ("input_ids", "spans")})
    return found.with_transform(_labelled)


def index(dataset: Artifact, split: str) -> Any:
    """Digests, places and tokens of a split as a `datasets.Dataset`, memory-mapped."""
    from datasets import Dataset

    return Dataset.from_file(str(dataset.path / f"{split}.arrow"))


def token_lengths(rows: Any, column: str = "input_ids") -> list[int]:
    """Tokens of every row of such a data set, without reading the tokens."""
    import pyarrow.compute as pc

    return list(pc.list_value_length(rows.with_format("arrow")[column]).to_pylist())


def _labelled(batch: Mapping[str, Any]) -> dict[str, Any]:
    labels = []
    for ids, spans in zip(batch["input_ids"], batch["spans"], strict=True):
        row = [IGNORED] * len(ids)
        for first, end in zip(spans[::2], spans[1::2], strict=True):
            row[first:end] = ids[first:end]
        labels.append(row)
    return {"input_ids": batch["input_ids"], "labels": labels}


def tokenizer_digest(tokenizer: Any) -> str:
    """Identity of a tokenizer: its vocabulary and rules, its special tokens and its chat template."""
    core = orjson.loads(tokenizer.backend_tokenizer.to_str())
    for setting in ("padding", "truncation"):  # of the last call, not of the tokenizer
        core.pop(setting, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    parts = [core, special, tokenizer.chat_template]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def tokenizer_files(model: Path) -> dict[str, str]:
    """sha256 of every file of a model directory but its weights: what decides how its tokenizer works, and more."""
    files = [path for path in sorted(model.rglob("*")) if path.is_file()]
    return {
        path.relative_to(model).as_posix(): hash_file(path)
        for path in files
        if path.suffix not in WEIGHTS and path.name not in (MANIFEST, "model.safetensors.index.json")
    }
