"""What a student is: another model with the same tokenizer, or the teacher with fewer layers, heads and channels."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, PositiveInt, Tag

from components.core.component import StrictConfig
from components.core.recipe import OfKind, Spec
from components.interfaces import StepContext


class Shape(StrictConfig):
    """A student that begins with the teacher's own weights: what it has of them, as a share or (from 1 on) a count."""

    layers: float | None = Field(0.5, gt=0, description="decoder blocks, those with the most influence")
    intermediate: float | None = Field(None, gt=0, description="channels of an MLP, those that give most of its output")
    heads: float | None = Field(None, gt=0, description="groups of attention heads, likewise")
    multiple: PositiveInt = Field(32, description="divides the number of channels")


def _kind(raw: Any) -> str:
    return "model" if isinstance(raw, Spec) or (isinstance(raw, dict) and "type" in raw) else "shape"


Student = Annotated[
    Annotated[Shape, Tag("shape")] | Annotated[Spec, OfKind("model"), Tag("model")],
    Discriminator(_kind),
]


def shrunk(network: Any, rows: Any, shape: Shape, context: StepContext) -> dict[str, Any]:
    """Make a network the student of this shape, in place; returns what was taken away."""
    from components.compression.layers import decoder_layers
    from components.compression.pruning.depth import choose_layers, remove_layers, share_of
    from components.compression.pruning.influence import Blocks
    from components.compression.pruning.width import Cuts, attention_of, channels_of, narrow

    facts: dict[str, Any] = {}
    total = len(decoder_layers(network))
    if shape.layers is not None:
        gone = total - share_of(shape.layers, total, "layers")
        removed, influence = choose_layers(Blocks(network), rows, gone, "influence", context.bus)
        remove_layers(network, removed)
        facts |= {"layers_before": total, "removed_layers": removed, "block_influence": influence}
    block = decoder_layers(network)[0]
    groups = channels = None
    if shape.heads is not None:
        groups = share_of(shape.heads, attention_of(network, block).groups, "heads")
    if shape.intermediate is not None:
        wide = channels_of(network, block)
        channels = max(share_of(shape.intermediate, wide, "intermediate") // shape.multiple, 1) * shape.multiple
        facts |= {"channels_before": wide, "channels": channels}
    if groups or channels:
        facts |= narrow(network, rows, Cuts(groups, channels))
    return facts
