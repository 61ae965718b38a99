"""Combinations that install cleanly and then fail, stall or are unsafe. One row each; add yours to the table."""

from __future__ import annotations

from pathlib import Path

from components.core.component import StrictConfig
from components.core.health import Health, worst
from components.core.kinds import register
from components.interfaces import Probe
from components.probes._combination import Combination, below, is_file_store, is_true, more_than_cores, vulnerable

RECORDER = "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER"
KNOWN_BAD = (
    Combination(
        what="SQLAlchemy 2.1 under Prefect 3.8",
        why="the scheduler fails in every round, and scheduled runs never start",
        remedy="run `pip install 'sqlalchemy[asyncio]>=2.0,<2.1'`",
        source="Prefect 3.8.8: so on SQLAlchemy 2.1.9 in 3 starts of 3; on 2.0.58 every scheduled run started",
        packages={"prefect": "==3.8.*", "sqlalchemy": ">=2.1"},
    ),
    Combination(
        what="FastAPI later than 0.151.0 under Prefect 3.8",
        why="the server does not start (TypeError: Body() got an unexpected keyword argument 'min_items')",
        remedy="run `pip install 'fastapi>=0.139,<0.151'`",
        source="Prefect 3.8.8 starts on 0.150.0 and 0.151.0, not on 0.158.2 and later; 3.9.1 asks for <0.151",
        packages={"prefect": "==3.8.*", "fastapi": ">0.151.0"},
    ),
    Combination(
        what="optimum-onnx beside transformers 5",
        why="its import fails, and installing it pulls transformers back below 4.58",
        remedy="run `pip uninstall optimum-onnx`, which Postmill does not use",
        source="huggingface/optimum-onnx#114",
        packages={"optimum-onnx": "", "transformers": ">=5"},
        status="degraded",
    ),
    Combination(
        what="MLFLOW_TRACKING_URI is a folder of files",
        why="MLflow refuses to open file stores since 3.13",
        remedy="unset it, or set it to a database: sqlite:////absolute/path/mlflow.db",
        source="mlflow/mlflow#18534",
        packages={"mlflow": ">=3.13"},
        variables={"MLFLOW_TRACKING_URI": is_file_store, "MLFLOW_ALLOW_FILE_STORE": lambda text: not is_true(text)},
    ),
    Combination(
        what="runs of an MLflow file store lie in mlruns",
        why="Postmill reads the database there, so these runs are invisible, and MLflow's own commands stop at them",
        remedy="move them with `mlflow migrate-filestore`, or move these folders out of mlruns",
        source="mlflow/mlflow#18534",
        packages={"mlflow": ">=3.13"},
        files="mlruns/*/meta.yaml",
        status="degraded",
    ),
    Combination(
        what="MLFLOW_ALLOW_PICKLE_DESERIALIZATION is on",
        why="loading a model may then run code from its files",
        remedy="unset it, and Postmill switches it off",
        source="MLflow 3.17.2, whose own default is on",
        packages={"mlflow": ""},
        variables={"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": is_true},
        status="degraded",
    ),
    Combination(
        what=f"{RECORDER}_FLUSH_INTERVAL below 1",
        why="Prefect cuts it to 0 seconds, and its server keeps a whole core busy",
        remedy="set it to 1, or unset it",
        source="prefect/server/services/task_run_recorder.py of 3.8.8: flush_every=int(flush_interval)",
        variables={f"{RECORDER}_FLUSH_INTERVAL": below(1)},
        status="degraded",
    ),
    Combination(
        what=f"{RECORDER}_BATCH_SIZE of 1",
        why="the embedded server stops before it has written quick tasks down (6 to 20 of 100 were recorded)",
        remedy="set it to 50, or unset it",
        source="PrefectHQ/prefect#21057",
        variables={f"{RECORDER}_BATCH_SIZE": below(2)},
        status="degraded",
    ),
    Combination(
        what="OMP_NUM_THREADS is more than the usable cores",
        why="more threads start than can run, and wait for each other",
        remedy="unset it, or set it to the number of cores that `postmill doctor` reports under cpu",
        source="torch 2.13.0 cuts 64 to the 2 cores of a machine, but not to the 1 core that a process may use",
        variables={"OMP_NUM_THREADS": more_than_cores},
        status="degraded",
    ),
    vulnerable("torch", "2.10", "a checkpoint can run code in spite of weights_only=True", "CVE-2026-24747"),
    vulnerable("transformers", "5.3", "a model's config.json can fetch and run code", "CVE-2026-4372"),
    vulnerable("onnx", "1.21", "a model can read files outside its folder", "CVE-2026-34446, CVE-2026-34447"),
    vulnerable("mlflow", "3.13", "its guard against pickled code has gaps", "CVE-2026-4137, GHSA-v26q-23qw-4825"),
    vulnerable("prefect", "3.6.28", "its server answers requests without a password", "CVE-2026-7722, CVE-2026-7723"),
    vulnerable("starlette", "0.49.1", "a crafted Range header stalls a server", "CVE-2025-62727", "degraded"),
    vulnerable("vllm", "0.23.1rc0", "a GGUF file can show one user another's data", "CVE-2026-53923", "degraded"),
)


@register("probe", "known_bad")
class KnownBadProbe(Probe):
    """No combination of versions and settings that is known to be bad."""

    class Config(StrictConfig):
        root: Path = Path(".")

    config: Config

    def ask(self) -> Health:
        met = [each for each in KNOWN_BAD if each.met(self.config.root)]
        metrics = {"known": len(KNOWN_BAD), "met": {each.what: each.source for each in met}}
        if not met:
            return Health("ok", f"none of {len(KNOWN_BAD)} known bad combinations", metrics)
        detail = "; ".join(f"{each.what}: {each.why}; {each.remedy}" for each in met)
        return Health(worst(each.status for each in met), detail, metrics)
