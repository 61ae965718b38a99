"""The things messages talk about: products, customers, places, languages.

Values, unlike templates, may appear on both sides of the split; only the products in
``HELD_OUT_PRODUCTS`` are reserved for evaluation.  Try::

    python -c "from examples.triage.catalogue import products; print(products('wet', 'train'))"
"""

from __future__ import annotations

from dataclasses import dataclass

from .pools import Split


@dataclass(frozen=True)
class Product:
    """A product, a plausible price in euros and the kinds of template it fits."""

    name: str
    price: int
    kinds: str  # space-separated: powered, motor, smart, wet, cordless, hard, soft

    def fits(self, slot: str) -> bool:
        """``any`` and ``other`` take everything; powered goods are solid, too."""
        kinds = self.kinds.split()
        solid = slot == "hard" and "powered" in kinds
        return slot in ("any", "other") or slot in kinds or solid


TRAIN_PRODUCTS = (
    Product("cordless drill", 95, "powered motor cordless"),
    Product("espresso machine", 320, "powered wet"),
    Product("e-bike", 910, "powered motor cordless"),
    Product("electric kettle", 45, "powered wet"),
    Product("floor lamp", 80, "powered"),
    Product("robot vacuum", 290, "powered motor smart cordless"),
    Product("toaster", 40, "powered"),
    Product("hand blender", 35, "powered motor"),
    Product("dishwasher", 480, "powered motor wet"),
    Product("washing machine", 520, "powered motor wet"),
    Product("air fryer", 110, "powered"),
    Product("rice cooker", 60, "powered wet"),
    Product("wifi router", 90, "powered smart"),
    Product("smart watch", 210, "powered smart cordless"),
    Product("bluetooth speaker", 70, "powered smart cordless"),
    Product("security camera", 85, "powered smart"),
    Product("laser printer", 180, "powered smart"),
    Product("gaming keyboard", 75, "powered"),
    Product("laptop", 850, "powered smart cordless"),
    Product("tablet", 330, "powered smart cordless"),
    Product("monitor", 240, "powered"),
    Product("electric toothbrush", 55, "powered cordless"),
    Product("hair dryer", 38, "powered motor"),
    Product("humidifier", 65, "powered wet"),
    Product("pressure washer", 150, "powered motor wet"),
    Product("lawn mower", 260, "powered motor cordless"),
    Product("hedge trimmer", 105, "powered motor cordless"),
    Product("baby monitor", 95, "powered smart cordless"),
    Product("projector", 350, "powered smart"),
    Product("sewing machine", 190, "powered motor"),
    Product("treadmill", 640, "powered motor"),
    Product("soundbar", 160, "powered smart"),
    Product("smart thermostat", 130, "powered smart"),
    Product("record player", 170, "powered motor"),
    Product("ceiling fan", 120, "powered motor"),
    Product("stand mixer", 280, "powered motor"),
    Product("office chair", 190, "hard"),
    Product("bookshelf", 110, "hard"),
    Product("dining table", 390, "hard"),
    Product("camping stove", 55, "hard"),
    Product("bike helmet", 60, "hard"),
    Product("suitcase", 95, "hard"),
    Product("cast iron pan", 50, "hard"),
    Product("guitar", 230, "hard"),
    Product("stroller", 310, "hard"),
    Product("mirror", 70, "hard"),
    Product("aquarium", 140, "hard"),
    Product("chess set", 45, "hard"),
    Product("garden bench", 150, "hard"),
    Product("wall clock", 35, "hard"),
    Product("wool blanket", 65, "soft"),
    Product("rain jacket", 90, "soft"),
    Product("yoga mat", 30, "soft"),
    Product("sleeping bag", 85, "soft"),
    Product("backpack", 75, "soft"),
    Product("mattress", 340, "soft"),
    Product("duvet cover", 50, "soft"),
    Product("winter coat", 160, "soft"),
    Product("rug", 130, "soft"),
    Product("tent", 180, "soft"),
    Product("electric scooter", 430, "powered motor cordless"),
    Product("dash cam", 120, "powered smart"),
    Product("ice cream maker", 95, "powered motor"),
    Product("bird feeder", 28, "hard"),
)

HELD_OUT_PRODUCTS = (
    Product("coffee grinder", 85, "powered motor"),
    Product("steam iron", 60, "powered wet"),
    Product("video doorbell", 140, "powered smart cordless"),
    Product("standing desk", 360, "hard"),
    Product("hiking rucksack", 110, "soft"),
)


def products(slot: str, split: Split, reserved: bool = False) -> tuple[Product, ...]:
    """Products that fit a template slot; ``reserved`` asks for the evaluation-only ones."""
    if reserved and split == "train":
        raise ValueError("reserved products never appear in training rows")
    source = HELD_OUT_PRODUCTS if reserved else TRAIN_PRODUCTS
    return tuple(product for product in source if product.fits(slot))


FIRST_NAMES = (
    "Jürgen", "Siobhán", "Łukasz", "María José", "Aoife", "Yuki", "Fatima", "Olumide",
    "Ngọc Anh", "Björn", "Zeynep", "Chiara", "Anaïs", "Priya", "Kwame", "Małgorzata",
    "Søren", "Thandiwe", "Dmytro", "Inês", "Rhys", "Hiroshi", "Leila", "Tomáš", "Grace",
    "Mateus", "Oksana", "Arjun", "Élodie", "Ben", "Sanne", "Emeka", "Mei", "Pádraig",
    "Ingrid", "Yusuf", "Carmen", "Dilnoza", "Hannah", "Kofi",
)  # fmt: skip

LAST_NAMES = (
    "Nguyễn", "Müller", "Ó Briain", "Kowalczyk", "García", "Tanaka", "Haddad", "Adeyemi",
    "Lindqvist", "Yılmaz", "Rossi", "Lefèvre", "Sharma", "Mensah", "Nowak", "Jensen",
    "Dlamini", "Shevchenko", "Ferreira", "Davies", "Suzuki", "Karimi", "Dvořák", "Smith",
    "de Vries", "Okafor", "Chen", "Walsh", "Bauer", "Hernández",
)  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS = ("January", "March", "April", "June", "July", "September", "October", "November")
CITIES = (
    "Leipzig", "Galway", "Kraków", "Lyon", "Osaka", "Bristol", "Porto", "Malmö", "Pune",
    "Lagos", "Toronto", "Brno", "Seville", "Utrecht", "Izmir", "Bergamo", "Zürich", "Perth",
)  # fmt: skip
COUNTRIES = ("Norway", "Iceland", "Malta", "Croatia", "Greece", "Canada", "Ireland", "Japan")
COLOURS = ("black", "white", "dark green", "light blue", "red", "grey")
