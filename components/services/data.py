"""Checks a recipe's rows before anything is trained on them.

`DataService(workspace).validate(recipe.data, model)` gives an artifact: the good rows byte for byte, the same rows in
one internal shape, their tokens as this model will see them, the quarantine, and a report as JSON and as a page.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, write_json
from components.core.component import Component
from components.core.dataset import conversation, rows, tokenizer_digest, tokenizer_files
from components.core.encoding import Encoder, turn_ends
from components.core.errors import DataError
from components.core.events import DataChanged, DataValidated
from components.core.kinds import registry, service
from components.core.recipe import DataSection
from components.core.rows import row_digest
from components.core.safeload import load_tokenizer
from components.data.provenance import check_lock, check_splits
from components.data.report import build_report, write_page
from components.data.validation import QUARANTINE, Outcome, Validation, open_source
from components.interfaces import EvalRows, ModelFacts
from components.services.workspace import Workspace


class _Validation(Component):
    """Gives the stage its identity: this file, the contract, and the libraries underneath."""

    libraries = ("orjson", "pandera", "polars", "pyarrow", "tokenizers", "transformers", "trl")


@service("data")
class DataService:
    """Validates data sets and hands out their rows."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def validate(self, section: DataSection, model: Artifact | None = None) -> Artifact:
        """The data set as an artifact; a DataError if too many rows are bad.

        With a model (an artifact of kind "model") the rows are tokenised for it, and what its tokenizer and chat
        template make of them is checked too.
        """
        files = {split: dict(spec.build().fingerprint()) for split, spec in section.readers().items()}
        check_splits(section, files)
        changed = check_lock(section, files)
        if changed:
            self.workspace.bus.emit(DataChanged(files=changed))
        config = {
            # the same rows elsewhere are the same data set
            "files": {split: list(found.values()) for split, found in files.items()},
            "section": _without_paths(section.model_dump(mode="json", exclude={"lock", "allow_dirty", "contract"})),
            "max_bad_fraction": section.contract.max_bad_fraction,
            "rules": {name: spec.identity() for name, spec in section.contract.all_rules().items()},
            "tokenizer": tokenizer_files(model.path) if model else None,
        }

        def make(out: Path) -> Mapping[str, Any]:
            return self._check(section, files, model, out)

        dataset = self.workspace.stage("data", "rows", _parts(section), config, {}, "dataset", make)
        return dataset.model_copy(update={"meta": {**dataset.meta, "changed": changed}})

    def _check(
        self, section: DataSection, files: Mapping[str, Any], model: Artifact | None, out: Path
    ) -> Mapping[str, Any]:
        facts, encoder = _of_model(model)
        validation = Validation(section, out, encoder, facts)
        sources = {split: open_source(spec, section.format) for split, spec in section.readers().items()}
        outcomes = validation.run(sources)
        shutil.rmtree(out / ".scratch")
        report = build_report(section, files, sources, outcomes, validation, model)
        write_json(out / "report.json", report)
        write_page(report, out / "report.html")
        self._refuse_if_bad(section, outcomes, validation, out)
        summary = {name: report[name] for name in ("rows", "quarantined", "rules", "content")}
        self.workspace.bus.emit(DataValidated(**summary))
        return {
            **summary,
            "shape": sources["train"].shape,
            "system": validation.common_system(),
            "tokenizer": tokenizer_digest(facts.tokenizer) if facts else None,
            "template": report["template"],
            "files": files,
            "sources": {split: outcome.files for split, outcome in outcomes.items()},
        }

    def _refuse_if_bad(
        self, section: DataSection, outcomes: Mapping[str, Outcome], validation: Validation, out: Path
    ) -> None:
        allowed = section.contract.max_bad_fraction
        for split, outcome in outcomes.items():
            if outcome.total == 0:
                raise DataError(f"the {split} split has no rows; check its path and that the file is not empty")
            fatal = [rule for rule in outcome.rules if validation.contract.fatal(rule)]
            if fatal or outcome.bad > allowed * outcome.total or not outcome.good:
                why = (
                    f"a row breaks '{fatal[0]}', whose action is fail"
                    if fatal
                    else f"max_bad_fraction allows {allowed:.1%}"
                )
                first = "\n".join(
                    f"  {found['file']}:{found['line']}: {found['rule']}: {found['reason']}"
                    for found in validation.first_examples(split)
                )
                raise DataError(
                    f"{outcome.bad:,} of {outcome.total:,} {split} rows are bad ({outcome.bad / outcome.total:.1%}); "
                    f"{why}; nothing was trained. All of them, and a report: {self._keep(out)}\n{first}"
                )

    def _keep(self, out: Path) -> Path:
        """The stage's directory is thrown away on failure; the user needs the list and the page."""
        kept = self.workspace.reports / "data"
        kept.mkdir(parents=True, exist_ok=True)
        for name in (QUARANTINE, "report.json", "report.html"):
            shutil.copyfile(out / name, kept / name)
        return kept


def _parts(section: DataSection) -> list[Any]:
    """Every class whose code decides the result."""
    specs = [*section.readers().values(), *section.contract.all_rules().values()]
    forms = [section.format] if section.format else []
    parts = [part for spec in [*specs, *forms] for part in spec.parts()]
    # a form that is detected may be any of them
    detected = [] if section.format else [registry.get("format", name) for name in registry.names("format")]
    return [_Validation, *dict.fromkeys([*parts, *detected])]


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items() if key != "path"}
    return [_without_paths(item) for item in value] if isinstance(value, list) else value


def _of_model(model: Artifact | None) -> tuple[ModelFacts | None, Encoder | None]:
    if model is None:
        return None, None
    tokenizer = load_tokenizer(model.path)
    config = model.read_json("config.json")
    context = config.get("max_position_embeddings") or config.get("n_positions") or tokenizer.model_max_length
    return ModelFacts(tokenizer, int(context)), Encoder(tokenizer, turn_ends(tokenizer, model.path))


def load_rows(dataset: Artifact, split: str = "eval") -> EvalRows:
    """The conversations of one split of a validated data set, with content digests as ids."""
    found = list(rows(dataset, split))
    return EvalRows([conversation(row) for row in found], [row_digest(row).hex()[:16] for row in found])
