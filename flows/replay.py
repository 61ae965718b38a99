"""Runs a registered version again, from its own commit and its own data, and compares every stage with what it was.

postmill replay triage 1
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from components.core.artifacts import Store
from components.core.errors import PostmillError
from components.services.application import Application
from components.services.model_registry import ModelRegistryService, RegisteredModel
from components.services.replay import Replay, bring_data, check_out, compare_runs
from components.services.stage_record import read_stages

NOT_OURS = ("POSTMILL_", "PREFECT_", "MLFLOW_")
"""Variables of this process that the replay must not inherit: it has a root, a server and a database of its own."""
AFTER_THE_MODEL = ("benchmark", "gate", "register")


def replay(app: Application, model: str, version: str, whole: bool, here: bool) -> tuple[Replay, Path]:
    """The comparison, and the work area. `whole`: benchmarks and gate too. `here`: with the present code."""
    with app.container() as services:
        found = services.get(ModelRegistryService).resolve(f"{model}/{version}")
    area = _work_area(app.settings.folder / "replays" / f"{model}-{version}")
    code = Path.cwd() if here else area / "code"
    if not here:
        check_out(_repository(), found.tags.get("git.commit", ""), code)
    facts = json.loads((found.evidence / "data.json").read_text(encoding="utf-8"))
    bring_data(facts["files"], Path.cwd(), code)
    variant = found.tags["postmill.variant"]
    recipe = _recipe(found, variant, whole)
    _run(recipe, area, code)
    again = read_stages(area / "root" / "reports" / recipe["name"]).leading_to(variant)
    stores = app.workspace.store.root, Store(area / "root" / "artifacts").root
    return compare_runs(read_stages(found.evidence).leading_to(variant), again, stores), area


def _work_area(area: Path) -> Path:
    """An empty directory: what an earlier replay left says nothing about this one."""
    shutil.rmtree(area, ignore_errors=True)
    area.mkdir(parents=True)
    return area


def _repository() -> Path:
    done = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    if done.returncode:
        raise PostmillError(f"'{Path.cwd()}' is in no git repository; change to the one of the model, or use --here")
    return Path(done.stdout.strip())


def _recipe(found: RegisteredModel, variant: str, whole: bool) -> dict[str, Any]:
    """The recipe of the version, as it was resolved then, cut down to what makes the version."""
    recipe: dict[str, Any] = yaml.safe_load((found.evidence / "recipe.yaml").read_text(encoding="utf-8"))
    if whole:
        return recipe
    if variant not in recipe["optimize"]:
        raise PostmillError(f"variant '{variant}' was found by a search; replay the whole run: --whole")
    recipe["optimize"] = {variant: recipe["optimize"][variant]}
    return {key: value for key, value in recipe.items() if key not in AFTER_THE_MODEL}


def _run(recipe: dict[str, Any], area: Path, code: Path) -> None:
    """The recipe from an empty store, by the code in `code`."""
    path = area / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    environment = kept | {"POSTMILL_ROOT": str(area / "root"), "PYTHONPATH": str(code)}
    done = subprocess.run([sys.executable, "-m", "flows.cli", "run", str(path)], cwd=code, env=environment)
    if done.returncode not in (0, 3):  # 3: nothing passed the gate, which is for the comparison to say
        raise PostmillError(f"the replay ended with code {done.returncode}; its work area is '{area}'")
