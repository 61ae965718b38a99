"""Refund: the customer wants the money for goods back, whatever the reason.

Key words: refund, money back, reimburse.  A wrong charge is billing.
Try: ``python -c "from examples.triage.phrases.refund import REFUND; print(REFUND.train[0])"``
"""

from ..pools import Pool

REFUND = Pool(
    "problem-refund",
    train=(
        "I returned the {any} on {day} and am waiting for my refund.",
        "Please refund the {any}, it is not what I expected.",
        "I'd like my money back for the {any} because it is too big for us.",
        "I sent the {any} back last {month}, but there is no refund yet.",
        "I would like a refund for the {any}, my sister has already bought one.",
        "I changed my mind about the {any} and want to return it for a full refund.",
        "I want my {a} back, please refund the {any}.",
        "The {any} is with you again, now I only need the refund of {a}.",
        "I cancelled the {any} within an hour and want my money back.",
        "I have returned the {any} unused, please give me a refund.",
        "We don't need the {any} any more, so we want our money back as a refund.",
        "You promised me a refund of {a} for the {any}.",
        "The {any} does not suit our home, I am sending it back for a refund.",
        "I want the money back for my {any}, not a voucher.",
        "The {any} was a gift, but they own one already, so a refund would be best.",
        "Requesting a refund of {a} for the {any}.",
        "I decided against the {any}, please take it back and refund me.",
        "Only half of the refund for the {any} has come.",
        "Could you please refund the {any}, we cannot use it in our flat.",
        "We never opened our {any} and would like to get our money back.",
        "I am not happy with the {any} and ask you for a refund.",
        "Money back please for my {any}, the photos on your website were nicer.",
        "I want to return my order for a refund.",
        "I cancelled my order the same day and still need my money back.",
        "I sent my order back on {day}, please refund all of it.",
        "I am still owed a refund of {a} for my order.",
        "I returned two things from my order and see no refund.",
        "My order went back in {month}, and I want my money back.",
    ),
    held_out=(
        "The {any} is on its way back to you, kindly refund my card.",
        "I'm not satisfied with my {any} and expect a full refund.",
        "You have had my returned {any} since {day}, but no refund was made.",
        "I'd prefer my money back over an exchange, the {any} just isn't for me.",
        "Kindly undo my purchase of the {any} and issue a refund.",
        "My partner chose the same {any}, so ours goes back and we want a refund.",
        "The {any} looked nicer online, I'm returning it and hope for a refund of {a}.",
        "Please send me the {a} that I spent on the {any} as a refund.",
        "My mother does not like her {any}, she wants her money back.",
        "I used the fourteen-day return right for the {any}, the refund is outstanding.",
        "Nothing from my order suits me, so kindly refund it.",
        "All of my order went back to you on {day}, now I wish for my money back.",
    ),
)
