"""Olive's own way to 4 bits, run by the Python of its environment: MODEL OUT; prints the seconds it took as JSON.

Nothing of Postmill is imported. The model directory was written by newer libraries than Olive works with; what they
call differently is written under both names, so that both read the same network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


def readable(model: Path, out: Path) -> Path:
    """A copy whose configuration transformers 4 understands."""
    shutil.copytree(model, out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    config |= {"rope_theta": rope.get("rope_theta", 10000.0), "torch_dtype": config.get("dtype", "float32")}
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = out / "tokenizer_config.json"
    described = json.loads(tokenizer.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    tokenizer.write_text(json.dumps(described), encoding="utf-8")
    return out


def main() -> None:
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    source = readable(model, out.with_name(out.name + "-source"))
    command = [sys.executable, "-m", "olive", "optimize", "-m", str(source), "-o", str(out)]
    command += ["--precision", "int4", "--exporter", "model_builder", "--device", "cpu", "--disable_telemetry"]
    started = time.perf_counter()
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    # from a folder of its own: it takes a word that is also the name of a file here for a path
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=offline, cwd=source)
    found = sorted(out.rglob("genai_config.json"))
    if done.returncode or not found:
        sys.exit((done.stderr or done.stdout)[-3000:] or "olive wrote no model for the generator")
    print(json.dumps({"seconds": time.perf_counter() - started, "model": str(found[0].parent)}))


if __name__ == "__main__":
    main()
