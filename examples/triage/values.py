"""Random values that fill templates: order numbers, money, phone numbers, dates.

Phone numbers come from ranges reserved for fiction.  Try::

    python -c "from random import Random; from examples.triage.values import money; \
print(money(Random(1), 80))"
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from .catalogue import CITIES, COLOURS, COUNTRIES, DAYS, MONTHS

LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"  # no I, O, Q: people misread them
CENTS = (0, 0, 50, 90, 90, 95, 99, 99, 25, 49)

Notation = Literal["point", "comma", "whole", "plain"]


@dataclass(frozen=True)
class MoneyStyle:
    """One way to write a sum, how often it occurs and how many units make a euro."""

    currency: str
    pattern: str
    notation: Notation
    weight: int
    rate: float = 1.0


MONEY_STYLES = (
    MoneyStyle("EUR", "€{}", "point", 10),
    MoneyStyle("EUR", "€{}", "whole", 6),
    MoneyStyle("EUR", "{} €", "comma", 5),
    MoneyStyle("EUR", "{} EUR", "comma", 5),
    MoneyStyle("EUR", "EUR {}", "point", 4),
    MoneyStyle("EUR", "{} euros", "whole", 6),
    MoneyStyle("USD", "${}", "point", 9, 1.1),
    MoneyStyle("USD", "${}", "whole", 8, 1.1),
    MoneyStyle("USD", "{} dollars", "whole", 5, 1.1),
    MoneyStyle("USD", "USD {}", "point", 3, 1.1),
    MoneyStyle("GBP", "£{}", "point", 9, 0.85),
    MoneyStyle("GBP", "£{}", "whole", 7, 0.85),
    MoneyStyle("GBP", "{} pounds", "whole", 4, 0.85),
    MoneyStyle("GBP", "GBP {}", "point", 2, 0.85),
    MoneyStyle("CHF", "CHF {}", "plain", 4),
    MoneyStyle("CHF", "CHF {}", "point", 2),
    MoneyStyle("CHF", "{} Swiss francs", "plain", 2),
    MoneyStyle("JPY", "{} yen", "whole", 4, 160),
    MoneyStyle("JPY", "¥{}", "whole", 2, 160),
    MoneyStyle("PLN", "PLN {}", "plain", 3, 4.3),
    MoneyStyle("PLN", "{} zł", "plain", 3, 4.3),
    MoneyStyle("SEK", "{} SEK", "plain", 3, 11),
    MoneyStyle("SEK", "kr {} (SEK)", "plain", 3, 11),
    MoneyStyle("NOK", "NOK {}", "plain", 3, 11),
    MoneyStyle("INR", "₹{}", "whole", 3, 90),
    MoneyStyle("INR", "{} rupees", "whole", 3, 90),
    MoneyStyle("CAD", "CA${}", "point", 2, 1.5),
    MoneyStyle("CAD", "{} Canadian dollars", "plain", 2, 1.5),
    MoneyStyle("AUD", "AUD {}", "point", 2, 1.6),
    MoneyStyle("CZK", "{} CZK", "plain", 3, 25),
)


@dataclass(frozen=True)
class Money:
    """A sum as the customer writes it and as the record states it."""

    text: str
    amount: float | int
    currency: str


def money(rng: Random, euros: float, currency: str | None = None) -> Money:
    """A sum near ``euros`` in a random notation, in ``currency`` or in a random one."""
    styles = [style for style in MONEY_STYLES if currency in (None, style.currency)]
    style = rng.choices(styles, [style.weight for style in styles])[0]
    units = max(3, round(euros * style.rate * rng.uniform(0.7, 1.35)))
    if units > 400:  # dearer things carry round prices
        units = round(units, -1) - rng.choice((0, 1, 10))
    cents = rng.choice(CENTS) if style.notation in ("point", "comma") else 0
    amount = units if cents == 0 else round(units + cents / 100, 2)
    return Money(style.pattern.format(_digits(amount, style.notation)), amount, style.currency)


def _digits(amount: float | int, notation: Notation) -> str:
    """Write a number with or without groups, with a decimal point or a comma."""
    if notation == "plain":
        return str(amount)
    if notation == "whole":
        return f"{amount:,}"
    text = f"{amount:,.2f}"
    # Swap "," and "." through a third character.
    return text if notation == "point" else text.translate(str.maketrans(",.", ".,"))


def order_number(rng: Random) -> str:
    """An order number as written, perhaps with the "#" that records drop."""
    return _fill_pattern(rng, rng.choice(("#%%%%%", "ORD-%%%%%", "PM2025-%%%%", "%%%%%%%")))


def phone(rng: Random) -> str:
    """A phone number nobody owns."""
    pattern = rng.choice(("555-01%%", "020 7946 0%%%", "07700 900%%%", "+49 30 23125 %%%", "06 39 98 %% %%"))
    return _fill_pattern(rng, pattern)


def postcode(rng: Random) -> str:
    """A European-looking or a British-looking postcode."""
    return _fill_pattern(rng, rng.choice(("%%%%%", "%%%%%", "@@1% %@@")))


def serial(rng: Random) -> str:
    """A serial number as found on a sticker."""
    return _fill_pattern(rng, rng.choice(("SN%%%%%%%%@", "%%%%%@%%%", "@@%%%%%%%%%%")))


def model(rng: Random) -> str:
    """A model code such as "KX-480"."""
    return _fill_pattern(rng, rng.choice(("@@-%%0", "@%%0", "@@@ %%00")))


def date(rng: Random) -> str:
    """A date in one of three common notations."""
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.choice((2023, 2024, 2025))
    styles = (f"{day:02}.{month:02}.{year}", f"{day:02}/{month:02}/{year}")
    return rng.choice((*styles, f"{year}-{month:02}-{day:02}"))


def _fill_pattern(rng: Random, pattern: str) -> str:
    """Replace "%" by digits (the first is never 0) and "@" by letters."""
    out, seen_digit = [], False
    for char in pattern:
        if char == "%":
            char = str(rng.randint(0 if seen_digit else 1, 9))
            seen_digit = True
        elif char == "@":
            char = rng.choice(LETTERS)
        out.append(char)
    return "".join(out)


def plain_value(rng: Random, slot: str) -> str:
    """A value that the record never contains: a place, a day, a decoy number."""
    words = {"day": DAYS, "month": MONTHS, "city": CITIES, "country": COUNTRIES, "colour": COLOURS}
    if slot in words:
        return rng.choice(words[slot])
    makers = {"phone": phone, "postcode": postcode, "serial": serial, "model": model, "date": date}
    if slot in makers:
        return makers[slot](rng)
    if slot == "digits":
        return _fill_pattern(rng, "%%%%%%")
    raise KeyError(f"unknown slot {{{slot}}} in a template")
