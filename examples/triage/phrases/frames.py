"""The rest of a message: greetings, sign-offs, small talk and things that mislead.

Decoys carry a value of the right shape with the wrong meaning: a phone number where
an order number could stand, a friend's price, the language of a manual.
Try: ``python -c "from examples.triage.phrases.frames import DECOY_LABEL; print(DECOY_LABEL)"``
"""

from ..pools import Pool

OPENER = Pool(
    "opener",
    train=(
        "Hi,",
        "Hello,",
        "Hi there,",
        "Hello team,",
        "Dear support team,",
        "Good morning,",
        "Hey,",
        "Dear Sir or Madam,",
        "Hello, {name} here.",
        "Hi, I hope you are well.",
        "Hello, my name is {name}.",
        "Good day to you all,",
    ),
    held_out=(
        "Good afternoon,",
        "Greetings,",
        "To whom it may concern,",
        "Hey folks,",
        "Dear customer service,",
        "This is {name} writing.",
        "Good evening everyone,",
    ),
)

CLOSER = Pool(
    "closer",
    train=(
        "Thanks, {name}",
        "Kind regards, {name}",
        "Best regards, {full_name}",
        "Thank you!",
        "Thanks in advance.",
        "Many thanks, {full_name}",
        "Greetings from {city}, {name}",
        "Thank you for your help.",
        "Best, {name}",
        "Yours sincerely, {full_name}",
        "thx",
        "Cheers, {name}",
    ),
    held_out=(
        "With best wishes, {full_name}",
        "Much appreciated, {name}",
        "Warm regards, {name}",
        "With gratitude, {full_name}",
        "Best wishes from {city}, {name}",
        "Ta, {name}",
        "Take care, {name}",
    ),
)

# A neutral request: it must not sound like hurry, anger or leisure.
REQUEST = Pool(
    "request",
    train=(
        "Please help me with this.",
        "Please let me know how to go on.",
        "Please have a look at it.",
        "Please tell me what you need from me.",
        "I hope you can help.",
        "Please check this for me.",
        "Please get back to me.",
    ),
    held_out=(
        "Please tell me how to proceed.",
        "I'd be grateful for your advice.",
        "Please take a look.",
        "Please keep me posted.",
        "I await your suggestion.",
    ),
)

SMALL_TALK = Pool(
    "small-talk",
    train=(
        "It has been raining here in {city} all day.",
        "By the way, I really like your shop.",
        "Your colleague in the shop in {city} was very kind.",
        "I have been a customer for years.",
        "My neighbour recommended you to me.",
        "We've just moved into a new flat.",
        "I'm 74 and not so good with computers.",
        "So far I have always been happy with you.",
        "Sorry for my English.",
    ),
    held_out=(
        "The sun is finally out in {city}.",
        "I've shopped here ever since my student days.",
        "My aunt in {city} swears by your products.",
        "Please excuse my spelling, I'm typing on the bus.",
        "Our dog has just fallen asleep on my feet.",
        "We have lived in {city} for 11 years.",
    ),
)

DECOY_CONTACT = Pool(
    "decoy-contact",
    train=(
        "You can call me on {phone}.",
        "My phone number is {phone}.",
        "My customer number is {digits}.",
        "My postcode is {postcode}.",
        "Call me after 6 pm on {phone}, please.",
    ),
    held_out=(
        "If you'd rather call me, my phone is {phone}.",
        "I'm registered with you under customer number {digits}.",
        "I live in {city}, postcode {postcode}.",
        "I can be reached by phone in the evening, {phone}.",
    ),
)

DECOY_LABEL = Pool(
    "decoy-label",
    train=(
        "The serial number is {serial}.",
        "It says model {model} on the label.",
        "I bought it on {date}.",
        "On the back there's a sticker with serial number {serial}.",
    ),
    held_out=(
        "Serial number {serial} is printed underneath.",
        "The exact model is {model}.",
        "The receipt is from {date}.",
    ),
)

DECOY_AMOUNT = Pool(
    "decoy-amount",
    train=(
        "My neighbour paid {b} for his at another shop.",
        "Another shop sells the same one for {b}.",
        "A friend got hers for {b} from your competitor.",
    ),
    held_out=(
        "A competitor of yours is asking {b} for one of these.",
        "My cousin picked one up for {b} at another shop.",
    ),
)

DECOY_LANGUAGE = Pool(
    "decoy-language",
    train=(
        "The {foreign} manual is funny.",
        "I bought it on your {foreign} website.",
        "My wife is a {foreign} teacher.",
    ),
    held_out=(
        "There was only a {foreign} manual with it.",
        "I'm taking a {foreign} course at the moment.",
    ),
)

# The other product is fine; the problem sentence names the one with the problem.
PAIR_FIRST = Pool(
    "pair-first",
    train=(
        "First of all, the {other} is great.",
        "No complaints about the {other} that I bought, it is about something else.",
        "The {other} works fine, thank you, but I have another matter.",
    ),
    held_out=(
        "Thanks for the {other}, it is great, but that is not why I write.",
        "I do like the {other}, no complaints there at all.",
    ),
)

PAIR_LAST = Pool(
    "pair-last",
    train=(
        "The {other} I got with it is great.",
        "I have no complaints about the {other}.",
        "The {other} works fine.",
        "I also bought a {other}, that one works fine.",
        "The {other} is great, by the way.",
    ),
    held_out=(
        "At least the {other} works fine.",
        "No complaints about the {other} that came along.",
        "As for the {other}, it is great.",
        "My {other}, bought on the same day, is great.",
    ),
)

# For questions, where the other product is simply one the customer owns.
PAIR_OWNED = Pool(
    "pair-owned",
    train=(
        "I already have the {other} from you and it is great.",
        "The {other} I bought last year works fine.",
        "Last time I bought a {other} and have no complaints about it.",
    ),
    held_out=(
        "We've owned the {other} for ages, it works fine.",
        "The {other} you sold me in {month} is great.",
    ),
)
