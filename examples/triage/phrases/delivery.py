"""Delivery: a parcel is late, lost, stuck or on its way to another place.

Key words: parcel, package, delivery, shipment, courier, tracking.  What is wrong inside
an arrived parcel is damage.  A plain delay is no priority cue, so nothing speaks of weeks.
Try: ``python -c "from examples.triage.phrases.delivery import DELIVERY; print(DELIVERY)"``
"""

from ..pools import Pool

DELIVERY = Pool(
    "problem-delivery",
    train=(
        "My {any} has not been delivered yet, the delivery was due on {day}.",
        "The tracking page for the {any} has not changed since {day}.",
        "The courier says that he delivered the {any}, but nothing is at my door.",
        "The parcel with my {any} has not come yet.",
        "The delivery of the {any} is late, you promised {day}.",
        "The courier left the parcel with the {any} at a house I don't know.",
        "The parcel with the {any} has been stuck in customs since {day}.",
        "I have moved to {city}, please redirect the parcel with the {any}.",
        "{any} still not delivered, the courier did not come.",
        "The courier took the {any} back although I was at home.",
        "I have no tracking number for the parcel with the {any}.",
        "Tracking says that the {any} is lost.",
        "The parcel with the {any} was handed to somebody else.",
        "I waited at home for the delivery of the {any} and the courier never came.",
        "Please change the delivery address for the {any}, I gave you my old one.",
        "The tracking link for my {any} does not open.",
        "Every morning the tracking says out for delivery, and then no {any} comes.",
        "My {any} is late and the courier knows nothing.",
        "The courier with the {any} did not show up on {day}.",
        "I would like to know when the parcel with the {any} will get here.",
        "The courier delivered the {any} to a different house.",
        "According to the tracking, the {any} has been in {city} since {day}.",
        "The parcel shop in {city} cannot find the {any}.",
        "My parcel left your depot on {day} and then vanished.",
        "My neighbour got my parcel from the courier and is on holiday now.",
        "My parcel is going round in circles near {city}.",
        "I stayed home for the delivery of my parcel, but nobody came.",
        "You lost my parcel somewhere near {city}.",
        "The tracking of my parcel shows nothing new since {day}.",
    ),
    held_out=(
        "There's no sign of the {any}, the delivery was planned for {day}.",
        "The courier company has lost all trace of the {any}.",
        "Please find out where the parcel with the {any} is.",
        "The parcel with the {any} seems to be lost between your warehouse and {city}.",
        "I stayed in all of {day}, but no courier brought the {any}.",
        "If the tracking is right, the {any} is still lying in {city}.",
        "Someone else has signed for the parcel containing our {any}.",
        "I'd like the delivery of the {any} to go to my parents in {city} instead.",
        "The {any} is overdue and the tracking number is unknown.",
        "Still no {any} at my door, the courier should have been here by {day}.",
        "My parcel was dropped off on {day}, only not here.",
        "My parcel went back to you before I could collect it.",
    ),
)
