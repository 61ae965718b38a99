"""Tokens a second of one answer at batch 1, in a process of its own: SIDE MODEL TOKENS THREADS PROMPT_IDS [OPTIONS].

SIDE: `genai` (a folder of ONNX Runtime GenAI), `torch` (float32, eager attention), `llama` (a GGUF file; run by a
Python that has llama-cpp-python). OPTIONS: session options of ONNX Runtime as JSON. Every side continues the same token
ids greedily and chooses each token itself; the clock runs from the second token on. Nothing of Postmill is imported.
Printed are the speeds of three answers after one that warms up, and the tokens.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Tokens = Callable[[list[int], int], Iterator[int]]


def genai(model: str, threads: int, options: dict[str, Any]) -> Tokens:
    import onnxruntime_genai as og

    config = og.Config(model)
    session = {"intra_op_num_threads": threads, **{k: v for k, v in options.items() if not k.startswith("search.")}}
    search = {k.removeprefix("search."): v for k, v in options.items() if k.startswith("search.")}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    network = og.Model(config)

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


SIDES = {"genai": genai, "torch": torch_eager, "llama": llama}


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
