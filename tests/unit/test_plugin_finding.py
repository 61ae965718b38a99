"""Plugins: found without being executed, ordered by what they need, refused with a reason."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import PluginError
from tests.unit.plugin_world import HERE, World, source

# ---------------------------------------------------------------- finding


def test_discovery_executes_nothing(world: World, tmp_path: Path) -> None:
    """Discovery names every plugin without running a line of it; loading runs it (A13, A14, R5)."""
    canary = tmp_path / "canary"
    top = f"open({str(canary)!r}, 'a').write('x')"
    world.file("filed", top=top)
    world.installed("boxed", top=top)
    manager = world.configure(auto_discover=True)
    assert {"filed", "boxed"} <= {candidate.name for candidate in manager.discover()}
    assert not canary.exists()
    manager.load_all()
    assert canary.read_text() == "xx"


def test_facts_of_an_installed_plugin(world: World) -> None:
    """Version, host and requirements of an installed plugin are its distribution's; extras do not count (A16, B9)."""
    world.installed("boxed", "1.2", ("postmill>=0.1,<1", 'ghost>1; extra == "more"', "pydantic>=2"))
    found = {candidate.name: candidate for candidate in world.configure(auto_discover=True).discover()}["boxed"]
    assert (found.version, str(found.host), found.origin) == ("1.2", "<1,>=0.1", "dist-boxed 1.2")
    assert [str(need) for need in found.requires] == ["pydantic>=2"]


def test_any_class_name_will_do(world: World) -> None:
    """The class is found by what it extends, not by being called Plugin; a package works too (A12, R5)."""
    package = world.root / "pack"
    package.mkdir(mode=0o755)
    (package / "part.py").write_text(f"NAME = 'from_part'\nTARGET = {HERE!r}\n")
    top = "from .part import NAME, TARGET\nimport components.core.plugins as plugins"
    text = source("pack", 'api.component("tool", NAME, TARGET)', top).replace("(Plugin)", "(plugins.Plugin)")
    (package / "__init__.py").write_text(text)
    (report,) = world.manager.load_all()
    assert (report.name, report.outcome, report.provides) == ("pack", "loaded", ("tool:from_part",))
    assert type(world.manager.get("pack")).__name__ == "Brings"


def test_hidden_files_are_no_plugins(world: World) -> None:
    """A file whose name begins with an underscore is a helper (A12)."""
    (world.root / "_helper.py").write_text("raise RuntimeError\n")
    (world.root / "notes.txt").write_text("not Python")
    assert world.manager.load_all() == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (source("p", version="one"), "not valid: Invalid version: 'one'"),
        (source("p", requires=("a b",)), "not valid: Expected .* a b$"),
        (source("p", host="~1"), "not valid: .*~1"),
        ("x = 1\nclass Broken(Plugin:\n", r"syntax \(line 2\)$"),
        ("x = 1\n", "defines 0 classes that extend Plugin, expected one"),
        (source("p") + "\nclass More(Plugin):\n    pass\n", "defines 2 classes that extend Plugin"),
        (source("p").replace("def reg", "requires = (BASE,)\n    def reg"), r"'requires' is \(BASE,\); write it out"),
        (source("p", requires="base"), "'requires' must be a tuple of texts, found 'base'"),
        (source("p", requires=(3,)), "'requires' must be a tuple of texts"),
        (source("p", name=7), "'name' must be text, found 7"),
        (source("p").replace("def reg", "host = {[]: 1}\n    def reg"), "'host' is .*; write it out"),
        ("\0", "null bytes"),
        ("# " + "é", "utf-8"),
        (None, "No such file"),
    ],
)
def test_unreadable_file(world: World, text: str | None, reason: str) -> None:
    """A file that cannot be understood fails with the reason, unexecuted; the others load (A13, A14)."""
    path = world.root / "p.py"
    if text is None:
        path.symlink_to("nowhere")
    else:
        path.write_text(text, encoding="latin-1")
    world.file("good")
    world.manager.load_all()
    outcome, why = world.outcome("p")
    assert outcome == "failed"
    assert re.search(reason, why)
    assert world.outcome("good")[0] == "loaded"


def test_class_body_may_hold_anything(world: World) -> None:
    """Only assignments of the four facts are read; a loop, an annotation or a sum beside them is the plugin's (A16)."""
    body = "name: str\n    for version in '1':\n        pass\n    requires = []\n    def reg"
    (world.root / "odd.py").write_text(source("odd").replace("def reg", body))
    (report,) = world.manager.load_all()
    assert (report.name, report.version, report.outcome) == ("odd", "0", "loaded")


@pytest.mark.parametrize(
    ("metadata", "entry_point", "reason"),
    [
        ("Name: x\nVersion: brand new\n", "p = installed_ok:Brings", "not valid: Invalid version: 'brand new'"),
        ("Name: x\nVersion: 1\nRequires-Dist: ??\n", "p = installed_ok:Brings", "its metadata is not valid"),
        (None, "p = installed_ok:Brings", "no name or no version"),
        ("Name: x\nVersion: 1\n", "p = no_such_module:Brings", "ModuleNotFoundError: .*no_such_module"),
        ("Name: x\nVersion: 1\n", "p = installed_ok:Missing", "AttributeError: .*Missing"),
        ("Name: x\nVersion: 1\n", "p = installed_ok:Tool", "is not a class that extends .*Plugin"),
        ("Name: x\nVersion: 1\n", "p = installed_ok", "is not a class that extends .*Plugin"),
        ("Name: x\nVersion: 1\n", "p = components.core.plugins:Plugin", r"must define register\(api\)"),
    ],
)
def test_broken_distribution(world: World, metadata: str | None, entry_point: str, reason: str) -> None:
    """A distribution that says nonsense or points at nothing fails with the reason; the others load (A14, A18)."""
    world.installed("ok")
    world.dist_info("p", metadata, entry_point)
    world.configure(auto_discover=True).load_all()
    outcome, why = world.outcome("p")
    assert outcome == "failed"
    assert re.search(reason, why)
    assert world.outcome("ok")[0] == "loaded"


def test_missing_directory(world: World, tmp_path: Path) -> None:
    """A configured directory that is not there is reported; the other one counts (A12, A20)."""
    world.file("good")
    world.configure(directories=(tmp_path / "absent", world.root)).load_all()
    assert world.outcome("absent") == ("failed", f"plugin directory '{tmp_path / 'absent'}' does not exist")
    assert world.order() == ["good"]


@pytest.mark.parametrize("what", ["directory", "file"])
def test_writable_by_everybody(world: World, what: str) -> None:
    """Code that everybody may change is not executed, and the remedy is named (A12)."""
    path = world.file("p")
    path = path if what == "file" else world.root
    path.chmod(path.stat().st_mode | 0o002)
    (report,) = world.manager.load_all()
    assert report.outcome == "failed"
    assert f"chmod o-w '{path}'" in report.reason
    assert world.order() == []


@pytest.mark.parametrize("what", ["pack", "pack/part.py", "pack/deep", "pack/deep/more.py"])
def test_package_writable_by_everybody(world: World, what: str) -> None:
    """Every file and folder of a package counts, and only that plugin is refused (A12)."""
    deep = world.root / "pack" / "deep"
    deep.mkdir(parents=True, mode=0o755)
    (deep.parent / "__init__.py").write_text(source("pack"))
    (deep.parent / ".lock").symlink_to("nowhere")
    for part in (deep.parent / "part.py", deep / "more.py"):
        part.write_text("")
    world.file("good")
    assert world.manager.load("pack").outcome == "loaded"
    world.manager.unload("pack")
    path = world.root / what
    path.chmod(path.stat().st_mode | 0o002)
    world.manager.load_all()
    assert world.outcome("pack")[0] == "failed"
    assert f"everybody may write to '{path}'" in world.outcome("pack")[1]
    assert world.order() == ["pack", "good"]


@pytest.mark.parametrize(("mode", "outcome"), [(0o755, "loaded"), (0o1777, "loaded"), (0o777, "failed")])
@pytest.mark.parametrize("linked", [False, True])
def test_directory_above(world: World, tmp_path: Path, mode: int, outcome: str, linked: bool) -> None:
    """Where everybody may put another directory in a plugin's place nothing is executed; /tmp is no such one (A12)."""
    above = tmp_path / "above"
    directory = above / "between" / "plugins"
    directory.mkdir(parents=True, mode=0o755)
    (directory / "p.py").write_text(source("p"))
    above.chmod(mode)
    if linked:
        (tmp_path / "link").symlink_to(directory)
    (report,) = world.configure(directories=(tmp_path / "link" if linked else directory,)).load_all()
    assert report.outcome == outcome
    assert ("everybody may write to " in report.reason) == (outcome == "failed")
    assert outcome == "loaded" or f"chmod o-w '{above}'" in report.reason


@pytest.mark.parametrize(("user", "owner", "outcome"), [(7, 7, "loaded"), (7, 0, "loaded"), (7, 8, "failed")])
@pytest.mark.parametrize("name", ["pack/__init__.py", "pack/part.py", "p.py"])
def test_file_of_somebody_else(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, user: int, owner: int, outcome: str
) -> None:
    """A file of a plugin must belong to the user or to root; whose it is instead is said (A12)."""
    (world.root / "pack").mkdir(mode=0o755)
    (world.root / "pack" / "part.py").write_text("")
    (world.root / "pack" / "__init__.py").write_text(source("pack"))
    world.file("p")
    real, path = Path.stat, world.root / name

    def stat(self: Path, **options: Any) -> os.stat_result:
        found = list(real(self, **options))
        found[4] = owner if self == path else user
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    plugin = name.partition("/")[0].removesuffix(".py")
    world.manager.load_all()
    assert world.outcome(plugin)[0] == outcome
    reason = f"'{path}' belongs to user 8, neither you nor root, so its code is not loaded; chown 7 '{path}'"
    assert world.outcome(plugin)[1] == (reason if outcome == "failed" else "")
    assert world.outcome("pack" if plugin == "p" else "p")[0] == "loaded"


# ---------------------------------------------------------------- order and compatibility


def test_order_follows_requirements(world: World) -> None:
    """What is required loads first, whatever the files are called (A17, R5)."""
    world.file("a", requires=("m",))
    world.file("m", requires=("z>=1,<2",))
    world.file("z", version="1.5")
    world.manager.load_all()
    assert world.order() == ["z", "m", "a"]


def test_order_among_installed(world: World) -> None:
    """An installed plugin requires another one's distribution, a plugin in a directory its name (A17)."""
    world.file("a_file", requires=("aaa",))
    world.installed("aaa", needs=("Dist.ZZZ>=1",))
    world.installed("zzz")
    world.configure(auto_discover=True, allow=("a_file", "aaa", "zzz")).load_all()
    assert world.order() == ["zzz", "aaa", "a_file"]


def test_order_is_the_same_every_time(world: World) -> None:
    """Plugins that do not need each other load in the order in which they were found or are required (A17)."""
    names = [f"n{number}" for number in (5, 2, 7, 1, 3, 6, 4)]
    world.file("all", requires=tuple(names))
    for name in names:
        world.file(name)
    world.manager.load_all()
    assert world.order() == [*names, "all"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"requires": ("ghost>=1",)}, "it needs 'ghost>=1', which is not installed"),
        ({"requires": ("base>=2",)}, "it needs 'base>=2', found base 1.0"),
        ({"requires": ("pydantic>=999",)}, "it needs 'pydantic>=999', found pydantic 2."),
        ({"host": ">=9"}, "it needs postmill>=9, this is 0."),
    ],
)
def test_incompatible(world: World, facts: dict[str, Any], reason: str) -> None:
    """What a plugin needs is checked before its code runs; it is skipped with the reason, the others load (A18)."""
    world.file("base", version="1.0")
    world.file("p", top="raise RuntimeError('executed')", **facts)
    world.manager.load_all()
    outcome, why = world.outcome("p")
    assert outcome == "skipped"
    assert why.startswith(reason)
    assert world.order() == ["base"]


def test_compatible(world: World) -> None:
    """Requirements that are met, on libraries and on the host, are no obstacle (A18)."""
    world.file("p", requires=("pydantic>=2",), host=">=0.1,<1")
    world.manager.load_all()
    assert world.order() == ["p"]


def test_circle(world: World) -> None:
    """Plugins that need each other are skipped, and so is one that needs them; the reason shows the circle (A17)."""
    world.file("a", requires=("b",))
    world.file("b", requires=("a",))
    world.file("c", requires=("a",))
    world.file("d")
    world.manager.load_all()
    for name in "ab":
        assert world.outcome(name)[0] == "skipped"
        assert world.outcome(name)[1] in ("plugins need each other: " + way for way in ("a -> b -> a", "b -> a -> b"))
    assert world.outcome("c")[1].startswith("it needs plugin 'a', which is not loaded: plugins need each other")
    assert world.order() == ["d"]


def test_requirement_that_failed(world: World) -> None:
    """A plugin whose requirement failed is skipped with that plugin's name and reason (A17)."""
    world.file("base", top="raise RuntimeError('no luck')")
    world.file("p", requires=("base",))
    world.manager.load_all()
    assert world.outcome("p") == ("skipped", "it needs plugin 'base', which is not loaded: RuntimeError: no luck")


def test_requirement_with_a_nonsense_version(world: World) -> None:
    """A requirement whose own version makes no sense is not met, and breaks nobody else (A18)."""
    world.installed("odd", version="brand new")
    world.file("p", requires=("dist-odd>=1",))
    world.file("q")
    world.configure(auto_discover=True).load_all()
    assert world.outcome("p")[0] == "skipped"
    assert "q" in world.order()


# ---------------------------------------------------------------- settings


def test_disabled(world: World) -> None:
    """`enabled: false` finds and loads nothing (A20)."""
    world.file("p")
    world.installed("boxed")
    manager = world.configure(enabled=False, auto_discover=True)
    assert manager.discover() == manager.load_all() == []
    with pytest.raises(PluginError, match="no plugin 'p'"):
        manager.load("p")


def test_directories_only(world: World) -> None:
    """`auto_discover: false` leaves installed plugins alone (A20)."""
    world.file("p")
    world.installed("boxed")
    assert [report.name for report in world.configure(auto_discover=False).load_all()] == ["p"]


@pytest.mark.parametrize("settings", [{"allow": ("yes",)}, {"block": ("no",)}])
def test_allow_and_block(world: World, settings: dict[str, Any]) -> None:
    """Only plugins that are allowed and not blocked run (A20)."""
    world.file("yes")
    world.file("no", top="raise RuntimeError('executed')")
    world.configure(**settings).load_all()
    outcome, reason = world.outcome("no")
    assert outcome == "blocked"
    assert reason.startswith("the settings")
    assert world.order() == ["yes"]


def test_broken_and_blocked(world: World, tmp_path: Path) -> None:
    """Blocking a broken plugin silences it; a list of allowed ones hides neither it nor a missing directory (A20)."""
    (world.root / "broken.py").write_text("(")
    world.configure(block=("broken",)).load_all()
    assert world.outcome("broken")[0] == "blocked"
    assert world.manager.health().status == "ok"
    world.configure(allow=("yes",), directories=(world.root, tmp_path / "absent")).load_all()
    assert world.outcome("broken")[0] == world.outcome("absent")[0] == "failed"


def test_needs_a_blocked_one(world: World) -> None:
    """A plugin that needs a blocked one is skipped, and the reason says who is blocked (A17, A20)."""
    world.file("no")
    world.file("p", requires=("no",))
    world.configure(block=("no",)).load_all()
    assert world.outcome("p")[1].startswith("it needs plugin 'no', which is not loaded: the settings block it")


def test_half_installed_whoever_answers(world: World) -> None:
    """A distribution without metadata is refused also when the package importlib_metadata answers for it (A14)."""
    importlib.import_module("importlib_metadata")  # puts its finder before Python's own
    world.dist_info("p", None, "p = installed_ok:Brings")
    world.configure(auto_discover=True).load_all()
    assert "no name or no version" in world.manager.reports["p"].reason
