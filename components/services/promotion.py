"""Moves registered versions through their stages, and back: every move checked, written down, and finished.

    PromotionService(registry).promote("triage", "3", "production", why="better on long messages")
    PromotionService(registry).rollback("triage")

A promotion is a transaction: the evidence is checked, every file is verified, the move is written down, the aliases
move, and the record says that it is done. Killed anywhere, each alias still points at a verified version, and the next
promotion, rollback or look at the history finishes what was begun.
"""

from __future__ import annotations

import re

from components.core.errors import RegistryServiceError
from components.core.kinds import service
from components.services.model_registry import ModelRegistryService, RegisteredModel, VersionEntry, who
from components.services.versions.moves import ARCHIVED, PRODUCTION, Action, Ledger, Move, plan, standing

LONGEST_REASON = 1000


@service("promotion")
class PromotionService:
    """Promote, roll back, and tell what was moved when, by whom and why."""

    def __init__(self, registry: ModelRegistryService) -> None:
        self.registry = registry

    def promote(self, name: str, version: str, to: str, by: str = "", why: str = "") -> Move:
        """Point `to` (a stage or any alias) at a version whose evidence accepts it and whose files are unchanged."""
        _check_words(to, why)
        model = self.registry.resolve(f"{name}/{version}")
        return self._move("promote", model, to, by, why)

    def rollback(self, name: str, alias: str = PRODUCTION, by: str = "", why: str = "") -> Move:
        """Point an alias back at the version before the present one, after the same checks as a promotion."""
        _check_words(alias, why)
        self.registry.require_model(name)
        with self.registry.changing():
            ledger = self._ledger(name)
            ledger.settle()
            stood = standing(ledger.records(), alias)
        there = {entry.version for entry in self.registry.versions_of(name)}
        earlier = [version for version in stood[:-1] if version in there]
        if not earlier:
            now = f"no version before {stood[-1]} is left" if stood else "nothing was ever promoted to it"
            raise RegistryServiceError(f"{name}@{alias} cannot be rolled back: {now} (see: postmill history {name})")
        return self._move("rollback", self.registry.resolve(f"{name}/{earlier[-1]}"), alias, by, why)

    def history(self, name: str) -> list[Move]:
        """Every move of a model's versions, the oldest first."""
        self.registry.require_model(name)
        with self.registry.changing():
            ledger = self._ledger(name)
            ledger.settle()
            return ledger.records()

    def versions(self, name: str) -> list[VersionEntry]:
        """Every version with its aliases and stage, the oldest first."""
        self.registry.require_model(name)
        return self.registry.versions_of(name)

    def _move(self, action: Action, model: RegisteredModel, to: str, by: str, why: str) -> Move:
        evidence = self.registry.require_evidence(model)
        with self.registry.changing():
            ledger = self._ledger(model.name)
            ledger.settle()
            state = ledger.state()
            if to == ARCHIVED and state.aliases.get(PRODUCTION) == model.version:
                raise RegistryServiceError(
                    f"{model.name} version {model.version} is in production; promote another version or roll back, "
                    "which archives it"
                )
            move = plan(state, action, model.version, to)
            move = move.model_copy(update={"by": by or who(), "why": why, "evidence": evidence})
            if move.changes(state):
                move = ledger.commit(move)
        self.registry.tell_moved(model.name, move)
        return move

    def _ledger(self, name: str) -> Ledger:
        return Ledger(self.registry.client, name)


def _check_words(alias: str, why: str) -> None:
    reserved = alias == "latest" or re.fullmatch(r"v\d+", alias)
    if reserved or not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", alias):
        raise RegistryServiceError(
            f"'{alias}' cannot be an alias: write letters, digits, - and _ (the registry keeps 'latest', v1, v2, ...)"
        )
    if len(why) > LONGEST_REASON:
        raise RegistryServiceError(f"the reason is {len(why)} characters long; write at most {LONGEST_REASON}")
