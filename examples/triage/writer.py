"""Fills the slots of templates for one message and keeps track of what was said.

The first time a slot such as ``{any}`` or ``{o}`` is filled, the writer decides the
value and notes it as a fact; the record is read off these facts, so text and label
cannot disagree.  Try::

    python -c "from random import Random; from examples.triage.writer import Writer; \
print(Writer(Random(1), 'train').fill('Where is my {any}, order {o}?'))"
"""

from __future__ import annotations

import re
from random import Random

from . import values
from .catalogue import FIRST_NAMES, LAST_NAMES, Product, products
from .phrases import LANGUAGE_NAMES
from .pools import Pool, Split
from .schema import Record, Value

SLOT = re.compile(r"(\ba )?\{(\w+)\}", re.IGNORECASE)
PRODUCT_SLOTS = ("any", "hard", "soft", "powered", "motor", "smart", "wet", "cordless")
RESERVED_SHARE = 0.15  # of evaluation messages are about a product never trained on
PRICE_WITHOUT_PRODUCT = 90


class Writer:
    """The state of one message: facts for the record, decoys, and values to protect."""

    def __init__(self, rng: Random, split: Split) -> None:
        self.rng = rng
        self.split: Split = split
        self.facts: Record = {}
        self.decoys: list[tuple[str, Value]] = []
        self.protected: list[str] = []
        self.product: Product | None = None
        self.first_name = rng.choice(FIRST_NAMES)

    def say(self, pool: Pool) -> str:
        """A random wording of the pool, with its slots filled."""
        return self.fill(self.rng.choice(pool.of(self.split)))

    def fill(self, template: str) -> str:
        """Fill all slots, choosing "a" or "an" and a capital at the start of the text."""

        def replace(match: re.Match[str]) -> str:
            article, value = match.group(1) or "", self._value(match.group(2))
            if article and value[0].lower() in "aeiou":
                article = article[0] + "n "
            starts_text = match.start() == 0 and match.group(2) in PRODUCT_SLOTS
            return article + (value[0].upper() + value[1:] if starts_text else value)

        return SLOT.sub(replace, template)

    def _value(self, slot: str) -> str:
        text = self._choose(slot)
        self.protected.append(text)
        return text

    def _choose(self, slot: str) -> str:
        if slot in PRODUCT_SLOTS or slot == "same":
            return self._main_product(slot).name
        if slot == "name":
            return self.first_name
        if slot == "full_name":
            return f"{self.first_name} {self.rng.choice(LAST_NAMES)}"
        special = getattr(self, f"_slot_{slot}", None)
        return special() if special else self._plain(slot)

    def _main_product(self, slot: str) -> Product:
        if self.product is None:
            self.product = self._draw_product(slot)
            self.facts["product"] = self.product.name
        return self.product

    def _draw_product(self, slot: str) -> Product:
        reserved = self.split == "held_out" and self.rng.random() < RESERVED_SHARE
        return self.rng.choice(products(slot, self.split, reserved))

    def _slot_other(self) -> str:
        """The second product; within one message it stays the same."""
        known = [value for key, value in self.decoys if key == "product"]
        if known:
            return str(known[0])
        other = self._draw_product("other")
        while other is self.product:
            other = self._draw_product("other")
        self.decoys.append(("product", other.name))
        return other.name

    def _slot_o(self) -> str:
        if "order" in self.facts:
            raise ValueError("a message states its order number once")
        text = values.order_number(self.rng)
        self.facts["order"] = text.removeprefix("#")
        return text

    def _slot_a(self) -> str:
        return self._state_money(self.product.price if self.product else PRICE_WITHOUT_PRODUCT)

    def _slot_fee(self) -> str:
        return self._state_money(8)

    def _state_money(self, euros: float) -> str:
        if "amount" in self.facts:
            raise ValueError("a message states one amount")
        sum_ = values.money(self.rng, euros)
        self.facts |= {"amount": sum_.amount, "currency": sum_.currency}
        return sum_.text

    def _slot_b(self) -> str:
        """Someone else's price: the right shape, but not the money in question."""
        euros = self.product.price if self.product else PRICE_WITHOUT_PRODUCT
        stated = self.facts.get("currency")
        sum_ = values.money(self.rng, euros * 0.8, str(stated) if stated else None)
        while sum_.amount == self.facts.get("amount"):
            sum_ = values.money(self.rng, euros * 0.8)
        self.decoys.append(("amount", sum_.amount))
        return sum_.text

    def _slot_language(self) -> str:
        return LANGUAGE_NAMES[str(self.facts["language"])]

    def _slot_foreign(self) -> str:
        """A language that is mentioned but not asked for."""
        asked = self.facts.get("language")
        code = self.rng.choice([code for code in LANGUAGE_NAMES if code != asked])
        self.decoys.append(("language", code))
        return LANGUAGE_NAMES[code]

    def _plain(self, slot: str) -> str:
        text = values.plain_value(self.rng, slot)
        if slot in ("phone", "postcode", "serial", "model", "digits", "date"):
            self.decoys.append(("order", text))
        return text
