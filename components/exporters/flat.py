"""Own export: a wrapper with flat keys and values as inputs and outputs, traced by PyTorch (`dynamo=True`).

Takes every decoder that `torch.export` can trace with a dynamic cache, and keeps the attention mask as an input. The
graph is plain ONNX operators, not the runtime's fused attention: right, but slower than the builder's.

    optimize: {plain: [{type: onnx, precision: fp32, exporter: flat}]}
"""

from __future__ import annotations

from components.core.errors import ModelLoadError
from components.core.kinds import register
from components.interfaces import Exporter, ExportJob


@register("exporter", "flat")
class FlatExporter(Exporter):
    """PyTorch's own exporter, on a wrapper with flat keys and values."""

    place = 3
    libraries = ("torch", "transformers", "onnxscript", "onnx")

    def export(self, job: ExportJob) -> None:
        from components.compression.onnx.flat_graph import export_flat
        from components.core.safeload import load_causal_lm

        if job.options:
            raise ModelLoadError(f"exporter 'flat' has no options, found {', '.join(job.options)}; leave out `extra`")
        export_flat(load_causal_lm(job.source), job.out)
