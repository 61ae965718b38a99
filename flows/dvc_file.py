"""Writes the `dvc.yaml` of a recipe: `postmill dvc init configs/quickstart.yaml`.

Parameters are keys of the recipe itself, so `dvc exp run -S configs/quickstart.yaml:train.0.max_steps=50` changes them.
The first stage watches the whole recipe; each later one watches its own sections only.
"""

from __future__ import annotations

from collections.abc import Iterator
from glob import has_magic
from pathlib import Path
from typing import Any

import yaml

from components.core.documents import load_document
from components.core.errors import ConfigError
from components.core.recipe import Recipe, read_recipe, section_names
from components.services.evidence import metrics_of
from flows.stage import OUTPUTS, RUNS
from flows.stage_figures import EVIDENCE, METRICS, PLOTS
from flows.stage_step import OPTIMIZE, stages

HEAD = """\
# The pipeline of {recipe} for DVC; docs/dvc.md tells how to use it.
# Written by: postmill dvc init {recipe}
"""
SECTIONS = {
    "train": ("model", "data", "train", "seed"),
    "benchmark": ("benchmark", "seed"),
    "judge": ("gate", "register.prefer"),
}
"""Keys of a recipe that a stage's result hangs on, beside the outputs that it reads. The first stage checks the whole
recipe, and the evidence holds it, so these two take all of it."""
CODE = ("components", "constraints.txt")
"""What is watched where it is part of the repository: the store finds out which artifacts an edit makes stale."""


def dvc_yaml(path: Path) -> str:
    """The text of `dvc.yaml` for a recipe file."""
    return HEAD.format(recipe=path) + yaml.safe_dump(dvc_file(path), sort_keys=False, width=120)


def dvc_file(path: Path) -> dict[str, Any]:
    """The same as plain data."""
    if path.is_absolute():
        raise ConfigError(f"'{path}': name the recipe relative to the directory of dvc.yaml, so that a clone finds it")
    recipe, document = read_recipe(path)
    layers = {file.as_posix(): load_document(file).data for file in document.files}
    plain, known = recipe.dump(), stages(recipe)
    files = {"data": _files(plain, "model", "data"), "train": _files(plain, "train")}
    variants = [name.removeprefix(OPTIMIZE) for name in known if name.startswith(OPTIMIZE)]
    written: dict[str, Any] = {}
    for name, needed in known.items():
        read = [*files.get(name, ()), *((OUTPUTS / need.replace("@", "/")).as_posix() for need in needed)]
        if name.startswith(OPTIMIZE):
            chain = _stage(f"{OPTIMIZE}${{item}}", path, read, _params(layers, _keys_of(variants, layers)))
            written["optimize"] = {"foreach": variants, "do": chain}
        else:
            params = _params(layers, SECTIONS[name]) if name in SECTIONS else [{file: None} for file in layers]
            written[name] = _stage(name, path, read, params)
    return {"stages": written, "plots": _plots(recipe)}


def require_current(path: Path, file: Path = Path("dvc.yaml")) -> None:
    """A ConfigError if the recipe says what its `dvc.yaml` does not know: a new variant, a section that was added."""
    if not file.is_file():
        return
    there = yaml.safe_load(file.read_text(encoding="utf-8")).get("stages", {})
    for name, stage in dvc_file(path)["stages"].items():
        missing = _watched(stage) - _watched(there.get(name, {}))
        if missing:
            raise ConfigError(
                f"'{file}' does not fit '{path}' any more: its stage '{name}' lacks {', '.join(sorted(missing))}; "
                f"write it again: postmill dvc init {path}"
            )


def _stage(name: str, path: Path, deps: list[str], params: list[Any]) -> dict[str, Any]:
    folder = name.replace("@", "/")
    out = EVIDENCE if name == "report" else Path(folder)
    stage: dict[str, Any] = {
        "cmd": f"python -m flows.stage {name} {path.as_posix()}",
        **({"params": params} if params else {}),
        "deps": [*(code for code in CODE if Path(code).exists()), *deps],
        "outs": [(OUTPUTS / out).as_posix(), (OUTPUTS / RUNS / f"{folder}.json").as_posix()],
    }
    if name in METRICS:
        # points are plain outputs: what is drawn of them stands below, and would be drawn twice
        stage["outs"].append((OUTPUTS / PLOTS[name]).as_posix())
        stage["metrics"] = [(OUTPUTS / METRICS[name]).as_posix()]
    return stage


def _watched(stage: dict[str, Any]) -> set[str]:
    """Everything that a stage depends on, and the variants that it stands for."""
    stage = {**stage, **stage.get("do", {})}
    keys = [f"{file}:{key}" for entry in stage.get("params", ()) for file, ks in entry.items() for key in ks or [""]]
    return {*stage.get("deps", ()), *keys, *stage.get("foreach", ()), stage.get("cmd", "")}


def _keys_of(variants: list[str], layers: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """A variant hangs on its own chain alone; where chains stand in several layers, on the whole section."""
    there = [data for data in layers.values() if "optimize" in data]
    alone = len(there) == 1 and all(_stands(there[0], f"optimize.{name}") for name in variants)
    return ("optimize.${item}" if alone else "optimize", "seed")


def _params(layers: dict[str, dict[str, Any]], keys: tuple[str, ...]) -> list[Any]:
    wanted = [*keys, "services", *section_names()]
    found = {file: [k for k in wanted if "${" in k or _stands(data, k)] for file, data in layers.items()}
    return [{file: list(keys)} for file, keys in found.items() if keys]


def _stands(data: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return True


def _files(plain: dict[str, Any], *sections: str) -> list[str]:
    """Files and folders that these sections name. What lies in something that DVC tracks is watched as that, and need
    not be there yet."""
    named = [Path(_plain_part(text)) for section in sections for text in _texts(plain.get(section))]
    found = [_tracked(path) or (path if path.name and path.exists() else None) for path in named]
    return list(dict.fromkeys(path.as_posix() for path in found if path))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _plain_part(text: str) -> str:
    """`data/**/*.jsonl` is something in `data`."""
    parts = Path(text).parts
    plain = next((number for number, part in enumerate(parts) if has_magic(part)), len(parts))
    return str(Path(*parts[:plain]))


def _tracked(path: Path) -> Path | None:
    return next((p for p in (path, *path.parents) if p.name and Path(f"{p}.dvc").is_file()), None)


def _plots(recipe: Recipe) -> list[Any]:
    """The curve of each training step; of one alone its picture too, which needs no scripts from the network; and what
    the first benchmark measures, against size."""
    found: list[Any] = [{(OUTPUTS / PLOTS["train"]).as_posix(): {"x": "step", "y": "loss", "title": "training loss"}}]
    found += [(OUTPUTS / EVIDENCE / "loss.png").as_posix()] if len(recipe.train) == 1 else []
    names = [metric.name for metric in metrics_of(recipe)]
    if recipe.judged and "bytes" in names:
        axes = {"template": "scatter", "x": "bytes", "y": names[0], "title": f"{names[0]} against size"}
        found.append({(OUTPUTS / PLOTS["report"]).as_posix(): axes})
    return found
