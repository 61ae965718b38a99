"""transformers' own exporter (`transformers.exporters`), one graph for prefill and decode.

Takes what `torch.export` takes. The library calls it experimental, so the parity check of the pass decides.

    optimize: {traced: [{type: onnx, precision: fp32, exporter: transformers}]}
"""

from __future__ import annotations

from components.core.errors import ModelLoadError
from components.core.kinds import register
from components.interfaces import Exporter, ExportJob


@register("exporter", "transformers")
class TransformersExporter(Exporter):
    """transformers' own ONNX exporter, one graph for prefill and decode."""

    place = 2
    libraries = ("torch", "transformers", "onnxscript", "onnx")

    def export(self, job: ExportJob) -> None:
        from components.compression.onnx.traced_graph import export_traced
        from components.core.safeload import load_causal_lm

        if job.options:
            names = ", ".join(job.options)
            raise ModelLoadError(f"exporter 'transformers' has no options, found {names}; leave out `extra`")
        export_traced(load_causal_lm(job.source), job.out)
