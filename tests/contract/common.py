"""What holds for every component of every kind."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from components.core.component import StrictConfig
from components.core.kinds import registry

NEEDED: dict[str, dict[str, dict[str, Any]]] = {
    "model": {"pretrained": {"name": "somewhere"}, "new": {"tokenizer": {"train_on": ["rows"]}}},
    "reader": {
        **dict.fromkeys(("auto", "jsonl", "json", "csv", "parquet", "arrow", "text"), {"path": "rows"}),
        "hub": {"name": "somewhere"},
        "mix": {"sources": [{"reader": {"type": "jsonl", "path": "rows.jsonl"}}]},
    },
    "benchmark": {
        "multiple_choice": {"questions": "maths.jsonl"},
        "lm_eval": {"tasks": "tasks", "metrics": {"sums": ["acc"]}},
    },
    "trainer": {"distillation": {"teacher": {"type": "pretrained", "name": "somewhere"}}},
}
"""Keys without a default, by kind and component."""


def named(kind: str) -> Any:
    """Run a test once for every component of a kind."""
    return pytest.mark.parametrize("name", registry.names(kind))


def config_of(kind: str, name: str) -> Any:
    """The component's smallest valid configuration."""
    return registry.get(kind, name).Config(**NEEDED.get(kind, {}).get(name, {}))


def check_component(kind: str, name: str) -> None:
    """One line of summary; a Config that is strict, frozen, and survives a dump."""
    cls = registry.get(kind, name)
    config = config_of(kind, name)
    assert cls.summary()
    assert "\n" not in cls.summary()
    assert cls.summary().endswith(".")
    assert issubclass(cls.Config, StrictConfig)
    dumped = config.model_dump(mode="json")
    assert cls.Config.model_validate(dumped) == config
    assert cls.Config.model_validate(dumped).model_dump(mode="json") == dumped
    with pytest.raises(ValidationError, match="no_such_key"):
        cls.Config.model_validate({**dumped, "no_such_key": 1})
    for field in cls.Config.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, field, None)
    assert cls(config).config is config
