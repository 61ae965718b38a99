"""A service of the plugin's own. Its constructor is filled in: the section comes from the recipe of the run.

run.get("acme_greeter").greet("Ada")
"""

from __future__ import annotations

from postmill_acme.section import AcmeSection


class Greeter:
    """Greets in the words of the recipe."""

    def __init__(self, section: AcmeSection) -> None:
        self.section = section

    def greet(self, name: str) -> str:
        """The recipe's greeting, to somebody."""
        return f"{self.section.greeting}, {name}"
