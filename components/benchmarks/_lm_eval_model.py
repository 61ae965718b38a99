"""Our backends as a model of lm-evaluation-harness, so that the artifact which will be served is what it measures.

Imported only where `lm-eval` is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from components.benchmarks._likelihood import log_likelihood
from components.core.errors import DataError
from components.interfaces import Backend

MOST_TOKENS = 256
"""Of an answer, where a task does not say it: the harness's own default."""


class BackendModel(TemplateLM):  # type: ignore[misc]
    """Answers the harness's three kinds of request with a backend, one at a time and greedily."""

    def __init__(self, backend: Backend, name: str) -> None:
        super().__init__()
        self.served, self.tokenizer, self.name = backend, backend.tokenizer, name
        self.width = int(backend.tokenizer.model_max_length)

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """Under which the harness keeps rendered prompts apart."""
        return self.name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        ids: list[int] = self.tokenizer(string, add_special_tokens=False)["input_ids"]
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        return [log_likelihood(self.served, self._fits(before, said), said) for _, before, said in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        return [self._whole(request.args[0]) for request in requests]

    def _whole(self, text: str) -> float:
        """Nats of a whole text; a long one in windows, each of which begins with the last token of the one before."""
        windows = get_rolling_token_windows(self.tok_encode(text), self.eot_token_id, self.width - 1, 1)
        parts = (make_disjoint_window(window) for window in windows)
        return sum(log_likelihood(self.served, before, said)[0] for before, said in parts)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        return [self._answer(*request.args) for request in requests]

    def _answer(self, prompt: str, options: dict[str, Any]) -> str:
        if options.get("do_sample") or options.get("temperature"):
            raise DataError(
                f"lm_eval: the task samples answers ({options}); set do_sample: false in its generation_kwargs"
            )
        stops = options.get("until") or []
        ids = self.tok_encode(prompt)
        (answer,) = self.served.generate([self._fits(ids, [])], int(options.get("max_gen_toks", MOST_TOKENS)))
        text = answer.text
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.split(stop)[0] if stop else text
        return text

    def _fits(self, before: Sequence[int], said: Sequence[int]) -> Sequence[int]:
        if len(before) + len(said) > self.width:
            raise DataError(
                f"lm_eval: a request of {len(before) + len(said)} tokens does not fit into the model's {self.width}; "
                "take fewer examples in the prompt (num_fewshot)"
            )
        return before
