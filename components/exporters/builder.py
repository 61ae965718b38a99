"""ONNX Runtime GenAI's model builder: knows about twenty architectures, and writes the runtime's fused attention.

It runs in a process of its own, in an empty folder: importing it puts its folder on `sys.path` and claims top-level
names such as `builders` and `quantization`. Memory it took is given back when that process ends.

    optimize: {int4: [{type: onnx, precision: int4, exporter: builder, extra: {fuse_qkv: false}}]}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from components.core.errors import ModelLoadError
from components.core.kinds import register
from components.interfaces import Exporter, ExportJob

BUILD = """
import json, sys
from onnxruntime_genai.models import builder
job = json.loads(sys.stdin.read())
where = ("", job["source"], job["out"], job["precision"], "cpu", job["cache"])
builder.create_model(*where, **builder.parse_extra_options(*where, job["extra"]))
"""
HEAD = "/lm_head/MatMul"


@register("exporter", "builder")
class BuilderExporter(Exporter):
    """ONNX Runtime GenAI's builder, with fused attention and weights in few bits."""

    place = 1
    kinds = ("model", "quantized")
    precisions = ("fp32", "int8", "int4")
    libraries = ("onnxruntime-genai", "onnxruntime", "onnx-ir", "transformers")

    def export(self, job: ExportJob) -> None:
        from components.compression.onnx.attention import drop_foreign_keys

        with tempfile.TemporaryDirectory(prefix="postmill-onnx-") as scratch:
            order = {
                "source": str(job.source.absolute()),
                "out": str(job.out.absolute()),
                "precision": job.precision,
                "cache": scratch,
                "extra": _options(job),
            }
            # a clean working directory: the builder's own imports would pick up packages that stand in ours
            done = subprocess.run(
                [sys.executable, "-c", BUILD],
                input=json.dumps(order),
                cwd=scratch,
                # it writes the commit of the repository that it is installed below into the graph, which is that of
                # whoever has a virtual environment there: the same model would have other bytes after each commit
                env={**os.environ, "GIT_DIR": os.devnull},
                capture_output=True,
                text=True,
            )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"it ended with status {done.returncode}"]
            raise ModelLoadError(f"the ONNX builder failed on this model ({job.precision}): {last[0]}")
        drop_foreign_keys(job.out / "model.onnx")


def _options(job: ExportJob) -> list[str]:
    """The builder's own options, those of the recipe last: they win, under their older names too (`int4_...`)."""
    options: dict[str, Any] = {}
    if job.precision != "fp32":
        options = {"block_size": job.block, "algo_config": job.method, "accuracy_level": job.accuracy}
        if job.head == "float":
            options["nodes_to_exclude"] = HEAD
        elif job.head not in ("auto", job.precision):
            options["matmul_mixed_precision"] = f"last_matmul:{job.head}"
    if job.shared is not None:
        options["shared_embeddings"] = str(job.shared).lower()
    options |= {key.removeprefix("int4_"): value for key, value in job.options.items()}
    return [f"{key}={value}" for key, value in options.items()]
