"""Each probe on a machine where something is wrong, made so for the test; and how findings are gathered and shown."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import packaging.requirements  # noqa: F401  (some tests below empty sys.path)
import pytest
from rich.console import Console

from components.core.health import Health
from components.core.kinds import registry
from components.core.machine import machine
from components.core.registry import Kind, Registry
from components.interfaces import Probe
from components.probes import _system, compute, installation, storage
from components.probes.known_bad import KNOWN_BAD, RECORDER
from flows.doctor import as_json, diagnose, print_health

Install = Callable[..., None]


def ask(name: str, **config: Any) -> Health:
    """The answer of one probe."""
    health: Health = registry.create("probe", name, **config).ask()
    return health


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs distributions that are nothing but metadata, in front of those that are really there."""
    packages = tmp_path / "packages"

    def fake(name: str, version: str, *lines: str) -> None:
        folder = packages / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        header = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}")
        (folder / "METADATA").write_text("\n".join((*header, *lines)) + "\n")
        monkeypatch.syspath_prepend(str(packages))

    return fake


# ---------------------------------------------------------------- installation


def test_old_python(install: Install) -> None:
    """A Python that the distribution does not allow is named with the one it asks for (E31)."""
    install("postmill", "0.1.0", "Requires-Python: >=99")
    health = ask("python")
    assert health.status == "failed"
    assert ">=99" in health.detail
    assert health.metrics["wanted"] == ">=99"


def test_32_bit_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 32 bit Python is refused, since torch has none for it (E31)."""
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert ask("python").status == "failed"
    assert "64 bit" in ask("python").detail


def test_versions_that_do_not_fit(install: Install) -> None:
    """What is missing or does not fit is named with found and wanted version and the command to run (E31)."""
    install(
        "postmill",
        "0.1.0",
        "Requires-Dist: no-such-thing>=1",
        "Requires-Dist: old-thing[fast]>=2,<3",
        "Requires-Dist: good-thing>=1",
        'Requires-Dist: only-for-tests; extra == "dev"',
        'Requires-Dist: only-elsewhere; sys_platform == "nowhere"',
    )
    install("old-thing", "1.5", 'Requires-Dist: its-extra; extra == "fast"', 'Requires-Dist: other; extra == "slow"')
    install("good-thing", "1.0+cpu")
    health = ask("versions")
    assert health.status == "failed"
    assert health.detail == (
        "no-such-thing is absent, wanted no-such-thing>=1; old-thing 1.5, wanted old-thing[fast]<3,>=2; "
        "its-extra is absent, wanted its-extra; "
        "run `pip install 'no-such-thing>=1' 'old-thing[fast]<3,>=2' its-extra`"
    )


def test_versions_that_fit(install: Install) -> None:
    """Where everything fits, the versions that matter in a report are figures (A6)."""
    install("postmill", "0.1.0", "Requires-Dist: torch>=2")
    install("torch", "2.99.0")
    health = ask("versions")
    assert health.status == "ok"
    assert health.metrics["torch"] == "2.99.0"
    assert set(health.metrics) == set(installation.REPORTED)


def test_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that was never installed is told to install itself (E31)."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    health = ask("versions")
    assert health.status == "failed"
    assert "pip install -e ." in health.detail
    assert ask("python").status == "ok"


def test_not_the_tested_set(tmp_path: Path, install: Install) -> None:
    """Packages that differ from the constraints are named, those that are not installed are none of its business."""
    for number in range(7):
        install(f"thing{number}", "1.0")
    install("right", "2.0+cpu")
    file = tmp_path / "constraints.txt"
    pins = "".join(f"thing{number}==1.{number}  # tested\n" for number in range(7))
    file.write_text(f"# the set\n--no-binary x\n\n{pins}right==2.0\nabsent==1.0\n")
    health = ask("tested_set", file=file)
    assert health.status == "degraded"
    assert "not the set tested together: thing1 1.0 (==1.1)" in health.detail
    assert "and 1 more" in health.detail
    assert "thing6" not in health.detail
    assert health.metrics["compared"] == 8
    assert set(health.metrics["differing"]) == {f"thing{number}" for number in range(1, 7)}


def test_the_tested_set(tmp_path: Path, install: Install) -> None:
    """The tested versions are fine, and so is a folder without constraints."""
    file = tmp_path / "constraints.txt"
    assert ask("tested_set", file=file).detail == "no constraints.txt here, nothing to compare with"
    install("right", "2.0")
    file.write_text("right==2.0\n")
    assert ask("tested_set", file=file).status == "ok"


# ---------------------------------------------------------------- known bad combinations

CORES = str(machine().cores + 1)
BAD: list[tuple[str, dict[str, str], dict[str, str]]] = [
    ("SQLAlchemy 2.1 under Prefect 3.8", {"prefect": "3.8.8", "sqlalchemy": "2.1.9"}, {}),
    ("FastAPI later than 0.151.0 under Prefect 3.8", {"prefect": "3.8.8", "fastapi": "0.158.2"}, {}),
    ("optimum-onnx beside transformers 5", {"optimum-onnx": "0.1.0", "transformers": "5.23.0"}, {}),
    ("MLFLOW_TRACKING_URI is a folder of files", {"mlflow": "3.17.2"}, {"MLFLOW_TRACKING_URI": "file:/tmp/mlruns"}),
    ("MLFLOW_TRACKING_URI is a folder of files", {"mlflow": "3.17.2"}, {"MLFLOW_TRACKING_URI": "./mlruns"}),
    ("MLFLOW_ALLOW_PICKLE_DESERIALIZATION is on", {}, {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "True"}),
    (f"{RECORDER}_FLUSH_INTERVAL below 1", {}, {f"{RECORDER}_FLUSH_INTERVAL": "0.5"}),
    (f"{RECORDER}_BATCH_SIZE of 1", {}, {f"{RECORDER}_BATCH_SIZE": "1"}),
    ("OMP_NUM_THREADS is more than the usable cores", {}, {"OMP_NUM_THREADS": CORES}),
    ("torch older than 2.10", {"torch": "2.9.1+cpu"}, {}),
    ("transformers older than 5.3", {"transformers": "5.2.0"}, {}),
    ("onnx older than 1.21", {"onnx": "1.20.1"}, {}),
    ("mlflow older than 3.13", {"mlflow": "3.12.0"}, {}),
    ("prefect older than 3.6.28", {"prefect": "3.6.27"}, {}),
    ("starlette older than 0.49.1", {"starlette": "0.49.0"}, {}),
    ("vllm older than 0.23.1rc0", {"vllm": "0.23.0"}, {}),
]
GOOD: list[tuple[dict[str, str], dict[str, str]]] = [
    ({"prefect": "3.8.8", "sqlalchemy": "2.0.58", "fastapi": "0.151.0"}, {}),
    ({"starlette": "0.49.1", "torch": "2.10.0", "onnx": "1.21.0"}, {}),
    ({}, {"MLFLOW_TRACKING_URI": "sqlite:////tmp/mlflow.db"}),
    ({}, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}),
    ({}, {"MLFLOW_TRACKING_URI": "databricks"}),
    ({}, {"MLFLOW_TRACKING_URI": "file:/tmp/mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}),
    ({}, {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}),
    ({}, {f"{RECORDER}_FLUSH_INTERVAL": "1", f"{RECORDER}_BATCH_SIZE": "50"}),
    ({}, {"OMP_NUM_THREADS": "1,2", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}),
    ({}, {"OMP_NUM_THREADS": "", f"{RECORDER}_FLUSH_INTERVAL": "often"}),
]


@pytest.fixture
def sound(install: Install, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A machine in order, whatever is installed here; returns the way to put it in disorder."""
    for name in {name for row in KNOWN_BAD for name in row.variables}:
        monkeypatch.delenv(name, raising=False)
    return install


def disorder(install: Install, monkeypatch: pytest.MonkeyPatch, packages: dict[str, str], env: dict[str, str]) -> None:
    """Install these packages, set these variables."""
    for package, version in packages.items():
        install(package, version)
    for name, value in env.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("what", "packages", "env"), BAD, ids=[what for what, _, _ in BAD])
def test_known_bad(
    what: str,
    packages: dict[str, str],
    env: dict[str, str],
    sound: Install,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A combination of the table is found and named with its reason and its remedy, and is the only one (E31)."""
    disorder(sound, monkeypatch, packages, env)
    health, row = ask("known_bad", root=tmp_path), next(row for row in KNOWN_BAD if row.what == what)
    assert health.status == row.status
    assert health.detail == f"{row.what}: {row.why}; {row.remedy}"
    assert health.metrics["met"] == {what: row.source}


@pytest.mark.parametrize(("packages", "env"), GOOD)
def test_not_known_bad(
    packages: dict[str, str], env: dict[str, str], sound: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is just inside the limit, or unreadable, is not taken for a bad combination."""
    disorder(sound, monkeypatch, packages, env)
    assert ask("known_bad", root=tmp_path).status == "ok"


def test_old_file_store(sound: Install, tmp_path: Path) -> None:
    """Runs of MLflow's file store below the root are found; the folder of artifacts beside them is none."""
    (tmp_path / "mlruns" / "artifacts" / "postmill").mkdir(parents=True)
    assert ask("known_bad", root=tmp_path).status == "ok"
    (tmp_path / "mlruns" / "0").mkdir()
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    assert "migrate-filestore" in ask("known_bad", root=tmp_path).detail


def test_two_at_once(sound: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of several combinations all are named, and the worst decides."""
    disorder(sound, monkeypatch, {"onnx": "1.20.0"}, {"OMP_NUM_THREADS": CORES})
    health = ask("known_bad", root=tmp_path)
    assert health.status == "failed"
    assert len(health.metrics["met"]) == 2


def test_the_whole_table_is_tried() -> None:
    """Every row of the table has a test that meets it, and says where it is known from."""
    assert {what for what, _, _ in BAD} | {"runs of an MLflow file store lie in mlruns"} == {r.what for r in KNOWN_BAD}
    assert all(row.source and row.why and row.remedy for row in KNOWN_BAD)


# ---------------------------------------------------------------- torch, processor, GPU

FAKE_TORCH = """
import types
__version__ = "2.99.0"
version = types.SimpleNamespace(cuda={cuda!r})
cuda = types.SimpleNamespace(is_available=lambda: False)
get_num_threads = lambda: {threads}
__config__ = types.SimpleNamespace(show=lambda: "PyTorch built with: BLAS_INFO=open, ...")
backends = types.SimpleNamespace(
    mkl=types.SimpleNamespace(is_available=lambda: False), mkldnn=types.SimpleNamespace(is_available=lambda: True)
)
print("noise")
"""


@pytest.fixture
def torch_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a module called torch in front of the real one, for child processes."""

    def write(source: str) -> None:
        (tmp_path / "torch.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return write


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise ImportError('libtorch_cpu.so: cannot open')", "libtorch_cpu.so: cannot open"),
        ("import os; os.abort()", "code -6"),
        ("import sys; sys.exit(3)", "code 3"),
    ],
)
def test_broken_torch(torch_is: Callable[[str], None], source: str, cause: str) -> None:
    """A torch that cannot be imported, or takes its process down, is a finding with the cause (E31)."""
    torch_is(source)
    health = ask("torch")
    assert health.status == "failed"
    assert cause in health.detail
    assert "pip install" in health.detail


def test_hanging_torch(torch_is: Callable[[str], None]) -> None:
    """A torch that hangs is given up after the timeout (E31)."""
    torch_is("import time; time.sleep(60)")
    assert "within 0 s" in ask("torch", timeout_s=0.3).detail


def test_torch_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file called torch.py where the command is run is not taken for torch."""
    (tmp_path / "torch.py").write_text("raise SystemExit('not torch')")
    elsewhere = tmp_path / "path"
    elsewhere.mkdir()
    (elsewhere / "torch.py").write_text(FAKE_TORCH.format(cuda=None, threads=1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    assert ask("torch").status == "ok"


def test_too_many_threads(torch_is: Callable[[str], None]) -> None:
    """More threads than usable cores are reported with the variable that sets them (E31)."""
    torch_is(FAKE_TORCH.format(cuda=None, threads=999))
    health = ask("torch")
    assert health.status == "degraded"
    assert f"set OMP_NUM_THREADS={machine().cores}" in health.detail


def test_torch_in_order(torch_is: Callable[[str], None]) -> None:
    """Version, build, threads, BLAS and dtype of a torch that works are told in one line and as figures (A6)."""
    torch_is(FAKE_TORCH.format(cuda=None, threads=1))
    health = ask("torch")
    assert health.detail == (
        f"torch 2.99.0, CPU build, 1 threads on {machine().cores} cores, BLAS open, computes in {machine().dtype()}"
    )
    assert health.metrics["blas"] == "open"


def test_torch_cannot_use_the_gpu(torch_is: Callable[[str], None], nvidia: Callable[[str], None]) -> None:
    """A torch for CUDA that does not see the GPU points at the driver, unless the GPU was hidden on purpose (E31)."""
    nvidia("exit 0")
    torch_is(FAKE_TORCH.format(cuda="13.0", threads=1))
    health = ask("torch")
    assert health.status == "degraded"
    assert "driver" in health.detail
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    assert ask("torch").status == "ok"


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the processor can do, what the container allows, and how busy the machine is."""

    def is_like(flags: str = "avx2 avx512f", quota: str = "max 100000", load: float = 0) -> None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
        monkeypatch.setattr(_system, "CGROUP", tmp_path)
        monkeypatch.setattr(compute, "read", lambda path: f"model name : X\nflags\t\t: fpu {flags}\nbugs : none\n")
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))

    return is_like


def test_processor_in_order(processor: Callable[..., None]) -> None:
    """A processor with AVX2 that is idle is fine; what else it can do is a figure (A6)."""
    processor("avx2 avx512f amx_tile avx_vnni")
    health = ask("cpu")
    assert health.status == "ok"
    expected = {"avx2": True, "avx512": True, "vnni": True, "amx": True, "bf16": False}
    assert {name: health.metrics[name] for name in expected} == expected


def test_processor_without_avx2(processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AVX2 one is told what will be slow; on another architecture the question does not arise (E31)."""
    processor("sse4_2")
    assert ask("cpu").status == "degraded"
    assert "int4 and int8" in ask("cpu").detail
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert ask("cpu").status == "ok"


def test_busy_machine(processor: Callable[..., None]) -> None:
    """A machine that is busy with something else warns that measurements will be noisy (E31)."""
    processor(load=machine().cores * 1.4)
    assert ask("cpu").status == "ok"
    processor(load=machine().cores * 2)
    assert "measurements will be noisy" in ask("cpu").detail
    assert ask("cpu").status == "degraded"


def test_container_with_a_quota(processor: Callable[..., None]) -> None:
    """A container that may use less than the cores it shows is told how many threads to take (E31)."""
    processor(quota="50000 100000")
    health = ask("cpu")
    assert health.status == "degraded"
    assert "OMP_NUM_THREADS=1" in health.detail
    assert "0.5 of" in health.detail


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script called nvidia-smi on the PATH."""

    def write(script: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return write


@pytest.fixture
def built_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a torch that was built for this CUDA."""

    def write(cuda: str) -> None:
        package = tmp_path / "site" / "torch"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('asking must not import torch')")
        lines = f"from typing import Optional\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n"
        (package / "version.py").write_text(lines)
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        monkeypatch.syspath_prepend(str(package.parent))

    return write


H200 = "echo 'NVIDIA H200, 143771, 580.95.05'"


def test_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is fine (A6)."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask("gpu") == Health("ok", "no GPU; everything runs on the CPU", {"gpus": []})


def test_gpu(nvidia: Callable[[str], None], built_for: Callable[[str], None]) -> None:
    """A GPU is reported with its memory and driver (A6)."""
    nvidia(H200)
    built_for("'13.0'")
    health = ask("gpu")
    assert health.status == "ok"
    assert health.metrics["gpus"] == [{"name": "NVIDIA H200", "memory_mib": "143771", "driver": "580.95.05"}]


def test_gpu_beside_a_torch_for_the_cpu(nvidia: Callable[[str], None], built_for: Callable[[str], None]) -> None:
    """A GPU that the installed torch cannot use is reported with the remedy (E31)."""
    nvidia(H200)
    built_for("None")
    health = ask("gpu")
    assert health.status == "degraded"
    assert "install a CUDA build" in health.detail


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("echo 'could not communicate with the NVIDIA driver'; exit 9", "could not communicate"),
        ("exit 4", "code 4"),
        ("echo 'No devices were found'", "No devices were found"),
        ("exec sleep 60", "TimeoutExpired"),
    ],
)
def test_gpu_without_a_driver(nvidia: Callable[[str], None], script: str, cause: str) -> None:
    """An nvidia-smi that fails, finds nothing or hangs is a finding, not a crash and not a hang (E31)."""
    nvidia(script)
    health = ask("gpu", timeout_s=1)
    assert health.status == "degraded"
    assert cause in health.detail
    assert "driver" in health.detail


# ---------------------------------------------------------------- memory, disk, database


def test_little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Less than 4 GB available is reported with the figures (E31)."""
    monkeypatch.setattr(_system, "CGROUP", tmp_path)
    memory = namedtuple("memory", "total available")
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory(16 * 10**9, 3 * 10**9))
    health = ask("memory")
    assert health.status == "degraded"
    assert health.detail.startswith("3.0 GB of 16.0 GB available")
    assert ask("memory", min_gb=2).status == "ok"


def test_memory_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The limit of the container counts where it is the smaller; files in its cache are available (E31)."""
    monkeypatch.setattr(_system, "CGROUP", tmp_path)
    memory = namedtuple("memory", "total available")
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory(64 * 10**9, 60 * 10**9))
    for name, text in {
        "max": "6000000000",
        "current": "5000000000",
        "stat": "anon 1\ninactive_file 2000000000",
    }.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert ask("memory").metrics == {"total": 6 * 10**9, "available": 3 * 10**9}
    (tmp_path / "memory.max").write_text("max\n")
    assert ask("memory").metrics == {"total": 64 * 10**9, "available": 60 * 10**9}


@pytest.mark.parametrize(("free", "status"), [(6e9, "ok"), (4e9, "degraded"), (9e8, "failed")])
def test_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, status: str) -> None:
    """Little space at the root is reported, very little is a failure, also where the root does not exist yet (E31)."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, int(free)))
    health = ask("disk", root=tmp_path / "not" / "yet")
    assert health.status == status
    assert health.metrics["free"] == free
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is write-protected for root")
def test_write_protected_root(tmp_path: Path) -> None:
    """A root that cannot be written to is a failure with the remedy (E31)."""
    tmp_path.chmod(0o500)
    health = ask("disk", root=tmp_path)
    tmp_path.chmod(0o700)
    assert health.status == "failed"
    assert "POSTMILL_ROOT" in health.detail


def test_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel says that writing is refused, the root is a failure with the remedy (E31)."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    health = ask("disk", root=tmp_path)
    assert health.status == "failed"
    assert "POSTMILL_ROOT" in health.detail


def test_root_is_a_file(tmp_path: Path) -> None:
    """A root that is a file is a failure (E31)."""
    (tmp_path / "root").write_text("")
    assert ask("disk", root=tmp_path / "root").status == "failed"
    assert ask("disk", root=tmp_path / "root" / "below").status == "failed"


@pytest.mark.parametrize(
    ("mounts", "status"),
    [
        ("/dev/vda / ext4 rw 0 0", "ok"),
        ("/dev/vda / ext4 rw 0 0\nserver:/x {} nfs4 rw 0 0", "degraded"),
        ("server:/x {} nfs rw 0 0\n/dev/vdb {} xfs rw 0 0", "ok"),
        ("me@host: {} fuse.sshfs rw 0 0\n/dev/vda / ext4 rw 0 0", "degraded"),
        ("//host/share {}-not-this cifs rw 0 0\n/dev/vda / ext4 rw 0 0", "ok"),
    ],
)
def test_network_file_system(mounts: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root on a network file system is reported, by the mount that really holds it (E31)."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 10**12))
    place = tmp_path / "my lab"
    place.mkdir()
    text = mounts.replace("{}", str(place).replace(" ", r"\040"))
    monkeypatch.setattr(storage, "read", lambda path: text)
    assert ask("disk", root=place).status == status


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A tracking database of several pages in WAL mode, closed."""
    file = tmp_path / "mlruns" / "mlflow.db"
    file.parent.mkdir()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE metrics (name TEXT, value REAL)")
    connection.executemany("INSERT INTO metrics VALUES (?, ?)", [(f"loss {n}", n) for n in range(20_000)])
    connection.commit()
    connection.close()
    return file


def test_no_database(tmp_path: Path) -> None:
    """A root without a database is fine: the first run makes it; one of no bytes is none either."""
    assert ask("database", root=tmp_path).status == "ok"
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").touch()
    assert "no database yet" in ask("database", root=tmp_path).detail


def test_intact_database(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An intact database is fine by a relative root too, and SQLite's own files do not appear beside it."""
    monkeypatch.chdir(tmp_path)
    assert ask("database").detail == f"'{database}' is intact"
    assert [file.name for file in database.parent.iterdir()] == ["mlflow.db"]


def test_database_in_use(database: Path, tmp_path: Path) -> None:
    """A database to which a run is writing is fine, and the run goes on."""
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO metrics VALUES ('late', 1)")
    assert ask("database", root=tmp_path).status == "ok"
    writer.execute("COMMIT")
    assert ask("database", root=tmp_path).status == "ok"
    assert writer.execute("SELECT count(*) FROM metrics").fetchone() == (20_001,)
    writer.close()


def test_run_that_begins_during_the_check(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that seemed damaged because a run began to write to it meanwhile is looked at again."""

    def seen(probe: object, file: Path, mode: str) -> str:
        file.with_name("mlflow.db-wal").touch()
        return "malformed" if mode == "immutable=1" else "ok"

    monkeypatch.setattr(storage.DatabaseProbe, "_quick_check", seen)
    assert ask("database", root=tmp_path).status == "ok"


def test_damaged_database(database: Path, tmp_path: Path) -> None:
    """A database with overwritten pages is a failure that says how to save what is left (E31)."""
    content = bytearray(database.read_bytes())
    content[8192:40960] = os.urandom(32768)
    database.write_bytes(content)
    health = ask("database", root=tmp_path)
    assert health.status == "failed"
    assert ".recover" in health.detail


def test_not_a_database(tmp_path: Path) -> None:
    """A file that is no database is a failure with SQLite's reason (E31)."""
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_text("hello " * 500)
    health = ask("database", root=tmp_path)
    assert health.status == "failed"
    assert "not a database" in health.detail


def test_locked_database(database: Path, tmp_path: Path) -> None:
    """A database that another program holds is reported as such, not as damaged (E31)."""
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("PRAGMA journal_mode=DELETE")
    holder.execute("BEGIN EXCLUSIVE")
    health = ask("database", root=tmp_path)
    holder.close()
    assert health.status == "degraded"
    assert "locked" in health.detail


def test_database_without_wal(database: Path, tmp_path: Path) -> None:
    """A database that makes readers wait is reported with the command that changes it, which is right (E31)."""
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode=DELETE")
    health = ask("database", root=tmp_path)
    assert health.status == "degraded"
    statement = health.detail.partition("' '")[2].partition("'")[0]
    connection.execute(statement)
    connection.close()
    assert ask("database", root=tmp_path).status == "ok"


def test_large_database(database: Path, tmp_path: Path) -> None:
    """A database too large to check in time is not called damaged."""
    health = ask("database", root=tmp_path, timeout_s=1e-9)
    assert health.status == "ok"
    assert "too large" in health.detail


# ---------------------------------------------------------------- Prefect


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers like Prefect's health route."""
    http = HTTPServer(("127.0.0.1", 0), _Health)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def test_embedded_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address an embedded server is used, which is fine (A6)."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert "embedded" in ask("prefect").detail


def test_server_answers(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    """A server that answers is fine; another page at its address is not (A6)."""
    monkeypatch.setenv("PREFECT_API_URL", f"{server}/api/")
    assert ask("prefect").status == "ok"
    monkeypatch.setenv("PREFECT_API_URL", server)
    assert ask("prefect").status == "degraded"


@pytest.mark.parametrize(
    "url", ["http://user:sesame@127.0.0.1:9/api", "file:///etc", "nonsense", "http://", "http://["]
)
def test_server_is_gone(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """An address where nothing answers is reported with the remedy, without the password in it (E31)."""
    monkeypatch.setenv("PREFECT_API_URL", url)
    health = ask("prefect")
    assert health.status == "degraded"
    assert "prefect server start" in health.detail
    assert "sesame" not in f"{health}"


# ---------------------------------------------------------------- gathering and showing


class Fine(Probe):
    """Nothing to say."""

    def ask(self) -> Health:
        return Health("ok", "all is [well]", {"where": Path("here")})


class Breaks(Probe):
    """Is a bug."""

    def ask(self) -> Health:
        raise RuntimeError("the probe itself broke")


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry with a probe that breaks between two that do not."""
    table = Registry((Kind("probe", "components.interfaces:Probe"),))
    table.add("probe", "a-fine", Fine)
    table.add("probe", "b-breaks", Breaks)
    table.add("probe", "c-missing", "no.such.module:Thing")
    table.add("probe", "d-disk", registry.get("probe", "disk"))
    monkeypatch.setattr("flows.doctor.registry", table)
    return table


def test_a_broken_probe_is_a_finding(probes: Registry, tmp_path: Path) -> None:
    """A probe that raises or cannot be loaded is itself reported, and the others are asked all the same (A6, A43)."""
    found = diagnose(tmp_path)
    assert list(found) == probes.names("probe")
    assert found["a-fine"].status == "ok"
    assert found["b-breaks"] == Health("failed", "RuntimeError: the probe itself broke")
    assert found["c-missing"].status == "failed"
    assert "no.such.module" in found["c-missing"].detail


def test_probes_get_the_root(probes: Registry, tmp_path: Path) -> None:
    """A probe whose configuration has a root is asked about the one that was given."""
    assert diagnose(tmp_path)["d-disk"].metrics["root"] == str(tmp_path.resolve())


FOUND = {
    "cpu": Health("ok", "two [bold]cores[/bold]"),
    "disk": Health("degraded", "little space; " + "free some, " * 12),
    "torch": Health("failed", "does not start; reinstall it", {"code": -6}),
}


def printed(found: dict[str, Health], width: int = 60) -> str:
    """What a console of this width shows."""
    console = Console(file=io.StringIO(), width=width)
    print_health(console, found)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_table() -> None:
    """The table shows each name with a word for its status and the finding as written; then how many are not ok."""
    text = printed(FOUND)
    for line in ("✓ ok", "! degraded", "✗ failed", "two [bold]cores[/bold]", "does not start; reinstall it"):
        assert line in text
    assert " ".join(text.split()).count("free some,") == 12
    assert text.rstrip().endswith("2 of 3 not ok: disk, torch")
    assert max(map(len, text.splitlines())) <= 60


def test_table_where_all_is_well() -> None:
    """Where nothing is wrong the last line says so; no findings at all are no reason to crash."""
    assert printed({"cpu": FOUND["cpu"]}).rstrip().endswith("all 1 ok")
    assert printed({}).rstrip().endswith("all 0 ok")


def test_json() -> None:
    """The same as JSON carries the worst status, and every finding with its figures (A6)."""
    read = json.loads(as_json({**FOUND, "odd": Health("ok", "", {"path": Path("here")})}))
    assert read["status"] == "failed"
    assert read["checks"]["torch"] == {
        "status": "failed",
        "detail": "does not start; reinstall it",
        "metrics": {"code": -6},
    }
    assert read["checks"]["odd"]["metrics"] == {"path": "here"}
