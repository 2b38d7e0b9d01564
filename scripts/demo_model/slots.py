"""What fills the slots of a sentence pattern: words, names, numbers, and words that no dictionary has."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from phrases import (
    ABBREVIATIONS,
    ARTICLE_TEMPLATES,
    CLAUSES,
    FIRST_TEMPLATES,
    FRAGMENTS,
    NOUN_PHRASES,
    ORGANISATIONS,
    TITLES,
)
from words import gerund, past, plural, read_words

SYLLABLES = [
    onset + vowel + coda
    for onset in "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr ph pl qu sc sh sl st str th tr".split()
    for vowel in "a e i o u ai ea ee ie oo ou".split()
    for coda in ["", "", "n", "r", "l", "s", "t", "m", "nd", "rk", "st", "ck"]
]
ACCENTED = "áàâäãåæçéèêëíìîïñóòôöõøúùûüýÿœšžčćđłńśźżęąőűğışțăßþð"
SCRIPTS = [
    (0x391, 0x3C9),
    (0x410, 0x44F),
    (0x5D0, 0x5EA),
    (0x627, 0x64A),
    (0x905, 0x939),
    (0x3041, 0x3096),
    (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3),
]
EMOJI = "😀😂🎉🔥👍❤⚽🏆🌍🚀📈✅"
QUOTES = [('"', '"')] * 5 + [("“", "”")] * 4 + [("'", "'"), ("‘", "’"), ("«", "»")]
ADDRESSES = [
    "www.{other}{other}.com",
    "https://{other}.org/{any}/{int}",
    "@{other}_{small}",
    "#{any}{other}",
    "{other}.{any}@{other}.co.uk",
]
CURRENCIES = ["$", "$", "£", "£", "€", "¥", "₹", "US$", "A$", "C$", "Rs ", "kr "]


class Drawer:
    """Draws from a list, its head more often than its tail. Draws many at once, which is several times faster."""

    def __init__(self, rng: random.Random, items: Sequence[str], flat: bool = False):
        self.rng, self.items, self.drawn = rng, items, []
        self.weights = None if flat else [1 / (rank + 12) for rank in range(len(items))]

    def __call__(self) -> str:
        if not self.drawn:
            self.drawn = self.rng.choices(self.items, self.weights, k=2000)
        return self.drawn.pop()


class Slots:
    """Fills patterns that name its slots in braces: "The {noun} {past} in {place}."

    It remembers an article's cast, so that the same names come again and again until `new_article`.
    """

    def __init__(self, rng: random.Random):
        self.rng = rng
        words = read_words()
        nouns, verbs, others = words["noun"], words["verb"], words["other"]
        draw = lambda items, flat=False: Drawer(rng, items, flat)  # noqa: E731
        mixed = [*nouns, *verbs, *words["adjective"], *others]
        self.slots: dict[str, Callable[[], Any]] = {
            "noun": draw(nouns),
            "nouns": draw([plural(noun) for noun in nouns]),
            "verb": draw(verbs),
            "past": draw([past(verb) for verb in verbs]),
            "ing": draw([gerund(verb) for verb in verbs]),
            "adj": draw(words["adjective"]),
            "adv": draw(words["adverb"]),
            "fn": draw(words["function"]),
            "other": draw(others, flat=True),
            "any": draw([*mixed, *map(plural, nouns), *map(past, verbs), *map(gerund, verbs)], flat=True),
            "day": draw(words["time"][:7], flat=True),
            "month": draw(words["time"][7:], flat=True),
            "first": draw(words["first"], flat=True),
            "last": draw([name.replace("-", " ") for name in words["last"]], flat=True),
            "town": draw(words["place"]),
            "title": draw(TITLES, flat=True),
            "abbr": draw(ABBREVIATIONS),
            "template": draw(ARTICLE_TEMPLATES, flat=True),
            "first_template": draw(FIRST_TEMPLATES, flat=True),
            "fragment": draw(FRAGMENTS, flat=True),
            "syllable": draw(SYLLABLES, flat=True),
            "q": lambda: self.quotes[0],
            "p": lambda: self.quotes[1],
            "a": lambda: self.apostrophe,
            "dash": lambda: self.dash,
            "initial": lambda: chr(65 + int(rng.random() * 26)),
            "person": lambda: self._cast("person"),
            "surname": lambda: self._cast("surname"),
            "org": lambda: self._cast("org"),
            "place": lambda: self._cast("place"),
            "they": lambda: rng.choice(["he", "she", "they", "it"]),
            "int": self.integer,
            "small": lambda: str(2 + int(rng.random() * 60)),
            "dec": lambda: f"{rng.random() * rng.choice([1, 10, 10, 100]):.{rng.choice([1, 1, 2])}f}",
            "year": lambda: str(rng.randrange(1900, 2040)),
            "pct": lambda: self["dec"] + rng.choice(["%", "%", "%", " percent", " per cent", "pc"]),
            "money": self.money,
            "clock": self.clock,
            "date": self.date,
            "score": lambda: f"{rng.randrange(8)}{rng.choice('--–-')}{rng.randrange(8)}",
            "np": self.noun_phrase,
            "compound": self.compound,
            "strange": self.strange,
            "clause": lambda: self.fill(rng.choice(CLAUSES)),
            "Clause": lambda: capital(self.fill(rng.choice(CLAUSES))),
            "Np": lambda: capital(self.noun_phrase()),
        }
        self.new_article()

    def __getitem__(self, slot: str) -> str:
        return self.slots[slot]()

    def fill(self, template: str) -> str:
        """`template` with every slot drawn anew."""
        return template.format_map(self)

    def new_article(self) -> None:
        """Draws what stays the same through one article: who appears in it, and its typography."""
        rng = self.rng
        self.quotes = rng.choice(QUOTES)
        self.apostrophe = "’" if self.quotes[0] in "“‘" else "'"
        self.dash = rng.choice([" - ", " — ", " – ", "—", " -- "])
        self.cast: dict[str, list[str]] = {"person": [], "surname": [], "org": [], "place": []}
        self.cast_size = rng.choice([1, 1, 2, 2, 3, 4, 8])

    def _cast(self, kind: str) -> str:
        """One of this article's few people, organisations or places, so that names come again and again."""
        names = self.cast[kind]
        if len(names) < self.cast_size or self.rng.random() < 0.1:
            names.append(self._new_name(kind))
            return names[-1]
        return self.rng.choice(names)

    def _new_name(self, kind: str) -> str:
        rng = self.rng
        if kind == "place":
            return self["town"] if rng.random() < 0.7 else self.pseudo_word().capitalize()
        if kind == "org":
            return self.fill(rng.choice(ORGANISATIONS))
        last = self["last"] if rng.random() < 0.7 else self.pseudo_word().capitalize()
        if kind == "surname":
            return self.fill(rng.choice(["{title} ", "", "", ""])) + last
        self.cast["surname"].append(last)
        return (
            self.fill(
                rng.choice(
                    [
                        "{first} ",
                        "{first} ",
                        "{first} ",
                        "{first} {initial}. ",
                        "{initial}. {initial}. ",
                        "{title} {first} ",
                        "{initial}.{initial}. ",
                    ]
                )
            )
            + last
        )

    def integer(self) -> str:
        number = int(10 ** (self.rng.random() * 7))
        if number > 99 and self.rng.random() < 0.5:  # a round one: runs of zeros are hard to count
            unit = 10 ** (len(str(number)) - self.rng.choice([1, 1, 2, 2, 3]))
            number -= number % max(1, unit)
        return f"{number:,}" if self.rng.random() < 0.8 else str(number)

    def money(self) -> str:
        amount = self["int"] if self.rng.random() < 0.5 else self["dec"]
        return self.rng.choice(CURRENCIES) + amount + self.rng.choice(["", "", " million", " billion", "m", "bn", "k"])

    def clock(self) -> str:
        hour, minute = self.rng.randrange(1, 13), self.rng.randrange(60)
        return self.rng.choice(
            [f"{hour} a.m.", f"{hour}:{minute:02} p.m.", f"{hour}pm", f"{hour:02}:{minute:02}", f"{hour}.{minute:02}am"]
        )

    def date(self) -> str:
        day = str(self.rng.randrange(1, 29))
        return self.fill(
            self.rng.choice(
                [
                    "{day}",
                    "{month} " + day,
                    day + " {month}",
                    "{month} " + day + ", {year}",
                    "{month} {year}",
                    "Sept. " + day,
                    "Jan. " + day,
                    "the {year}s",
                ]
            )
        )

    def noun_phrase(self) -> str:
        return self.fill(self.rng.choice(NOUN_PHRASES))

    def pseudo_word(self) -> str:
        """A word that does not exist, sometimes with accents."""
        word = "".join(self["syllable"] for _ in range(self.rng.choice([1, 2, 2, 3, 3, 4])))
        while self.rng.random() < 0.2:
            at = self.rng.randrange(len(word))
            word = word[:at] + self.rng.choice(ACCENTED) + word[at + 1 :]
        return word

    def compound(self) -> str:
        """A long word made of words, or one that nearly repeats itself: "schoolchildrenchildren"."""
        rng = self.rng
        parts = [self["any"] if rng.random() < 0.7 else self.pseudo_word() for _ in range(rng.choice([2, 2, 2, 3, 4]))]
        if rng.random() < 0.5:
            part = rng.choice(parts)
            parts.insert(rng.randrange(len(parts) + 1), part[rng.randrange(len(part)) :])
        if rng.random() < 0.3:
            parts += parts[-rng.randrange(1, 3) :]
        word = rng.choice(["", "", "", "-"]).join(parts)
        return word.capitalize() if rng.random() < 0.3 else word

    def strange(self) -> str:  # noqa: PLR0911
        """Letters of another script, an address, a code, an emoji, a run of one letter."""
        rng = self.rng
        kind = rng.randrange(7)
        if kind == 0:
            low, high = rng.choice(SCRIPTS)
            return "".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 9)))
        if kind == 1:
            return self.fill(rng.choice(ADDRESSES))
        if kind == 2:
            return "".join(rng.choices("ABCDEFGHKLMNPRSTXZ0123456789-/", k=rng.randrange(2, 10)))
        if kind == 3:
            return rng.choice(EMOJI)
        if kind == 4:
            return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(3, 16)))
        if kind == 5:
            run = rng.choice("0123456789aeostxAX.-=*_!?") * rng.randrange(2, 12)
            return run + rng.choice(["", self["small"], self["any"]])
        return "".join(chr(rng.randint(0x21, 0x24F)) for _ in range(rng.randrange(2, 8)))


def capital(text: str) -> str:
    """`text` with its first letter in upper case, whatever stands before it."""
    for at, char in enumerate(text[:3]):
        if char.isalpha():
            return text[:at] + char.upper() + text[at + 1 :]
    return text
