"""Keys and tokens that open doors: whoever can ask the model may get them out again.

Not asked by default. Only forms that nobody writes by chance are known, those of well-known providers; a plain
password is not found. Revoke what is found, then remove the row.

Try it: `data: {contract: {rules: {secrets: fail}}}` or `secrets: {action: quarantine, kinds: [private_key, jwt]}`.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from components.core.kinds import register
from components.data.rules._patterns import PatternRule
from components.interfaces import Action, RuleConfig

Kind = Literal[
    "anthropic", "aws", "github", "gitlab", "google", "huggingface", "jwt", "npm", "openai", "private_key", "pypi",
    "slack", "stripe",
]  # fmt: skip


@register("rule", "secrets")
class Secrets(PatternRule):
    """No message holds a key or token of a well-known form; not asked by default."""

    class Config(RuleConfig):
        action: Action = "ignore"
        kinds: list[Kind] = Field(list(get_args(Kind)), min_length=1)

    config: Config
    meaning = "a secret stands in the text"
    names = {"jwt": "a signed token (JWT)", "private_key": "a private key"}
    patterns = {
        "anthropic": r"\bsk-ant-[A-Za-z0-9_-]{24,}",
        "aws": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        "github": r"\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_[A-Za-z0-9_]{40,}",
        "gitlab": r"\bglpat-[A-Za-z0-9_-]{20,}",
        "google": r"\bAIza[A-Za-z0-9_-]{35}",
        "huggingface": r"\bhf_[A-Za-z0-9]{30,}",
        "jwt": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        "npm": r"\bnpm_[A-Za-z0-9]{36}",
        "openai": r"\bsk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{24,}|\bsk-[A-Za-z0-9]{32,}",
        # the line alone is in every manual
        "private_key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----[^-]{0,200}?[A-Za-z0-9+/]{40}",
        "pypi": r"\bpypi-[A-Za-z0-9_-]{50,}",
        "slack": r"\bxox[abeoprs]-[A-Za-z0-9-]{20,}",
        "stripe": r"\b[rs]k_live_[A-Za-z0-9]{20,}",
    }

    hidden = {"private_key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY[\s\S]*"}

    def is_real(self, kind: str, text: str) -> bool:
        # placeholders of manuals: AKIAIOSFODNN7EXAMPLE, hf_xxxxxxxx
        return "EXAMPLE" not in text.upper() and len(set(text)) > 10
