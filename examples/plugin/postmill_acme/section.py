"""The recipe section `acme`. Every key has a default, so a recipe may leave the section out.

    acme: {greeting: hello}

A service asks for it by its type (service.py); code that has the recipe reads `recipe.acme.greeting`.
"""

from __future__ import annotations

from components.core.component import StrictConfig


class AcmeSection(StrictConfig):
    """What a recipe may say to this plugin; unknown keys are refused."""

    greeting: str = "hello"
