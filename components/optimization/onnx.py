"""Export to ONNX with ONNX Runtime GenAI's builder: fp32, or weights rounded to 8 or 4 bits (MatMulNBits).

    optimize: {int4: [{type: merge_adapter}, {type: onnx, precision: int4}]}

The builder runs in a process of its own: importing it puts its folder on `sys.path` and claims top-level names such
as `builders` and `quantization`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from components.core.artifacts import Artifact, write_json
from components.core.component import StrictConfig
from components.core.errors import ModelLoadError
from components.core.kinds import register
from components.core.safeload import check_model_directory, load_tokenizer
from components.interfaces import Pass, StepContext

BUILD = """
import json, sys
from onnxruntime_genai.models import builder
job = json.loads(sys.stdin.read())
where = ("", job["source"], job["out"], job["precision"], "cpu", job["cache"])
builder.create_model(*where, **builder.parse_extra_options(*where, job["extra"]))
"""


@register("pass", "onnx")
class OnnxExport(Pass):
    """Export to ONNX (fp32, int8 or int4 weights) for ONNX Runtime GenAI."""

    consumes = ("model",)
    produces = "onnx"
    libraries = ("onnxruntime-genai", "onnxruntime", "onnx-ir", "transformers")
    bits: ClassVar[Mapping[str, int]] = {"fp32": 32, "int8": 8, "int4": 4}

    class Config(StrictConfig):
        precision: Literal["fp32", "int8", "int4"] = "int4"
        extra: dict[str, str | int | bool] = {}

    config: Config

    def estimated_bytes(self, parameters: int) -> int:
        # scales and the parts that stay in float add about a quarter
        return int(parameters * self.bits[self.config.precision] / 8 * 1.25)

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        check_model_directory(source.path)
        with tempfile.TemporaryDirectory(prefix="postmill-onnx-") as scratch:
            job = {
                "source": str(source.path),
                "out": str(out),
                "precision": self.config.precision,
                "cache": scratch,
                "extra": [f"{key}={value}" for key, value in self.config.extra.items()],
            }
            # a clean working directory: the builder's own imports would pick up packages that stand in ours
            done = subprocess.run(
                [sys.executable, "-c", BUILD], input=json.dumps(job), cwd=scratch, capture_output=True, text=True
            )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ModelLoadError(f"the ONNX builder failed on this model ({self.config.precision}): {last[0]}")
        load_tokenizer(source.path).save_pretrained(out)
        _separate_padding(out)
        return {"precision": self.config.precision}


def _separate_padding(out: Path) -> None:
    """Tell the runtime the tokenizer's own padding token: it masks every padding token at the end of a row."""
    path = out / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    pad = load_tokenizer(out).pad_token_id
    if pad is not None:
        config["model"]["pad_token_id"] = pad
        write_json(path, config)
