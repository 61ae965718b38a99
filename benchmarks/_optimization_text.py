"""Chat text that the base model itself writes: MODEL PROMPTS OUT. Sampled at temperature 1 from a fixed seed.

A fresh clone has no chat text of others, and the model's own is what it should keep saying. The first third of the
prompts is for evaluation, the rest for calibration: no prompt is in both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from components.core.safeload import load_causal_lm, load_tokenizer

SEED, NEW_TOKENS, TOGETHER = 17, 128, 25


def answers(network: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    import torch

    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with torch.inference_mode():
        rows = network.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    new = rows[:, batch["input_ids"].shape[1] :]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in new]


def main() -> None:
    import torch

    model, prompts, out = map(Path, sys.argv[1:4])
    torch.manual_seed(SEED)
    network, tokenizer = load_causal_lm(model), load_tokenizer(model)
    asked = prompts.read_text(encoding="utf-8").splitlines()
    said = [
        answer
        for start in range(0, len(asked), TOGETHER)
        for answer in answers(network, tokenizer, asked[start : start + TOGETHER])
    ]
    rows = [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
        for prompt, answer in zip(asked, said, strict=True)
        if answer
    ]
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(json.dumps({"rows": len(rows)}))


if __name__ == "__main__":
    main()
