"""Settings for Prefect and the libraries underneath, as environment variables, before any of them is imported.

`[tool.prefect]` in pyproject.toml counts only in the project's root directory, so they are set here. What the user
has set stays as it is.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

SETTINGS = {
    # the default of 20 s is not enough for the first start on a busy machine
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # with the default of 1 the ephemeral server is stopped before it has written quick tasks down
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    # whole seconds: a fraction is cut to 0, and the server then spins on a whole core
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # what a task raises ends as one message of ours; here it would stand twice more, with tracebacks
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}


def be_quiet() -> None:
    """Set what the user has not set: no telemetry, no progress bars of libraries, no noise."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # of transformers and its neighbours about each other; nothing the user can act on
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mlflow|prefect")


def prepare(root: Path) -> list[str]:
    """Be quiet, and give Prefect a home and a server that is not left over; returns notices for the terminal."""
    be_quiet()
    os.environ.setdefault("PREFECT_HOME", str(root / ".prefect"))
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    for name in ("httpx", "httpcore", "mlflow", "alembic", "prefect", "torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    notices = []
    from flows.servers import answers, running

    url = os.environ.get("PREFECT_API_URL")
    if not url and (url := running(root)):
        os.environ["PREFECT_API_URL"] = url  # the server of `postmill schedule` or `postmill ui`
    if url and not answers(url):
        del os.environ["PREFECT_API_URL"]
        notices.append(f"no Prefect server answers at {url}; using an embedded one for this run")
    if not os.environ.get("PREFECT_API_URL"):
        notices += [f"stopped a server that a killed run left behind (process {pid})" for pid in stop_orphans()]
    return notices


def stop_orphans() -> list[int]:
    """Stop embedded servers of this PREFECT_HOME whose run was killed: they hold its database and its output pipe."""
    import psutil

    stopped = []
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        if process.info["ppid"] != 1 or "prefect.server.api.server" not in " ".join(process.info["cmdline"] or ()):
            continue
        try:
            if process.environ().get("PREFECT_HOME") == os.environ["PREFECT_HOME"]:
                process.terminate()
                stopped.append(process.pid)
        except psutil.Error:
            continue  # it ended meanwhile, or belongs to somebody else
    return stopped
