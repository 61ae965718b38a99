"""Weights in 8 or 4 bits by bitsandbytes: what transformers loads in few bits by itself, no calibration.

    optimize: {nf4: [{type: merge_adapter}, {type: quantize_bnb, bits: 4}]}

8 bits: LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339), outlying inputs in 16 bits. 4 bits: NF4 with double
quantization (QLoRA, arXiv:2305.14314) or FP4. The directory opens in PyTorch wherever bitsandbytes has code for the
device, CPUs among them; there it saves memory, not time. For the fastest small model on a CPU take ONNX (`onnx`).

What was written is loaded again and has to hold the same bits; its distance to the source is measured then.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ArtifactError, ConfigError, require
from components.core.kinds import register
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import Pass, StepContext

Compute = Literal["float32", "bfloat16", "float16"]


@register("pass", "quantize_bnb")
class QuantizeBnb(Pass):
    """Round weights to 8 or 4 bits with bitsandbytes, as transformers loads them."""

    consumes = ("model",)
    produces = "packed"
    not_after = frozenset({"quantized"})
    libraries = ("torch", "transformers", "bitsandbytes")
    extras: ClassVar[Mapping[str, str]] = {"bitsandbytes": "qlora"}

    class Config(StrictConfig):
        bits: Literal[4, 8] = 4
        type_4bit: Literal["nf4", "fp4"] = "nf4"
        double: bool = True
        compute: Compute = "float32"

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset({"quantized"})

    def estimated_bytes(self, parameters: int) -> int:
        # embedding and head, a fifth of a small model's weights, stay as they are
        return int(parameters * (0.8 * (self.config.bits + 0.5) + 0.2 * 32) / 8)

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        wanted = self._wanted()
        from components.compression.closeness import distance, logits_of, probe_rows

        tokenizer = load_tokenizer(source.path)
        rows = probe_rows(tokenizer)
        before = logits_of(load_causal_lm(source.path), rows)
        network = load_causal_lm(source.path, self.config.compute, wanted)
        # before it runs: on a CPU bitsandbytes 0.50 turns 4-bit weights into another order then, and not rightly back
        network.save_pretrained(out, safe_serialization=True)
        tokenizer.save_pretrained(out)
        again = load_causal_lm(out, self.config.compute)
        _require_equal(network.state_dict(), again.state_dict())
        return {"bits": self.config.bits, **distance(before, logits_of(again, rows))}

    def _wanted(self) -> Any:
        """transformers' configuration; a ConfigError where bitsandbytes has no code for the device."""
        library = require("bitsandbytes", "qlora")
        import torch
        from transformers import BitsAndBytesConfig

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device not in getattr(library, "supported_torch_devices", {"cuda"}):
            raise ConfigError(
                f"quantize_bnb: bitsandbytes {library.__version__} has no code for the device '{device}'; "
                "install postmill[qlora] anew, or take another pass: onnx, quantize_gptq"
            )
        if self.config.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.config.type_4bit,
            bnb_4bit_use_double_quant=self.config.double,
            bnb_4bit_compute_dtype=getattr(torch, self.config.compute),
        )


def _require_equal(made: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """An ArtifactError if what was stored is not what was made, bit by bit."""
    import torch

    other = [name for name, value in made.items() if name not in found or not torch.equal(value, found[name])]
    if other:
        raise ArtifactError(f"loaded again, {', '.join(other[:3])} differ: bitsandbytes did not store all it needs")
