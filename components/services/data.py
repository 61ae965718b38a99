"""Checks a recipe's rows before anything is trained on them.

`DataService(workspace).validate(recipe.data)` gives an artifact with the good rows (byte-identical), the same rows as
plain conversations, the quarantine and a report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, hash_file, hash_json, write_json
from components.core.component import Component
from components.core.errors import DataError
from components.core.events import DataValidated
from components.core.kinds import service
from components.core.recipe import DataSection
from components.data.contract import Checked, check_split, row_digest, write_split
from components.interfaces import EvalRows, Format
from components.services.workspace import Workspace


class _Validation(Component):
    """Gives the stage its identity: this file, the contract, and the libraries underneath."""

    libraries = ("pandera", "polars")


@service("data")
class DataService:
    """Validates data sets and hands out their rows."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def validate(self, section: DataSection) -> Artifact:
        """The data set as an artifact; a DataError if too many rows are bad."""
        readers = {"train": section.train.build(), "eval": section.eval.build()}
        config = {
            "files": {split: [hash_file(file) for file in reader.files()] for split, reader in readers.items()},
            "format": section.format.dump(),
            "contract": section.contract.model_dump(mode="json"),
        }

        def make(out: Path) -> Mapping[str, Any]:
            return self._check(section, readers, out)

        return self.workspace.stage("data", "rows", _Validation, config, {}, "dataset", make)

    def _check(self, section: DataSection, readers: Mapping[str, Any], out: Path) -> Mapping[str, Any]:
        shape, contract = section.format.build(), section.contract
        # eval first: a row that stands in both is taken out of training, never out of the measurement
        held_out = check_split(readers["eval"], shape, contract.max_chars, set())
        forbidden = set(held_out.digests) if contract.forbid_overlap else set()
        training = check_split(readers["train"], shape, contract.max_chars, forbidden)
        outcome = {"train": training, "eval": held_out}
        report = _report(outcome)
        _write_lines(out / "quarantine.jsonl", [bad.record() for checked in outcome.values() for bad in checked.bad])
        write_json(out / "report.json", report)
        self._refuse_if_bad(outcome, contract.max_bad_fraction, out)
        for split, checked in outcome.items():
            write_split(checked, out / f"{split}.jsonl")
            _write_lines(out / f"{split}.messages.jsonl", [shape.messages(row.value) for row in checked.good])
        self.workspace.bus.emit(DataValidated(**report))
        return {**report, "system": _common_system(shape, outcome)}

    def _refuse_if_bad(self, outcome: Mapping[str, Checked], allowed: float, out: Path) -> None:
        for split, checked in outcome.items():
            if checked.total == 0:
                raise DataError(f"the {split} split has no rows; check its path and that the file is not empty")
            fraction = len(checked.bad) / checked.total
            if fraction > allowed or not checked.good:
                kept = self._keep_quarantine(out / "quarantine.jsonl")
                first = "\n".join(f"  line {bad.line}: {bad.rule}: {bad.reason}" for bad in checked.bad[:5])
                raise DataError(
                    f"{len(checked.bad)} of {checked.total} {split} rows are bad ({fraction:.1%}, "
                    f"max_bad_fraction allows {allowed:.1%}); nothing was trained. All of them: {kept}\n{first}"
                )

    def _keep_quarantine(self, file: Path) -> Path:
        """The stage's directory is thrown away on failure; the user needs the list."""
        self.workspace.reports.mkdir(parents=True, exist_ok=True)
        kept = self.workspace.reports / f"quarantine-{hash_file(file)[:8]}.jsonl"
        kept.write_bytes(file.read_bytes())
        return kept


def load_rows(dataset: Artifact, split: str = "eval") -> EvalRows:
    """The conversations of one split of a validated data set, with content digests as ids."""
    lines = (dataset.path / f"{split}.messages.jsonl").read_text(encoding="utf-8").splitlines()
    conversations = [json.loads(line) for line in lines]
    return EvalRows(conversations, [row_digest(conversation)[:16] for conversation in conversations])


def _report(outcome: Mapping[str, Checked]) -> dict[str, Any]:
    rules: dict[str, int] = {}
    for checked in outcome.values():
        for bad in checked.bad:
            rules[bad.rule] = rules.get(bad.rule, 0) + 1
    return {
        "rows": {split: len(checked.good) for split, checked in outcome.items()},
        "quarantined": {split: len(checked.bad) for split, checked in outcome.items()},
        "rules": rules,
        "content": {split: hash_json(sorted(checked.digests))[:16] for split, checked in outcome.items()},
    }


def _common_system(shape: Format, outcome: Mapping[str, Checked]) -> str | None:
    """The system message if all training rows share one: what a served model has to be asked with."""
    first = [shape.messages(row.value)[0] for row in outcome["train"].good]
    texts = {message["content"] if message["role"] == "system" else None for message in first}
    return texts.pop() if len(texts) == 1 else None


def _write_lines(path: Path, values: list[Any]) -> None:
    with path.open("w", encoding="utf-8") as handle:
        for value in values:
            handle.write(json.dumps(value, ensure_ascii=False) + "\n")
