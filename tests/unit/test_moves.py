"""Stages, aliases and records of registered versions, on a registry that lives in memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from components.core.errors import RegistryServiceError
from components.services.versions.moves import Ledger, Move, State, plan, standing, went_further


class Client:
    """What a Ledger asks of MLflow; `fail_at` makes the n-th write fail, as a server that goes away does."""

    def __init__(self, versions: int, fail_at: int | None = None) -> None:
        self.aliases: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.stages: dict[str, dict[str, str]] = {str(v): {} for v in range(1, versions + 1)}
        self.fail_at, self.writes = fail_at, 0

    def _write(self) -> None:
        self.writes += 1
        if self.fail_at is not None and self.writes >= self.fail_at:
            raise ConnectionError("the server went away")

    def get_registered_model(self, _: str) -> Any:
        return SimpleNamespace(aliases=dict(self.aliases), tags=dict(self.tags))

    def search_model_versions(self, _: str) -> list[Any]:
        return [SimpleNamespace(version=version, tags=tags) for version, tags in self.stages.items()]

    def set_registered_model_alias(self, _: str, alias: str, version: str) -> None:
        self._write()
        self.aliases[alias] = version

    def delete_registered_model_alias(self, _: str, alias: str) -> None:
        self._write()
        self.aliases.pop(alias, None)

    def set_model_version_tag(self, _: str, version: str, key: str, value: str) -> None:
        self._write()
        self.stages[version][key] = value

    def set_registered_model_tag(self, _: str, key: str, value: str) -> None:
        self._write()
        self.tags[key] = value


def move(client: Client, action: Any, version: str, to: str) -> Move:
    ledger = Ledger(client, "m")
    ledger.settle()
    return ledger.commit(plan(ledger.state(), action, version, to))


def stages(client: Client) -> dict[str, str]:
    return {version: tags["stage"] for version, tags in client.stages.items() if tags}


def test_a_version_goes_through_its_stages() -> None:
    """A version stands in one stage; its alias, the companion alias and the tag say the same (F4)."""
    client = Client(1)
    for stage, expected in {
        "candidate": {"candidate": "1"},
        "staging": {"staging": "1", "challenger": "1"},
        "production": {"production": "1", "champion": "1"},
    }.items():
        move(client, "promote", "1", stage)
        assert (client.aliases, stages(client)) == (expected, {"1": stage})


def test_the_next_version_archives_the_one_before() -> None:
    """What leaves production is archived, and the alias `archived` says where a rollback goes (F4)."""
    client = Client(2)
    move(client, "promote", "1", "production")
    move(client, "register", "2", "staging")
    done = move(client, "promote", "2", "production")
    assert client.aliases == {"production": "2", "champion": "2", "archived": "1"}
    assert stages(client) == {"1": "archived", "2": "production"}
    assert done.before == "1"


def test_back_in_production_a_version_is_archived_no_more() -> None:
    """A rollback takes the archive's alias over to the version that was rolled back (C53)."""
    client = Client(2)
    move(client, "promote", "1", "production")
    move(client, "promote", "2", "production")
    move(client, "rollback", "1", "production")
    assert client.aliases == {"production": "1", "champion": "1", "archived": "2"}
    assert stages(client) == {"1": "production", "2": "archived"}


def test_other_aliases_change_no_stage() -> None:
    """An alias that is no stage is moved alone (F4)."""
    client = Client(1)
    move(client, "promote", "1", "staging")
    move(client, "promote", "1", "canary")
    assert client.aliases == {"staging": "1", "challenger": "1", "canary": "1"}
    assert stages(client) == {"1": "staging"}


def test_the_same_again_changes_nothing() -> None:
    """A move to where a version stands already is known to change nothing."""
    client = Client(1)
    move(client, "promote", "1", "production")
    state = Ledger(client, "m").state()
    assert not plan(state, "promote", "1", "production").changes(state)
    assert plan(state, "promote", "1", "canary").changes(state)


@pytest.mark.parametrize(
    ("stage", "to", "expected"),
    [("production", "staging", True), ("archived", "staging", True), ("staging", "production", False)]
    + [("candidate", "candidate", False), ("production", "canary", False)],
)
def test_later_stages_are_known(stage: str, to: str, expected: bool) -> None:
    """A run that registers the same files again does not bring them back to an earlier stage."""
    assert went_further(State({}, {"1": stage}), "1", to) is expected


def records(*moves: tuple[str, str]) -> list[Move]:
    return [
        Move(number=n, action=action, version=version, to="production", aliases={}, stages={}, done=True)  # type: ignore[arg-type]
        for n, (action, version) in enumerate(moves, 1)
    ]


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([], []),
        ([("promote", "1"), ("promote", "2")], ["1", "2"]),
        ([("promote", "1"), ("promote", "2"), ("rollback", "1")], ["1"]),
        ([("promote", "1"), ("promote", "2"), ("promote", "3"), ("rollback", "2"), ("rollback", "1")], ["1"]),
        ([("promote", "1"), ("promote", "2"), ("rollback", "1"), ("promote", "2")], ["1", "2"]),
        ([("promote", "1"), ("promote", "2"), ("promote", "1"), ("rollback", "2")], ["1", "2"]),
        ([("promote", "1"), ("promote", "2"), ("promote", "3"), ("rollback", "1")], ["1"]),
    ],
)
def test_where_a_rollback_goes(moves: list[tuple[str, str]], expected: list[str]) -> None:
    """Rollbacks undo promotions like a stack, however often the same version comes back (C53)."""
    assert standing(records(*moves), "production") == expected


def test_other_aliases_and_unfinished_moves_do_not_count() -> None:
    """Where an alias stood is told by its own finished moves."""
    other = records(("promote", "1"))[0].model_copy(update={"to": "canary"})
    begun = records(("promote", "2"))[0].model_copy(update={"done": False})
    assert standing([other, begun, *records(("promote", "3"))], "production") == ["3"]


def test_whatever_write_fails_the_aliases_hold_and_the_next_move_finishes() -> None:
    """Killed at any write, an alias points at the old or the new version, and whoever comes next finishes (F4, C53)."""
    healthy = Client(2)
    move(healthy, "promote", "1", "production")
    before = healthy.writes
    move(healthy, "promote", "2", "production")
    for broken_at in range(before + 1, healthy.writes + 1):
        client = Client(2)
        move(client, "promote", "1", "production")
        client.fail_at = broken_at
        with pytest.raises((RegistryServiceError, ConnectionError)):
            move(client, "promote", "2", "production")
        assert client.aliases["production"] in ("1", "2"), broken_at
        client.fail_at = None
        finished = Ledger(client, "m").settle()
        written_down = broken_at > before + 1
        assert len(finished) == written_down
        assert client.aliases["production"] == ("2" if written_down else "1")
        assert all(record.done for record in Ledger(client, "m").records())
        if written_down:
            assert (client.aliases, stages(client)) == (healthy.aliases, stages(healthy))


def test_a_move_that_cannot_be_finished_says_how_it_will_be() -> None:
    """A registry that goes away in the middle of a promotion is an error that names the record and the remedy."""
    client = Client(1)
    client.fail_at = 3
    with pytest.raises(
        RegistryServiceError, match=r"moving m@production to version 1 was begun \(record 1\).*history m"
    ):
        move(client, "promote", "1", "production")


def test_a_version_deleted_meanwhile_gets_no_alias() -> None:
    """A move that was begun with a version that is gone now ends without pointing anything at it."""
    client = Client(2, fail_at=None)
    move(client, "promote", "1", "production")
    client.fail_at = client.writes + 2
    with pytest.raises(RegistryServiceError):
        move(client, "promote", "2", "production")
    client.fail_at = None
    del client.stages["2"]
    Ledger(client, "m").settle()
    assert client.aliases["production"] == "1"
