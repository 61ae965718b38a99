"""The rules of the data contract at their edges; each pattern with texts that it must leave alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.core.errors import ConfigError, MissingExtraError
from components.core.kinds import registry
from components.interfaces import Batch, ModelFacts, RawRow, Row, Rule
from tests import tiny

LANGUAGES = {
    "czech": "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "french": "« Où est l’été ? » À l'Âge d'or, le cœur naïf de Noël coûtait 12 € – voilà, ça suffit…",
    "german": "„Übergrößen für Äpfel & Öl“ – Straße, GROSSE ÄNDERUNG: 20 °C, 3 m², §5.",
    "greek": "Πού είναι το δέμα μου; ΠΟΥ ΕΙΝΑΙ;",
    "hebrew": "איפה החבילה שלי?",
    "arabic": "أين الطرد الخاص بي؟ «مرحبا»",
    "hindi": "मेरा पार्सल कहाँ है?",
    "japanese": "荷物はどこにありますか。「カタカナ」",
    "chinese": "我的包裹在哪里？「你好」，谢谢。",
    "korean": "제 소포는 어디에 있나요?",
    "polish": "Zażółć gęślą jaźń, 12 zł.",
    "portuguese": "«NÃO», disse a IRMÃ. Amanhã de manhã, à tarde, PÃES e MAÇÃS: “ALEMÔ… «IRMû (1.ª e 2.º) – SÃO PAULO",
    "romanian": "România, „câine” și pâine; ÎNCĂ o dată, ÂNGST",
    "russian": "Где моя посылка? «СРОЧНО» – ёлка, №5: РС СССР.",
    "serbian": "Где је мој пакет? ЉУБАВ, ЊЕГОШ, Ђорђе, ћирилица, РЏ.",
    "spanish": "¿Dónde está el señor Ñandú? ¡AÑO NUEVO! 5 €",
    "swedish": "Åsa på ÅÄÖ: 5 Å²; »Hej«",
    "icelandic": "Það er gott. ÐÞÆ; Ég á það – „já“.",
    "turkish": "İSTANBUL'da ağaç, şeker, Iğdır; hâlâ kâğıt.",
    "ukrainian": "Де моя посилка? Їжак, ґанок, Євген, РіСі.",
    "vietnamese": "Ấm áp, CẦN ĂN, Đã gửi Ôi ÃO; bưu kiện ở đâu? ÂM NHẠC",
    "emoji": "Great 👍🏽 😀 🏴‍☠️ ❤️ → ✔ ™ ©",
    "mathematics": "∀x ∈ ℝ: x² ≥ 0 ± ½ · µ ÷ × ¬",
}


def said(text: str) -> Row:
    return {"messages": [{"role": "user", "content": text}]}


def batch(
    rows: Sequence[Row], split: str = "train", start: int = 0, shape: str = "conversation", **tokens: Any
) -> Batch:
    raws = [RawRow(start + i + 1, b"{}\n", row) for i, row in enumerate(rows)]
    content = [{key: value for key, value in row.items() if key != "id"} for row in rows]
    return Batch(split, range(start, start + len(rows)), raws, content, shape, tokens or None)


def rule(name: str, scratch: Path = Path(), model: ModelFacts | None = None, **config: Any) -> Rule:
    made: Rule = registry.create("rule", name, **{"action": "quarantine", **config})
    made.prepare(model, scratch)
    return made


def refused(name: str, texts: Sequence[str], model: ModelFacts | None = None, **config: Any) -> list[str]:
    """Those of the texts that the rule refuses."""
    found = rule(name, model=model, **config).check(batch([said(text) for text in texts]))
    return [texts[position] for position in sorted(found)]


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t\r", "\u00a0\u2003\u3000", "\u200b\u200d\ufeff", "\u00ad\u2060", "\u3164", "\u2800"]
)
def test_empty(text: str) -> None:
    """White space of all alphabets and zero-width characters say nothing."""
    assert refused("empty_text", [text]) == [text]


@pytest.mark.parametrize("text", [".", " a ", "\u200b0", "🙂", "我", "ـ"])
def test_not_empty(text: str) -> None:
    """One visible sign is a text."""
    assert refused("empty_text", [text]) == []


def test_length_is_in_characters() -> None:
    """`max_chars` counts characters, not bytes, and is itself allowed."""
    assert refused("too_long", ["é" * 10, "我" * 11, "a" * 11], max_chars=10) == ["我" * 11, "a" * 11]


def test_control_characters() -> None:
    """C0, DEL, C1 and marks that turn text around are refused; tab, line ends and marks of Hebrew and emoji pass."""
    bad = [f"a{chr(n)}b" for n in (*range(0x20), *range(0x7F, 0xA0), 0x202D, 0x202E) if chr(n) not in "\t\n\r"]
    fine = ["a\tb\r\nc", "\u05d0\u200f\u200e", "\u2067\u05d0\u2069", "👩\u200d🚀", "\u00a0", *LANGUAGES.values()]
    assert refused("control_characters", [*bad, *fine]) == bad


@pytest.mark.parametrize("name", LANGUAGES)
def test_whole_text_is_not_damaged(name: str) -> None:
    """Ordinary text in any language passes."""
    assert refused("damaged_text", [LANGUAGES[name]]) == []


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("name", [name for name in LANGUAGES if name != "mathematics"])
def test_damage_is_seen(name: str, encoding: str) -> None:
    """The same text in UTF-8, read in a one-byte encoding, is refused by this rule or as control characters."""
    damaged = LANGUAGES[name].encode().decode(encoding, "ignore" if encoding == "cp1252" else "strict")
    assert refused("damaged_text", [damaged]) or refused("control_characters", [damaged])


@pytest.mark.parametrize(
    "text",
    ["don\ufffdt", "cafÃ©", "donâ€™t", "fÃ¼r", "Ã–sterreich", "Ã‰cole", "20 Â°C", "Â£5", "groÃŸ", "voilÃ\xa0", "12 â‚¬",
     "ðŸ˜€", "ï»¿id", "zÅ‚oty", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "РїСЂРёРІРµС‚", "ä½\xa0å¥½", "cafÃƒÂ©"],
)  # fmt: skip
def test_typical_damage(text: str) -> None:
    """What everybody has seen somewhere is refused."""
    assert refused("damaged_text", [text]) == [text]


def test_special_tokens_of_templates() -> None:
    """Tokens of common templates are refused, markup and operators pass."""
    bad = [
        "<|im_end|>",
        "<|eot_id|>",
        "<|START_OF_TURN_TOKEN|>",
        "</s>",
        "[/INST]",
        "<</SYS>>",
        "<end_of_turn>",
        "<｜User｜>",
    ]
    fine = ["<b>bold</b>", "a <| b |> c", "<|>", "x < |y| > z", "<strong>", "[INSTALL]", "<svg></svg>", "<eos>"]
    assert refused("special_tokens", [*(f"a {t} b" for t in bad), *fine]) == [f"a {t} b" for t in bad]


def test_special_tokens_of_the_model() -> None:
    """The model's own special tokens are refused letter by letter, unless anybody may write them by chance."""
    added = {
        0: SimpleNamespace(content="<tool_call>", special=False),
        1: SimpleNamespace(content="<eos>", special=True),
    }
    tokenizer = SimpleNamespace(all_special_tokens=["!", "end", "<|fim.x|>"], added_tokens_decoder=added)
    texts = ["Hey! the end", "<tool_call>", "<EOS>", "a<eos>", "<|fim.x|>", "<|fimax|>"]
    assert refused("special_tokens", texts, ModelFacts(tokenizer, 100)) == ["a<eos>", "<|fim.x|>", "<|fimax|>"]


def test_special_tokens_of_a_real_tokenizer() -> None:
    """A tokenizer of transformers is asked in its own words."""
    model = ModelFacts(tiny.tokenizer(), 100)
    assert refused("special_tokens", ["a<|endoftext|>", "plain"], model) == ["a<|endoftext|>"]


def test_scripts() -> None:
    """Letters outside the wanted scripts count against the fraction; digits, signs and emoji do not count."""
    texts = ["Hello, 123 😀!", "Привет", "Hello Привет", "aaaaaaaaaж", "…"]
    assert refused("script", texts) == ["Привет", "Hello Привет"]
    assert refused("script", texts, scripts=["Latin", "Cyrillic"]) == []
    assert refused("script", ["日本の カタカナ"], scripts=["Han", "Hiragana", "Katakana"]) == []


def test_unknown_script() -> None:
    """A misspelt script is refused when the recipe is read."""
    with pytest.raises(ConfigError, match="did you mean 'Cyrillic'"):
        registry.create("rule", "script", scripts=["Cyrilic"])


# ---------------------------------------------------------------- rows


def test_language_needs_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without lingua the rule says what to install, before any row is read."""
    monkeypatch.setitem(sys.modules, "lingua", None)
    with pytest.raises(MissingExtraError, match=r"postmill\[language\]"):
        rule("language", tmp_path)


class Detector:
    """Stands for lingua: its languages, and a detector that knows German by its "ß"."""

    ENGLISH, GERMAN = (
        SimpleNamespace(name=name, iso_code_639_1=SimpleNamespace(name=code))
        for name, code in (("ENGLISH", "EN"), ("GERMAN", "DE"))
    )

    def __getattr__(self, name: str) -> Any:
        return lambda: self

    def all(self) -> list[Any]:
        return [self.ENGLISH, self.GERMAN]

    def detect_languages_in_parallel_of(self, texts: list[str]) -> list[Any]:
        return [None if "?" in text else self.GERMAN if "ß" in text else self.ENGLISH for text in texts]


def test_languages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Long messages in another language are refused; short ones, unclear ones and system messages pass."""
    detector = Detector()
    monkeypatch.setitem(sys.modules, "lingua", SimpleNamespace(Language=detector, LanguageDetectorBuilder=detector))
    system = {"messages": [{"role": "system", "content": "ß" * 50}]}
    rows = [said("s" * 50), said("ß" * 50), said("ß"), said("ß?" * 50), system]
    found = rule("language", tmp_path, languages=["en"]).check(batch(rows))
    assert found == {1: "a message of role 'user' is in German, not in en"}
    with pytest.raises(ConfigError, match="unknown language 'xx'"):
        rule("language", tmp_path, languages=["xx"])


def test_same_answer_looks_at_tools() -> None:
    """Two answers without text that call different tools differ; equal ones do not."""

    def call(name: str) -> list[dict[str, Any]]:
        return [{"role": "assistant", "tool_calls": [{"name": name}]}]

    rows = [{"prompt": [], "chosen": call("a"), "rejected": call(other)} for other in "ab"]
    assert list(rule("same_answer").check(batch(rows, shape="preference"))) == [0]


SECRETS = {
    "aws": "AKIAQ3EGZ7X2M5RTY6UI",
    "github": "ghp_" + "a1B2c3D4e5F6" * 3,
    "openai": "sk-proj-" + "a1B2c3D4e5F6" * 3,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq2c9y0f3p5v8x1z4w6u9s2r5t8q1o3\n",
    "google": "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_not_repeated(kind: str) -> None:
    """A secret is found in the middle of a text, and its reason does not hold it."""
    (reason,) = rule("secrets").check(batch([said(f"clé é: {SECRETS[kind]}, keep it")])).values()
    assert SECRETS[kind][8:16] not in reason
    others = [other for other in SECRETS if other != kind]
    assert refused("secrets", [SECRETS[kind]], kinds=others) == []


def test_no_secrets() -> None:
    """Placeholders, prose and code about secrets pass."""
    fine = [
        "AKIAIOSFODNN7EXAMPLE",
        "hf_" + "x" * 34,
        "-----BEGIN PRIVATE KEY----- stands above a key",
        "scikit sk-learn",
        "sk-circle-fade-animation-with-many-words",
        "token = os.environ['TOKEN']",
        "eyJ.eyJ.x",
        "ghp_short",
    ]
    assert refused("secrets", fine) == []


def test_personal_data() -> None:
    """Every kind is found and named; what fails its check digit, or is meant as an example, passes."""
    bad = {
        "jo.doe+x@mail.example-shop.co.uk": "an e-mail address",
        "call +49 (30) 1234-5678 now": "a telephone number",
        "call (555) 234-5678": "a telephone number",
        "IBAN DE89 3704 0044 0532 0130 00 THANKS": "an account number (IBAN)",
        "pay to GB82WEST12345698765432.": "an account number (IBAN)",
        "4111 1111 1111 1111": "a card number",
        "378282246310005": "a card number",
        "von 8.8.8.8 é": "an IP address",
    }
    kinds = ["email", "phone", "iban", "card", "ipv4"]
    found = rule("personal_data", kinds=kinds).check(batch([said(text) for text in bad]))
    assert [found.get(i, "").rpartition(": ")[2] for i in range(len(bad))] == list(bad.values())
    fine = [
        "a@example.com",
        "me@localhost",
        "icon@2x.png",
        "@user",
        "DE89 3704 0044 0532 0130 01",
        "XX00 1234 5678 9012 345",
        "4111 1111 1111 1112",
        "1234567890123",
        "192.168.0.1 and 1.2.3",
        "x+1000",
        "2024-05-06 12:30",
        "version 1.2.3.4.5 or v1.2.3.4, 999.1.2.3",
    ]
    assert refused("personal_data", fine, kinds=kinds) == []
    assert refused("personal_data", ["8.8.8.8"]) == []


# ---------------------------------------------------------------- tokens


def test_token_rules() -> None:
    """Limits themselves are allowed; the model's context holds where no limit is written."""
    rows = [said(str(n)) for n in range(3)]
    facts = {
        "tokens": [10, 100, 101],
        "longest": [10, 100, 101],
        "silent": [True, False, False],
        "unknown": [0, 1, 2],
        "ends": [True, False, True],
    }
    given = batch(rows, **facts)
    model = ModelFacts(None, 100)
    assert list(rule("too_many_tokens", model=model).check(given)) == [2]
    assert list(rule("too_many_tokens", model=model, max_tokens=99).check(given)) == [1, 2]
    assert rule("too_many_tokens").check(given) == {}
    assert list(rule("no_trained_tokens").check(given)) == [0]
    assert list(rule("end_of_turn").check(given)) == [1]
    assert list(rule("unknown_tokens").check(given)) == [2]
    assert list(rule("unknown_tokens", max_fraction=0).check(given)) == [1, 2]


# ---------------------------------------------------------------- whole splits


def test_duplicate_is_within_a_split(tmp_path: Path) -> None:
    """The first row stays, in every split anew."""
    made = rule("duplicate")
    for split in ("test", "train"):
        assert list(made.check(batch([said("a"), said("b"), said("a")], split))) == [2]
        assert list(made.check(batch([said("b")], split, 3))) == [0]
        assert made.finish(split) == {}


def test_duplicate_id() -> None:
    """The same id is wrong only with other content; rows without one, and other parts of a mixture, do not count."""
    ids: list[Any] = [1, "1", 2, 2, None, None, "", "", [3], [3], True, 7]
    rows = [{**said(str(n)), "id": identity} for n, identity in enumerate(ids)]
    rows[3] = rows[2]
    assert list(rule("duplicate_id").check(batch(rows))) == [1]
    assert rule("duplicate_id", column="key").check(batch(rows)) == {}
    mixed = batch(rows[:2])
    mixed.raws = [raw._replace(part=part) for part, raw in enumerate(mixed.raws)]
    assert rule("duplicate_id").check(mixed) == {}


def test_duplicates_of_many_rows(tmp_path: Path) -> None:
    """In twenty thousand rows exactly those are found that Python's own set and dict would find, batch after batch."""
    from random import Random

    chance = Random(3)
    made = [rule(name, tmp_path) for name in ("duplicate", "duplicate_id")]
    seen: set[str] = set()
    content: dict[int, str] = {}
    for _ in range(20):
        rows = [{**said(str(chance.randrange(30_000))), "id": chance.randrange(30_000)} for _ in range(1000)]
        texts = [row["messages"][0]["content"] for row in rows]
        copies = [i for i, text in enumerate(texts) if text in seen or seen.add(text)]  # type: ignore[func-returns-value]
        clashes = [i for i, row in enumerate(rows) if content.setdefault(row["id"], texts[i]) != texts[i]]
        assert [list(one.check(batch(rows))) for one in made] == [copies, clashes]
    assert list(tmp_path.iterdir()) == []


def test_digests_are_few_bytes(tmp_path: Path) -> None:
    """A table of a hundred thousand digests takes at most 28 bytes each, 40 with numbers, however often it grew."""
    import numpy as np

    from components.data.rules._digests import Digests

    for numbered, most in ((False, 28), (True, 40)):
        table = Digests(tmp_path, numbered)
        for start in range(0, 100_000, 5_000):
            keys = [(number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128).to_bytes(16, "little")
                    for number in range(start + 1, start + 5_001)]  # fmt: skip
            numbers = np.arange(start, start + 5_000, dtype=np.uint64)
            assert not table.add(keys, numbers).any()
            assert table.add(keys[::-1], given := np.zeros(5_000, np.uint64)).all()
            assert (given == numbers[::-1]).all() or not numbered
            size = table._keys.nbytes + table._numbers.nbytes
            assert size <= most * (start + 10_000)  # room is made for a whole batch


def test_found_is_a_mapping() -> None:
    """What a whole split was found to hold reads like a dict."""
    import numpy as np

    from components.data.rules._found import Found

    found = Found(np.array([3, 7, 9]), np.array([1, 0, 1], np.uint8), ["a", "b"])
    assert dict(found) == dict(found.items()) == {3: "b", 7: "a", 9: "b"}
    assert (len(found), list(found), 7 in found, 8 in found, 10 in found) == (3, [3, 7, 9], True, False, False)
    assert found.get(8) is None
    assert not Found(np.empty(0, int), np.empty(0, int), [])


def test_overlap_keeps_the_exam() -> None:
    """A prompt of an earlier split is refused and that split named; twice in one split, or no prompt, is fine."""
    made = rule("overlap")
    nothing = {"messages": [{"role": "assistant", "content": "Hi."}]}
    assert made.check(batch([said("Q 1"), said("q 1"), nothing], "test")) == {}
    made.finish("test")
    assert made.check(batch([said("Q  1"), said("Q 2"), nothing], "eval")) == {0: "the same user text stands in test"}
    made.finish("eval")
    found = made.check(batch([said("q 2\n"), said("Q 1"), said("Q 3"), said("Q 3"), nothing], "train"))
    assert {position: reason.rpartition(" ")[2] for position, reason in found.items()} == {0: "eval", 1: "test"}


WORDS = [f"w{n}" for n in range(400)]


def changed(words: Sequence[str], *places: int) -> str:
    """The words as a text, other ones at some places."""
    return " ".join("other" if place in places else word for place, word in enumerate(words))


def near(made: Rule, rows: Sequence[Row], split: str = "train", shape: str = "conversation") -> list[int]:
    """Positions that `near_duplicate` refuses."""
    for start in range(0, len(rows), 3):
        assert made.check(batch(rows[start : start + 3], split, start, shape)) == {}
    return sorted(made.finish(split))


def test_near_duplicates(tmp_path: Path) -> None:
    """Copies with a word changed are refused, the first of them stays; half-alike and short rows are left alone."""
    one, two = WORDS[:60], WORDS[60:120]
    rows = [said(changed(one)), said(changed(two)), said(changed(one, 5)), said(changed(one).upper()),
            said(changed([*one[:30], *WORDS[200:230]])), said("yes it is so"), said("yes it is so")]  # fmt: skip
    made = rule("near_duplicate", tmp_path)
    assert near(made, rows, "eval") == [2, 3]
    assert near(made, rows[1:], "train") == [2]  # a new split begins without the old one's rows
    made.close()


def test_near_duplicates_know_of_holes(tmp_path: Path) -> None:
    """Rows are named by their position in the split, also where rows between them were thrown out."""
    made = rule("near_duplicate", tmp_path)
    some = batch([said(changed(WORDS[:60])), said(changed(WORDS[:60], 9))])
    some.positions = [3, 8]
    made.check(some)
    assert list(made.finish("train")) == [8]


def test_near_duplicates_in_chinese(tmp_path: Path) -> None:
    """Scripts without spaces are compared letter by letter."""
    text = "".join(chr(0x4E00 + 7 * n) for n in range(80))
    rows = [said(text), said(text[:40] + "的" + text[41:]), said(text[::-1])]
    assert near(rule("near_duplicate", tmp_path), rows) == [1]


def test_near_duplicates_leave_out_the_system(tmp_path: Path) -> None:
    """A long system message that all rows share does not make them alike."""
    system = {"role": "system", "content": changed(WORDS[:300])}
    rows = [{"messages": [system, *said(changed(WORDS[at : at + 10]))["messages"]]} for at in (300, 350)]
    assert near(rule("near_duplicate", tmp_path), rows) == []


def test_near_duplicates_tell_good_from_bad(tmp_path: Path) -> None:
    """An unpaired answer labelled good and nearly the same one labelled bad both stay."""
    answer = [{"role": "assistant", "content": changed(WORDS[:50])}]
    rows = [{"prompt": said("q")["messages"], "completion": answer, "label": label} for label in (True, False, True)]
    assert near(rule("near_duplicate", tmp_path), rows, shape="unpaired") == [2]


def test_near_duplicates_in_a_crowd(tmp_path: Path) -> None:
    """Of two hundred planted copies among eight hundred rows nearly all are found, and nothing else."""
    from random import Random

    chance = Random(5)
    originals = [[chance.choice(WORDS) for _ in range(70)] for _ in range(800)]
    copies = [changed(chance.choice(originals), chance.randrange(70), chance.randrange(70)) for _ in range(200)]
    made = rule("near_duplicate", tmp_path, threshold=0.75)
    found = near(made, [said(text) for text in (*map(changed, originals), *copies)])
    assert set(found) <= set(range(800, 1000))
    assert len(found) >= 195


def test_near_overlap(tmp_path: Path) -> None:
    """A reworded prompt is refused with the name of the split it stands in; answers do not count."""
    made = rule("near_overlap", tmp_path, threshold=0.8)
    answer = [{"role": "assistant", "content": changed(WORDS[300:380])}]
    one, two, three = (said(changed(WORDS[at : at + 60])) for at in (0, 60, 120))
    assert made.check(batch([one, one], "test")) == {}
    made.finish("test")
    assert made.check(batch([two], "eval")) == {}
    made.finish("eval")
    rows = [said(changed(WORDS[60:120], 9)), {"messages": three["messages"] + answer}, said(changed(WORDS[:60], 30))]
    found = made.check(batch(rows))
    assert {position: reason.rpartition(" ")[2] for position, reason in found.items()} == {0: "eval", 2: "test"}


def test_near_overlap_in_a_crowd(tmp_path: Path) -> None:
    """Held-out rows of many batches and two splits are found again, each in its own split."""
    from random import Random

    chance = Random(7)
    texts = [[chance.choice(WORDS) for _ in range(40)] for _ in range(300)]
    made = rule("near_overlap", tmp_path)
    for split, begin in (("test", 0), ("eval", 100)):
        for at in range(begin, begin + 100, 25):
            made.check(batch([said(changed(text)) for text in texts[at : at + 25]], split))
        made.finish(split)
    found = made.check(batch([said(changed(text, 7)) for text in texts]))
    made.finish("train")
    made.close()
    assert set(found) <= set(range(200))
    assert len(found) >= 195
    assert all(reason.endswith("test" if at < 100 else "eval") for at, reason in found.items())
    assert list(tmp_path.iterdir()) == []


def test_signatures_estimate_likeness() -> None:
    """The share of equal numbers in two signatures is the share of word triples that two texts have in common."""
    import polars as pl

    from components.data.rules._minhash import likeness, sketches

    texts = [changed(WORDS), changed(WORDS[:200]), changed([*WORDS[:200], *map(str.upper, WORDS[:200])])]
    signatures = sketches(pl.Series(texts), 3).signatures
    assert likeness(signatures[:1], signatures[1:2]) == pytest.approx(198 / 398, abs=0.15)
    assert sketches(pl.Series(["a b c d", "a b c d e"]), 3).rows.tolist() == [1]


@pytest.mark.parametrize(("threshold", "width"), [(0.5, 3), (0.7, 4), (0.85, 8), (1.0, 128)])
def test_bands_miss_few(threshold: float, width: int) -> None:
    """Bands are as wide as still find 99 of 100 pairs at the threshold."""
    from components.data.rules._minhash import band_width

    assert band_width(threshold) == width
