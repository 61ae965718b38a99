"""The container: services found by type and by role, wired when it is made, closed when their lifetime ends."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from components.core.component import StrictConfig
from components.core.container import Container, Scope, choose
from components.core.errors import ConfigError, WiringError
from components.core.kinds import registry as project_registry
from components.core.kinds import service
from components.core.recipe import Recipe, parse_recipe
from components.core.registry import Kind, Registry
from components.core.service import LIFETIMES, Lifetime, ServiceInfo, serves, service_info
from components.core.settings import Settings
from components.services.application import Application
from components.services.training import TrainingService
from tests import tiny

if TYPE_CHECKING:
    from decimal import Decimal


def table(**services: type) -> Registry:
    """A registry with these services and nothing else."""
    made = Registry([Kind("service", object)])
    for name, cls in services.items():
        made.add("service", name, cls)
    return made


def refused(services: Registry, chosen: dict[str, Any] | None = None, **more: Any) -> str:
    """The message of the WiringError that making the container raises."""
    with pytest.raises(WiringError) as caught:
        Container(services, chosen, **more)
    return readable(str(caught.value))


def readable(message: str) -> str:
    """The message, if a person can read it: no address, no link, nothing of the machinery in between."""
    assert not re.search(r"0x[0-9a-f]|<function|<class|https?://|\.make\b|\.enter\b|_wireup|created via", message)
    return message


class Given:
    """Something that the caller brings."""


class Engine:
    """Depends on something given."""

    def __init__(self, given: Given) -> None:
        self.given = given


class Gearbox:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine


class Wheels:
    def __init__(self, gearbox: Gearbox, engine: Engine) -> None:
        self.gearbox, self.engine = gearbox, engine


class Car:
    def __init__(self, wheels: Wheels, engine: Engine) -> None:
        self.wheels, self.engine = wheels, engine


class Journey:
    def __init__(self, car: Car) -> None:
        self.car = car


def cars() -> Registry:
    """A chain of five, registered from the top to the bottom."""
    return table(journey=Journey, car=Car, wheels=Wheels, gearbox=Gearbox, engine=Engine)


# ---------------------------------------------------------------- injection


def test_constructors_are_filled_in_from_hints() -> None:
    """Constructors get what their hints ask for, five levels deep, one instance of each (R1, R8, A32, B3)."""
    given = Given()
    with Container(cars(), instances={Given: given}) as container:
        journey = container.get(Journey)
        assert journey.car.wheels.gearbox.engine is journey.car.engine is container.get(Engine)
        assert journey.car.engine.given is given


def test_sixteen_threads_get_one_singleton() -> None:
    """Sixteen threads that ask at once, at every level, get one instance and never wait for each other (R1, A29)."""
    made: list[type] = []

    class Counted:
        def __init__(self) -> None:
            made.append(type(self))
            threading.Event().wait(0.02)

    for _ in range(10):
        made.clear()
        asked = [Journey, Car, Wheels, Gearbox, Engine, Counted] * 16
        barrier = threading.Barrier(16)

        def ask(number: int, container: Container, asked: list[Any], barrier: threading.Barrier) -> list[Any]:
            barrier.wait(10)
            return [container.get(asked[(number + i) % 6]) for i in range(6)]

        registry = cars()
        registry.add("service", "counted", Counted)
        with Container(registry, instances={Given: Given()}) as container, ThreadPoolExecutor(16) as pool:
            answers = [pool.submit(ask, number, container, asked, barrier) for number in range(16)]
            got = [instance for answer in answers for instance in answer.result(timeout=20)]
        assert len(got) == 96
        assert len(set(map(id, got))) == 6
        assert made == [Counted]


class Slow:
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        threading.Event().wait(0.05)


def test_threads_of_one_scope_share_its_services() -> None:
    """Threads that work in one run get the same scoped service: it is made once (R1, A31)."""
    Slow.made = 0
    barrier = threading.Barrier(16)

    def ask(scope: Scope) -> Slow:
        barrier.wait(10)
        return scope.get(Slow)

    with (
        Container(table(slow=serves("slow", lifetime="scoped")(Slow))) as container,
        container.scope() as scope,
        ThreadPoolExecutor(16) as pool,
    ):
        answers = [pool.submit(ask, scope) for _ in range(16)]
        assert len({id(answer.result(timeout=20)) for answer in answers}) == 1
    assert Slow.made == 1


class Speaks(Protocol):
    """What a role asks for."""

    language: str

    def say(self, word: str) -> str: ...


@serves("speaker", Speaks)
class English:
    language = "en"

    def say(self, word: str) -> str:
        return word


class French(English):
    language = "fr"


@serves("speaker", Speaks)
class Stranger:
    """Answers to the Protocol without knowing anybody; one member is only annotated and set in the constructor."""

    language: str

    def __init__(self) -> None:
        self.language = "tlh"

    def say(self, word: str) -> str:
        return word[::-1]


class Radio:
    def __init__(self, speaker: Speaks) -> None:
        self.speaker = speaker


def test_protocol_is_filled_by_its_implementation() -> None:
    """A constructor that asks for a Protocol gets the implementation of its role (A29, A35)."""
    with Container(table(speaker=English, radio=Radio)) as container:
        assert isinstance(container.get(Radio).speaker, English)
        assert container.get(Speaks) is container.get("speaker") is container.get(Radio).speaker


def test_service_by_name_and_by_type() -> None:
    """A service is found by its role's name and by the type that the role provides, the same one (B1, A33)."""
    with Container(cars(), instances={Given: Given()}) as container:
        for role, kind in (("journey", Journey), ("car", Car), ("engine", Engine)):
            assert container.get(role) is container.get(kind)


def test_unknown_name_suggests() -> None:
    """An unknown role is refused with the closest one (B1)."""
    with Container(cars(), instances={Given: Given()}) as container:
        with pytest.raises(WiringError, match="no service 'gearbocks'; did you mean 'gearbox'"):
            container.get("gearbocks")
        with pytest.raises(WiringError, match="no service 'zzz'$"):
            container.get("zzz")


def test_unknown_type_is_named() -> None:
    """A type that no role provides is refused with its name (B4)."""
    with Container(table()) as container, pytest.raises(WiringError, match="cannot get Given: .*unknown.*Given") as no:
        container.get(Given)
    readable(str(no.value))


class Choosy:
    def __init__(
        self,
        given: Given | None = None,
        engine: Engine | None = None,
        count: int = 3,
        word="nothing",
        *rest: Any,
        keyword: str = "yes",
        **more: Any,
    ) -> None:
        self.got = (given, engine, count, word, rest, keyword, more)


def test_optional_parameters() -> None:
    """Parameters with defaults keep them where nobody provides the type, and get the service where one does (A32)."""
    assert Container(table(choosy=Choosy)).get(Choosy).got == (None, None, 3, "nothing", (), "yes", {})
    given = Given()
    got = Container(table(choosy=Choosy), instances={Given: given}).get(Choosy).got
    assert got == (given, None, 3, "nothing", (), "yes", {})
    both = Container(table(choosy=Choosy, engine=Engine), instances={Given: given}).get(Choosy).got
    assert both[0] is given
    assert isinstance(both[1], Engine)


@dataclass
class Record:
    given: Given
    size: int = 4


class Plain(Speaks):
    """Inherits a Protocol and its constructor."""

    language = "eo"

    def say(self, word: str) -> str:
        return word


@pytest.mark.parametrize("cls", [Given, Record, Plain])
def test_any_class_can_be_a_service(cls: type) -> None:
    """Classes without a constructor, data classes and children of a Protocol are services like others (B1)."""
    given = {} if cls is Given else {Given: Given()}
    assert type(Container(table(it=cls), instances=given).get("it")) is cls


class Counts:
    """Takes a configuration."""

    class Config(StrictConfig):
        start: int = 1
        step: int = 1

    def __init__(self, given: Given, config: Config) -> None:
        self.given, self.config = given, config


class CountsMore(Counts):
    """Inherits constructor and configuration."""


class CountsNothing(Counts):
    """Inherits the configuration, and takes none."""

    def __init__(self, given: Given) -> None:
        self.given = given


def test_configuration() -> None:
    """A service gets its own Config, defaults filled in, beside what is injected (A35)."""
    given = {Given: Given()}
    assert Container(table(counts=Counts), {}, given).get(Counts).config == Counts.Config()
    made = Container(table(counts=Counts), {"counts": {"start": 5}}, given).get(Counts)
    assert (made.config.start, made.config.step) == (5, 1)
    assert made.given is given[Given]


def test_inherited_constructor() -> None:
    """A child that changes neither constructor nor Config is wired and configured like its parent (A32, A35)."""
    made = Container(table(more=CountsMore), {"more": {"step": 7}}, {Given: Given()}).get("more")
    assert made.config.step == 7


def test_config_that_the_constructor_does_not_take() -> None:
    """A service whose constructor takes no configuration is made without, and refuses one (A35)."""
    given = {Given: Given()}
    assert isinstance(Container(table(none=CountsNothing), {}, given).get("none"), CountsNothing)
    assert "CountsNothing takes no configuration, found start" in refused(
        table(none=CountsNothing), {"none": {"start": 1}}, instances=given
    )


def provide() -> Given:
    return Given()


def provide_and_leave() -> Iterator[Given]:
    LOG.append("enter Given")
    yield Given()
    LOG.append("leave Given")


def untold():
    return 1


def test_instances_and_factories() -> None:
    """What the caller has is injected as it is; what a factory makes is made once, and left if it yields (A29, A34)."""
    given = Given()
    assert Container(table(engine=Engine), instances={Given: given}).get(Engine).given is given
    with Container(table(engine=Engine), factories=[provide]) as container:
        assert container.get(Engine).given is container.get(Given)
    LOG.clear()
    with Container(table(engine=Engine), factories=[provide_and_leave]) as container:
        assert container.get(Engine).given is container.get(Given)
    assert LOG == ["enter Given", "leave Given"]


def test_wrong_instances_and_factories() -> None:
    """An instance of another class, a factory without a return type, and a type given twice are refused (A35)."""
    assert "str is not a subclass of Given" in refused(table(), instances={Given: "given"})
    assert "Please add a return type to untold" in refused(table(), factories=[untold])
    assert "Given as it already exists" in refused(table(given=Given), instances={Given: Given()})


def test_factories_serve_several_containers() -> None:
    """The same factory function serves any number of containers, each with an instance of its own (A29)."""
    first, second = (Container(table(), factories=[provide]) for _ in range(2))
    assert first.get(Given) is not second.get(Given)


def test_two_containers_share_nothing() -> None:
    """Singletons belong to their container (A29)."""
    registry, given = cars(), {Given: Given()}
    assert Container(registry, {}, given).get(Car) is not Container(registry, {}, given).get(Car)


# ---------------------------------------------------------------- roles and choices


def test_serves_describes_a_class() -> None:
    """A class says its role, the type it is asked for by and its lifetime; without that, its name is its role (A35)."""
    assert service_info("speaker", English) == ServiceInfo("speaker", Speaks, "singleton")
    assert service_info("fr", French) == ServiceInfo("fr", French, "singleton")  # not inherited from English
    assert service_info("it", Given) == ServiceInfo("it", Given)


def test_decorator_registers_and_serves() -> None:
    """`@service` puts a class into the table and says its role in one line (B1)."""
    try:
        with project_registry.owned_by("test"):
            assert service("test_quick", role="training")(QuickTraining) is QuickTraining
        assert project_registry.get("service", "test_quick") is QuickTraining
        assert service_info("test_quick", QuickTraining).role == "training"
    finally:
        with project_registry.owned_by("test"):
            project_registry.forget("test")


class QuickTraining(TrainingService):
    """Takes the place of the training service."""


@serves("speaker", Speaks)
class Babble:
    language = "xx"

    class Config(StrictConfig):
        loud: bool = False

    def __init__(self, config: Config) -> None:
        self.config = config

    def say(self, word: str) -> str:
        return word.upper() if self.config.loud else word


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, English),
        ({"speaker": "speaker"}, English),
        ({"speaker": "stranger"}, Stranger),
        ({"speaker": {"type": "babble"}}, Babble),
        ({"speaker": {"type": "babble", "loud": True}}, Babble),
        ({"speaker": {"type": "stranger", "lifetime": "singleton"}}, Stranger),
        ({"speaker": {}}, English),
        ({"speaker": {"lifetime": "singleton"}}, English),
    ],
)
def test_choice_by_recipe(wanted: dict[str, Any], expected: type) -> None:
    """`services` chooses the implementation of a role by name, with its own keys beside the name (A35)."""
    registry = table(speaker=English, stranger=Stranger, babble=Babble, radio=Radio)
    with Container(registry, wanted) as container:
        speaker = container.get(Radio).speaker
        assert type(speaker) is expected
        assert container.get(Speaks) is container.get("speaker") is speaker
        if isinstance(speaker, Babble):
            assert speaker.config.loud is (wanted["speaker"].get("loud") is True)


@pytest.mark.parametrize("lifetime", LIFETIMES)
def test_lifetime_by_recipe(lifetime: Lifetime) -> None:
    """`services` may change how long a service lives (A35)."""
    registry = table(speaker=English)
    (choice,) = choose(registry, {"speaker": {"lifetime": lifetime}})
    assert (choice.cls, choice.lifetime) == (English, lifetime)
    with Container(registry, {"speaker": {"lifetime": lifetime}}) as container, container.scope() as scope:
        assert (scope.get("speaker") is scope.get("speaker")) is (lifetime != "transient")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"speeker": "x"},
            r"services\.speeker: no such role; did you mean 'speaker'\? \(known: counts, radio, speaker",
        ),
        (
            {"speaker": "strange"},
            r"services\.speaker: no service 'strange'; did you mean 'stranger'\? \(known: speaker",
        ),
        ({"speaker": ""}, r"services\.speaker: no service '' \(known: speaker, stranger\)"),
        ({"speaker": {"type": "counts"}}, r"services\.speaker: no service 'counts' \(known: speaker, stranger\)"),
        ({"speaker": {"type": 5}}, r"services\.speaker: no service '5'"),
        ({"speaker": {"type": ["a"]}}, r"services\.speaker: no service '\['a'\]'"),
        ({"speaker": {"type": None}}, r"services\.speaker: no service 'None'"),
        ({"speaker": {"lifetime": "scope"}}, r"services\.speaker\.lifetime: 'scope' is not one of .*mean 'scoped'\?"),
        ({"speaker": {"lifetime": 5}}, r"services\.speaker\.lifetime: '5' is not one of singleton, scoped, transient"),
        ({"speaker": {"lifetime": ["scoped"]}}, r"services\.speaker\.lifetime: "),
        ({"speaker": {"loud": True}}, r"services\.speaker: English takes no configuration, found loud"),
        ({"counts": {"strat": 2}}, r"services\.counts\.strat: unknown key 'strat'; did you mean 'start'\?"),
        ({"counts": {"start": "x"}}, r"services\.counts\.start: .*valid integer.*\(got 'x'\)"),
    ],
)
def test_wrong_choice(wanted: dict[str, Any], message: str) -> None:
    """An unknown role, name, lifetime or key is one readable WiringError with the closest name (A35)."""
    services = table(speaker=English, stranger=Stranger, radio=Radio, counts=Counts)
    text = refused(services, wanted, instances={Given: Given()})
    assert re.match(message, text), text
    assert "\n" not in text


def test_wrong_choices_are_reported_together() -> None:
    """All mistakes of `services` are in one error, one problem each (A35)."""
    with pytest.raises(WiringError) as caught:
        Container(
            table(speaker=English, counts=Counts),
            {"radioo": "x", "speaker": {"lifetime": "ever"}, "counts": {"start": "x", "stop": 1}},
        )
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "services.radioo",
        "services.counts.start",
        "services.counts.stop",
        "services.speaker.lifetime",
    ]
    assert isinstance(caught.value, ConfigError)


class Whole(Counts):
    """Its configuration is wrong as a whole."""

    class Config(StrictConfig):
        low: int = 1

        def model_post_init(self, context: Any) -> None:
            if self.low < 0:
                raise ValueError("low is below zero")

    def __init__(self, config: Config) -> None:
        self.config = config  # type: ignore[assignment]


def test_mistake_without_a_key() -> None:
    """A mistake of a configuration as a whole is told under the role (A35)."""
    assert refused(table(whole=Whole), {"whole": {"low": -1}}).startswith("services.whole: low is below zero")


@serves("car")
class NoCar:
    """Fills the role of a car without being one."""


@serves("speaker", Speaks)
class Mute:
    language = "none"


@serves("speaker", Speaks)
class Nobody:
    """Lacks everything."""


def test_replacement_must_extend_the_role() -> None:
    """A replacement that does not extend the class of its role is refused (A35, B10)."""
    registry = table(car=Car, wheels=Wheels, gearbox=Gearbox, engine=Engine, bicycle=NoCar)
    text = refused(registry, {"car": "bicycle"}, instances={Given: Given()})
    assert text == "services.car: NoCar must extend Car"


@pytest.mark.parametrize(("name", "lacks"), [("mute", "Mute lacks say"), ("nobody", "Nobody lacks language, say")])
def test_replacement_must_satisfy_the_protocol(name: str, lacks: str) -> None:
    """A replacement that lacks members of its role's Protocol is refused, and they are named (A35, B10)."""
    registry = table(speaker=English, mute=Mute, nobody=Nobody)
    assert refused(registry, {"speaker": name}) == f"services.speaker: {lacks} of Speaks"


def test_candidates_without_a_default_must_be_chosen() -> None:
    """With two candidates and no default, the container asks for a choice and takes neither silently (A35)."""
    registry = table(stranger=Stranger, babble=Babble)
    text = refused(registry)
    assert text == "services.speaker: several fit and none is the default; choose one of babble, stranger"
    assert isinstance(Container(registry, {"speaker": "babble"}).get("speaker"), Babble)


def test_only_candidate_is_the_default() -> None:
    """A role with one implementation of another name needs no choice (A35)."""
    assert isinstance(Container(table(stranger=Stranger)).get("speaker"), Stranger)


def test_default_wins_over_other_candidates() -> None:
    """The service of the role's own name is the default, whatever else could serve (A35)."""
    assert isinstance(Container(table(babble=Babble, speaker=English)).get("speaker"), English)


# ---------------------------------------------------------------- lifetimes


def lifetimes() -> Registry:
    """One service of each lifetime."""
    kinds = zip(LIFETIMES, (One, Two, Three), strict=True)
    return table(**{lifetime: serves(lifetime, lifetime=lifetime)(cls) for lifetime, cls in kinds})


class One: ...


class Two: ...


class Three: ...


def test_identity_within_a_scope() -> None:
    """In a scope a singleton and a scoped service are always the same, a transient never is (A29, A30, A31)."""
    with Container(lifetimes()) as container, container.scope() as scope:
        assert scope.get("singleton") is scope.get("singleton") is container.get("singleton")
        assert scope.get("scoped") is scope.get(Two)
        assert scope.get("transient") is not scope.get("transient")


def test_scopes_do_not_share() -> None:
    """Two scopes share singletons and nothing else, one after the other and at the same time (A31)."""
    with Container(lifetimes()) as container:
        with container.scope() as first, container.scope() as second:
            assert first.get("singleton") is second.get("singleton")
            assert first.get("scoped") is not second.get("scoped")
            kept = first.get("scoped")
        with container.scope() as third:
            assert third.get("scoped") is not kept


class Pair:
    def __init__(self, two: Two, three: Three, one: One) -> None:
        self.two, self.three, self.one = two, three, one


def test_identity_of_what_is_injected() -> None:
    """Injected services follow the same rules as those asked for (A29, A30, A31)."""
    registry = lifetimes()
    registry.add("service", "pair", serves("pair", lifetime="transient")(Pair))
    with Container(registry) as container, container.scope() as scope:
        first, second = scope.get(Pair), scope.get(Pair)
        assert first is not second
        assert first.two is second.two is scope.get(Two)
        assert first.one is second.one is container.get(One)
        assert len({id(three) for three in (first.three, second.three, scope.get(Three))}) == 3


@pytest.mark.parametrize("lifetime", ["scoped", "transient"])
@pytest.mark.parametrize("by_name", [True, False])
def test_shorter_lives_need_a_scope(lifetime: str, by_name: bool) -> None:
    """A scoped or transient service is refused outside a scope, with a message that says so (A30, A31)."""
    kind = {"scoped": Two, "transient": Three}[lifetime]
    with Container(lifetimes()) as container, pytest.raises(WiringError) as caught:
        container.get(lifetime if by_name else kind)
    assert re.match(rf"cannot get {kind.__name__}: .*{lifetime}.*scope", readable(str(caught.value)))


# ---------------------------------------------------------------- what is found when the container is made


class Widow:
    def __init__(self, given: Given, engine: Engine) -> None: ...


def test_missing_dependencies_are_found() -> None:
    """Whatever constructors need and nobody provides is found when the container is made, all at once (A29, A32)."""
    with pytest.raises(WiringError) as caught:
        Container(table(widow=Widow, engine=Engine, radio=Radio))
    assert caught.value.problems == [
        "service 'engine' (Engine): nobody provides Given, which its parameter 'given' asks for",
        "service 'radio' (Radio): nobody provides Speaks, which its parameter 'speaker' asks for",
        "service 'widow' (Widow): nobody provides Given, which its parameter 'given' asks for",
    ]


def test_missing_dependency_deep_down_is_found() -> None:
    """A dependency that is missing five levels down is found without making anything (R1, A32)."""
    text = refused(cars())
    assert text == "service 'engine' (Engine): nobody provides Given, which its parameter 'given' asks for"


class Aware:
    def __init__(self, choosy: Choosy) -> None:
        self.choosy = choosy


def test_optional_dependency_deep_down_may_be_missing() -> None:
    """An optional dependency of a dependency may be missing too (A32)."""
    assert Container(table(aware=Aware, choosy=Choosy)).get(Aware).choosy.got[0] is None


class Untyped:
    def __init__(self, given) -> None: ...


class Numbers:
    def __init__(self, numbers: list[int]) -> None: ...


def test_parameter_without_a_hint_is_named() -> None:
    """A constructor parameter without a type and without a default is named, as is one of an odd type (A32)."""
    assert refused(table(untyped=Untyped)) == "service 'untyped' (Untyped): give its parameter 'given' a type"
    assert "nobody provides list" in refused(table(numbers=Numbers))


class Egg:
    def __init__(self, hen: Hen) -> None: ...


class Hen:
    def __init__(self, farm: Farm) -> None: ...


class Farm:
    def __init__(self, egg: Egg) -> None: ...


class Narcissus:
    def __init__(self, himself: Narcissus) -> None: ...


@serves("speaker", Speaks)
class Echo:
    language = "any"

    def __init__(self, radio: Radio) -> None: ...

    def say(self, word: str) -> str:
        return word


def test_circle_is_found() -> None:
    """Services that need each other are found when the container is made, and the circle is shown (A29, R1)."""
    text = refused(table(egg=Egg, hen=Hen, farm=Farm))
    shown = re.search(r"(\w+) -> (\w+) -> (\w+) -> (\w+)", text)
    assert shown, text
    assert set(shown.groups()) == {"Egg", "Hen", "Farm"}
    assert shown[1] == shown[4]
    assert "Narcissus -> Narcissus" in refused(table(narcissus=Narcissus))


def test_circle_through_a_protocol_is_found() -> None:
    """A circle that goes through a Protocol is found too (A29, A35)."""
    text = refused(table(speaker=Echo, radio=Radio))
    assert "Radio -> Speaks -> Radio" in text or "Speaks -> Radio -> Speaks" in text


class Holder:
    def __init__(self, two: Two) -> None: ...


class Outer:
    def __init__(self, holder: Holder) -> None: ...


@pytest.mark.parametrize("lifetime", ["scoped", "transient"])
def test_captive_is_found(lifetime: Lifetime) -> None:
    """A singleton that would keep a service of one run for ever is refused, both named (A29, A31)."""
    text = refused(table(two=serves("two", lifetime=lifetime)(Two), holder=Holder, outer=Outer))
    assert re.search(rf"Parameter 'two' of Holder .*'{lifetime}'.*Singletons can only depend on other singletons", text)


def test_captive_by_recipe_is_found() -> None:
    """A lifetime chosen in the recipe is checked like one that the class chose (A31, A35)."""
    registry = table(car=Car, wheels=Wheels, gearbox=Gearbox, engine=Engine)
    text = refused(registry, {"engine": {"lifetime": "scoped"}}, instances={Given: Given()})
    assert "Parameter 'engine' of" in text
    assert "'scoped' lifetime" in text


class Typo:
    def __init__(self, engine: Enginee) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class OnlyForCheckers:
    def __init__(self, amount: Decimal) -> None: ...


class NoAttribute:
    def __init__(self, engine: re.Engine) -> None: ...  # type: ignore[name-defined]


class NoSyntax:
    def __init__(self, engine: Any) -> None: ...

    __init__.__annotations__["engine"] = "not a hint["


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Typo, "name 'Enginee' is not defined"),
        (OnlyForCheckers, "name 'Decimal' is not defined"),
        (NoAttribute, "module 're' has no attribute 'Engine'"),
        (NoSyntax, "not a hint"),
    ],
)
def test_hints_that_cannot_be_read(cls: type, reason: str) -> None:
    """A type hint that cannot be resolved is refused with the service, the class and the reason (A32)."""
    text = refused(table(broken=cls))
    assert text.startswith(f"service 'broken' ({cls.__qualname__}): the hints of __init__ cannot be read: ")
    assert reason in text


def test_local_classes_read_well() -> None:
    """Messages stay readable for classes that were written inside a function (A32)."""

    class Inner:
        pass

    def build(self: Any, inner: Any) -> None: ...

    build.__annotations__["inner"] = Inner
    local = type("Local", (), {"__init__": build, "__qualname__": "test.<locals>.Local"})
    assert "(test.<locals>.Local): nobody provides test_local_classes_read_well.<locals>.Inner" in refused(
        table(local=local)
    )
    scoped = serves("inner", lifetime="scoped")(Inner)
    assert "Parameter 'inner' of test.<locals>.Local depends on" in refused(table(local=local, inner=scoped))


def test_nothing_is_made_before_it_is_asked_for() -> None:
    """Making the container makes no service (A29)."""
    Slow.made = 0
    with Container(table(slow=Slow)):
        pass
    assert Slow.made == 0


# ---------------------------------------------------------------- overrides


def test_override_and_its_end() -> None:
    """A test puts anything in a service's place, by type or by role, and the real one comes back (A29)."""
    with Container(cars(), instances={Given: Given()}) as container:
        for key in (Engine, "engine"):
            with container.override(key, "a stand-in"):
                assert container.get(Engine) == container.get("engine") == "a stand-in"
        assert isinstance(container.get(Engine), Engine)


def test_override_reaches_dependants_and_stays_with_them() -> None:
    """Services made under an override keep what they got; those made before keep the real one (A29)."""
    with Container(cars(), instances={Given: Given()}) as container:
        wheels = container.get(Wheels)
        with container.override(Engine, "a stand-in"):
            assert container.get(Car).engine == "a stand-in"
            assert container.get(Wheels) is wheels
            assert isinstance(wheels.engine, Engine)
        assert container.get(Car).engine == "a stand-in"
        assert isinstance(container.get(Engine), Engine)


def test_override_in_a_scope_and_nested() -> None:
    """Overrides reach into scopes, nest, and end in any case (A29, A31)."""
    with Container(lifetimes()) as container, container.scope() as scope:
        with container.override(Two, 1):
            with pytest.raises(KeyError), container.override("scoped", {"two": 2}):
                scope.get(Two)["three"]
            assert scope.get(Two) == 1
        assert isinstance(scope.get(Two), Two)


def test_override_of_an_instance() -> None:
    """What the caller brought can be overridden too (A29)."""
    given = Given()
    with Container(table(), instances={Given: given}) as container:
        with container.override(Given, "another"):
            assert container.get(Given) == "another"
        assert container.get(Given) is given


@pytest.mark.parametrize(
    ("what", "message"), [(Given, "Cannot override unknown Given"), ("carr", "no service 'carr'; did you mean 'car'")]
)
def test_override_of_nothing(what: Any, message: str) -> None:
    """Overriding what the container does not have is refused, and changes nothing (A29)."""
    with Container(table(engine=NoCar)) as container:
        with pytest.raises(WiringError, match=message), container.override(what, 1):
            raise AssertionError("not reached")
        assert isinstance(container.get("car"), NoCar)


# ---------------------------------------------------------------- the end of a lifetime

LOG: list[str] = []


class Entered:
    """Writes down when it is entered and left, and what it is left with."""

    def __enter__(self) -> Entered:
        LOG.append(f"enter {type(self).__name__}")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        LOG.append(f"leave {type(self).__name__}" + (f" with {error!r}" if error else ""))
        assert (error is None) == (kind is None) == (trace is None)


class Bottom(Entered): ...


class Middle(Entered):
    def __init__(self, bottom: Bottom) -> None: ...


class Top(Entered):
    def __init__(self, middle: Middle) -> None: ...


class Bad(Entered):
    """Cannot be left."""

    def __init__(self, bottom: Bottom) -> None: ...

    def __exit__(self, *exc: Any) -> None:
        LOG.append("leave Bad")
        raise OSError("disk full")


class Worse(Bad):
    """Cannot be left either."""

    def __init__(self, bad: Bad) -> None: ...


class Above(Entered):
    def __init__(self, worse: Worse) -> None: ...


class Hushes(Entered):
    """Would swallow the error if it could."""

    def __exit__(self, *exc: Any) -> bool:
        LOG.append("hush")
        return True


class Shy(Entered):
    """Cannot be entered."""

    def __enter__(self) -> Shy:
        raise OSError("no door")


def living(lifetime: Lifetime, *classes: type) -> Registry:
    """These services, all with one lifetime."""
    LOG.clear()
    roles = {cls.__name__.lower(): cls for cls in classes}
    return table(**{role: serves(role, lifetime=lifetime)(cls) for role, cls in roles.items()})


def fail(container: Container, name: str, error: BaseException | None) -> None:
    """A run that uses one service and then fails, if there is an error."""
    with container.scope() as scope:
        scope.get(name)
        if error:
            raise error


@pytest.mark.parametrize("lifetime", ["scoped", "transient"])
def test_left_at_the_end_of_the_scope(lifetime: Lifetime) -> None:
    """Services of a scope are entered when made and left at its end, in reverse order (A34)."""
    with Container(living(lifetime, Bottom, Middle, Top)) as container:
        with container.scope() as scope:
            assert LOG == []
            scope.get("top")
            assert LOG == ["enter Bottom", "enter Middle", "enter Top"]
        assert LOG[3:] == ["leave Top", "leave Middle", "leave Bottom"]
        LOG.clear()
    assert LOG == []


def test_singletons_are_left_with_the_container() -> None:
    """A singleton made in a scope outlives it and is left when the container closes, in reverse order (A34)."""
    with Container(living("singleton", Bottom, Middle, Top)) as container:
        for _ in range(2):
            with container.scope() as scope:
                scope.get("top")
        assert LOG == ["enter Bottom", "enter Middle", "enter Top"]
    assert LOG[3:] == ["leave Top", "leave Middle", "leave Bottom"]


def test_what_was_never_made_is_never_left() -> None:
    """Only what was made is left (A34)."""
    with Container(living("singleton", Bottom, Middle, Top)) as container:
        container.get("bottom")
    assert LOG == ["enter Bottom", "leave Bottom"]


class Returns(Entered):
    """Gives out something else than itself."""

    def __enter__(self) -> Any:
        return "what was entered"


def test_what_enter_returns_is_given_out() -> None:
    """As in a `with` block, callers get what `__enter__` returned (A34)."""
    with Container(living("singleton", Returns)) as container:
        assert container.get("returns") == "what was entered"


def test_close_twice() -> None:
    """Closing a container again is harmless, and leaves nothing a second time (A34)."""
    container = Container(living("singleton", Bottom))
    container.get("bottom")
    container.close()
    container.close()
    with container:
        pass
    assert LOG == ["enter Bottom", "leave Bottom"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(3), StopIteration(1)])
def test_error_in_a_scope_reaches_its_services(error: BaseException) -> None:
    """What a run raises reaches every `__exit__` of the scope and comes out unchanged (A34, A31)."""
    with Container(living("scoped", Bottom, Middle, Top)) as container, pytest.raises(type(error)) as caught:
        fail(container, "top", error)
    assert caught.value is error
    assert error.__cause__ is None
    assert LOG[3:] == [f"leave {name} with {error!r}" for name in ("Top", "Middle", "Bottom")]


def test_error_cannot_be_hushed() -> None:
    """A service that would swallow the error of the run does not (A34)."""
    with Container(living("scoped", Hushes)) as container, pytest.raises(RuntimeError, match="boom"):
        fail(container, "hushes", RuntimeError("boom"))
    assert LOG == ["enter Hushes", "hush"]


@pytest.mark.parametrize("lifetime", ["singleton", "scoped"])
def test_one_that_cannot_be_left_stops_nobody(lifetime: Lifetime) -> None:
    """A service that fails to close does not keep the others open; its error is told as it was raised (A34)."""
    with pytest.raises(OSError, match="disk full"), Container(living(lifetime, Bottom, Bad)) as container:
        fail(container, "bad", None)
    assert LOG == ["enter Bottom", "enter Bad", "leave Bad", "leave Bottom"]


def test_several_that_cannot_be_left() -> None:
    """When several services fail to close, every other is closed and every error is told (A34)."""
    container = Container(living("singleton", Bottom, Bad, Worse, Above))
    container.get("above")
    with pytest.raises(ExceptionGroup) as caught:
        container.close()
    assert [str(error) for error in caught.value.exceptions] == ["disk full", "disk full"]
    assert LOG[4:] == ["leave Above", "leave Bad", "leave Bad", "leave Bottom"]


@pytest.mark.parametrize("lifetime", ["singleton", "scoped"])
def test_error_of_the_run_is_not_hidden_by_closing(lifetime: Lifetime, caplog: pytest.LogCaptureFixture) -> None:
    """The error of a run comes out even if a service then fails to close, which is logged (A34)."""
    with pytest.raises(RuntimeError, match="boom"), Container(living(lifetime, Bottom, Bad)) as container:
        fail(container, "bad", RuntimeError("boom"))
    assert "services failed to close" in caplog.text
    assert "disk full" in caplog.text
    assert LOG[2] == "leave Bad"
    assert LOG[3].startswith("leave Bottom")


def test_one_that_cannot_be_entered() -> None:
    """A service that cannot be entered raises its own error, is not left, and may be asked for again (A34)."""
    with Container(living("scoped", Shy, Bottom)) as container, container.scope() as scope:
        scope.get("bottom")
        for _ in range(2):
            with pytest.raises(OSError, match="no door"):
                scope.get("shy")
    assert LOG == ["enter Bottom", "leave Bottom"]


class Breaks:
    def __init__(self) -> None:
        raise ZeroDivisionError("in the constructor")


def test_error_of_a_constructor_is_unchanged() -> None:
    """What a constructor raises comes out as it is (A32)."""
    with Container(table(breaks=Breaks)) as container, pytest.raises(ZeroDivisionError, match="in the constructor"):
        container.get(Breaks)


# ---------------------------------------------------------------- the services of the project


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    with Application(Settings(root=tmp_path)) as app:
        yield app


def roles() -> list[str]:
    """Every role of the project."""
    return sorted({choice.role for choice in choose(project_registry, {})})


def wire(app: Application, recipe: Recipe | None) -> Callable[[str], Any]:
    def get(role: str) -> Any:
        with app.container(recipe) as container:
            choice = next(choice for choice in container.choices if choice.role == role)
            with container.scope() as scope:
                made = scope.get(role) if choice.lifetime == "singleton" else None
                assert made is None or made is scope.get(choice.provides) is container.get(role)
                return made

    return get


@pytest.mark.parametrize("role", roles())
def test_project_services_for_a_recipe(app: Application, tmp_path: Path, role: str) -> None:
    """Every service of the project is wired for a recipe and found by name and by type (B1, A35)."""
    recipe = parse_recipe(tiny.recipe(tmp_path, tmp_path / "model"))
    made = wire(app, recipe)(role)
    assert made is None or made.__class__.__module__.startswith("components.services.")


@pytest.mark.parametrize("role", roles())
def test_project_services_without_a_recipe(app: Application, role: str) -> None:
    """Commands that have no recipe get every service that needs none (B1, A33)."""
    made = wire(app, None)(role)
    assert made is None or made.__class__.__module__.startswith("components.services.")


def test_scoped_project_services(app: Application, tmp_path: Path) -> None:
    """The services of a single run are made in its scope, and say which recipe they belong to (A31)."""
    recipe = parse_recipe(tiny.recipe(tmp_path, tmp_path / "model", services={"tracking": {"tracker": "mlflow"}}))
    choices = {choice.role: choice for choice in choose(project_registry, recipe.services)}
    of_a_run = {role for role, choice in choices.items() if choice.lifetime != "singleton"}
    assert of_a_run == {"cost", "recording", "runner", "tracking"}
    assert choices["tracking"].config.tracker.type == "mlflow"


def test_service_of_a_run_without_a_recipe(app: Application) -> None:
    """A service that needs a recipe, asked for without one, says how to get one (A33)."""
    with (
        app.container() as container,
        container.scope() as scope,
        pytest.raises(WiringError, match=r"open one with Application\.run\(recipe\)"),
    ):
        scope.get("tracking")


def broken(**targets: str) -> Registry:
    """An English speaker and a French one, and services of a plugin, which may take the first one's name."""
    registry = table(french=OtherFrench, engine=Engine, **({} if "speaker" in targets else {"speaker": English}))
    with registry.owned_by("plugin acme"):
        for name, target in targets.items():
            registry.add("service", name, target)
    return registry


@serves("speaker", Speaks)
class OtherFrench(French):
    """Fills the role of the English one."""


GHOST = "no_such_module_here:Ghost"
WHY = f"cannot be loaded from {GHOST} (plugin acme): ModuleNotFoundError: No module named 'no_such_module_here'"


@pytest.mark.parametrize(
    ("wanted", "speaker"),
    [({}, "speaker"), ({"speaker": "french"}, "french"), ({"speaker": {"lifetime": "scoped"}}, "speaker")],
)
def test_broken_service_that_nobody_chose(wanted: dict[str, Any], speaker: str) -> None:
    """A service that cannot be loaded harms nobody who does not choose it (A18, A35)."""
    chosen = {choice.role: choice.name for choice in choose(broken(ghost=GHOST), wanted)}
    assert chosen == {"speaker": speaker, "engine": "engine"}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ghost", {"speaker": "ghost"}),
        ("ghost", {"speaker": {"type": "ghost", "loud": True}}),
        ("ghost", {"haunting": "ghost"}),
        ("speaker", {}),
        ("speaker", {"speaker": {"lifetime": "scoped"}}),
        ("haunting", {"haunting": {}}),
    ],
)
def test_broken_service_that_is_needed(name: str, wanted: dict[str, Any]) -> None:
    """A service that cannot be loaded, chosen or the default, is named with role, owner and reason (A35, A44)."""
    role = next(iter(wanted), "speaker")
    with pytest.raises(WiringError) as caught:
        choose(broken(**{name: GHOST}), wanted)
    assert caught.value.problems == [f"services.{role}: service '{name}' {WHY}"]


def test_broken_default_may_be_replaced() -> None:
    """Choosing another service by name gets along without a default that cannot be loaded (A35)."""
    chosen = {choice.role: choice.name for choice in choose(broken(speaker=GHOST), {"speaker": "french"})}
    assert chosen["speaker"] == "french"


def test_replacement_of_a_project_service(app: Application, tmp_path: Path) -> None:
    """A recipe puts a plugin's service in the place of ours, for all who ask by our type (A35)."""
    try:
        with project_registry.owned_by("test"):
            project_registry.add("service", "quick_training", serves("training")(QuickTraining))
        recipe = parse_recipe(tiny.recipe(tmp_path, tmp_path / "m", services={"training": "quick_training"}))
        with app.container(recipe) as container:
            assert type(container.get(TrainingService)) is QuickTraining
        with app.container() as container:
            assert type(container.get(TrainingService)) is TrainingService
    finally:
        with project_registry.owned_by("test"):
            project_registry.forget("test")
