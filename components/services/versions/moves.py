"""How aliases and stages of registered versions move: planned first, written down, then done.

A version stands in one stage, `candidate -> staging -> production -> archived`: an alias of that name points at it, and
its tag `stage` says the same. With `production` goes the alias `champion`, with `staging` goes `challenger`. Any other
alias is moved alone and changes no stage.

Every move is a record in the registry itself (a tag of the registered model, JSON), written as "begun" with all that
it will change, and again as "done". Whoever comes next finishes what a killed process began. An alias is moved in one
transaction of the registry's database, and only after the version was verified, so at any moment it points at a
verified version, the old one or the new one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from components.core.errors import RegistryServiceError

CANDIDATE, STAGING, PRODUCTION, ARCHIVED = STAGES = ("candidate", "staging", "production", "archived")
COMPANIONS: Mapping[str, str] = {PRODUCTION: "champion", STAGING: "challenger"}
"""The alias that goes with a stage."""
STAGE = "stage"
"""The tag of a version that names its stage."""
RECORD = "postmill.audit."
"""Tags of a registered model that begin like this are the records of its moves, numbered."""

Action = Literal["register", "promote", "rollback"]


@dataclass(frozen=True)
class State:
    """Where the aliases of a registered model point, and the stage of every version that has one."""

    aliases: Mapping[str, str]
    stages: Mapping[str, str]


class Move(BaseModel):
    """One record: who moved which version where, when and why, and what that changes."""

    model_config = ConfigDict(frozen=True)
    number: int = 0
    action: Action
    version: str
    to: str
    before: str = ""
    """The version that `to` pointed at; empty if there was none."""
    by: str = ""
    why: str = ""
    at: str = ""
    evidence: str = ""
    """Digest of the evidence that was checked."""
    aliases: dict[str, str | None]
    """Alias -> the version it points at afterwards; None: the alias is taken away."""
    stages: dict[str, str]
    """Version -> its stage afterwards."""
    done: bool = False

    def changes(self, state: State) -> bool:
        """Whether anything would be different afterwards."""
        same = all(state.aliases.get(alias) == version for alias, version in self.aliases.items())
        return not same or any(state.stages.get(version) != stage for version, stage in self.stages.items())


def plan(state: State, action: Action, version: str, to: str) -> Move:
    """What has to change so that `to` points at `version` and every version stands in one stage."""
    before = state.aliases.get(to, "")
    aliases: dict[str, str | None] = {to: version}
    stages: dict[str, str] = {}
    if to in STAGES:
        stages[version] = to
        aliases |= {COMPANIONS[to]: version} if to in COMPANIONS else {}
        left = {alias for alias in (*STAGES, *COMPANIONS.values()) if state.aliases.get(alias) == version}
        aliases |= dict.fromkeys(sorted(left - aliases.keys()))
        if before not in ("", version) and to in COMPANIONS:
            stages[before] = ARCHIVED
            # the version that a rollback returns to can be asked by name
            aliases |= {ARCHIVED: before} if to == PRODUCTION else {}
    return Move(action=action, version=version, to=to, before=before, aliases=aliases, stages=stages)


def went_further(state: State, version: str, to: str) -> bool:
    """Whether the version stands in a later stage than `to` already, for a run that registers the same files again."""
    stage = state.stages.get(version)
    return to in STAGES and stage in STAGES and STAGES.index(stage) > STAGES.index(to)


def standing(records: Sequence[Move], alias: str) -> list[str]:
    """The versions that an alias was moved through and not rolled back from; the last one is where it points."""
    stack: list[str] = []
    for move in records:
        if move.to != alias or not move.done:
            continue
        if move.action == "rollback":
            # back to the version below, however often it stood there before
            stack = stack[: _last(stack[:-1], move.version) + 1]
        elif not stack or stack[-1] != move.version:
            stack.append(move.version)
    return stack


def _last(stack: Sequence[str], version: str) -> int:
    return max((place for place, each in enumerate(stack) if each == version), default=-1)


class Ledger:
    """The records of one registered model, and the only hand that moves its aliases."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name

    def state(self) -> State:
        aliases = {alias: str(version) for alias, version in self._model().aliases.items()}
        versions = self.client.search_model_versions(f"name='{self.name}'")
        return State(aliases, {str(v.version): v.tags[STAGE] for v in versions if STAGE in v.tags})

    def records(self) -> list[Move]:
        """Every move, the oldest first."""
        found = [value for key, value in self._model().tags.items() if key.startswith(RECORD)]
        return sorted((Move.model_validate_json(value) for value in found), key=lambda move: move.number)

    def settle(self) -> list[Move]:
        """Finish what a killed process began; returns those moves."""
        begun = [move for move in self.records() if not move.done]
        for move in begun:
            self._apply(move)
        return begun

    def commit(self, move: Move) -> Move:
        """Write the move down, do it, and write that it is done."""
        number = max((record.number for record in self.records()), default=0) + 1
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        move = move.model_copy(update={"number": number, "at": stamp})
        self._write(move)
        try:
            return self._apply(move)
        except Exception as error:
            raise RegistryServiceError(
                f"moving {self.name}@{move.to} to version {move.version} was begun (record {number}) and is not "
                f"finished: {str(error).splitlines()[0][:300]}; once the registry answers again, "
                f"postmill history {self.name} finishes it"
            ) from error

    def _apply(self, move: Move) -> Move:
        there = {str(version.version) for version in self.client.search_model_versions(f"name='{self.name}'")}
        for alias, version in move.aliases.items():
            if version in there:
                self.client.set_registered_model_alias(self.name, alias, version)
            elif version is None:
                self.client.delete_registered_model_alias(self.name, alias)
        for version, stage in move.stages.items():
            if version in there:  # one that was deleted meanwhile stands nowhere
                self.client.set_model_version_tag(self.name, version, STAGE, stage)
        done = move.model_copy(update={"done": True})
        self._write(done)
        return done

    def _write(self, move: Move) -> None:
        self.client.set_registered_model_tag(self.name, f"{RECORD}{move.number:06d}", move.model_dump_json())

    def _model(self) -> Any:
        return self.client.get_registered_model(self.name)
