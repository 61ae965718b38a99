"""The parity check: what it measures, and that it finds a graph that is not the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.compression.onnx.parity import (
    Distance,
    Expected,
    Parity,
    probe_rows,
    reference,
    require_close,
    require_equal,
)
from components.core.errors import ArtifactError
from tests import tiny

ROWS = [Expected([5, 6, 7], np.zeros((3, 4), np.float32), np.zeros((2, 4), np.float32), [1, 2, 3])]


def found(**changes: Any) -> Parity:
    """A parity in which nothing is wrong, with changes."""
    distances = [Distance(0, "prefill", 2, 1e-6, 0.0), Distance(0, "decode", 1, 2e-6, 0.0)]
    return Parity(**({"distances": distances, "equal": 3, "tokens": 3} | changes))


def test_equal_networks_pass() -> None:
    """Differences below the limit are no failure, and their figures are told (E24)."""
    require_equal(found(), ROWS, 1e-3)
    assert found().facts()["decode"] == 2e-6
    assert found().facts()["greedy_tokens"] == {"equal": 3, "of": 3}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_failure_says_where(phase: str) -> None:
    """A failure names probe, phase, position and how far the logits are apart (E24)."""
    good = Distance(0, "decode" if phase == "prefill" else "prefill", 0, 1e-6, 0.0)
    wrong = found(distances=[good, Distance(0, phase, 1, 0.25, 0.1)])
    with pytest.raises(ArtifactError, match=rf"probe 0 \(3 tokens\), {phase}, position 1 logits differ by 0.25"):
        require_equal(wrong, ROWS, 1e-3)


def test_nan_is_a_failure() -> None:
    """Logits that are no numbers never count as near (E24)."""
    wrong = found(distances=[Distance(0, "prefill", 0, float("inf"), float("nan")), Distance(0, "decode", 0, 0.0, 0.0)])
    with pytest.raises(ArtifactError, match="logits differ by inf"):
        require_equal(wrong, ROWS, 1e-3)
    with pytest.raises(ArtifactError, match="mean KL divergence nan"):
        require_close(wrong, ROWS, 1.0)


def test_a_tie_may_go_either_way() -> None:
    """Another token is a failure only where the network clearly preferred its own, alone and in a batch (E24)."""
    require_equal(found(margins=[(0, 1, 1e-4)]), ROWS, 1e-3)
    with pytest.raises(ArtifactError, match="token 1 of the greedy answer to probe 0 is another"):
        require_equal(found(margins=[(0, 1, 0.5)]), ROWS, 1e-3)
    with pytest.raises(ArtifactError, match="in a batch of rows of different length token 2"):
        require_equal(found(batch_margins=[(0, 2, 0.5)]), ROWS, 1e-3)


def test_rounding_has_a_bound() -> None:
    """Weights that were rounded may be as far as the bound says, and the message names the worst probe (E28)."""
    near = found(distances=[Distance(0, "prefill", 0, 1.0, 0.01), Distance(0, "decode", 0, 1.0, 0.03)])
    require_close(near, ROWS, 0.05)
    with pytest.raises(ArtifactError, match=r"KL divergence 0.02, at most 0.01 .* 0.03 at probe 0 .*, decode"):
        require_close(near, ROWS, 0.01)


def test_probes_hold_no_special_tokens() -> None:
    """Rows are the same for the same seed, and hold no token that ends or pads a row (E24)."""
    tokenizer = tiny.tokenizer()
    rows = probe_rows(tokenizer, 259, 17)
    assert rows == probe_rows(tokenizer, 259, 17)
    assert rows != probe_rows(tokenizer, 259, 18)
    assert not set(tokenizer.all_special_ids) & {token for row in rows for token in row}


def test_reference_decodes_with_the_cache() -> None:
    """Logits of decode steps are those of the whole row at once (E24)."""
    import torch

    network = tiny.network()
    said = reference(network, [[5, 6, 7, 8]], 3)[0]
    with torch.inference_mode():
        whole = network(torch.tensor([[5, 6, 7, 8, *said.tokens]])).logits[0].numpy()
    assert np.abs(whole[:4] - said.prefill).max() < 1e-4
    assert np.abs(whole[4:7] - said.decode).max() < 1e-4
    assert said.tokens == whole[3:7].argmax(-1).tolist()
