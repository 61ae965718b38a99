"""Anchor words: what customers really write, so both pools use the same ones.

Templates are never shared between the splits, these key words are.  They make a label
learnable by meaning; ``checks`` proves that each template has an anchor of its own label
and none of another, and ``noise`` keeps typos out of them.  Try::

    python -c "from examples.triage.anchors import CATEGORY; print(CATEGORY['refund'])"
"""

from __future__ import annotations

import re

CATEGORY = {
    "refund": r"refund|money back",
    "delivery": r"parcel|deliver\w*|courier|tracking",
    "damage": r"arrived",
    "billing": r"charged|invoice|discount",
    "account": r"accounts?|password|log in|login|e-mail address",
    "technical": r"stopped working|turn on|error|overheats|battery|app",
    "question": r"(?:does|do you|is|are|which|how|what) [^.!?]*\?",
}
PRIORITY = {
    "urgent": r"urgent|immediately|lawyer|smoke|fire",
    "high": r"third time|unacceptable|for weeks",
    "low": r"no (?:rush|hurry)",
}
# Parts of the anchors above, and what tells order numbers, languages and products apart.
PARTS = (
    r"money|third|again|still|rush|hurry|weeks|stopped|working|works|"
    r"wrong|colour|broken|damaged|cracked|scratched|dented|missing"
)
MENTIONS = r"order\w*|numbers?|phone|postcode|serial|model|repl\w+|answer\w*|write|great|complaints"
WORDS = re.compile("|".join((*CATEGORY.values(), *PRIORITY.values(), PARTS, MENTIONS)))


def has(anchors: str, text: str) -> bool:
    """Whether one of the anchors stands in the text as a whole word."""
    return re.search(rf"\b(?:{anchors})(?!\w)", text, re.IGNORECASE) is not None
