"""Technical: the product is in use, and now it fails.

Key words: stopped working, no longer works, turn on, error, overheats, battery, app,
bluetooth, connection.  It worked at first, which is the line to "damage".  Slots name the
kind of product, so that no kettle loses its connection.
Try: ``python -c "from examples.triage.phrases.technical import TECHNICAL; print(TECHNICAL)"``
"""

from ..pools import Pool

TECHNICAL = Pool(
    "problem-technical",
    train=(
        "The {powered} was good until {day}, now it does not turn on.",
        "The {powered} overheats after ten minutes of use.",
        "Since the last update the {smart} stopped working with the app.",
        "After two months of use the {motor} stopped working.",
        "The battery of my {cordless} lasts barely an hour.",
        "The {powered} stopped working on {day}.",
        "The app shows an error when I start the {smart}.",
        "The display of the {powered} shows error E7.",
        "The {smart} stopped working with bluetooth.",
        "My {powered} does not turn on any more.",
        "My {cordless} does not turn on although the battery is full.",
        "The {powered} shows an error after every start.",
        "{powered} stopped working after a month.",
        "My {motor} gets loud and overheats.",
        "The {smart} loses the connection and shows an error.",
        "The {wet} stopped working, it has been in use since {month}.",
        "The app crashes with an error when I open the settings of the {smart}.",
        "The update of the {smart} ends with an error.",
        "The {motor} overheats and then it does not turn on.",
        "The battery of the {cordless} is empty after a few minutes.",
        "Today the {powered} does not turn on at all.",
        "The buttons of the {powered} have stopped working.",
        "I cannot connect the {smart} to my phone, there is an error.",
        "Our {wet} shows an error and does nothing.",
        "The remote function of my {smart} stopped working in the app.",
        "Your app shows an error when I open it.",
        "Your app stopped working on my phone on {day}.",
        "Your website shows an error at the last step.",
        "The search on your website stopped working.",
        "There is an error in your app since the update.",
        "Error E2 is shown by our {powered} since {day}.",
        "I cleaned the {wet}, and the error is still on its display.",
        "For two years the {powered} worked, then it stopped working.",
        "After four minutes the {cordless} is dead, its battery does not last.",
        "The {motor} has become weak, today it stopped working.",
    ),
    held_out=(
        "Halfway through a job our {powered} stopped working.",
        "The app of the {smart} stopped working and finds nothing.",
        "I've used the {powered} since {month}, lately it overheats and shows an error.",
        "The {cordless} is dead after five minutes, it must be the battery.",
        "The touch panel of my {powered} has stopped working.",
        "Because of a bluetooth error the {smart} isn't found by any phone.",
        "An error F03 has been on the display of our {powered} since {day}.",
        "The {motor} gets weak and overheats, on {day} it stopped working.",
        "I press start, but the {powered} does not turn on.",
        "We cleaned the {wet}, but the display shows this error again.",
        "For a year my {powered} was good, then it stopped working.",
        "Since {day} I get error 404 from your website.",
        "I can't open your app, error 12 comes up.",
        "In your app I see an error when I search for something.",
    ),
)
