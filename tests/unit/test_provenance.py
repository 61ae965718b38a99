"""Code digests, library versions, git state, and what the machine is."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from components.core import machine as machine_module
from components.core.kinds import registry
from components.core.machine import Machine, free_disk, human_bytes, machine, peak_rss
from components.core.provenance import code_digest, git_state, library_versions


class Package:
    """A package `prov` on disk with modules that import each other."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "prov"
        self.folder.mkdir()
        self.write("__init__", "")
        self.write("helper", "FACTOR = 2\n")
        self.write("other", "class Other:\n    pass\n")
        self.write("main", "import os\nfrom prov.helper import FACTOR\n\n\nclass Main:\n    pass\n")

    def write(self, module: str, text: str) -> None:
        (self.folder / f"{module}.py").write_text(text)

    def digest(self) -> str:
        for name in [name for name in sys.modules if name.partition(".")[0] == "prov"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return code_digest(importlib.import_module("prov.main").Main)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    monkeypatch.syspath_prepend(tmp_path)
    return Package(tmp_path)


def test_digest_follows_own_imports(package: Package) -> None:
    """An edit to a module that the component imports makes its artifacts stale (F6)."""
    before = package.digest()
    assert package.digest() == before
    package.write("helper", "FACTOR = 3\n")
    assert package.digest() != before


def test_digest_ignores_strangers(package: Package) -> None:
    """An edit to a module that the component does not import changes nothing."""
    before = package.digest()
    package.write("other", "class Other:\n    changed = True\n")
    assert package.digest() == before


def test_digest_survives_a_circle(package: Package) -> None:
    """Modules that import each other end."""
    package.write("helper", "def late():\n    from prov.main import Main\n    return Main\n\n\nFACTOR = 1\n")
    assert package.digest()


def test_digest_follows_modules_imported_from_a_package(package: Package) -> None:
    """`from prov import helper` counts like `import prov.helper`."""
    package.write("main", "from prov import helper\n\n\nclass Main:\n    factor = helper.FACTOR\n")
    before = package.digest()
    package.write("helper", "FACTOR = 3\n")
    assert package.digest() != before


def test_components_differ() -> None:
    """Components of different modules have different digests, and the same one always the same."""
    sft, onnx = registry.get("trainer", "sft"), registry.get("pass", "onnx")
    assert code_digest(sft) == code_digest(sft)
    assert code_digest(sft) != code_digest(onnx)


def test_versions_without_importing() -> None:
    """Versions come from metadata, sorted; a package that is not there is `absent`."""
    found = library_versions(("pydantic", "no-such-distribution"))
    assert list(found) == ["no-such-distribution", "pydantic"]
    assert found["no-such-distribution"] == "absent"
    assert found["pydantic"][0].isdigit()


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def test_git_state(tmp_path: Path) -> None:
    """Commit and cleanliness are told; outside a repository there is none (F6)."""
    assert git_state(tmp_path) == {"commit": "none", "dirty": "unknown"}
    _git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    _git(tmp_path, "add", "a")
    _git(tmp_path, "commit", "-q", "-m", "one")
    clean = git_state(tmp_path)
    assert (len(clean["commit"]), clean["dirty"]) == (40, "false")
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {"commit": clean["commit"], "dirty": "true"}


def test_git_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git the state is unknown, not an error."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path)["commit"] == "none"


def test_machine_is_plausible() -> None:
    """Cores, memory and processor are told (E20)."""
    here = machine()
    assert here.cores >= 1
    assert here.memory > 2**28
    assert here.processor


@pytest.mark.parametrize(
    ("flags", "dtype"), [("fma avx512_bf16", "bfloat16"), ("fma amx_bf16", "bfloat16"), ("fma avx512f", "float32")]
)
def test_dtype_follows_the_processor(monkeypatch: pytest.MonkeyPatch, flags: str, dtype: str) -> None:
    """bfloat16 only where the processor multiplies in it (E18)."""
    monkeypatch.setattr(machine_module, "_read", lambda path: f"model name\t: Test CPU\nflags\t\t: {flags}\n")
    here = machine.__wrapped__()
    assert (here.processor, here.dtype()) == ("Test CPU", dtype)


def test_machine_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `/proc` cannot be read there is still an answer."""
    monkeypatch.setattr(machine_module, "_read", lambda path: "")
    assert isinstance(machine.__wrapped__(), Machine)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1536, "1.5 kB"),
        (123_456, "123 kB"),
        (5e6, "5.0 MB"),
        (2e12, "2000 GB"),
    ],
)
def test_human_bytes(count: float, text: str) -> None:
    """Bytes are shown in powers of 1000 with the digits that matter."""
    assert human_bytes(count) == text


def test_disk_and_memory(tmp_path: Path) -> None:
    """Free disk is told for a path that does not exist yet, and peak memory is this process's own."""
    assert free_disk(tmp_path / "a" / "b" / "c") > 0
    assert 2**22 < peak_rss() < machine().memory


def test_component_in_a_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A component that lives in one module, without a package, is stale when that file is edited."""
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = set()
    for text in ("class Mine:\n    pass\n", "class Mine:\n    changed = True\n"):
        (tmp_path / "lone_plugin.py").write_text(text)
        digests.add(code_digest(type("Mine", (), {"__module__": "lone_plugin"})))
    assert len(digests) == 2
