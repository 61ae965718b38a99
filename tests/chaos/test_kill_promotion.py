"""Kill a process that promotes and rolls back without end: at any moment the alias points at a verified version."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.core.artifacts import Artifact, Identity, write_json
from components.interfaces import Check
from components.services.judging import VariantVerdict, Verdict
from components.services.model_registry import ModelRegistryService
from components.services.promotion import PromotionService
from components.services.versions.moves import Ledger, Move
from components.services.workspace import Workspace
from components.trackers.mlflow import connect
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:.*Any type hint"),  # MLflow's, of its own functions
]

RESTLESS = """
import sys
from pathlib import Path
from components.services.model_registry import ModelRegistryService
from components.services.promotion import PromotionService
from components.services.workspace import Workspace
service = PromotionService(ModelRegistryService(Workspace(Path(sys.argv[1]))))
for number in range(10**6):
    service.promote("m", "2", "production")
    service.rollback("m")
    if number == 0:
        print("ready", flush=True)
"""


def artifact(workspace: Workspace, number: int) -> Artifact:
    def make(out: Path) -> None:
        (out / "weights.bin").write_bytes(bytes([number]) * 1000)

    identity = Identity(stage="optimize", config={"n": number}, parents={}, code="", versions={})
    return workspace.store.build(identity, "weights", {}, make)


def register(root: Path) -> PromotionService:
    """Two versions that their evidence accepts, the first one in production."""
    workspace = Workspace(root)
    service, client = ModelRegistryService(workspace), connect(root)
    run = client.create_run(client.get_experiment_by_name("postmill").experiment_id).info.run_id
    accepted = VariantVerdict(variant="int8", checks=[Check(gate="x", passed=True, summary="")])
    evidence = root / "evidence"
    evidence.mkdir()
    write_json(evidence / "verdict.json", Verdict(variants=[accepted], chosen="int8").model_dump())
    tags, example = {"postmill.variant": "int8"}, {"input": ["a"], "output": ["b"]}
    for number in (1, 2):
        service.register("m", "staging", artifact(workspace, number), run, tags, example, "", evidence)
    promotion = PromotionService(service)
    promotion.promote("m", "1", "production")
    return promotion


def test_an_alias_holds_whenever_the_mover_is_killed(tmp_path: Path) -> None:
    """After each kill the alias resolves, all files verified, and the next look finishes what was begun (F4, C53)."""
    seed = int(os.environ.get("CHAOS_SEED", time.time_ns() % 2**32))
    print(f"CHAOS_SEED={seed}")
    moments, promotion = random.Random(seed), register(tmp_path)
    begun = 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", RESTLESS, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert promotion.registry.resolve("m@production").version in ("1", "2")
        records = [m for m in ledger_records(promotion) if not m.done]
        begun += len(records)
        assert all(move.done for move in promotion.history("m"))
        aliases = {alias: entry.version for entry in promotion.versions("m") for alias in entry.aliases}
        assert aliases["champion"] == aliases["production"]
        stages = {entry.tags["stage"] for entry in promotion.versions("m")}
        assert "production" in stages
    print(f"kills in the middle of a move: {begun} of 12")


def ledger_records(promotion: PromotionService) -> list[Move]:
    """The records as the killed process left them."""
    return list(Ledger(promotion.registry.client, "m").records())
