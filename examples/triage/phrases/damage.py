"""Damage: it arrived broken, incomplete or in the wrong version.

Key words: broken, damaged, cracked, scratched, dented, torn, missing, wrong colour (size,
model, item).  The fault was there on arrival, which is the line to "technical"; nobody
asks for money, which is the line to "refund".
Try: ``python -c "from examples.triage.phrases.damage import DAMAGE; print(DAMAGE.held_out)"``
"""

from ..pools import Pool

DAMAGE = Pool(
    "problem-damage",
    train=(
        "The {hard} arrived with a cracked side.",
        "The {hard} arrived broken, I saw it when I opened the box.",
        "The {any} arrived in the wrong colour, I wanted {colour}.",
        "The {hard} arrived, but two screws were missing from the box.",
        "The {hard} arrived dented in a torn box.",
        "My {hard} arrived with a broken corner.",
        "The {soft} arrived in the wrong size.",
        "The {hard} was scratched when it arrived.",
        "{hard} arrived broken.",
        "The {hard} arrived damaged, I would like a new one.",
        "The {hard} arrived on {day} and it was badly damaged.",
        "The {any} arrived dirty and damaged.",
        "The {soft} was torn when it arrived.",
        "The {powered} arrived, but the power cable is missing.",
        "The {hard} arrived cracked, it must have been dropped.",
        "A {powered} arrived, but it is the wrong model.",
        "The {soft} arrived with a torn seam.",
        "The lid of the {wet} was cracked when it arrived.",
        "The {hard} arrived with a part missing.",
        "I chose the {any} in {colour}, but the wrong colour arrived.",
        "The {smart} arrived with a cracked front.",
        "The {hard} arrived broken in two.",
        "The {hard} arrived scratched and dented.",
        "The {hard} arrived without screws, and the manual is missing, too.",
        "Half of my order arrived broken.",
        "The wrong item arrived with my order.",
        "Everything in my order was damaged when it arrived.",
        "My order arrived on {day}, but one item is missing.",
    ),
    held_out=(
        "Straight after the {hard} arrived I noticed that it is cracked.",
        "My new {hard} got damaged on the way to me and arrived like that.",
        "Your warehouse sent the {any} and the wrong model arrived.",
        "When our {hard} arrived, all the screws for it were missing.",
        "The {soft} that arrived today is torn along the edge.",
        "Today our {soft} arrived, sadly of the wrong size.",
        "The {cordless} arrived today and its charger is missing.",
        "Our {hard} arrived dented and with a scratched base.",
        "Sadly, the new {hard} already arrived broken.",
        "Your {any} arrived yesterday, and this is the wrong colour.",
        "All the things from my order arrived damaged.",
        "Sadly my order arrived with scratched parts only.",
        "Some wrong item arrived here, it was not part of my order.",
    ),
)
