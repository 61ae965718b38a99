"""LoRA adapters beside an ONNX graph: read from PEFT, given places in it, written as files, switched at run time.

The graph of the base gets, at every layer that an adapter changes, the two small products of LoRA and a sum:

    y = W x   ->   y = W x + (x A) B          A: (inputs, rank), B: (rank, outputs), scale included

A and B are inputs of the graph whose defaults have rank 0, so without an adapter y is what it was. W stays as it is, in
float or in few bits. ONNX Runtime GenAI fills the inputs from an `.onnx_adapter` file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, write_json
from components.core.errors import ConfigError, ModelLoadError, did_you_mean

LIST = "adapters.json"
"""Which adapters a directory has, and which one answers where none is asked for."""
BASE = "base"
"""Asked for by this name, the base answers without any."""
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)$")
PRODUCT = re.compile(r"/model/layers\.(\d+)/(?:attn|mlp)/(\w+)/MatMul/output_0")
"""How the builder calls what a linear layer gives."""
PACKED = ("q_proj", "k_proj", "v_proj")
FLOAT = 1
"""ONNX's number for float32."""


@dataclass(frozen=True)
class Lora:
    """The matrices of an adapter by layer: A (inputs, rank), B (rank, outputs) with its scale, float32."""

    matrices: Mapping[str, tuple[Any, Any]]


def lora_of(adapted: Any, name: str) -> Lora:
    """The adapter of a PEFT model; a ModelLoadError if it is more than products at linear layers."""
    config = adapted.peft_config["default"]
    more = {
        "another method than LoRA": str(getattr(config.peft_type, "value", config.peft_type)) != "LORA",
        "DoRA": getattr(config, "use_dora", False),
        "biases": getattr(config, "bias", "none") != "none",
        "whole modules beside it": bool(getattr(config, "modules_to_save", None)),
    }
    if found := [what for what, there in more.items() if there]:
        raise ModelLoadError(f"adapter '{name}' has {' and '.join(found)}, which cannot be swapped; merge it instead")
    return Lora(dict(_matrices(adapted.base_model.model, name)))


def _matrices(network: Any, name: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for layer, module in network.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        if "default" not in module.lora_A:
            raise ModelLoadError(f"adapter '{name}' changes '{layer}', which is no linear layer; merge it instead")
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        yield layer, (_numpy(a.T), _numpy(b.T * module.scaling["default"]))


def _numpy(value: Any) -> Any:
    return value.detach().float().contiguous().numpy()


def check_base(name: str, directory: Path, base: Artifact) -> None:
    """Refuse an adapter that says it was trained on another base: its manifest names the digest."""
    manifest = directory / "manifest.json"
    if not manifest.is_file():
        return  # from elsewhere: its shapes have to fit, which loading checks
    trained_on = json.loads(manifest.read_text(encoding="utf-8"))["parents"].get("model", {}).get("digest")
    if trained_on != base.digest:
        raise ModelLoadError(
            f"adapter '{name}' in '{directory}' was trained on base {str(trained_on)[:12]}, this base is "
            f"{base.digest[:12]}; train it on this one, or give it a variant of its own"
        )


# ---------------------------------------------------------------- the graph


def make_room(graph: Path, layers: Mapping[str, tuple[int, int]]) -> None:
    """Give a graph on disk the inputs and nodes for adapters at `layers` (inputs and outputs by name)."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    if model.graph.output[0].type.tensor_type.elem_type != FLOAT:
        raise ModelLoadError(
            "adapters are swapped in graphs that compute in float32; this one computes in another type"
        )
    sites = _sites(layers)
    nodes: list[Any] = []
    for node in model.graph.node:
        nodes.append(node)
        site = _site(node, sites)
        if site is not None:
            nodes += _branch(model.graph, node, sites.pop(site))
    if sites:
        raise ModelLoadError(
            f"the graph has no matrix product for {', '.join(sorted(map('.'.join, sites))[:3])}, which an adapter "
            "changes; adapters are swapped in graphs of the exporter 'builder'"
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, graph)


Site = tuple[str, str]
"""Number of a block, and name of a layer in it."""
Layers = dict[str, tuple[str, int, int]]
"""Full name, inputs and outputs of the layers at a site, by their short name."""


def _sites(layers: Mapping[str, tuple[int, int]]) -> dict[Site, Layers]:
    sites: dict[Site, Layers] = {}
    for name, (inputs, outputs) in layers.items():
        found = LAYER.search(name)
        if found is None:
            raise ModelLoadError(f"an adapter changes '{name}', which has no place in the graph; merge it instead")
        block, short = found.groups()
        sites[block, short] = {short: (name, inputs, outputs)}
    return sites


def _site(node: Any, sites: dict[Site, Layers]) -> Site | None:
    """The site that a node computes; where query, key and value are one product, their sites become one."""
    found = PRODUCT.fullmatch(node.output[0]) if node.op_type in ("MatMul", "MatMulNBits") else None
    if not found:
        return None
    block, short = found.groups()
    if short == "qkv_proj":
        parts = [sites.pop((block, part), None) for part in PACKED]
        if not any(parts):
            return None
        if None in parts:
            raise ModelLoadError(
                f"an adapter changes only some of {', '.join(PACKED)}, which the graph computes as one"
            )
        sites[block, short] = {key: layer for part in parts if part for key, layer in part.items()}
    return (block, short) if (block, short) in sites else None


def _branch(graph: Any, node: Any, layers: Layers) -> list[Any]:
    """The nodes that add an adapter's part to what `node` gives."""
    from onnx import helper

    total, own = node.output[0], f"{node.output[0]}/own"
    node.output[0] = own
    nodes, deltas = [], []
    for name, inputs, outputs in layers.values():
        a, b = parameters_of(name)
        _add_input(graph, a, [inputs, f"{name}.rank"])
        _add_input(graph, b, [f"{name}.rank", outputs])
        where = "/" + name.replace(".", "/")
        nodes.append(helper.make_node("MatMul", [node.input[0], a], [f"{where}/lora_A/out"], f"{where}/lora_A/MatMul"))
        nodes.append(
            helper.make_node("MatMul", [f"{where}/lora_A/out", b], [f"{where}/lora_B/out"], f"{where}/lora_B/MatMul")
        )
        deltas.append(f"{where}/lora_B/out")
    if len(deltas) > 1:
        joined = f"{own}/lora"
        nodes.append(helper.make_node("Concat", deltas, [joined], f"{joined}/Concat", axis=-1))
        deltas = [joined]
    return [*nodes, helper.make_node("Add", [own, deltas[0]], [total], f"{own}/lora/Add")]


def _add_input(graph: Any, name: str, shape: Sequence[int | str]) -> None:
    """An input that may be left out: by default a matrix of rank 0."""
    from onnx import helper

    graph.input.append(helper.make_tensor_value_info(name, FLOAT, shape))
    graph.initializer.append(helper.make_tensor(name, FLOAT, [n if isinstance(n, int) else 0 for n in shape], []))


def parameters_of(layer: str) -> tuple[str, str]:
    """Names of the two inputs that a layer has for adapters."""
    return f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"


# ---------------------------------------------------------------- files


def write_adapter(lora: Lora, layers: Mapping[str, tuple[int, int]], file: Path) -> None:
    """An `.onnx_adapter` file; layers that this adapter leaves alone get rank 0."""
    import numpy as np
    import onnxruntime

    values = {}
    for name, (inputs, outputs) in layers.items():
        none = np.zeros((inputs, 0), np.float32), np.zeros((0, outputs), np.float32)
        for key, value in zip(parameters_of(name), lora.matrices.get(name, none), strict=True):
            values[key] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
    written = onnxruntime.AdapterFormat()
    written.set_adapter_version(1)
    written.set_model_version(1)
    written.set_parameters(values)
    written.export_adapter(str(file))


def write_list(directory: Path, files: Mapping[str, str], active: str) -> None:
    """Say which adapters the directory has, by name, and which one answers where none is asked for."""
    write_json(directory / LIST, {"active": active, "adapters": dict(files)})


def loaded(model: Any, directory: Path, wanted: str | None) -> tuple[Any, str] | None:
    """The adapters of a directory and the name of the one to activate; None where the base is to answer alone.

    `model`: the open `onnxruntime_genai.Model`. `wanted`: a name, `base`, or None for what the directory says.
    """
    file = directory / LIST
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    files: dict[str, str] = told.get("adapters", {})
    name: str = wanted or told.get("active", BASE)
    if name == BASE:
        return None
    if name not in files:
        names = [BASE, *files]
        raise ConfigError(
            f"'{directory}' has no adapter '{name}'{did_you_mean(name, names)}; known: {', '.join(names)}"
        )
    import onnxruntime_genai as og

    adapters = og.Adapters(model)
    adapters.load(str(directory / files[name]), name)
    return adapters, name
