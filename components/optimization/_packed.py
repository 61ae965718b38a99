"""What the passes `compressed_tensors` and `gptq_layout` share: pack, write, read back, compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ArtifactError
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import Pass, StepContext


class PackedConfig(StrictConfig):
    """`bits`, `group` and `symmetric` round a model to nearest; what is quantized already keeps its own."""

    bits: Literal[4, 8] = 4
    group: Literal[32, 64, 128] = 32
    symmetric: bool = False
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    max_logit_difference: PositiveFloat = 1e-2


class PackedExport(Pass):
    """Write linear layers in few bits in the layout of another server; embedding and head stay in `dtype`."""

    consumes = ("model", "quantized")
    produces = "packed"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    method: ClassVar[str]
    Config: ClassVar[type[StrictConfig]] = PackedConfig
    config: Any

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset({"quantized"})

    @classmethod
    def refusal(cls, config: Any, kind: str, effects: frozenset[str]) -> str | None:
        if kind == "model" and "quantized" in effects:
            return "would round weights that a pass before it has rounded; give it what that pass wrote, or the model"
        return super().refusal(config, kind, effects)

    def estimated_bytes(self, parameters: int) -> int:
        # embedding and head in 16 bits may be a fifth of the weights
        return int(parameters * (0.8 * (self.config.bits + 20 / self.config.group) + 0.2 * 16) / 8)

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        import torch

        from components.compression.closeness import distance, logits_of, probe_rows
        from components.compression.quantization.packed_layouts import LAYOUTS, load_packed, save_packed

        network, codes = self._codes(source)
        rows = probe_rows(load_tokenizer(source.path))
        before = logits_of(network, rows)
        dtype = getattr(torch, self.config.dtype)
        stored = save_packed(source.path, network, codes, LAYOUTS[self.method], dtype, out)
        expected = _as_stored(network, stored, dtype)
        found = logits_of(load_packed(out), rows)
        return {
            "bits": sorted({each.grid.bits for each in stored.values()}),
            "matrices": len(stored),
            **distance(before, found),
            **self._checked(out, rows, expected, found),
        }

    def _codes(self, source: Artifact) -> tuple[Any, Any]:
        """The network in float32, and the matrices of its blocks in few bits."""
        from dataclasses import replace

        from components.compression.layers import block_linears
        from components.compression.quantization.checkpoint import load_quantized, read_codes
        from components.compression.quantization.grid import Grid, round_to_nearest

        if source.kind == "model":
            grid = Grid(self.config.bits, self.config.group, self.config.symmetric)
            network = load_causal_lm(source.path)
            for name, module in block_linears(network).items():
                grid.check(module.in_features, name)
            return network, {n: round_to_nearest(m.weight.detach(), grid) for n, m in block_linears(network).items()}
        network = load_quantized(source.path)
        inside = block_linears(network)
        codes = {name: found for name, found in read_codes(source.path)[0].items() if name in inside}
        symmetric = all(bool((found.zeros == 2 ** (found.grid.bits - 1)).all()) for found in codes.values())
        for found in codes.values():
            found.grid = replace(found.grid, symmetric=symmetric)
        return network, codes

    def _checked(self, out: Path, rows: Any, expected: Any, found: Any) -> dict[str, Any]:
        """Parity of what was written, by our own reader of the layout. `expected`: the network of the codes."""
        from components.compression.closeness import logits_of

        worst = self.require_same(logits_of(expected, rows), found)
        return {"max_logit_difference": worst, "checked_with": "own reader of the layout"}

    def require_same(self, expected: Any, found: Any) -> float:
        """The largest difference of two logits, or an ArtifactError if it is beyond rounding."""
        from components.compression.closeness import worst_difference

        worst = worst_difference(expected, found)
        if not worst <= self.config.max_logit_difference:  # NaN is never close
            raise ArtifactError(
                f"the {self.method} layout gives logits that differ by {worst:.4g} from those of the codes it was made "
                f"of (at most {self.config.max_logit_difference:g} allowed): it was packed wrongly"
            )
        return worst


def _as_stored(network: Any, stored: Mapping[str, Any], dtype: Any) -> Any:
    """The network with what the layout holds of it: codes with scales in `dtype`, everything else in `dtype`."""
    import torch

    with torch.no_grad():
        for value in network.state_dict().values():
            value.copy_(value.to(dtype))
        for name, codes in stored.items():
            codes.scales = codes.scales.to(dtype).float()
            network.get_submodule(name).weight.copy_(codes.dequantize())
    return network
