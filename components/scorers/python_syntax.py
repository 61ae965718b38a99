"""Is the answer Python, and the code that is wanted? It is parsed, never executed.

    benchmark: [{type: generative, questions: code.jsonl, scorer: {type: python_syntax, same: true}}]

Two programs are the same if their syntax trees are: spacing, comments and quotes do not matter, names do.
"""

from __future__ import annotations

import ast
import re
import warnings

from pydantic import Field

from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Scorer

FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@register("scorer", "python_syntax")
class PythonSyntax(Scorer):
    """1 for Python that parses, with the functions that it shall define, or with the expected syntax tree."""

    needs_answer = False

    class Config(StrictConfig):
        defines: list[str] = Field([], description="functions or classes that must be defined in it")
        same: bool = Field(False, description="the syntax tree must be that of the expected answer")

    config: Config

    def score(self, answer: str, expected: str | None) -> float:
        tree = _tree(answer)
        if tree is None or not tree.body:
            return 0.0
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        defined = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
        if not defined >= set(self.config.defines):
            return 0.0
        if not self.config.same:
            return 1.0
        wanted = _tree(expected or "")
        return float(wanted is not None and ast.dump(tree) == ast.dump(wanted))


def _tree(text: str) -> ast.Module | None:
    """The syntax tree of the first fenced block, or of the whole text; None if it is no Python."""
    fenced = FENCED.search(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in a model's answer are nobody's business
            return ast.parse((fenced[1] if fenced else text).strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested thousands deep
        return None
