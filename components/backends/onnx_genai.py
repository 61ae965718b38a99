"""ONNX Runtime GenAI: runs the exported variants, the way they will be served."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import Field

from components.compression.onnx.adapters import loaded
from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ModelLoadError
from components.core.health import Health
from components.core.kinds import register
from components.core.machine import compute_threads
from components.core.safeload import check_model_directory, load_tokenizer
from components.interfaces import Backend, Generation


@register("backend", "onnx_genai")
class OnnxGenaiBackend(Backend):
    """Exported models through ONNX Runtime GenAI."""

    serves = ("onnx",)
    libraries = ("onnxruntime", "onnxruntime-genai")

    class Config(StrictConfig):
        adapter: str | None = Field(
            None, description="of those beside the graph; 'base' for none; without it the one that the artifact names"
        )

    config: Config
    _model: Any = None
    _adapter: tuple[Any, str] | None = None

    def open(self, artifact: Artifact, parents: Mapping[str, Artifact]) -> None:
        import onnxruntime_genai as og

        check_model_directory(artifact.path)
        try:
            config = og.Config(str(artifact.path))
            config.overlay(json.dumps(_threads(artifact)))
            self._model = og.Model(config)
        except Exception as error:  # the binding raises bare Exception and RuntimeError
            raise ModelLoadError(f"ONNX Runtime cannot load '{artifact.path}': {error}") from error
        self._path = artifact.path
        self._adapter = loaded(self._model, artifact.path, self.config.adapter)

    def close(self) -> None:
        self._model = self._adapter = None

    def health(self) -> Health:
        if self._model is None:
            return Health("degraded", "not opened")
        return Health("ok", f"'{self._path}' is open")

    @cached_property
    def tokenizer(self) -> Any:
        # on demand: transformers takes seconds and memory that a server with its own tokenizer does not need
        return load_tokenizer(self._path)

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: bool = True) -> list[Generation]:
        import numpy as np

        width = max(len(prompt) for prompt in prompts)
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        # right padding: the fused attention of exported graphs counts real tokens from the left
        batch = np.array([list(p) + [pad] * (width - len(p)) for p in prompts], dtype=np.int32)
        length = width + max_new_tokens
        # below min_length the runtime never chooses the end of turn
        generator = self._generator(len(prompts), length, min_length=0 if stop else length)
        generator.append_tokens(batch if len(prompts) > 1 else batch[0])
        answers: list[list[int]] = [[] for _ in prompts]
        for _ in range(max_new_tokens):
            if generator.is_done():
                break
            generator.generate_next_token()
            for answer, token in zip(answers, generator.get_next_tokens(), strict=True):
                if not answer or answer[-1] != end:
                    answer.append(int(token))
        return [self._generation(answer, end) for answer in answers]

    def _generation(self, ids: list[int], end: int) -> Generation:
        finished = bool(ids) and ids[-1] == end
        kept = ids[:-1] if finished else ids
        return Generation(self.tokenizer.decode(kept, skip_special_tokens=True), len(ids), finished)

    def stream(self, prompt: Sequence[int], max_new_tokens: int, stop: bool = True) -> Iterator[int]:
        import numpy as np

        length = len(prompt) + max_new_tokens
        # below min_length the runtime never chooses the end of turn
        generator = self._generator(1, length, min_length=0 if stop else length)
        generator.append_tokens(np.array(list(prompt), dtype=np.int32))
        for _ in range(max_new_tokens):
            if generator.is_done():
                return
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])

    def logits(self, ids: Sequence[int]) -> Any:
        import numpy as np

        generator = self._generator(1, len(ids) + 1)
        generator.append_tokens(np.array(list(ids), dtype=np.int32))
        return np.asarray(generator.get_output("logits"), dtype=np.float32)[0]

    def _generator(self, batch_size: int, max_length: int, **options: Any) -> Any:
        import onnxruntime_genai as og

        params = og.GeneratorParams(self._model)
        params.set_search_options(batch_size=batch_size, max_length=max_length, do_sample=False, **options)
        generator = og.Generator(self._model, params)
        if self._adapter is not None:
            generator.set_active_adapter(*self._adapter)
        return generator


def _threads(artifact: Artifact) -> dict[str, Any]:
    """The runtime counts cores from what the processor says of itself, which in many virtual machines is half of what
    there is; the kernel knows. What the artifact's own configuration says (`runtime_options`) stays."""
    decoder = artifact.read_json("genai_config.json")["model"]["decoder"]
    if "intra_op_num_threads" in decoder.get("session_options", {}):
        return {}
    return {"model": {"decoder": {"session_options": {"intra_op_num_threads": compute_threads()}}}}
