"""Question: the customer asks for information and reports no problem.

Key words: an open question such as "Does it ...?", "Do you sell ...?", "Is it available?".
Try: ``python -c "from examples.triage.phrases.question import QUESTION; print(QUESTION.train)"``
"""

from ..pools import Pool

QUESTION = Pool(
    "problem-question",
    train=(
        "Does the {powered} come with a long cable?",
        "Is the {any} available in {colour}?",
        "How long is the guarantee on the {any}?",
        "Is it possible to use the {powered} outdoors?",
        "Is the price of {a} for the {any} still valid next month?",
        "How heavy is the {any}?",
        "Which size of the {soft} is right for a tall person?",
        "Is the {any} available again in {month}?",
        "Do you offer gift wrapping for the {any}?",
        "What is the difference between the old and the new {powered}?",
        "Do you sell spare parts for the {hard}?",
        "How loud is the {powered}?",
        "Is the {hard} easy to put together for one person?",
        "Does the price of {a} for the {any} include tax?",
        "Is the {soft} machine washable?",
        "Which country is the {any} made in?",
        "Is the {any} suitable for children?",
        "How wide is the {hard}?",
        "Do you have the {any} on show in {city}?",
        "Does the {smart} need a subscription?",
        "Which model of the {powered} needs the least electricity?",
        "Is the {powered} compatible with 110 volts?",
        "Does the {any} come in {colour}, too?",
        "What is the {soft} made of?",
        "Do you sell gift cards in your shop?",
        "What are the opening hours of your shop in {city}?",
        "Do you have a printed catalogue of your shop?",
        "Is there a rewards programme in your shop?",
        "Does your shop also sell to customers in {country}?",
        "How can I find your shop in {city}?",
        "Do you close your shop in {month}?",
    ),
    held_out=(
        "Is the {powered} compatible with an extension lead?",
        "Which colours of the {any} are there?",
        "What does the guarantee for the {any} cover?",
        "Is {a} the final price of the {any}?",
        "How big is the {hard} exactly?",
        "Does the {soft} consist of natural fibres?",
        "Is the {any} on display in {city}?",
        "Which size does the {soft} have?",
        "Is the {any} a good present for a teenager, in your opinion?",
        "Is the {wet} sold with a spare filter?",
        "Is your shop in {city} open on Sundays?",
        "Does your shop have special prices for schools?",
    ),
)
