"""How customers state an order number, an amount or the language of the answer.

``{o}`` is the order number, ``{a}`` the sum of money, ``{language}`` an English
language name.  Requests in the language itself are listed by language code.
Try: ``python -c "from examples.triage.phrases.mentions import ASK_NATIVE; print(ASK_NATIVE)"``
"""

from ..pools import Pool

ORDER_FIRST = Pool(
    "order-first",
    train=(
        "I am writing about order {o}.",
        "This concerns order {o}.",
        "The number of the order is {o}.",
        "It's about order {o}.",
        "Regarding order {o}:",
        "I placed order {o} with you on {day}.",
    ),
    held_out=(
        "I'm contacting you because of order {o}.",
        "Subject: order {o}.",
        "A word about order number {o}.",
        "Re: order no. {o}.",
    ),
)

ORDER_LAST = Pool(
    "order-last",
    train=(
        "Order number: {o}.",
        "The order number is {o}.",
        "It was order {o}.",
        "You can find it under order no. {o}.",
        "I have order number {o}.",
        "Order: {o}.",
        "order nr {o}",
        "(Order {o})",
        "Here is the order number: {o}.",
        "Order ref. {o}.",
    ),
    held_out=(
        "The order number on my receipt reads {o}.",
        "Please look up order {o}.",
        "For your files, the order is {o}.",
        "Bought under order no. {o}.",
        "Order reference: {o}.",
    ),
)

AMOUNT_ITEM = Pool(
    "amount-item",
    train=(
        "I paid {a} for it.",
        "It cost me {a}.",
        "The price was {a}.",
        "That's {a} I spent on it.",
        "I bought it for {a}.",
        "It was not cheap at {a}.",
        "We paid you {a} for it.",
    ),
    held_out=(
        "It set me back {a}.",
        "You sold it to me at {a}.",
        "Purchase price {a}.",
        "I spent {a} on this.",
    ),
)

AMOUNT_ORDER = Pool(
    "amount-order",
    train=(
        "I paid {a} in total.",
        "The whole thing cost {a}.",
        "The total was {a}.",
        "All in all I paid {a}.",
    ),
    held_out=(
        "We're talking about {a} altogether.",
        "In sum I spent {a}.",
        "Its value is {a}.",
    ),
)

ASK_ENGLISH = Pool(
    "language-english",
    train=(
        "Please reply in {language}.",
        "Please answer in {language}.",
        "Please answer me in {language}.",
        "I would like a reply in {language}.",
        "I'd prefer an answer in {language}.",
        "My English is not so good, please reply in {language}.",
        "I speak {language}, so please reply in {language}.",
        "If possible, answer in {language}.",
        "A reply in {language} would be nice.",
        "{language} is easier for me, please answer in {language}.",
    ),
    held_out=(
        "Kindly reply in {language}.",
        "Feel free to answer in {language}.",
        "Reply in {language}, please.",
        "As {language} is my language, reply in {language} if you can.",
        "I hope for an answer in {language}.",
    ),
)

# Code -> the requests a customer writes in that language.
ASK_NATIVE = {
    "de": Pool(
        "language-de",
        train=(
            "Antwortet mir bitte auf Deutsch.",
            "Bitte auf Deutsch antworten, danke.",
            "Auf Deutsch, bitte.",
            "Bitte schreibt mir auf Deutsch.",
        ),
        held_out=(
            "Antwort auf Deutsch, bitte.",
            "Eine Antwort bitte auf Deutsch.",
        ),
    ),
    "fr": Pool(
        "language-fr",
        train=(
            "Répondez en français s'il vous plaît.",
            "Merci de répondre en français.",
            "En français, s'il vous plaît.",
            "Répondez-moi en français, merci.",
        ),
        held_out=(
            "Une réponse en français, merci.",
            "Plutôt en français, merci.",
        ),
    ),
    "es": Pool(
        "language-es",
        train=(
            "Por favor, respondan en español.",
            "Respondan en español, gracias.",
            "En español, por favor.",
            "Escriban en español, por favor.",
        ),
        held_out=(
            "Gracias por contestar en español.",
            "Mejor en español, gracias.",
        ),
    ),
    "it": Pool(
        "language-it",
        train=(
            "Rispondetemi in italiano, per favore.",
            "Rispondete in italiano, grazie.",
            "In italiano, per favore.",
            "Scrivetemi in italiano, per favore.",
        ),
        held_out=(
            "Grazie per una risposta in italiano.",
            "Meglio in italiano, grazie.",
        ),
    ),
}

LANGUAGE_NAMES = {
    "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese",
    "nl": "Dutch", "pl": "Polish", "ja": "Japanese",
}  # fmt: skip
