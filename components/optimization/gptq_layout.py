"""Way out to servers that read GPTQ checkpoints (vLLM, GPTQModel, ONNX Runtime GenAI's builder): codes in GPTQ's words.

    optimize: {gptq: [{type: merge_adapter}, {type: gptq_layout, bits: 4, group: 128, symmetric: true}]}

This is the layout, not the method: a model is rounded to nearest, a model that is quantized keeps its codes, however
they were found. The first format of GPTQ stores zero points less one and so cannot hold 0: a group with that zero
point is rounded once more. vLLM's fast kernels for this layout take symmetric grids only; for others
`compressed_tensors` is the better way out.

Parity: read back by our own reader of the layout. vLLM itself is not tried.
"""

from __future__ import annotations

from components.core.kinds import register
from components.optimization._packed import PackedExport


@register("pass", "gptq_layout")
class GptqLayout(PackedExport):
    """Write linear layers in GPTQ's checkpoint layout, for vLLM and others."""

    method = "gptq"
