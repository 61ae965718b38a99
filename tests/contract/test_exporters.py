"""Every exporter's graph is the network, runs in ONNX Runtime GenAI, and can be rounded; what goes wrong is said."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.compression.onnx.embedding import quantize_embedding
from components.compression.onnx.equalize import equalize
from components.compression.onnx.graph import (
    add_initializer,
    attribute,
    check_graph,
    constant,
    edited,
    operators,
    read_graph,
)
from components.compression.onnx.int8 import Feeder, rounding
from components.compression.onnx.weights import Rounding, linears, round_matrices
from components.compression.quantization.checkpoint import save_quantized
from components.compression.quantization.grid import Grid, round_to_nearest
from components.core.artifacts import Artifact
from components.core.chat import encode_prompt
from components.core.errors import ArtifactError, ConfigError, ModelLoadError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.provenance import git_state
from components.core.safeload import load_causal_lm
from components.interfaces import Exporter, ExportJob, StepContext, Subject
from components.runtime import opened
from tests import tiny
from tests.conftest import ROOT, Lab
from tests.contract.common import check_component, named


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model whose embedding is its head, and one with two tables."""
    root = tmp_path_factory.mktemp("models")
    found = {}
    for name, tied in (("tied", True), ("untied", False)):
        tiny.network(tie_word_embeddings=tied).save_pretrained(root / name)
        tiny.tokenizer().save_pretrained(root / name)
        found[name] = root / name
    return found


@pytest.fixture(scope="module")
def graphs(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Float graphs as exporters write them, by exporter and model, each made once; to be copied."""

    @cache
    def graph(exporter: str, model: str) -> Path:
        out = tmp_path_factory.mktemp(f"{exporter}-{model}")
        registry.create("exporter", exporter).export(ExportJob(models[model], out))
        return out

    return graph


def artifact(path: Path, kind: str = "model") -> Artifact:
    """A directory as the store would hand it on."""
    return Artifact(path=path, kind=kind, stage="s", key="k", digest="d", parents={}, meta={}, size=1)


def exported(source: Path, out: Path, kind: str = "model", **config: Any) -> dict[str, Any]:
    """Run the pass `onnx`."""
    out.mkdir()
    step = registry.create("pass", "onnx", **config)
    return step.apply(artifact(source, kind), {}, out, StepContext(17, EventBus()))


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("model.onnx*"))


@named("exporter")
def test_component(name: str) -> None:
    """Every exporter is described, has a place in the order, and says what it reads and rounds (A27)."""
    check_component("exporter", name)
    cls = registry.get("exporter", name)
    assert "fp32" in cls.precisions
    assert "model" in cls.kinds


def test_places_are_all_different() -> None:
    """`auto` has one order to try exporters in (E23)."""
    places = [registry.get("exporter", name).place for name in registry.names("exporter")]
    assert len(set(places)) == len(places)


@named("exporter")
def test_exporter(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    """In float32 logits, greedy tokens and a ragged batch are the network's; the backend answers and streams (E23,
    E24)."""
    facts = exported(models["tied"], tmp_path / "out", exporter=name, precision="fp32")
    parity = facts["parity"]
    assert facts["exporter"] == name
    assert max(parity["prefill"], parity["decode"]) < 1e-3
    assert parity["greedy_tokens"]["equal"] == parity["greedy_tokens"]["of"] > 0
    assert parity["batch_tokens"]["equal"] == parity["batch_tokens"]["of"] > 0
    told = json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]
    assert (told["decoder"]["num_key_value_heads"], told["decoder"]["head_size"]) == (2, 16)
    assert (told["eos_token_id"], told["pad_token_id"]) == (2, 0)
    with opened(Subject(name="s", artifact=artifact(tmp_path / "out", "onnx"))) as backend:
        prompts = [encode_prompt(backend.tokenizer, tiny.conversation(number)) for number in (1, 2, 3)]
        together = backend.generate(prompts, 6)
        alone = [backend.generate([prompt], 6)[0] for prompt in prompts]
        assert [answer.text for answer in together] == [answer.text for answer in alone]
        assert len(list(backend.stream(prompts[0], 4, stop=False))) == 4
        assert backend.logits([5, 6, 7]).shape == (3, 259)


@pytest.mark.parametrize("exporter", ["builder", pytest.param("flat", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_embedding_shares_the_head(
    exporter: str, precision: str, bits: int, models: dict[str, Path], tmp_path: Path
) -> None:
    """A tied table is in the file once, in few bits: embedding and head read the same bytes (E28)."""
    facts = exported(models["tied"], tmp_path / "out", exporter=exporter, precision=precision)
    assert facts["embedding"] == {"bits": bits, "shared_with_head": True}
    graph = read_graph(tmp_path / "out" / "model.onnx").graph
    lookup = next(node for node in graph if node.op_type == "GatherBlockQuantized")
    head = next(node for node in graph if node.op_type == "MatMulNBits" and node.outputs[0].name == "logits")
    assert attribute(lookup, "bits") == bits
    assert lookup.inputs[0].producer().inputs[0] is head.inputs[1]
    assert lookup.inputs[2] is head.inputs[2]
    assert not any(
        len(value.shape) == 2 and value.shape[0] == 259 and value.dtype.itemsize == 4 and value.shape[1] > 8
        for value in graph.initializers.values()
    )


@pytest.mark.parametrize("exporter", ["builder", pytest.param("flat", marks=pytest.mark.slow)])
def test_embedding_of_its_own(exporter: str, graphs: Any, tmp_path: Path) -> None:
    """Two tables are rounded each for itself, and the embedding may have bits of its own or stay in float (E28)."""
    sizes = {}
    for bits in (4, 8, None):
        folder = tmp_path / str(bits)
        shutil.copytree(graphs(exporter, "untied"), folder)
        round_matrices(folder / "model.onnx", Rounding(4, 4, 32, search=False, accuracy=4))
        found = quantize_embedding(folder / "model.onnx", bits, 32, tied=False)
        assert found == {"bits": bits or 32, "shared_with_head": False}
        sizes[bits] = size(folder)
        check_graph(folder / "model.onnx")
    assert sizes[4] < sizes[8] < sizes[None]


def test_head_has_bits_of_its_own(models: dict[str, Path], tmp_path: Path) -> None:
    """The head may keep 8 bits where the body has 4, and the tied embedding follows it (E28)."""
    facts = exported(models["tied"], tmp_path / "out", precision="int4", head="int8", method="rtn", exporter="builder")
    assert facts["embedding"] == {"bits": 8, "shared_with_head": True}
    bits = {
        attribute(node, "bits")
        for node in read_graph(tmp_path / "out" / "model.onnx").graph
        if node.op_type == "MatMulNBits"
    }
    assert bits == {4, 8}


def test_the_search_for_ranges_is_nearer(graphs: Any, tmp_path: Path) -> None:
    """`method: search` leaves a smaller squared error in every matrix than plain rounding in the same groups (E28)."""
    source = read_graph(graphs("builder", "untied") / "model.onnx").graph
    wanted = [constant(linear.table).T for linear in linears(source)]
    lost = {}
    for search in (False, True):
        folder = tmp_path / str(search)
        shutil.copytree(graphs("builder", "untied"), folder)
        assert round_matrices(folder / "model.onnx", Rounding(4, 4, 32, search, 1)) == len(wanted) == 11
        rounded = [node for node in read_graph(folder / "model.onnx").graph if node.op_type == "MatMulNBits"]
        lost[search] = [np.square(weights_of(node) - table).sum() for node, table in zip(rounded, wanted, strict=True)]
    assert all(0 < found < plain for found, plain in zip(lost[True], lost[False], strict=True))


def weights_of(node: Any) -> Any:
    """What a 4-bit MatMulNBits multiplies with."""
    packed, scales, zeros = (constant(value) for value in node.inputs[1:4])
    codes, points = (np.stack([each & 15, each >> 4], -1).astype(np.float32) for each in (packed, zeros))
    rows, groups = len(packed), scales.shape[1]
    points = points.reshape(rows, -1)[:, :groups, None]
    return ((codes.reshape(rows, groups, -1) - points) * scales[..., None]).reshape(rows, -1)


def copying(folder: Path, place: int, broken: bool = False) -> type[Exporter]:
    """An exporter that has a finished graph, or one with a norm that is not the network's."""

    class Copying(Exporter):
        """Copies a graph."""

        def export(self, job: ExportJob) -> None:
            shutil.copytree(folder, job.out, dirs_exist_ok=True)
            if broken:
                with edited(job.out / "model.onnx") as model:
                    name = "model.layers.1.input_layernorm.weight"
                    weight = constant(model.graph.initializers[name]) * 1.5
                    add_initializer(model.graph, name, weight)

    Copying.place = place
    return Copying


class Refusing(Exporter):
    """Knows no architecture."""

    place = 0

    def export(self, job: ExportJob) -> None:
        raise ModelLoadError("never heard of it")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the registry know these exporters and no other."""

    def choose(**exporters: Any) -> None:
        monkeypatch.setitem(registry._entries, "exporter", {})
        for name, cls in exporters.items():
            registry.add("exporter", name, cls)

    registry.names("exporter")
    return choose


def test_auto_walks_down(models: dict[str, Path], graphs: Any, tmp_path: Path, only: Any) -> None:
    """`auto` leaves an exporter whose graph is not the network, says where they part, and takes the next (E23, E24)."""
    folder = graphs("builder", "tied")
    only(good=copying(folder, 2), broken=copying(folder, 1, broken=True))
    facts = exported(models["tied"], tmp_path / "out", precision="fp32")
    assert facts["exporter"] == "good"
    (reason,) = facts["left"]
    assert reason.startswith("broken: the graph is not the network: at probe")
    assert "prefill, position" in reason


def test_parity_failure_is_an_error(models: dict[str, Path], graphs: Any, tmp_path: Path, only: Any) -> None:
    """An exporter asked for by name has no other after it: the failure is told, with where and how far (E24)."""
    only(broken=copying(graphs("builder", "tied"), 1, broken=True))
    with pytest.raises(ArtifactError, match=r"probe \d \(\d+ tokens\), prefill, position \d+ logits differ by"):
        exported(models["tied"], tmp_path / "out", precision="fp32", exporter="broken")


def test_an_architecture_that_no_exporter_knows(models: dict[str, Path], tmp_path: Path, only: Any) -> None:
    """One error lists what each exporter said (E31)."""
    only(first=Refusing, second=type("Second", (Refusing,), {"place": 1}))
    with pytest.raises(ArtifactError, match=r"first: never heard of it; second: never heard of it"):
        exported(models["tied"], tmp_path / "out", precision="fp32")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"exporter": "bilder"}, "unknown exporter 'bilder'; did you mean 'builder'"),
        ({"precision": "fp32", "head": "int8"}, "precision: fp32 rounds nothing, so leave out 'head: int8'"),
    ],
    ids=["exporter", "head"],
)
def test_bad_configuration(config: dict[str, Any], message: str) -> None:
    """A name that is unknown and keys that contradict each other are refused when the recipe is read (E31)."""
    with pytest.raises(ConfigError, match=message):
        registry.create("pass", "onnx", **config)


def test_nothing_is_quantized_twice() -> None:
    """Codes are taken as they are, rounded weights not rounded again, and a rounded graph not either (E31)."""
    onnx = registry.get("pass", "onnx")
    wish = onnx.Config(precision="int4")
    assert "leave out 'precision: int4'" in onnx.refusal(wish, "quantized", frozenset({"quantized"}))
    assert onnx.refusal(onnx.Config(), "quantized", frozenset({"quantized"})) is None
    assert "rounded" in onnx.refusal(wish, "model", frozenset({"quantized"}))
    for name in ("quantize_dynamic", "quantize_static"):
        cls = registry.get("pass", name)
        assert "cannot follow" in cls.refusal(cls.Config(), "onnx", frozenset({"quantized"}))


def test_codes_of_a_checkpoint_are_kept(models: dict[str, Path], tmp_path: Path) -> None:
    """A quantized model's codes are in the graph: with float arithmetic the logits are those of its weights (E28)."""
    for name in models:
        network = load_causal_lm(models[name])
        codes = {
            path: round_to_nearest(module.weight.detach(), Grid(8 if path == "lm_head" else 4, 32))
            for path, module in network.named_modules()
            if type(module).__name__ == "Linear"
        }
        packed = tmp_path / f"{name}-packed"
        save_quantized(models[name], network, codes, packed)
        facts = exported(packed, tmp_path / name, "quantized")
        assert facts["precision"] == "as quantized"
        assert max(facts["parity"]["prefill"], facts["parity"]["decode"]) < 1e-3
        assert facts["parity"]["rounded"]["kl"] < 0.01
        assert facts["embedding"]["shared_with_head"] == (name == "tied")
        assert operators(tmp_path / name / "model.onnx")["MatMulNBits"] == 11


def test_int8_of_a_graph(lab: Any, tmp_path: Path) -> None:
    """Dynamic int8 runs, is smaller than float and near it; a graph that is quantized already is refused (E28, E31)."""
    step = registry.create("pass", "quantize_dynamic")
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    facts = step.apply(lab.fp32, {}, first, StepContext(17, EventBus()))
    assert size(first) < size(lab.fp32.path)
    assert 0 < facts["distance"]["kl"] < 0.1
    assert operators(first / "model.onnx")["DynamicQuantizeLinear"] > 0
    with pytest.raises(ArtifactError, match=r"quantized already \(DynamicQuantizeLinear"):
        step.apply(artifact(first, "onnx"), {}, second, StepContext(17, EventBus()))


def test_static_int8_of_a_graph(lab: Any, tmp_path: Path) -> None:
    """Static int8 runs with ranges from calibration rows, near the float graph (E28)."""
    step = registry.create("pass", "quantize_static", rows=4, max_length=48)
    facts = step.apply(lab.fp32, {}, tmp_path, StepContext(17, EventBus(), dataset=lab.dataset))
    assert facts["calibration_rows"] == 4
    assert facts["equalized_groups"] == 7
    assert 0 < facts["distance"]["kl"] < 0.5
    assert operators(tmp_path / "model.onnx")["DequantizeLinear"] > 0


def test_equalisation_changes_nothing_in_float(lab: Any, tmp_path: Path) -> None:
    """Factors that divide channels and multiply weights leave the logits as they were (E28)."""
    import onnxruntime as ort

    with rounding(lab.fp32.path, tmp_path, "float") as graph:
        run = lambda: ort.InferenceSession(str(graph)).run(["logits"], Feeder(graph).feed(range(3, 40)))[0]  # noqa: E731
        before = run()
        weights = {name: value.const_value.numpy() for name, value in read_graph(graph).graph.initializers.items()}
        assert equalize(graph, [list(range(5, 30))], 0.5) == 7
        now = read_graph(graph).graph.initializers
        changed = [
            name
            for name in weights
            if name not in now or not np.array_equal(now[name].const_value.numpy(), weights[name])
        ]
        assert len(changed) > 10
        assert np.abs(run() - before).max() < 1e-3 * np.abs(before).max()


def test_the_graph_does_not_depend_on_our_repository(lab: Lab) -> None:
    """The builder writes a commit into the graph; it is not that of the project which the environment lies in (A28)."""
    import onnx

    commit = git_state(ROOT)["commit"]
    written = onnx.load(lab.fp32.path / "model.onnx", load_external_data=False).producer_version
    assert commit
    assert commit[:7] not in written
