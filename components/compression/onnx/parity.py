"""Whether an exported graph is the network it was made of: logits of prefill and decode, greedy tokens, a batch.

    expected = reference(load_causal_lm(path), rows, steps=8)      # numbers only; the network may go
    found = compare(expected, artifact_path)
    found.worst("prefill")

Both sides see the same token rows: a prompt at once (prefill), then token by token what the network would say
(decode). One of the two is in memory at a time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from components.compression.closeness import TEXTS
from components.core.errors import ArtifactError

PROBES = 3
"""Of the texts: each is decoded token by token, on both sides."""
RANDOM_TOKENS = 24


@dataclass(frozen=True)
class Expected:
    """What the network says to one prompt: `prefill` (tokens, vocabulary), `decode` (steps, vocabulary), `tokens`."""

    prompt: list[int]
    prefill: Any
    decode: Any
    tokens: list[int]


@dataclass
class Distance:
    """How far the graph is from the network in one phase of one probe."""

    probe: int
    phase: str
    position: int
    difference: float
    kl: float


@dataclass
class Parity:
    """Distances of all probes, and how many greedy tokens are the same; of a batch, the rows that differ."""

    distances: list[Distance] = field(default_factory=list)
    equal: int = 0
    tokens: int = 0
    margins: list[tuple[int, int, float]] = field(default_factory=list)
    """(probe, step, how much better the network liked its own token) of each greedy token that differs."""
    batch_equal: int = 0
    batch: int = 0
    batch_margins: list[tuple[int, int, float]] = field(default_factory=list)
    """The same, of the first token of each row of the batch that differs."""

    def worst(self, phase: str) -> Distance:
        """The largest difference of a phase."""
        return max((each for each in self.distances if each.phase == phase), key=lambda each: each.difference)

    def kl(self) -> float:
        """Mean Kullback-Leibler divergence from the network, over probes and phases."""
        return float(np.mean([each.kl for each in self.distances]))

    def facts(self) -> dict[str, Any]:
        """The figures for a manifest."""
        return {
            "prefill": float(f"{self.worst('prefill').difference:.3g}"),
            "decode": float(f"{self.worst('decode').difference:.3g}"),
            "kl": float(f"{self.kl():.3g}"),
            "greedy_tokens": {"equal": self.equal, "of": self.tokens},
            "batch_tokens": {"equal": self.batch_equal, "of": self.batch},
        }


def probe_rows(tokenizer: Any, vocabulary: int, seed: int) -> list[list[int]]:
    """Token rows to compare on: three texts, and random tokens, which no text would bring together."""
    special = set(tokenizer.all_special_ids)
    rows = [[token for token in tokenizer(text)["input_ids"] if token not in special] for text in TEXTS[:PROBES]]
    plain = [token for token in range(min(vocabulary, len(tokenizer))) if token not in special]
    return [*rows, random.Random(seed).choices(plain, k=RANDOM_TOKENS)]


def reference(network: Any, rows: Sequence[Sequence[int]], steps: int) -> list[Expected]:
    """What the network says to each row and to its own greedy answer of so many tokens."""
    import torch

    found = []
    with torch.inference_mode():
        for row in rows:
            said = network(torch.tensor([list(row)]), use_cache=True)
            prefill, cache = said.logits[0].float().numpy(), said.past_key_values
            tokens, logits = [int(prefill[-1].argmax())], []
            for _ in range(steps):
                said = network(torch.tensor([tokens[-1:]]), past_key_values=cache, use_cache=True)
                logits.append(said.logits[0, -1].float().numpy())
                tokens.append(int(logits[-1].argmax()))
            found.append(Expected(list(row), prefill, np.stack(logits), tokens))
    return found


def reference_graph(path: Path, rows: Sequence[Sequence[int]], steps: int) -> list[Expected]:
    """What an exported graph says, in the place of a network: for what is made of the graph."""
    import onnxruntime_genai as og

    model, found = og.Model(str(path)), []
    for row in rows:
        generator = _generator(model, 1, len(row) + steps + 2)
        prefill = _fed(generator, row)
        tokens, logits = [int(prefill[-1].argmax())], []
        for _ in range(steps):
            logits.append(_fed(generator, tokens[-1:])[-1])
            tokens.append(int(logits[-1].argmax()))
        found.append(Expected(list(row), prefill, np.stack(logits), tokens))
    return found


def compare(expected: Sequence[Expected], path: Path, padding: int | None = None) -> Parity:
    """Run the graph in `path` on the same rows, with ONNX Runtime GenAI. `padding`: token that fills up a batch."""
    import onnxruntime_genai as og

    model = og.Model(str(path))
    found = Parity()
    for number, row in enumerate(expected):
        _one(model, number, row, found)
    if padding is not None:
        _together(model, expected, padding, _ends(path), found)
    return found


def require_equal(found: Parity, expected: Sequence[Expected], limit: float) -> None:
    """An ArtifactError that says where they part, unless logits are as near as `limit` and greedy tokens follow."""
    for phase in ("prefill", "decode"):
        worst = found.worst(phase)
        if worst.difference > limit:
            raise ArtifactError(
                f"the graph is not the network: at {_where(worst, expected)} logits differ by {worst.difference:.3g}, "
                f"at most {limit:g} is allowed"
            )
    for number, step, margin in [*found.margins, *found.batch_margins]:
        # two tokens that are as near as the logits may differ are a tie
        if margin > 2 * limit:
            batch = "in a batch of rows of different length " * ((number, step, margin) in found.batch_margins)
            raise ArtifactError(
                f"the graph is not the network: {batch}token {step} of the greedy answer to probe {number} is another, "
                f"which the network likes less by {margin:.3g}"
            )


def require_close(found: Parity, expected: Sequence[Expected], limit: float) -> None:
    """An ArtifactError if the mean divergence is above `limit`, with the probe where it is largest."""
    kl = found.kl()
    if not kl <= limit:
        worst = max(found.distances, key=lambda each: each.kl if each.kl == each.kl else float("inf"))
        raise ArtifactError(
            f"the rounded graph is too far from the network: mean KL divergence {kl:.3g}, at most {limit:g} is allowed "
            f"(max_kl); it is {worst.kl:.3g} at {_where(worst, expected)}"
        )


def _where(distance: Distance, expected: Sequence[Expected]) -> str:
    length = len(expected[distance.probe].prompt)
    return f"probe {distance.probe} ({length} tokens), {distance.phase}, position {distance.position}"


def _one(model: Any, number: int, row: Expected, found: Parity) -> None:
    generator = _generator(model, 1, len(row.prompt) + len(row.tokens) + 1)
    prefill = _fed(generator, row.prompt)
    found.distances.append(_distance(number, "prefill", row.prefill, prefill))
    decode = np.concatenate([_fed(generator, [token])[-1:] for token in row.tokens[:-1]])
    found.distances.append(_distance(number, "decode", row.decode, decode))
    for step, (mine, theirs) in enumerate(zip([prefill[-1], *decode], [row.prefill[-1], *row.decode], strict=True)):
        token, wanted = int(mine.argmax()), row.tokens[step]
        found.tokens += 1
        found.equal += token == wanted
        if token != wanted:
            found.margins.append((number, step, float(theirs[wanted] - theirs[token])))


def _together(model: Any, expected: Sequence[Expected], padding: int, ends: set[int], found: Parity) -> None:
    """All probes as one batch of rows of different length: their tokens have to be those of each row alone."""
    width = max(len(row.prompt) for row in expected)
    steps = min(len(row.tokens) for row in expected)
    batch = np.array([row.prompt + [padding] * (width - len(row.prompt)) for row in expected], np.int32)
    generator = _generator(model, len(batch), width + steps + 1, min_length=width + steps)
    generator.append_tokens(batch)
    said = []
    for _ in range(steps):
        generator.generate_next_token()
        said.append([int(token) for token in generator.get_next_tokens()])
    for number, (row, tokens) in enumerate(zip(expected, zip(*said, strict=True), strict=True)):
        # up to an end of turn, which the runtime does not choose before its time
        wanted = list(takewhile(lambda token: token not in ends, row.tokens[:steps]))
        equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, tokens, strict=False)))
        found.batch += len(wanted)
        found.batch_equal += equal
        if equal < len(wanted):
            logits = row.prefill[-1] if equal == 0 else row.decode[equal - 1]
            found.batch_margins.append((number, equal, float(logits[wanted[equal]] - logits[tokens[equal]])))


def _ends(path: Path) -> set[int]:
    told = json.loads((path / "genai_config.json").read_text(encoding="utf-8"))["model"]["eos_token_id"]
    return set(told) if isinstance(told, list) else {told}


def _generator(model: Any, batch: int, length: int, **options: Any) -> Any:
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(batch_size=batch, max_length=length, do_sample=False, **options)
    return og.Generator(model, params)


def _fed(generator: Any, tokens: Sequence[int]) -> Any:
    generator.append_tokens(np.array(tokens, dtype=np.int32))
    return np.asarray(generator.get_output("logits"), dtype=np.float32)[0]


def _distance(probe: int, phase: str, expected: Any, found: Any) -> Distance:
    apart = np.abs(expected - found).max(-1)
    # NaN is the largest difference there is
    apart = np.where(np.isnan(apart), np.inf, apart)
    position = int(apart.argmax())
    return Distance(probe, phase, position, float(apart[position]), _kl(expected, found))


def _kl(expected: Any, found: Any) -> float:
    import torch

    from components.compression.distance import divergence

    p, q = (torch.from_numpy(logits).log_softmax(-1) for logits in (expected, found))
    return float(divergence(p, q).mean())
