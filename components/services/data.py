"""Checks a recipe's rows before anything is trained on them.

`DataService(workspace).validate(recipe.data, model)` gives an artifact: the good rows byte for byte, the same rows in
one internal shape, their tokens as this model will see them, the quarantine, and a report as JSON and as a page.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, write_json
from components.core.component import Component
from components.core.dataset import conversation, rows, tokenizer_digest, tokenizer_files
from components.core.encoding import Encoder, turn_ends
from components.core.errors import ContractBroken, DataError
from components.core.events import DataChanged, DataValidated
from components.core.kinds import registry, service
from components.core.recipe import DataSection, Recipe
from components.core.rows import row_digest
from components.core.safeload import load_tokenizer
from components.data.provenance import check_lock, check_splits
from components.data.report import build_report, write_page
from components.data.source import open_source
from components.data.validation import QUARANTINE, Outcome, Validation
from components.interfaces import EvalRows, ModelFacts, Reader
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
        readers: dict[str, Reader] = {split: spec.build() for split, spec in section.readers().items()}
        files = {split: dict(reader.fingerprint()) for split, reader in readers.items()}
        check_splits(section, files)
        changed = check_lock(section, files)
        if changed:
            self.workspace.bus.emit(DataChanged(files=changed))
        config = {
            # the same rows elsewhere are the same data set
            "readers": {
                split: {"type": spec.type, **readers[split].identity()} for split, spec in section.readers().items()
            },
            "format": section.format and section.format.identity(),
            "split": section.split and section.split.model_dump(mode="json"),
            "max_bad_fraction": section.contract.max_bad_fraction,
            "rules": {name: spec.identity() for name, spec in section.contract.all_rules().items()},
            "tokenizer": tokenizer_files(model.path) if model else None,
        }

        def make(out: Path) -> Mapping[str, Any]:
            return self._check(section, files, model, out)

        dataset = self.workspace.stage("data", "rows", _parts(section, readers), config, {}, "dataset", make)
        return dataset.model_copy(update={"meta": {**dataset.meta, "changed": changed}})

    def require(self, recipe: Recipe, dataset: Artifact, model: Artifact | None = None) -> None:
        """A DataError if a trainer or the benchmarks of the recipe cannot use the rows: told before any work.

        With the base `model`, the rows that a training step has of its own are validated too.
        """
        for section in ("train", "benchmark"):
            for position, spec in enumerate(getattr(recipe, section)):
                if not (spec.enabled and spec.required):
                    continue
                own = getattr(spec.config, "data", None)
                problem = spec.build().problem(self.validate(own, model) if own else dataset)
                if problem:
                    raise DataError(f"{section}.{position} ({spec.type}): {problem}")

    def _check(
        self, section: DataSection, files: Mapping[str, Any], model: Artifact | None, out: Path
    ) -> Mapping[str, Any]:
        stamps = _stamps(files)
        facts, encoder = _of_model(model)
        validation = Validation(section, out, encoder, facts)
        sources = {split: open_source(spec, section.format) for split, spec in section.readers().items()}
        outcomes = validation.run(sources)
        shutil.rmtree(out / ".scratch")
        if _stamps(files) != stamps:
            raise DataError(
                f"a file changed while it was read: {', '.join(_names(files))}; run again when it is written"
            )
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
        problems = [problem for outcome in outcomes.values() for problem in _problems(outcome, section, validation)]
        if problems:
            kept = self._keep(out)
            raise ContractBroken(
                "\n".join([*problems, f"nothing was trained. Every bad row, and a report: {kept}", *REMEDIES]), kept
            )

    def _keep(self, out: Path) -> Path:
        """The stage's directory is thrown away on failure; the user needs the list and the page."""
        kept = self.workspace.reports / "data"
        fresh = Path(tempfile.mkdtemp(prefix=".data-", dir=_made(self.workspace.reports)))
        for name in (QUARANTINE, "report.json", "report.html"):
            shutil.copyfile(out / name, fresh / name)
        shutil.rmtree(kept, ignore_errors=True)
        fresh.chmod(0o755)
        fresh.rename(kept)
        return kept


REMEDIES = (
    "mend the rows, leave them out (postmill data convert --skip-bad), allow more "
    "(--set data.contract.max_bad_fraction=0.05), or see what a rule asks: postmill components rule",
)


def _problems(outcome: Outcome, section: DataSection, validation: Validation) -> list[str]:
    """Why one split cannot be used, with a few of its bad rows; nothing if it can."""
    allowed, split = section.contract.max_bad_fraction, outcome.split
    if outcome.total == 0:
        held_out = section.split is not None and split not in section.readers()
        hint = (
            f"too few rows, or groups, for split.{split}={getattr(section.split, split)}"
            if held_out
            else "check its path and that the file is not empty"
        )
        return [f"the {split} split has no rows; {hint}"]
    fatal = next((rule for rule in outcome.rules if validation.contract.fatal(rule)), None)
    if not fatal and outcome.good and outcome.bad <= allowed * outcome.total:
        return []
    why = f"a row breaks '{fatal}', whose action is fail" if fatal else f"max_bad_fraction allows {allowed:.1%} a split"
    share = outcome.bad / outcome.total
    examples = [
        f"  {found['file']}:{found['line']}: {found['rule']}: {found['reason']}"
        for found in validation.first_examples(split)
    ]
    return [f"{outcome.bad:,} of {outcome.total:,} {split} rows are bad ({share:.1%}); {why}", *examples]


def _parts(section: DataSection, readers: Mapping[str, Reader]) -> list[Any]:
    """Every class whose code decides the result."""
    forms = [section.format] if section.format else []
    inner = [part.config.format for reader in readers.values() for part in reader.parts() if part.config.format]
    parts = [part for spec in [*section.contract.all_rules().values(), *forms, *inner] for part in spec.parts()]
    # a form that is detected may be any of them
    detected = [] if section.format else [registry.get("format", name) for name in registry.names("format")]
    reading = [cls for reader in readers.values() for cls in reader.classes()]
    return [_Validation, *dict.fromkeys([*reading, *parts, *detected])]


def _names(files: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [name for found in files.values() for name in found]


def _stamps(files: Mapping[str, Mapping[str, str]]) -> list[tuple[int, int, int]]:
    """Size and times of the local files: whether what is read is what was hashed."""
    found = [Path(name).stat() for name in _names(files) if Path(name).is_file()]
    return [(status.st_size, status.st_mtime_ns, status.st_ctime_ns) for status in found]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _of_model(model: Artifact | None) -> tuple[ModelFacts | None, Encoder | None]:
    if model is None:
        return None, None
    tokenizer = load_tokenizer(model.path)
    context = _context(model.read_json("config.json"), tokenizer)
    return ModelFacts(tokenizer, context), Encoder(tokenizer, turn_ends(tokenizer, model.path))


def _context(config: Mapping[str, Any], tokenizer: Any) -> int:
    """Tokens that fit into the model: its own word, or its language part's, or else the tokenizer's."""
    for section in (config, config.get("text_config") or {}):
        for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
            if isinstance(section.get(key), int):
                return int(section[key])
    return int(tokenizer.model_max_length)


def load_rows(dataset: Artifact, split: str = "eval") -> EvalRows:
    """The conversations or texts of one split of a validated data set, with content digests as ids.

    Answers that are labelled bad are left out: there is nothing to compare with.
    """
    found = [row for row in rows(dataset, split) if row.get("label", True)]
    ids = [row_digest(row).hex()[:16] for row in found]
    if dataset.meta["shape"] == "text":
        return EvalRows([], ids, [row["text"] for row in found])
    return EvalRows([conversation(row) for row in found], ids)
