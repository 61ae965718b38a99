"""Settings of a process: who wins, where each key was said, and how mistakes are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.core.config import parse_assignments
from components.core.errors import ConfigError
from components.core.settings import Settings, dotenv, load_settings, read_settings

SOURCES = ("--set", "environment", ".env", "postmill.json", "postmill.yaml", "default")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(*assignments: str) -> Settings:
    """The settings under `--set`."""
    return load_settings(parse_assignments(assignments))


def refused(*assignments: str) -> list[str]:
    """What is wrong with the settings."""
    with pytest.raises(ConfigError) as caught:
        load(*assignments)
    return caught.value.problems


def place(*where: str, assignments: tuple[str, ...] = ()) -> str:
    """Where a setting was said."""
    return read_settings(parse_assignments(assignments))[1].locate(where)


# ---------------------------------------------------------------- priority


@pytest.mark.parametrize("strongest", range(len(SOURCES)), ids=SOURCES)
def test_priority(strongest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """--set > environment > .env > postmill.json > postmill.yaml > defaults, one removed at a time (A37)."""
    present = SOURCES[strongest:]
    if "postmill.yaml" in present:
        Path("postmill.yaml").write_text("root: postmill.yaml\n")
    if "postmill.json" in present:
        Path("postmill.json").write_text('{"root": "postmill.json"}')
    if ".env" in present:
        Path(".env").write_text("POSTMILL_ROOT=.env\n")
    if "environment" in present:
        monkeypatch.setenv("POSTMILL_ROOT", "environment")
    assignments = ("root=--set",) if "--set" in present else ()
    settings = load(*assignments)
    assert str(settings.root) == ("." if SOURCES[strongest] == "default" else SOURCES[strongest])
    expected = [
        "--set",
        "environment POSTMILL_ROOT",
        ".env POSTMILL_ROOT",
        "postmill.json",
        "postmill.yaml:1",
        "settings",
    ]
    assert place("root", assignments=assignments) == expected[strongest]


def test_sources_merge_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source gives the keys that it names; nested keys of several sources come together (A36, A37)."""
    Path("postmill.yaml").write_text("plugins:\n  block: [a]\n  enabled: false\nfeatures: {journal: false, x: true}\n")
    Path("postmill.json").write_text('{"plugins": {"enabled": true}, "features": {"x": false}}')
    Path(".env").write_text("POSTMILL_MONITORING__LOG_LEVEL=ERROR\n")
    monkeypatch.setenv("POSTMILL_FEATURES__JOURNAL", "true")
    settings = load("monitoring.enabled=false")
    assert (settings.plugins.block, settings.plugins.enabled) == (("a",), True)
    assert settings.features == {"journal": True, "x": False}
    assert (settings.monitoring.log_level, settings.monitoring.enabled) == ("ERROR", False)
    assert place("plugins", "block") == "postmill.yaml:2"
    assert place("plugins", "enabled") == "postmill.json"
    assert place("features", "journal") == "environment POSTMILL_FEATURES__JOURNAL"
    assert place("monitoring", "log_level") == ".env POSTMILL_MONITORING__LOG_LEVEL"


def test_a_list_is_replaced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of a stronger source replaces the weaker one; nothing is appended (A37)."""
    Path("postmill.yaml").write_text("plugins: {block: [a, b]}\n")
    monkeypatch.setenv("POSTMILL_PLUGINS__BLOCK", "[c]")
    assert load().plugins.block == ("c",)


def test_no_sources() -> None:
    """Without any source there are the defaults, and no file is made (A37, E3)."""
    assert load().model_dump() == Settings().model_dump()
    assert list(Path.cwd().iterdir()) == []


def test_settings_made_in_code_ask_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Settings(...)` is what it is given; only `load_settings` reads files and environment (A36)."""
    monkeypatch.setenv("POSTMILL_ROOT", "/elsewhere")
    assert Settings().root == Path(".")


# ---------------------------------------------------------------- types


def test_values_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`.env` and the environment give booleans, lists and paths, not text (A37)."""
    Path(".env").write_text(
        "POSTMILL_PLUGINS__ENABLED=false\nexport POSTMILL_PLUGINS__BLOCK=[a, 'b c']\n"
        'POSTMILL_ENVIRONMENT=["dev", "local"]\nPOSTMILL_ROOT="/some where"  # a comment\nIGNORED=1\nBARE\n'
    )
    monkeypatch.setenv("POSTMILL_FEATURES", "{journal: no, other: on}")
    monkeypatch.setenv("POSTMILL_PLUGINS__DIRECTORIES", "[plugins]")
    settings = load()
    assert settings.plugins.enabled is False
    assert settings.plugins.block == ("a", "b c")
    assert settings.plugins.directories == (Path("plugins"),)
    assert settings.environment == ("dev", "local")
    assert settings.root == Path("/some where")
    assert settings.features == {"journal": False, "other": True}


def test_null_takes_a_value_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Null in a stronger source takes back an optional value of a weaker one (A37)."""
    Path("postmill.yaml").write_text("plugins: {allow: [a]}\n")
    assert load().plugins.allow == ("a",)
    monkeypatch.setenv("POSTMILL_PLUGINS__ALLOW", "null")
    assert load().plugins.allow is None


def test_sections_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section from one source and its keys from others are merged, the stronger source first (A37)."""
    Path(".env").write_text("POSTMILL_PLUGINS__ENABLED=false\n")
    monkeypatch.setenv("POSTMILL_PLUGINS", "{block: [a]}")
    monkeypatch.setenv("POSTMILL_PLUGINS__AUTO_DISCOVER", "false")
    plugins = load().plugins
    assert (plugins.enabled, plugins.block, plugins.auto_discover) == (False, ("a",), False)


def test_names_of_the_environment_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefix is upper case, as for recipes; what only looks like it is somebody else's (E4)."""
    for name in ("postmill_root", "POSTMILLROOT", "POSTMIL_ROOT", "ROOT"):
        monkeypatch.setenv(name, "/x")
    assert load().model_dump() == Settings().model_dump()


def test_features() -> None:
    """A feature is on unless a switch turns it off (C67)."""
    settings = load("features.journal=false")
    assert (settings.feature("journal"), settings.feature("other")) == (False, True)


def test_settings_cannot_change() -> None:
    """Settings are frozen after they were checked (E1)."""
    with pytest.raises(ValidationError):
        load().root = Path("x")


def test_monitoring_has_the_fields_of_the_document() -> None:
    """Monitoring can be switched off, has a log level and a folder for logs (E1, E12)."""
    monitoring = Settings().monitoring
    assert (monitoring.enabled, monitoring.log_level, monitoring.folder) == (True, "WARNING", Path("logs"))
    assert refused("monitoring.log_level=LOUD")[0].startswith("--set: monitoring.log_level: Input should be 'DEBUG'")


def test_folder_is_absolute(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`folder` is `root` from the working directory or the home directory (E1)."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load("root=below").folder == here / "below"
    assert load("root='~/x'").folder == Path("/home/somebody/x")


# ---------------------------------------------------------------- mistakes


def test_unknown_key_with_its_line() -> None:
    """An unknown key is reported with file, line and the closest one (A38, E3)."""
    Path("postmill.yaml").write_text("root: x\nplugins:\n  blok: [a]\nrooot: y\n")
    assert sorted(refused()) == [
        "postmill.yaml:3: plugins.blok: unknown key 'blok'; did you mean 'block'?",
        "postmill.yaml:4: rooot: unknown key 'rooot'; did you mean 'root'?",
    ]


def test_unknown_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown key inside a section is reported with its variable (E4)."""
    monkeypatch.setenv("POSTMILL_PLUGINS__BLOK", "[]")
    expected = "environment POSTMILL_PLUGINS__BLOK: plugins.blok: unknown key 'blok'; did you mean 'block'?"
    assert refused() == [expected]


def test_several_mistakes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistakes in all sources are one ConfigError, each at its place (E3)."""
    Path("postmill.yaml").write_text("a: 1\nmonitoring: {enabled: perhaps}\n")
    Path("postmill.json").write_text('{"features": {"x": 7}}')
    Path(".env").write_text("POSTMILL_ENVIRONMENT=prod\n")
    monkeypatch.setenv("POSTMILL_MONITORING__LOG_LEVEL", "LOUD")
    found = refused("plugins.block=7")
    assert sorted(problem.partition(": ")[0] for problem in found) == [
        "--set",
        ".env POSTMILL_ENVIRONMENT",
        "environment POSTMILL_MONITORING__LOG_LEVEL",
        "postmill.json",
        "postmill.yaml:1",
        "postmill.yaml:2",
    ]


@pytest.mark.parametrize("value", ["prod", "7", "a,b", "", "true"])
def test_a_list_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A plain value in the place of a list is refused with its variable and the way to write a list (E3)."""
    monkeypatch.setenv("POSTMILL_ENVIRONMENT", value)
    (problem,) = refused()
    assert problem.startswith("environment POSTMILL_ENVIRONMENT: environment: ")
    assert problem.endswith("a list is written [a, b]")


@pytest.mark.parametrize("value", ["[a", '["a"', "[a]]", "&x [*x]", "!!int x", "[" * 5000, "\udcff"])
def test_an_unreadable_list(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A torn, recursive or foreign value in the environment is one ConfigError that names the variable (E3)."""
    monkeypatch.setenv("POSTMILL_PLUGINS__BLOCK", value)
    assert refused()[0].startswith("environment POSTMILL_PLUGINS__BLOCK plugins.block:")


def test_a_key_below_a_plain_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that leads through a plain setting is refused, not ignored (E3)."""
    monkeypatch.setenv("POSTMILL_ROOT__X", "7")
    assert refused()[0].startswith("environment POSTMILL_ROOT__X: root: ")


def test_files_that_disagree() -> None:
    """Two files that disagree in type name both places; nothing is dropped silently (C55)."""
    Path("postmill.yaml").write_text("\nfeatures: [1]\n")
    Path("postmill.json").write_text('{"features": {"a": true}}')
    assert refused() == ["postmill.json: 'features' is a mapping here, but a list in postmill.yaml:2"]


@pytest.mark.parametrize("text", ["root: [\n", "- a\n", "a: 1\na: 2\n", "root: *x\n", "root: \udcff\n"])
def test_a_broken_file(text: str) -> None:
    """A broken settings file is refused with its name (E3)."""
    Path("postmill.yaml").write_bytes(text.encode(errors="surrogateescape"))
    assert "postmill.yaml" in refused()[0]


def test_a_broken_json_file() -> None:
    """A broken JSON file is refused with its line (E3)."""
    Path("postmill.json").write_text('{\n"root": "x",\n}')
    assert refused()[0].startswith("postmill.json:3: not valid JSON")


@pytest.mark.parametrize("value", ["null", "7", "[a]", "{a: 1}"])
def test_wrong_types_in_a_file(value: str) -> None:
    """A wrong type in a file is refused with its line (E3)."""
    Path("postmill.yaml").write_text(f"\nroot: {value}\n")
    assert refused()[0].startswith("postmill.yaml:2: root: ")


# ---------------------------------------------------------------- .env


def test_dotenv(here: Path) -> None:
    """`.env` holds NAME=value lines, quoted or not, with comments; a bare name sets nothing (A37)."""
    path = here / "x.env"
    path.write_text("# c\nA=1\nexport B='two words'\nC=\nBARE\nA=2\n")
    assert dotenv(path) == {"A": "2", "B": "two words", "C": ""}
    assert dotenv(here / "absent") == {}
    assert dotenv(here) == {}


def test_dotenv_from_windows() -> None:
    """A byte order mark and carriage returns do not hide the first variable (A37)."""
    Path(".env").write_bytes(b"\xef\xbb\xbfPOSTMILL_ROOT=a\r\nPOSTMILL_ENVIRONMENT=[b]\r\n")
    assert (load().root, load().environment) == (Path("a"), ("b",))


def test_dotenv_that_is_not_text() -> None:
    """`.env` that is no UTF-8, or far too big, is one ConfigError (E3)."""
    Path(".env").write_bytes(b"POSTMILL_ROOT=\xff\n")
    assert "'.env' is not UTF-8 text" in refused()[0]
    with Path(".env").open("wb") as handle:
        handle.truncate(50_000_000)
    assert "'.env' has 50,000,000 bytes" in refused()[0]


@pytest.mark.parametrize("line", ["POSTMILL_ROOT /x", "POSTMILL_ROOT='x", "POSTMILL_ROOT: x"])
def test_dotenv_lines_that_set_nothing(line: str) -> None:
    """A line that means us and is not readable is refused with its number, not skipped (E3)."""
    Path(".env").write_text(f"A=1\n{line}\n")
    assert refused() == [".env:2: a variable is written POSTMILL_NAME=value"]


def test_dotenv_lines_of_others() -> None:
    """An unreadable line that belongs to another program is left alone (A37)."""
    Path(".env").write_text("other program\nPOSTMILL_ROOT=x\n")
    assert load().root == Path("x")


def test_json_and_yaml_are_equivalent() -> None:
    """A settings file says the same in either format (A36)."""
    plain: dict[str, Any] = {"root": "x", "plugins": {"block": ["a"]}, "features": {"journal": False}}
    Path("postmill.json").write_text(json.dumps(plain))
    from_json = load()
    Path("postmill.json").rename("postmill.yaml")
    assert load() == from_json


def test_a_secret_in_the_settings_is_refused() -> None:
    """A sink's secret is named, not written; the message does not repeat it (A40)."""
    Path("postmill.yaml").write_text("sinks: {pager: {token: hunter2hunter2}}\n")
    with pytest.raises(ConfigError, match="sinks.pager.token: a secret is not written") as caught:
        load()
    assert "hunter2" not in str(caught.value)
    Path("postmill.yaml").write_text("sinks: {pager: {token: env:PAGER}}\n")
    assert load().sinks == {"pager": {"token": "env:PAGER"}}
