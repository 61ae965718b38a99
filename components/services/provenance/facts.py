"""What the manifest of an artifact tells a person: how it is called, and the facts that the graph keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.core.machine import human_bytes
from components.services.provenance.graph import Node

STAGES: Mapping[str, str] = {
    "model": "model",
    "data": "dataset",
    "train": "training",
    "optimize": "variant",
    "search": "search",
    "benchmark": "measurement",
    "judge": "verdict",
}
"""Kind of node by stage; a plugin's own stage gives an "artifact"."""
LONGEST_LIST, LONGEST_TEXT = 8, 300
"""Of an artifact's facts, longer ones stay in its manifest."""


def artifact_node(node: str, manifest: Mapping[str, Any], place: Path) -> Node:
    """What a manifest tells. Files are looked for, not read."""
    stage, kind = manifest["stage"], STAGES.get(manifest["stage"], "artifact")
    there = [place / name for name in manifest["files"] if (place / name).is_file()]
    gone = len(manifest["files"]) - len(there)
    identity = manifest.get("identity", {})
    facts = {
        "created": manifest.get("created", ""),
        "artifact": f"{stage}/{manifest['key']}",
        "kind": manifest["kind"],
        "size": sum(file.stat().st_size for file in there),
        **dict(leaves({name: value for name, value in manifest["meta"].items() if name not in ("content", "files")})),
        "settings": dict(leaves(identity.get("config", {}))) if kind != "dataset" else {},
        "files": manifest["files"],
        "code": identity.get("code", ""),
        "libraries": identity.get("versions", {}),
    }
    label, note = LABELS.get(kind, _artifact)(manifest)
    return Node(
        kind=kind,
        id=node,
        label=label,
        note=note or human_bytes(facts["size"]),
        digest=manifest["digest"],
        missing=f"{gone} of {len(manifest['files'])} files are gone from the store" if gone else "",
        facts={name: value for name, value in facts.items() if value not in ("", {}, None)},
    )


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"lora": {"r": 16}}` -> `("lora.r", 16)`; nothing for None, long lists and long texts."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list | tuple):
        if 0 < len(value) <= LONGEST_LIST and not any(isinstance(item, list | tuple | Mapping) for item in value):
            yield prefix, ", ".join(map(str, value))
    elif value is not None and len(str(value)) <= LONGEST_TEXT:
        yield prefix, value


# ------------------------------------------------------------ how a person calls it: a label, and what comes after it


def _type(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("identity", {}).get("config", {}).get("type", manifest["kind"]))


def _artifact(manifest: Mapping[str, Any]) -> tuple[str, str]:
    return _type(manifest), ""


def _model(manifest: Mapping[str, Any]) -> tuple[str, str]:
    return str(manifest["meta"].get("name") or _type(manifest)), ""


def _dataset(manifest: Mapping[str, Any]) -> tuple[str, str]:
    rows = manifest["meta"].get("rows", {})
    counts = ", ".join(f"{count:,} {split}" for split, count in sorted(rows.items(), reverse=True))
    bad = sum(manifest["meta"].get("quarantined", {}).values())
    return f"{counts} rows", f"{bad:,} in quarantine" if bad else ""


def _training(manifest: Mapping[str, Any]) -> tuple[str, str]:
    steps, loss = manifest["meta"].get("steps"), manifest["meta"].get("final_loss")
    said = [f"{steps:,} steps"] if isinstance(steps, int) else []
    said += [f"loss {loss:.3g}"] if isinstance(loss, int | float) else []
    return _type(manifest), ", ".join(said)


def _measurement(manifest: Mapping[str, Any]) -> tuple[str, str]:
    return _type(manifest), ", ".join(manifest["meta"].get("metrics", {}))


def _verdict(manifest: Mapping[str, Any]) -> tuple[str, str]:
    chosen, accepted = manifest["meta"].get("chosen"), manifest["meta"].get("accepted", ())
    others = len(manifest.get("identity", {}).get("config", {}).get("variants", ()))
    return f"accepted, {chosen}" if chosen else "not accepted", f"{len(accepted)} of {others} variants passed"


def _search(manifest: Mapping[str, Any]) -> tuple[str, str]:
    config = manifest.get("identity", {}).get("config", {})
    return f"{len(config.get('trials', ()))} trials", f"{len(config.get('front', ()))} on the front"


LABELS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str]]] = {
    "model": _model,
    "dataset": _dataset,
    "training": _training,
    "measurement": _measurement,
    "verdict": _verdict,
    "search": _search,
}
