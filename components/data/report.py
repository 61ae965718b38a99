"""The data report: every figure of a validation as plain data (`report.json`), and as a page (`page.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact
from components.core.provenance import library_versions
from components.core.recipe import DataSection
from components.data.page import render_page
from components.data.source import Source
from components.data.validation import Outcome, Validation
from components.data.writer import index_content

LIBRARIES = ("orjson", "pandera", "polars", "pyarrow", "tokenizers", "transformers", "trl")


def build_report(
    section: DataSection,
    files: Mapping[str, Any],
    sources: Mapping[str, Source],
    outcomes: Mapping[str, Outcome],
    validation: Validation,
    model: Artifact | None,
) -> dict[str, Any]:
    """Plain data; every figure of it was counted in this validation."""
    return {
        "shape": sources["train"].shape,
        "formats": {split: source.names for split, source in sources.items()},
        "ignored_columns": sorted({column for source in sources.values() for column in source.ignored}),
        "files": files,
        "rows": {split: outcome.good for split, outcome in outcomes.items()},
        "quarantined": {split: outcome.bad for split, outcome in outcomes.items()},
        "max_bad_fraction": section.contract.max_bad_fraction,
        "content": {split: index_content(validation.out / f"{split}.arrow") for split in outcomes},
        "rules": _total(outcomes),
        "contract": [_rule(name, validation, outcomes) for name in validation.contract.rules],
        "ignored": sorted(set(section.contract.known_rules()) - set(validation.contract.rules)),
        "splits": {split: outcome.statistics.report() for split, outcome in outcomes.items()},
        "template": validation.encoder.template_facts() if validation.encoder else None,
        "model": model and {**_model(model, validation), **_cost(model, outcomes["train"])},
        "libraries": library_versions(LIBRARIES),
    }


def write_page(report: Mapping[str, Any], path: Path) -> None:
    """The report as one HTML file that needs nothing else."""
    path.write_text(render_page(report), encoding="utf-8")


def _total(outcomes: Mapping[str, Outcome]) -> dict[str, int]:
    found: dict[str, int] = {}
    for outcome in outcomes.values():
        for rule, count in outcome.rules.items():
            found[rule] = found.get(rule, 0) + count
    return found


def _rule(name: str, validation: Validation, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    rule = validation.contract.rules[name]
    examples = [records for (_, broken), records in validation.examples.items() if broken == name]
    return {
        "rule": name,
        "about": rule.summary(),
        "action": rule.config.action,
        "checked": validation.shape in rule.shapes and (validation.encoder is not None or not rule.on_tokens),
        "broken": {split: outcome.rules[name] for split, outcome in outcomes.items() if outcome.rules[name]},
        "examples": [record for records in examples for record in records],
    }


def _model(model: Artifact, validation: Validation) -> dict[str, Any]:
    facts = validation.model
    return {"name": model.meta.get("name"), "digest": model.digest, "context": facts and facts.context}


def _cost(model: Artifact, train: Outcome) -> dict[str, Any]:
    """What one pass over the training rows costs: 6 operations a weight and token (Kaplan et al. 2020, section 2.1)."""
    tokens, weights = sum(train.statistics.values["tokens"]), model.meta.get("parameters")
    return {
        "weights": weights,
        "tokens_per_epoch": tokens,
        "flops_per_epoch": 6 * weights * tokens if weights else None,
    }
