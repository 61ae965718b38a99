"""Tokens a second of one answer at batch 1, in a process of its own: SIDE MODEL TOKENS THREADS PROMPT_IDS [OPTIONS].

SIDE: `genai` (a folder of ONNX Runtime GenAI), `lookup` (the same with prompt-lookup decoding), `torch` (float32, eager
attention), `llama` (a GGUF file; run by a Python that has llama-cpp-python). OPTIONS: session options of ONNX Runtime
as JSON. Every side continues the same token ids greedily and chooses each token itself; the clock runs from the second
token on. Nothing of Postmill is imported.
Printed are the speeds of three answers after one that warms up, and the tokens.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Tokens = Callable[[list[int], int], Iterator[int]]
GUESSES = 4
"""Tokens that prompt lookup proposes at a time."""


def genai(model: str, threads: int, options: dict[str, Any]) -> Tokens:
    import onnxruntime_genai as og

    network, search = _network(model, threads, options)

    def tokens(ids: list[int], count: int) -> Iterator[int]:
        params = og.GeneratorParams(network)
        whole = len(ids) + count
        params.set_search_options(**{"max_length": whole, "min_length": whole, "do_sample": False, **search})
        generator = og.Generator(network, params)
        generator.append_tokens(ids)
        for _ in range(count):
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])

    return tokens


def lookup(model: str, threads: int, options: dict[str, Any]) -> Tokens:
    """Words that followed the last ones before are guessed, and all guesses looked at in one step of the network."""
    import numpy as np
    import onnxruntime_genai as og

    network, search = _network(model, threads, options)
    ends = json.loads((Path(model) / "genai_config.json").read_text(encoding="utf-8"))["model"]["eos_token_id"]

    def tokens(ids: list[int], count: int) -> Iterator[int]:
        params = og.GeneratorParams(network)
        params.set_search_options(**{"max_length": len(ids) + count + GUESSES, "do_sample": False, **search})
        generator = og.Generator(network, params)
        known, unread = list(ids), list(ids)
        while len(known) - len(ids) < count:
            guessed = _guessed(known) if len(unread) == 1 else []  # the clock starts at the first token
            generator.append_tokens(np.array(unread + guessed, dtype=np.int32))
            scores = np.array(generator.get_output("logits"))[0, len(unread) - 1 :]
            scores[:, ends] = -np.inf  # as `min_length` does on the other side
            best = scores.argmax(-1).tolist()
            right = next((n for n, (a, b) in enumerate(zip(guessed, best, strict=False)) if a != b), len(guessed))
            if right < len(guessed):
                generator.rewind_to(len(known) + right)
            fresh, room = best[: right + 1], count - (len(known) - len(ids))
            yield from fresh[:room]
            known, unread = known + fresh, fresh[-1:]

    return tokens


def _guessed(known: list[int]) -> list[int]:
    """What came after the last two tokens when they stood together before."""
    last = known[-2:]
    for at in range(len(known) - 3, -1, -1):
        if known[at : at + 2] == last:
            return known[at + 2 : at + 2 + GUESSES]
    return []


def _network(model: str, threads: int, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The opened model, and the options that are for the search."""
    import onnxruntime_genai as og

    config = og.Config(model)
    session = {"intra_op_num_threads": threads, **{k: v for k, v in options.items() if not k.startswith("search.")}}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    return og.Model(config), {k.removeprefix("search."): v for k, v in options.items() if k.startswith("search.")}


def torch_eager(model: str, threads: int, options: dict[str, Any]) -> Tokens:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()

    def tokens(ids: list[int], count: int) -> Iterator[int]:
        row, cache = torch.tensor([ids]), None
        for _ in range(count):
            with torch.inference_mode():
                step = network(input_ids=row, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = step.past_key_values
            row = step.logits[:, -1].argmax(-1, keepdim=True)
            yield int(row)

    return tokens


def llama(model: str, threads: int, options: dict[str, Any]) -> Tokens:
    """Through llama.cpp's own calls: its Python class copies logits for every token and would be slower."""
    import llama_cpp
    import numpy as np

    network = llama_cpp.Llama(model, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
    size = network.n_vocab()

    def decode(ids: list[int]) -> int:
        context = network._ctx.ctx  # held by the network, which these functions keep
        held = (llama_cpp.llama_token * len(ids))(*ids)  # the batch is a pointer to it
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(held, len(ids))):
            raise RuntimeError("llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(size,)).argmax())

    def tokens(ids: list[int], count: int) -> Iterator[int]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(network._ctx.ctx), True)
        token = decode(ids)
        yield token
        for _ in range(count - 1):
            token = decode([token])
            yield token

    return tokens


SIDES = {"genai": genai, "lookup": lookup, "torch": torch_eager, "llama": llama}


def timed(tokens: Tokens, ids: list[int], count: int) -> tuple[float, float, list[int]]:
    """Tokens a second after the first, seconds to the first, and the tokens."""
    marks, said, begun = [], [], time.perf_counter()
    for token in tokens(ids, count):
        marks.append(time.perf_counter())
        said.append(token)
    return (count - 1) / (marks[-1] - marks[0]), marks[0] - begun, said


def main() -> None:
    side, model, count, threads, ids = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    options = json.loads(sys.argv[6]) if len(sys.argv) > 6 else {}
    prompt = json.loads(ids)
    tokens = SIDES[side](model, threads, options)
    timed(tokens, prompt, min(count, 16))
    runs = [timed(tokens, prompt, count) for _ in range(3)]
    speeds = [speed for speed, _, _ in runs]
    print(json.dumps({"speeds": speeds, "first_s": [first for _, first, _ in runs], "tokens": runs[0][2]}))


if __name__ == "__main__":
    main()
