"""Reads back what a tracker has recorded, each with its own library or format, into one shape."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Seen:
    """A run as it was recorded: parameters and tags as text, metrics with their steps, names of files."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    status: str = ""

    def point(self, name: str, step: int, value: float) -> None:
        """One more value of a metric."""
        self.metrics.setdefault(name, []).append((step, round(value, 4)))


def read_mlflow(root: Path, run_id: str) -> Seen:
    """Out of the embedded database."""
    from components.trackers.mlflow import connect

    client = connect(root)
    run = client.get_run(run_id)
    seen = Seen(dict(run.data.params), dict(run.data.tags), status=run.info.status)
    for name in run.data.metrics:
        for metric in client.get_metric_history(run_id, name):
            seen.point(name, metric.step, metric.value)
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    seen.files = _files(folder)
    return seen


def read_wandb(root: Path, run_id: str) -> Seen:
    """Out of the log of an offline run, which `wandb sync` would send."""
    (folder,) = (root / "wandb").glob(f"offline-run-*-{run_id}")
    seen, config = Seen(files=_files(folder / "files")), dict[str, Any]()
    for record in _wandb_records(folder / f"run-{run_id}.wandb"):
        for update in (*record.run.config.update, *record.config.update):
            config[update.key] = json.loads(update.value_json)
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for name in row.keys() - {"global_step"}:
            if not name.startswith("_"):
                seen.point(name, row["global_step"], row[name])
        if record.WhichOneof("record_type") == "exit":
            seen.status = "FAILED" if record.exit.exit_code else "FINISHED"
    seen.tags = config.pop("tags")
    seen.params = {name: str(value) for name, value in config.items()}
    return seen


def _wandb_records(file: Path) -> Iterator[Any]:
    """LevelDB's log format after seven bytes of W&B's: blocks of 32 kB, in them (parts of) records."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little is left of this block for the head of a record
            at += 32768 - at % 32768
            continue
        length, part = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_comet(root: Path, run_id: str) -> Seen:
    """Out of the zip of an offline experiment, which `comet upload` would send."""
    seen = Seen()
    with zipfile.ZipFile(root / "comet" / f"{run_id}.zip") as archive:
        for line in archive.read("messages.json").splitlines():
            message = json.loads(line)
            kind, payload = message["type"], message["payload"]
            if kind == "parameter_msg":
                seen.params[payload["param"]["paramName"]] = payload["param"]["paramValue"]
            elif kind == "log_other":
                seen.tags[payload["key"]] = payload["value"]
            elif kind == "metric_msg":
                seen.point(payload["metric"]["metricName"], payload["metric"]["step"], payload["metric"]["metricValue"])
            elif kind == "file_upload":
                seen.files[payload["additional_params"]["fileName"]] = archive.read(payload["file_path"])
    seen.status = seen.tags["status"]
    return seen


def read_tensorboard(root: Path, run_id: str) -> Seen:
    """Out of the event files, with TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = root / "tensorboard" / run_id
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0}).Reload()
    seen = Seen(files=_files(folder))
    for name in events.Tags()["scalars"]:
        for scalar in events.Scalars(name):
            seen.point(name, scalar.step, scalar.value)
    texts = {
        name.removesuffix("/text_summary"): events.Tensors(name)[-1].tensor_proto.string_val[0].decode()
        for name in events.Tags()["tensors"]
    }
    seen.status = texts.pop("status")
    rows = [line[2:-2].split(" | ", 1) for line in texts.pop("params").splitlines()[2:]]
    seen.params = {name: value for name, value in rows}
    seen.tags = {name.removeprefix("tags/"): text for name, text in texts.items()}
    return seen


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


READERS: dict[str, Callable[[Path, str], Seen]] = {
    "mlflow": read_mlflow,
    "wandb": read_wandb,
    "comet": read_comet,
    "tensorboard": read_tensorboard,
}
