"""Billing: a charge, an invoice, a discount or a payment is wrong.

Key words: charged, invoice, bill, payment, discount.  Nobody here wants to give goods
back; they want the sum, the paper or the discount put right.
Try: ``python -c "from examples.triage.phrases.billing import BILLING; print(BILLING.train)"``
"""

from ..pools import Pool

BILLING = Pool(
    "problem-billing",
    train=(
        "I was charged {a} twice for the {any}.",
        "My card was charged two times for the {any}.",
        "The invoice for the {any} shows {a}, the price on the website was lower.",
        "You charged me for a {any} that I never bought.",
        "The discount code for the {any} was not applied.",
        "The invoice for the {any} has an old company name on it.",
        "Please send me a corrected invoice for the {any}, the tax number is not on it.",
        "There is a fee of {fee} on the invoice for the {any}.",
        "I still need the invoice for the {any}.",
        "You charged {a} for the {any}, that is too much.",
        "The total on the invoice for the {any} is not right.",
        "I got a second invoice for the {any}, but I paid it on {day}.",
        "I was promised a discount on the {any} and the invoice shows none.",
        "My card was charged again for the {any} in {month}.",
        "I was charged more for the {any} than the website said.",
        "charged twice for the {any}.",
        "The tax on the invoice for my {any} is too high.",
        "My discount on the {any} is not on the invoice.",
        "You put the {any} on my invoice two times.",
        "Your letter says the invoice for the {any} is open, but I paid it in {month}.",
        "I was charged the full price for the {any} in spite of the discount.",
        "My bank says that you charged the {any} twice.",
        "You charged me {fee} for sending the {any} although that was free.",
        "I need an invoice for my order in the name of our company.",
        "My discount code was not applied to my order.",
        "Your shop charged my card {a} too much for my order.",
        "The total on the invoice for my order is too high.",
        "My bank shows that I was charged twice for my order.",
    ),
    held_out=(
        "My card got charged a second time for the {any} on {day}.",
        "No discount: my code was entered, yet I was charged the old price of the {any}.",
        "Kindly write a new invoice for our {any}, with our address on it.",
        "You ask me to pay {a} again, although the invoice for the {any} is settled.",
        "The invoice for my {any} doesn't match what the checkout displayed.",
        "Somehow I've been charged too much: the {any} was on sale.",
        "PayPal says that I was charged two times because of the {any}.",
        "The invoice lists three pieces of the {any}, I bought one.",
        "You charged {a} on the invoice for the {any}, which is more than we agreed.",
        "The VAT number is absent from our invoice of the {any}.",
        "The invoice for my order is made out to somebody else.",
        "My student discount was forgotten in my order.",
        "Without asking, you charged an extra {fee} for my order.",
    ),
)
