"""Packing: several short rows in one sequence, without any token seeing a token of another row.

    train: [{type: sft, packing: true, max_length: 1024, batch_size: 2}]

Padding is work thrown away; packs have next to none. A row in a pack must be trained on exactly as if it stood alone,
so position ids restart at each row, attention is block-diagonal, and no row's first token is predicted from the row
before. Both come from one thing, the restarting position ids without an attention mask: transformers 5 makes a
block-diagonal mask of them for `eager`, `sdpa` and `flex_attention` (one pack a batch row), and FlashAttention's
kernels for rows of any length take them as row boundaries (all packs of a batch in one flat row). What a model makes
of them cannot be seen from outside: `check_packing` measures it before the first step, and refuses layers that carry
state (Mamba, linear attention), models that ignore position ids, and attention without a mask.
On a CPU packing gains nothing over batches of rows of similar length, which hardly pad (SmolLM2-135M, rows of
72 to 179 tokens: between as fast and a fifth slower per trained token). It is meant for GPUs and uneven rows.
Imports torch, so it is imported only when training starts.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from random import Random
from typing import Any

import torch

from components.core.dataset import token_lengths
from components.core.errors import TrainingError

PIECES = (24, 40, 32)
"""Tokens of the rows that `check_packing` compares."""
TOLERANCE = 1e-3
"""Loss of the worst token, packed against alone, in fp32. SmolLM2-135M: rounding makes 2e-5, contamination 15."""
HALF_TOLERANCE = 0.7
"""The same in bf16 or fp16: twice the most that rounding makes of SmolLM2-135M (0.33); contamination is still 15."""
GLUED = 0.1
"""Packed rows may come at most this near, as a fraction, to the damage done by rows that are simply glued together."""
LEAK = 1e-5
"""The same, when only the text of other rows changes, in fp32: exactly 0 in most models, as all shapes stay."""
COUNTS = ("tokens", "rows")
"""What a batch of packs brings beside what the model takes: how many tokens and rows are in it."""
NOISE = 1e-6
"""Differences below this are rounding in any dtype: a model without influence between tokens cannot be contaminated."""


def best_fit(lengths: Sequence[int], capacity: int, seed: int) -> list[list[int]]:
    """Row numbers of each pack: rows from long to short, each into the fullest pack that still has room for it.

    The seed decides which of several rows of equal length goes where.
    """
    if max(lengths, default=0) > capacity:
        raise TrainingError(f"a row of {max(lengths)} tokens fits into no pack of max_length={capacity}")
    rows = list(range(len(lengths)))
    Random(seed).shuffle(rows)
    packs: list[list[int]] = []
    free: list[int] = []  # the different amounts of room left, ascending
    having: dict[int, list[int]] = {}  # packs by the room they have
    for row in sorted(rows, key=lambda row: -lengths[row]):
        at = bisect_left(free, lengths[row])
        if at == len(free):
            pack, room = len(packs), capacity
            packs.append([])
        else:
            room = free[at]
            pack = having[room].pop()
            if not having[room]:
                del having[room], free[at]
        packs[pack].append(row)
        room -= lengths[row]
        if room and room not in having:
            insort(free, room)
        if room:
            having.setdefault(room, []).append(pack)
    return packs


class PackedRows(torch.utils.data.Dataset):  # type: ignore[misc]
    """Tokenised rows seen as packs; a pack is put together when it is asked for."""

    def __init__(self, rows: Any, capacity: int, seed: int) -> None:
        lengths = token_lengths(rows)
        self.rows, self.packs = rows, best_fit(lengths, capacity, seed)
        self.tokens, self.places = sum(lengths), len(self.packs) * capacity

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        rows = self.rows[self.packs[number]]
        return {
            "input_ids": list(chain.from_iterable(rows["input_ids"])),
            # the first token of a row is nobody's successor
            "labels": list(chain.from_iterable([-100, *labels[1:]] for labels in rows["labels"])),
            "seq_lengths": [len(ids) for ids in rows["input_ids"]],
        }

    def figures(self) -> dict[str, float]:
        """Number of packs, and the fraction of their positions that holds a token."""
        return {"packs": len(self.packs), "fill": round(self.tokens / self.places, 4)}


@dataclass(frozen=True)
class PackCollator:
    """A batch of packs: one pack a row, padded on the right, or `flat`, all packs in a single row.

    `tokens` and `rows` count what is in it, which the model is not told.
    """

    pad: int
    flat: bool

    def __call__(self, packs: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
        ids = [pack["input_ids"] for pack in packs]
        batch = {
            "input_ids": self._tensor(ids, self.pad),
            "labels": self._tensor([pack["labels"] for pack in packs], -100),
            # a pad is a row of one token: position 0, seen by itself only
            "position_ids": self._tensor([restarting(pack["seq_lengths"]) for pack in packs], 0),
        }
        rows = sum(len(pack["seq_lengths"]) for pack in packs)
        return {**batch, "tokens": torch.tensor(sum(map(len, ids))), "rows": torch.tensor(rows)}

    def _tensor(self, rows: list[list[int]], filler: int) -> Any:
        if self.flat:
            return torch.tensor([list(chain.from_iterable(rows))])
        width = max(map(len, rows))
        return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def restarting(lengths: Sequence[int]) -> list[int]:
    """Position ids that begin at 0 for each row."""
    return [position for length in lengths for position in range(length)]


def wants_flat(network: Any) -> bool:
    """Whether the attention implementation separates rows only in a batch of one flat row (FlashAttention)."""
    from transformers.utils.generic import is_flash_attention_requested

    return bool(is_flash_attention_requested(network.config.get_text_config()))


def check_packing(network: Any, rows: Sequence[Sequence[int]]) -> None:
    """Refuse a model that computes another loss for packed rows than for the same rows alone.

    Measured on a few tokens of the data. As a control the rows are also glued together without any separation, which
    tells what contamination looks like on this model: one that cannot keep rows apart has packed = glued, however
    small both are. And the last row's loss may not move at all when the rows before it are replaced.
    """
    stream = islice(cycle(chain.from_iterable(rows)), sum(PIECES))
    pieces = [list(islice(stream, length)) for length in PIECES]
    training = network.training
    network.eval()
    try:
        moved, glued, leaked = _measure(network, pieces)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise _refusal(network, f"its forward pass fails on them ({error})") from error
    finally:
        network.train(training)
    tolerance, leak = (HALF_TOLERANCE, HALF_TOLERANCE) if _is_half(network) else (TOLERANCE, LEAK)
    allowed = max(NOISE, min(tolerance, GLUED * glued))
    if not (moved <= allowed and leaked <= leak):  # a NaN is refused too
        raise _refusal(
            network,
            f"the loss of a token moves by {moved:.2g} when its row is packed (allowed {allowed:.2g}; rows that are "
            f"not kept apart at all move it by {glued:.2g}), and by {leaked:.2g} with the text of other rows",
        )


def _measure(network: Any, pieces: list[list[int]]) -> tuple[float, float, float]:
    """How far the loss of a token is moved by packing, by glueing, and by other text in the rows before it."""
    alone = torch.cat([_losses(network, [piece], restarting) for piece in pieces])
    packed = _losses(network, pieces, restarting)
    glued = _losses(network, pieces, lambda lengths: list(range(sum(lengths))))
    replaced = _losses(network, [*(piece[::-1] for piece in pieces[:-1]), pieces[-1]], restarting)
    last = 1 - len(pieces[-1])
    return _distance(alone, packed), _distance(alone, glued), _distance(packed[last:], replaced[last:])


def _losses(network: Any, pieces: list[list[int]], positions: Any) -> Any:
    """Loss of every token that has a predecessor in its own row."""
    lengths = [len(piece) for piece in pieces]
    ids = torch.tensor([list(chain.from_iterable(pieces))], device=network.device)
    places = torch.tensor([positions(lengths)], device=network.device)
    with torch.no_grad():
        logits = network(input_ids=ids, position_ids=places, use_cache=False).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    inside = torch.tensor(restarting(lengths)[1:], device=losses.device) > 0
    return losses[inside].cpu()


def _distance(one: Any, other: Any) -> float:
    return float((one - other).abs().max())


def _is_half(network: Any) -> bool:
    return torch.is_autocast_enabled(network.device.type) or network.dtype in (torch.bfloat16, torch.float16)


def _refusal(network: Any, reason: str) -> TrainingError:
    config = network.config.get_text_config()
    return TrainingError(
        f"a model of type '{config.model_type}' (attention '{config._attn_implementation}') cannot be trained on "
        f"packed rows: {reason}. Its layers carry state across rows, ignore position ids or make no mask of them; "
        "set packing: false"
    )
