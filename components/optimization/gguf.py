"""Way out to llama.cpp and Ollama: one GGUF file, with the tokenizer in it, and a Modelfile beside it.

    optimize: {gguf: [{type: merge_adapter}, {type: gguf, weights: Q4_1}]}

    ollama create triage -f artifacts/optimize/.../Modelfile && ollama run triage

Weights are rounded by the `gguf` package to the named type; embedding and head, which lose most, to `embedding`. A
model that is quantized already keeps its codes: groups of 4 bits become Q4_1 blocks with the same points, so what
calibration gained is not lost. Query and key rows of Llama networks are put in llama.cpp's order.

Parity: the file is read back by transformers, which expands the blocks, and has to give the same logits as the network
with its weights rounded alike; the tokenizer is rebuilt from the file and has to give the same tokens. How far rounding
took the model from its source is reported besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ArtifactError, require
from components.core.kinds import register
from components.core.safeload import load_causal_lm, load_gguf, load_tokenizer
from components.interfaces import Pass, StepContext

FILE = "model.gguf"
Type = Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]


@register("pass", "gguf")
class GgufExport(Pass):
    """Write the model as a GGUF file for llama.cpp, with an Ollama Modelfile."""

    consumes = ("model", "quantized")
    produces = "gguf"
    libraries = ("torch", "transformers", "gguf")
    extras: ClassVar[Mapping[str, str]] = {"gguf": "gguf"}
    bits: ClassVar[Mapping[str, float]] = dict(F32=32, F16=16, BF16=16, Q8_0=8.5, Q5_1=6, Q5_0=5.5, Q4_1=5, Q4_0=4.5)

    class Config(StrictConfig):
        weights: Type = "Q8_0"
        embedding: Type = "Q8_0"
        num_ctx: PositiveInt = 4096
        max_logit_difference: PositiveFloat = 1e-2

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset({"quantized"} if config.weights.startswith("Q") else ())

    def estimated_bytes(self, parameters: int) -> int:
        # a fifth of the weights may be embedding and head
        shares = (0.8, self.config.weights), (0.2, self.config.embedding)
        return int(sum(parameters * share * self.bits[kind] / 8 for share, kind in shares))

    def estimated_memory(self, parameters: int) -> int:
        return parameters * 12  # the network, what was read back, and the bytes to write

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        require("gguf", "gguf")
        from components.compression.closeness import distance, logits_of, probe_rows

        network, codes = _opened(source)
        tokenizer = load_tokenizer(source.path)
        rows = probe_rows(tokenizer)
        before = logits_of(network, rows)
        types = self._write(network, codes, tokenizer, source, out / FILE)
        network.config.save_pretrained(out)
        tokenizer.save_pretrained(out)
        rounded = logits_of(network, rows)
        return {
            "weights": types,
            **distance(before, rounded),
            **self._checked(out, tokenizer, rows, rounded),
            **self._modelfile(out, tokenizer, network.config.max_position_embeddings),
        }

    def _write(self, network: Any, codes: Any, tokenizer: Any, source: Artifact, file: Path) -> dict[str, int]:
        """Write the file, and put into the network what its bytes stand for; returns tensors by type."""
        import torch
        from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

        from components.compression.gguf.tokenizer import write_tokenizer
        from components.compression.gguf.weights import architecture_of, tensors, unpacked, write_sizes

        writer = GGUFWriter(file, architecture_of(network.config).name)
        writer.add_type("model")
        writer.add_name(str(source.meta.get("name") or source.key[:12]))
        write_sizes(writer, network.config)
        write_tokenizer(writer, tokenizer, network.config.vocab_size)
        file_types = {"F32": "ALL_F32", **{kind: f"MOSTLY_{kind}" for kind in self.bits if kind != "F32"}}
        writer.add_file_type(LlamaFileType[file_types[self.config.weights]])
        writer.add_quantization_version(2)
        found: Counter[str] = Counter()
        state = network.state_dict()
        for tensor in tensors(network, codes, self.config.weights, self.config.embedding):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=GGMLQuantizationType[tensor.type])
            state[tensor.source].copy_(torch.from_numpy(unpacked(tensor, network.config)))
            found[tensor.type] += 1
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return dict(found)

    def _checked(self, out: Path, tokenizer: Any, rows: Any, expected: Any) -> dict[str, Any]:
        """Parity of what was written, by transformers; an ArtifactError says where it is not the same."""
        from gguf import GGUFReader

        from components.compression.closeness import logits_of, worst_difference
        from components.compression.gguf.tokenizer import check_tokenizer

        tokens = check_tokenizer(GGUFReader(out / FILE), tokenizer)
        worst = worst_difference(expected, logits_of(load_gguf(out), rows))
        if not worst <= self.config.max_logit_difference:  # NaN is never close
            raise ArtifactError(
                f"the GGUF file gives logits that differ by {worst:.4g} from those of the weights it was made of (at "
                f"most {self.config.max_logit_difference:g} allowed): its sizes or its order of rows are wrong"
            )
        return {"max_logit_difference": worst, "same_tokens": tokens, "checked_with": "transformers, weights expanded"}

    def _modelfile(self, out: Path, tokenizer: Any, positions: int) -> dict[str, Any]:
        from components.compression.gguf.ollama import modelfile, turn_of

        turn = turn_of(tokenizer)
        text = modelfile(FILE, tokenizer, turn, min(self.config.num_ctx, positions))
        (out / "Modelfile").write_text(text, encoding="utf-8")
        return {"modelfile_template": "written" if turn else "none: the chat template is not of ChatML's form"}


def _opened(source: Artifact) -> tuple[Any, Any]:
    """The network in float32, and the matrices of it that are in few bits already."""
    if source.kind == "model":
        return load_causal_lm(source.path), {}
    from components.compression.quantization.checkpoint import load_quantized, read_codes

    return load_quantized(source.path), read_codes(source.path)[0]
