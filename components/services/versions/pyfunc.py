"""The registered model as MLflow sees it: `mlflow.pyfunc.load_model("models:/triage@staging").predict([...])`.

MLflow copies this file beside the weights and runs it, so it stands alone: no import from Postmill, no pickle.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import mlflow


class ChatModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Answers a list of user messages greedily, through ONNX Runtime GenAI."""

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["model"])
        if not (folder / "genai_config.json").is_file():
            raise RuntimeError(
                f"'{folder}' holds no ONNX model, the one kind that this code opens; ask the version with: "
                "postmill generate MODEL@alias PROMPT"
            )
        import onnxruntime_genai as og

        config = og.Config(str(folder))
        config.overlay(json.dumps(_threads(folder)))
        self.model = og.Model(config)
        self.tokenizer = og.Tokenizer(self.model)
        self.system = (context.model_config or {}).get("system")

    def predict(self, context: Any, model_input: list[str], params: dict[str, Any] | None = None) -> list[str]:
        limit = int((params or {}).get("max_new_tokens", 256))
        return [self._answer(text, limit) for text in model_input]

    def _answer(self, text: str, limit: int) -> str:
        import onnxruntime_genai as og

        messages = [{"role": "user", "content": text}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        prompt = self.tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
        ids = self.tokenizer.encode(prompt)
        params = og.GeneratorParams(self.model)
        params.set_search_options(max_length=len(ids) + limit, do_sample=False)
        generator = og.Generator(self.model, params)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        return str(self.tokenizer.decode(generator.get_sequence(0)[len(ids) :]))


def _threads(folder: Path) -> dict[str, Any]:
    """One a core, unless the model says it: in many virtual machines the runtime counts half of the cores."""
    decoder = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    if "intra_op_num_threads" in decoder.get("session_options", {}):
        return {}
    place = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    halves = [Path(place.format(cpu)) for cpu in os.sched_getaffinity(0)]
    cores = len({half.read_text() if half.is_file() else str(half) for half in halves})
    return {"model": {"decoder": {"session_options": {"intra_op_num_threads": cores}}}}


mlflow.models.set_model(ChatModel())
