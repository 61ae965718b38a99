"""Data by which a person can be found: addresses, telephone and account numbers.

Not asked by default, since some rows are meant to hold them. What has a check digit is checked (IBAN, card), the
addresses of manuals (example.com) pass, and a telephone number needs its country (+49) or the North American form.
Names and street addresses have no form that a pattern could find.

Try it: `data: {contract: {rules: {personal_data: {action: quarantine, kinds: [email, iban]}}}}` in a recipe.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Literal

from pydantic import Field

from components.core.kinds import register
from components.data.rules._patterns import PatternRule, digits
from components.interfaces import Action, RuleConfig

_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
    "YE30"
)
_LENGTH = {entry[:2]: int(entry[2:]) for entry in _IBAN_LENGTHS.split()}


@register("rule", "personal_data")
class PersonalData(PatternRule):
    """No message holds an address or number by which a person can be found; not asked by default."""

    class Config(RuleConfig):
        action: Action = "ignore"
        kinds: list[Literal["email", "phone", "iban", "card", "ipv4"]] = Field(
            ["email", "phone", "iban", "card"], min_length=1
        )

    config: Config
    meaning = "personal data stands in the text"
    names = {
        "email": "an e-mail address",
        "phone": "a telephone number",
        "iban": "an account number (IBAN)",
        "card": "a card number",
        "ipv4": "an IP address",
    }
    patterns = {
        "email": r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,24}\b",
        "phone": r"(?:^|[^\w+])\+[1-9][0-9]{0,2}(?:[ ./-]?\(?[0-9]{1,4}\)?){2,6}\b"
        r"|(?:^|[^\w.-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[.-][0-9]{4}\b",
        "iban": r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}",
        "card": r"\b[2-6][0-9]{3}(?:[ -]?[0-9]{4}){2}[ -]?[0-9]{1,7}\b|\b3[47][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{5}\b",
        "ipv4": r"\b[0-9]{1,3}(?:\.[0-9]{1,3}){3,}\b",
    }

    def is_real(self, kind: str, text: str) -> bool:
        check = {"email": _is_address, "phone": _is_phone, "iban": _is_iban, "card": _is_card, "ipv4": _is_public}
        return check[kind](text)


def _is_address(text: str) -> bool:
    return not re.search(r"@(?:.*\.)?example\.|\.(?:example|invalid|test|png|jpg)$", text, re.IGNORECASE)


def _is_phone(text: str) -> bool:
    return 8 <= len(digits(text)) <= 15


def _is_iban(text: str) -> bool:
    """Of the length of its country, and the remainder by 97 is 1."""
    text = text.replace(" ", "")
    text = text[: _LENGTH.get(text[:2], 0)]
    moved = text[4:] + text[:4]
    return len(text) >= 15 and len(text) == _LENGTH[text[:2]] and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _is_card(text: str) -> bool:
    """Of the form of a card issuer, and Luhn's sum ends in 0."""
    numbers = digits(text)
    doubled = [sum(divmod(2 * n, 10)) for n in numbers[-2::-2]]
    known = re.match(r"4|5[1-5]|2[2-7]|3[47]|35|30[0-5]|36|38|6(?:011|4[4-9]|5)|62", "".join(map(str, numbers)))
    return bool(known) and 13 <= len(numbers) <= 19 and (sum(doubled) + sum(numbers[-1::-2])) % 10 == 0


def _is_public(text: str) -> bool:
    try:
        return ip_address(text).is_global
    except ValueError:  # a version number: 1.2.3.4.5
        return False
