"""The languages that are wanted, told from the text by the optional package lingua.

Not asked by default: it takes some tens of microseconds a message, needs its own package, and only you know which
languages your rows should have. Short messages are not judged, and tools and system messages are not asked.

Try it: `data: {contract: {rules: {language: {action: quarantine, languages: [en, de]}}}}` in a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from components.core.errors import ConfigError, did_you_mean, require
from components.core.kinds import register
from components.interfaces import Action, Batch, ModelFacts, Rule, RuleConfig


@register("rule", "language")
class Language(Rule):
    """What users and assistants say is in one of the wanted languages; not asked by default."""

    class Config(RuleConfig):
        action: Action = "ignore"
        languages: list[Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(
            ["en"], min_length=1, description="ISO 639-1 codes: en, de, zh"
        )
        min_chars: PositiveInt = Field(40, description="shorter messages are not judged")

    config: Config
    libraries = ("lingua-language-detector",)

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        lingua: Any = require("lingua", "language")
        known = [language.iso_code_639_1.name.lower() for language in lingua.Language.all()]
        for code in self.config.languages:
            if code not in known:
                raise ConfigError(
                    f"unknown language '{code}'{did_you_mean(code, known)}; known: {', '.join(sorted(known))}"
                )
        self._detector = lingua.LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()

    def check(self, batch: Batch) -> Mapping[int, str]:
        import polars as pl

        judged = batch.messages.filter(
            ~pl.col("role").is_in(["system", "developer", "tool"]),
            pl.col("content").str.len_chars() >= self.config.min_chars,
        )
        found: dict[int, str] = {}
        told = self._detector.detect_languages_in_parallel_of(judged["content"].to_list())
        for row, role, language in zip(judged["row"], judged["role"], told, strict=True):
            if language and language.iso_code_639_1.name.lower() not in self.config.languages:
                wanted = " or ".join(self.config.languages)
                found.setdefault(row, f"a message of role '{role}' is in {language.name.title()}, not in {wanted}")
        return found
