"""GGUF files: through llama.cpp where `llama-cpp-python` is installed, else expanded to float32 by transformers.

    pip install 'postmill[llamacpp]'        # builds llama.cpp; some minutes

Both give the file's own weights. Only llama.cpp computes with them in few bits, as the file will be served; timings
through transformers are those of a float32 network. `health` says which one runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from components.backends.torch import TorchBackend
from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import require
from components.core.health import Health
from components.core.kinds import register
from components.core.safeload import check_model_directory, explained, gguf_file, load_gguf, load_tokenizer
from components.interfaces import Backend, Generation


class Expanded(TorchBackend):
    """The file's network in float32, in PyTorch."""

    def open(self, artifact: Artifact, parents: Mapping[str, Artifact]) -> None:
        require("gguf", "gguf")
        self._tokenizer = load_tokenizer(artifact.path)
        self._model = load_gguf(artifact.path)


class LlamaCpp:
    """llama.cpp on the one GGUF file of a directory."""

    def __init__(self, path: Path, context: int, threads: int | None) -> None:
        llama_cpp = require("llama_cpp", "llamacpp")
        check_model_directory(path)
        file = gguf_file(path)
        with explained(f"llama.cpp cannot load '{file}'", path):
            # logits of every position: a language model's distance to another is measured on all of them
            self._llama = llama_cpp.Llama(str(file), n_ctx=context, n_threads=threads, logits_all=True, verbose=False)

    def close(self) -> None:
        self._llama.close()

    def stream(self, prompt: Sequence[int], count: int, end: int | None) -> Iterator[int]:
        """Greedy tokens, up to and with `end`."""
        self._llama.reset()
        self._llama.eval(list(prompt))
        for _ in range(count):
            token = int(self._llama.scores[self._llama.n_tokens - 1].argmax())
            yield token
            if token == end:
                return
            self._llama.eval([token])

    def logits(self, ids: Sequence[int]) -> Any:
        """Logits at every position."""
        import numpy as np

        self._llama.reset()
        self._llama.eval(list(ids))
        return np.array(self._llama.scores[: len(ids)], dtype=np.float32)


@register("backend", "gguf")
class GgufBackend(Backend):
    """GGUF files through llama.cpp, or through transformers, which expands them."""

    serves = ("gguf",)
    libraries = ("transformers", "gguf")

    class Config(StrictConfig):
        engine: Literal["auto", "llama_cpp", "transformers"] = "auto"
        context: PositiveInt = Field(4096, description="longest conversation in tokens, for llama.cpp")
        threads: PositiveInt | None = Field(None, description="of llama.cpp; its own choice without it")

    config: Config
    _expanded: Expanded | None = None
    _llama: LlamaCpp | None = None

    def open(self, artifact: Artifact, parents: Mapping[str, Artifact]) -> None:
        self._tokenizer = load_tokenizer(artifact.path)
        if self._engine() == "llama_cpp":
            self._llama = LlamaCpp(artifact.path, self.config.context, self.config.threads)
        else:
            self._expanded = Expanded(Expanded.Config())
            self._expanded.open(artifact, parents)

    def _engine(self) -> str:
        if self.config.engine != "auto":
            return self.config.engine
        return "llama_cpp" if find_spec("llama_cpp") else "transformers"

    def close(self) -> None:
        for engine in (self._llama, self._expanded):
            if engine is not None:
                engine.close()
        self._llama = self._expanded = None

    def health(self) -> Health:
        if self._llama is not None:
            return Health("ok", "a GGUF file is open in llama.cpp")
        if self._expanded is not None:
            return Health("ok", "a GGUF file is open in transformers, its weights expanded to float32")
        return Health("degraded", "not opened")

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: bool = True) -> list[Generation]:
        if self._llama is None:
            return self._torch.generate(prompts, max_new_tokens, stop)
        return [self._answer(prompt, max_new_tokens, stop) for prompt in prompts]

    def _answer(self, prompt: Sequence[int], count: int, stop: bool) -> Generation:
        ids = list(self.stream(prompt, count, stop))
        finished = bool(ids) and ids[-1] == self._tokenizer.eos_token_id
        text = self._tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=True)
        return Generation(text, len(ids), finished)

    def stream(self, prompt: Sequence[int], max_new_tokens: int, stop: bool = True) -> Iterator[int]:
        if self._llama is None:
            return self._torch.stream(prompt, max_new_tokens, stop)
        return self._llama.stream(prompt, max_new_tokens, self._tokenizer.eos_token_id if stop else None)

    def logits(self, ids: Sequence[int]) -> Any:
        return self._torch.logits(ids) if self._llama is None else self._llama.logits(ids)

    @property
    def _torch(self) -> Expanded:
        assert self._expanded is not None, "not opened"
        return self._expanded
