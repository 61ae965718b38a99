"""From a model directory to a graph in the wished precision, with any exporter: what it rounds itself, and what is
rounded in its graph afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.compression.onnx.graph import FILE
from components.core.errors import ModelLoadError
from components.interfaces import Exporter, ExportJob

PRECISIONS = {32: "fp32", 8: "int8", 4: "int4"}
OWN_METHODS = ("default", "rtn", "search")
"""Ways of rounding that work on every exporter's graph."""


@dataclass(frozen=True)
class Wish:
    """What the recipe asks for; `embedding` and `head`: auto, float, int8 or int4."""

    bits: int
    method: str = "default"
    block: int = 32
    embedding: str = "auto"
    head: str = "auto"
    accuracy: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)

    def bits_of(self, part: str) -> int | None:
        """Bits of a part, None for float."""
        return {"auto": self.bits, "float": None, "int8": 8, "int4": 4}[part]


def export_weights(exporter: Exporter, source: Path, out: Path, wish: Wish) -> tuple[dict[str, Any], bool]:
    """Export float weights. Returns facts, and whether the graph has to give the network's very logits."""
    precision = PRECISIONS[wish.bits]
    native = precision in exporter.precisions and wish.method != "search"
    if not native and wish.method not in OWN_METHODS:
        raise ModelLoadError(f"method '{wish.method}' is the builder's own; choose {', '.join(OWN_METHODS)}")
    exporter.export(
        ExportJob(
            source,
            out,
            precision if native else "fp32",
            block=wish.block,
            method=wish.method,
            head=wish.head,
            accuracy=wish.accuracy,
            shared=False if native and wish.bits != 32 else None,  # the embedding is rounded below
            options=wish.options,
        )
    )
    facts: dict[str, Any] = {"precision": precision}
    if wish.bits == 32:
        return facts, True
    if not native:
        from components.compression.onnx.weights import Rounding, round_matrices

        head = wish.bits_of(wish.head)
        how = Rounding(wish.bits, head, wish.block, wish.method == "search", wish.accuracy)
        facts["rounded_matrices"] = round_matrices(out / FILE, how)
    return {**facts, "method": wish.method, "embedding": _embedding(source, out, wish, wish.embedding)}, False


def export_codes(exporter: Exporter, source: Path, out: Path, wish: Wish) -> tuple[dict[str, Any], bool]:
    """Export a model that is quantized, with the codes it has; head and embedding are rounded only if that is asked."""
    if "quantized" not in exporter.kinds:
        raise ModelLoadError("it does not read quantized models; leave out `exporter`, or export before quantizing")
    told = _config(source)["quantization_config"]
    tied, packed = _tied(source), bool(told["lm_head"])
    head = "float" if wish.head == "auto" and not packed else wish.head
    exporter.export(
        ExportJob(
            source,
            out,
            "int4",  # of what has no codes and is rounded all the same: at most the head
            block=wish.block,
            head="auto" if packed else head,
            accuracy=wish.accuracy,
            shared=tied and packed,  # then the directory need not hold the table in float as well
            options=wish.options,
        )
    )
    embedding = "float" if wish.embedding == "auto" and not (tied and packed) else wish.embedding
    facts = {"precision": "as quantized", "bits": told["bits"], "embedding": _embedding(source, out, wish, embedding)}
    rounded = (not packed and head != "float") or embedding not in ("auto", "float")
    return facts, not rounded


def _embedding(source: Path, out: Path, wish: Wish, asked: str) -> dict[str, Any]:
    from components.compression.onnx.embedding import quantize_embedding

    tied = _tied(source)
    return quantize_embedding(out / FILE, wish.bits_of(asked), wish.block, tied, any_bits=tied and asked == "auto")


def _config(source: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    return config


def _tied(source: Path) -> bool:
    """Whether the tables of words coming in and going out are one: as the architecture says if the file does not."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    return bool(config.get_text_config().tie_word_embeddings)
