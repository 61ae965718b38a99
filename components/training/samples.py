"""What the model in training says: greedy answers to a few prompts of the eval split, every n steps."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from components.core.chat import encode_prompt
from components.core.dataset import rows
from components.core.events import SampleGenerated
from components.training.rows import padding

if TYPE_CHECKING:
    from components.training.config import Samples
    from components.training.run import Run


class SampleWriter(TrainerCallback):  # type: ignore[misc]
    """Generates under the same precision as training. Greedy, so that no random number is drawn."""

    def __init__(self, run: Run, config: Samples) -> None:
        self.run, self.config = run, config
        found = islice(rows(run.dataset, "eval"), config.prompts)
        self.prompts = [self._prompt(row) for row in found]

    def _prompt(self, row: dict[str, Any]) -> tuple[str, list[int]]:
        if "text" in row:
            start = row["text"][: len(row["text"]) // 2][-400:]
            return start, self.run.tokenizer(start, add_special_tokens=False)["input_ids"]
        messages = row.get("messages") or row["prompt"]
        said = next(turn["content"] for turn in reversed(messages) if turn["role"] == "user")
        return said, encode_prompt(self.run.tokenizer, messages)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step % self.config.every == 0 and self.run.main_process():
            self.run.pause(lambda: self._write(state.global_step, model))

    def _write(self, step: int, model: Any) -> None:
        training, network = model.training, getattr(model, "module", model)
        network.eval()
        try:
            for prompt, ids in self.prompts:
                answer = self._answer(network, ids)
                self.run.meter.samples.append({"step": step, "prompt": prompt, "answer": answer})
                self.run.emit(SampleGenerated(step=step, prompt=prompt, answer=answer))
        finally:
            network.train(training)

    def _answer(self, network: Any, ids: list[int]) -> str:
        given = torch.tensor([ids], device=network.device)
        dtype = getattr(torch, self.run.setting.dtype)
        with torch.no_grad(), torch.autocast(network.device.type, dtype, enabled=dtype != torch.float32):
            said = network.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=self.config.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=padding(self.run.tokenizer),
            )
        text: str = self.run.tokenizer.decode(said[0, len(ids) :], skip_special_tokens=True)
        return text
