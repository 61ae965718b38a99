"""Tasks of lm-evaluation-harness on our backends: what is measured is the served artifact."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import DataError, MissingExtraError
from components.core.kinds import registry
from components.interfaces import Scoreboard, StepContext
from components.services.data import load_rows
from tests import tiny

installed = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs postmill[lm-eval]")
# its own imports warn, and data sets are read once through a cache in the user's folder
pytestmark = pytest.mark.filterwarnings("ignore")

CHOICE = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ANSWER = """
task: echo
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4, do_sample: {sample}}}
metric_list: [{{metric: exact_match}}]
"""
TEXT = """
task: prose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: byte_perplexity}}]
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three tasks on three rows."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder, file = tmp_path / "tasks", tmp_path / "rows.jsonl"
    folder.mkdir()
    rows = [{"question": f"Colour {n}?", "choices": ["blue", "green"], "answer": n % 2} for n in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("colours", CHOICE), ("echo", ANSWER), ("prose", TEXT)):
        (folder / f"{name}.yaml").write_text(text.format(file=file, sample="false"))
    return folder


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="only where the extra is missing")
def test_the_extra_is_named(lab: Any, tmp_path: Path) -> None:
    """Without the extra a recipe that asks for it is refused before any work, with what to install."""
    benchmark = registry.create("benchmark", "lm_eval", tasks=tmp_path, metrics={"colours": ["acc"]})
    with pytest.raises(MissingExtraError, match=r"postmill\[lm-eval\]"):
        benchmark.problem(lab.dataset)


def test_metrics_are_those_of_the_configuration() -> None:
    """A recipe says which figures of which task are reported, so that gates can name them; perplexity is better low."""
    cls = registry.get("benchmark", "lm_eval")
    found = cls.reports(
        cls.Config(tasks="tasks", metrics={"colours": ["acc", "acc_norm"], "prose": ["byte_perplexity"]})
    )
    assert {metric.name: metric.better for metric in found} == {
        "colours_acc": "higher",
        "colours_acc_norm": "higher",
        "prose_byte_perplexity": "lower",
    }


@installed
def test_tasks_through_the_served_artifact(lab: Any, tasks: Path) -> None:
    """All three kinds of request are answered by the exported graph, as by the network it was made of (D23)."""
    metrics = {"colours": ["acc", "acc_norm"], "echo": ["exact_match"], "prose": ["byte_perplexity"]}
    benchmark = registry.create("benchmark", "lm_eval", tasks=tasks, metrics=metrics)
    assert benchmark.problem(lab.dataset) is None
    subjects, rows = [lab.subject("merged"), lab.subject("fp32")], load_rows(lab.dataset)
    board = Scoreboard(benchmark.measure(subjects, rows, StepContext(17, lab.workspace.bus)))
    merged, fp32 = board.metrics("merged"), board.metrics("fp32")
    assert set(fp32) == {metric.name for metric in benchmark.reports(benchmark.config)}
    assert fp32 == pytest.approx(merged, rel=1e-3)
    assert board.rows("fp32", "colours_acc").keys() == {f"colours-{n}" for n in range(3)}
    assert sum(board.rows("fp32", "colours_acc").values()) / 3 == pytest.approx(fp32["colours_acc"])


@installed
def test_requests_are_answered_as_the_backend_does(lab: Any) -> None:
    """Likelihoods are the network's own, a long text is scored whole, and an answer is cut at its stop."""
    import numpy as np
    from scipy.special import log_softmax

    from components.benchmarks._lm_eval_model import BackendModel
    from components.runtime import opened

    with opened(lab.subject("merged"), dtype="float32") as backend:
        model = BackendModel(backend, "x")
        ids = tiny.tokenizer()("ab", add_special_tokens=False)["input_ids"]
        ((nats, _),) = model._loglikelihood_tokens([(("", ""), ids[:1], ids[1:])])
        assert nats == pytest.approx(float(log_softmax(backend.logits(ids)[0].astype(np.float64))[ids[1]]))
        whole = model._whole("some text")
        model.width = 4  # as a model that takes four tokens: other context, the same number of tokens
        assert model._whole("some text") < 0
        assert whole < 0
        with pytest.raises(DataError, match="does not fit into the model's 4"):
            model._fits([1] * 4, [1])
        model.width = 2048
        said = model._answer("ab", {"until": [], "max_gen_toks": 6})
        assert model._answer("ab", {"until": [said[1]], "max_gen_toks": 6}) == said.split(said[1])[0]
        with pytest.raises(DataError, match="the task samples answers"):
            model._answer("ab", {"do_sample": True})


@installed
def test_a_task_that_is_not_there(lab: Any, tasks: Path) -> None:
    """An unknown task and an unknown figure are errors with what there is."""
    benchmark = registry.create("benchmark", "lm_eval", tasks=tasks, metrics={"colour": ["acc"]})
    with pytest.raises(
        DataError, match=r"has no task 'colour'; did you mean 'colours'\? \(known: colours, echo, prose\)"
    ):
        benchmark.problem(lab.dataset)
    benchmark = registry.create("benchmark", "lm_eval", tasks=tasks, metrics={"colours": ["f1"]})
    with pytest.raises(DataError, match=r"the task 'colours' reports no 'f1' \(reported: .*acc"):
        benchmark.measure([lab.subject("fp32")], load_rows(lab.dataset), StepContext(17, lab.workspace.bus))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The folder is named before anything is measured."""
    benchmark = registry.create("benchmark", "lm_eval", tasks=tmp_path / "gone", metrics={"colours": ["acc"]})
    with pytest.raises(DataError, match=r"gone' is no folder; name one with task files in it"):
        benchmark.identity()
