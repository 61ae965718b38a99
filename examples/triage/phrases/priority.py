"""The cues that decide the priority; a message without any of them is "normal".

urgent: the word itself, a lawyer, smoke or fire.
high:   the third time, "unacceptable", waiting for weeks.
low:    no rush, no hurry.
Try: ``python -c "from examples.triage.phrases.priority import LEGAL; print(LEGAL.held_out)"``
"""

from ..pools import Pool

URGENT = Pool(
    "urgent-word",
    train=(
        "This is urgent.",
        "Very urgent.",
        "It is urgent, really urgent.",
        "Urgent!",
        "Urgent, please help me.",
        "Urgent case.",
        "This is an urgent matter.",
        "It is urgent, please act immediately.",
        "Please treat this as urgent.",
        "URGENT!",
        "My problem is urgent.",
        "Urgent, urgent!",
    ),
    held_out=(
        "Kindly react immediately, my case is urgent.",
        "So urgent!",
        "It's urgent!",
        "Urgent problem.",
        "I'm afraid it is urgent.",
        "Very urgent, please.",
    ),
)


LEGAL = Pool(
    "urgent-legal",
    train=(
        "My lawyer will write to you.",
        "I have spoken to my lawyer.",
        "Lawyer letter follows.",
        "The next letter is from my lawyer.",
        "My lawyer says that it is urgent.",
        "I will call my lawyer.",
        "My lawyer is waiting, this is urgent.",
        "I am meeting my lawyer.",
        "I asked my lawyer about it.",
        "I have called a lawyer.",
        "My lawyer knows about this.",
        "I am taking this to my lawyer.",
    ),
    held_out=(
        "I'm calling my lawyer.",
        "Urgent! My lawyer agrees.",
        "Urgent, next comes my lawyer.",
        "Urgent: my lawyer wants to hear from you.",
    ),
)


HAZARD = Pool(
    "urgent-hazard",
    train=(
        "There was smoke, this is urgent.",
        "It caught fire, urgent!",
        "I saw smoke and fire, urgent!",
        "There was a fire, it is urgent.",
        "First smoke, then fire, very urgent.",
        "It is urgent, I am afraid of a fire.",
    ),
    held_out=(
        "Urgent: it nearly caught fire.",
        "Smoke came out of it, it's urgent.",
        "It's urgent, we had a small fire.",
    ),
)


REPEATED = Pool(
    "high-repeated",
    train=(
        "This is the third time, unacceptable.",
        "I am writing for the third time.",
        "For the third time!",
        "Third time!",
        "It is the third time, this is unacceptable.",
        "Already the third time.",
        "It is the third time now.",
        "This is the third time in three weeks.",
        "Unacceptable, the third time.",
        "My third time now.",
        "This makes it the third time.",
        "A third time, unacceptable.",
        "Now it is my third time.",
    ),
    held_out=(
        "That's already my third time.",
        "It's my third time here.",
        "The third time!",
        "Here for a third time.",
        "Unacceptable, my third time here.",
    ),
)


ANGRY = Pool(
    "high-angry",
    train=(
        "This is unacceptable.",
        "Unacceptable!",
        "That is unacceptable for me.",
        "Simply unacceptable.",
        "Unacceptable service.",
        "It is unacceptable!",
        "I am angry, this is unacceptable.",
    ),
    held_out=(
        "How unacceptable!",
        "Frankly, that's unacceptable.",
        "I call this unacceptable.",
        "Totally unacceptable!",
    ),
)


WEEKS = Pool(
    "high-weeks",
    train=(
        "I have been waiting for weeks.",
        "For weeks!",
        "This has been going on for weeks.",
        "Nothing for weeks.",
        "For weeks now.",
        "For weeks you do nothing, unacceptable.",
        "I have been waiting for weeks, this is unacceptable.",
        "No word from you for weeks.",
        "I have waited for weeks now.",
    ),
    held_out=(
        "It drags on for weeks now.",
        "Unacceptable, it goes on for weeks.",
        "I've waited for weeks.",
        "Silence for weeks.",
    ),
)


NO_RUSH = Pool(
    "low-no-rush",
    train=(
        "There is no rush.",
        "No rush at all.",
        "No rush.",
        "No hurry.",
        "I am in no hurry, no rush.",
        "There is no hurry.",
        "No rush, please take your time.",
        "No hurry, it is not important.",
        "No rush, next month is fine.",
        "No hurry at all, just take your time.",
        "I am in no hurry, it can wait.",
        "No rush, no hurry.",
    ),
    held_out=(
        "It's no rush for me.",
        "I'm really in no hurry.",
        "No hurry, any day will do.",
        "No rush on my side.",
        "Definitely no hurry, no rush.",
        "No rush, whenever it suits you.",
    ),
)
