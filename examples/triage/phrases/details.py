"""Side remarks that go with any problem of a category and change no label.

Try: ``python -c "from examples.triage.phrases.details import DETAILS; print(DETAILS['refund'])"``
"""

from ..pools import Pool

DETAILS = {
    "refund": Pool(
        "detail-refund",
        train=(
            "I still have the receipt.",
            "According to your terms I have thirty days for that.",
            "A voucher would be of no use to me.",
            "I have attached the return slip.",
        ),
        held_out=(
            "The return form is attached.",
            "Store credit wouldn't help me.",
            "I kept within the return period.",
        ),
    ),
    "delivery": Pool(
        "detail-delivery",
        train=(
            "There was no card in the letterbox.",
            "My name is on the door and on the bell.",
            "Maybe the driver mixed something up.",
            "Somebody is always at home here.",
        ),
        held_out=(
            "My doorbell works, I have tested it.",
            "Our house is easy to find, it's next to the church.",
            "The driver doesn't pick up the phone.",
        ),
    ),
    "damage": Pool(
        "detail-damage",
        train=(
            "I've attached two photos.",
            "I kept the box.",
            "I have not used anything yet.",
            "I'd like to have it replaced.",
        ),
        held_out=(
            "You'll find pictures attached.",
            "I'd be happy with a flawless one.",
            "The wrapping is still here, should you need it.",
        ),
    ),
    "billing": Pool(
        "detail-billing",
        train=(
            "My bank confirms it.",
            "I've attached a screenshot of the statement.",
            "Please correct that.",
            "My bookkeeper asked me about it.",
        ),
        held_out=(
            "I enclose the relevant page of my statement.",
            "Please put the figures right.",
            "There must be a slip in your books.",
        ),
    ),
    "account": Pool(
        "detail-account",
        train=(
            "I have tried another browser, too.",
            "I can prove who I am.",
            "I looked through the settings and found nothing.",
            "I registered last year.",
        ),
        held_out=(
            "I've gone through the FAQ.",
            "My ID card is at hand if you need proof.",
            "The settings menu is of no use here.",
        ),
    ),
    "technical": Pool(
        "detail-technical",
        train=(
            "I have read the troubleshooting page.",
            "A reset changes nothing.",
            "I followed the manual step by step.",
            "I hope that somebody can repair it.",
        ),
        held_out=(
            "The instructions offer no solution.",
            "Maybe it can be repaired.",
            "Restarting made no difference.",
        ),
    ),
    "question": Pool(
        "detail-question",
        train=(
            "I couldn't find it on your website.",
            "The description doesn't say.",
            "It would be a present.",
            "We are comparing a few shops.",
        ),
        held_out=(
            "The product page is silent on that.",
            "Nothing in your FAQ covers it.",
            "I'm still making up my mind.",
        ),
    ),
}
