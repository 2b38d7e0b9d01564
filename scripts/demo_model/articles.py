"""Made-up articles: news-like English, nonsense in every kind of token, and all between.

The model only ever copies, so what the text says does not matter. What matters is that it holds whatever may trip a
copier: stops inside sentences, quotations, names that come again, words that nearly repeat, bytes it never saw.
"""

from __future__ import annotations

from collections.abc import Sequence

from phrases import DATELINES
from slots import Slots, capital

SALAD_KINDS = [
    "fn",
    "noun",
    "any",
    "other",
    "adj",
    "past",
    "verb",
    "ing",
    "nouns",
    "first",
    "last",
    "place",
    "int",
    "dec",
    "money",
    "pct",
    "date",
    "clock",
    "org",
    "compound",
    "strange",
    "syllable",
    "person",
    "score",
]
SALAD_WEIGHTS = [36, 10, 14, 10, 6, 6, 3, 3, 4, 1, 2, 2, 1, 1, 1, 1, 1, 0.5, 1, 1, 0.5, 1, 1, 0.5]
STOPS = [".", ".", ".", ".", ".", ".", ".", ".", "?", "!", "...", "…", ".{q}", "?{q}", ".)", "?!"]


class ArticleWriter(Slots):
    """Writes articles."""

    def salad(self, words: int, own: Sequence[str] | None = None) -> str:
        """A sentence of `words` words in no order, drawn from `own` if given."""
        rng = self.rng
        if own:
            drawn = rng.choices(own, k=words)
        else:
            drawn = [self[kind] for kind in rng.choices(SALAD_KINDS, SALAD_WEIGHTS, k=words)]
        for at in range(words - 1):
            if rng.random() < 0.12:
                drawn[at] = self._punctuated(drawn[at])
        return capital(" ".join(drawn)) + rng.choice(STOPS).format(q=self.quotes[1])

    def _punctuated(self, word: str) -> str:
        marks = [
            f"{word},",
            f"{word},",
            f"{word};",
            f"{word}:",
            f"({word})",
            f"{word}{self.dash.strip()}",
            f"{word}…",
            f"{self.quotes[0]}{word}{self.quotes[1]}",
            word.upper(),
            word.capitalize(),
            f"{word}{self.apostrophe}s",
            f"{word}-{self['any']}",
            f"{word}/{self['any']}",
            f"{self['abbr']} {word}",
        ]
        return self.rng.choice(marks)

    def echo(self, sentence: str) -> str:
        """`sentence` with a few words changed, added or left out."""
        words = sentence.split(" ")
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            at = self.rng.randrange(len(words))
            ending = words[at][-1:] if words[at][-1:] in ".,!?" else ""
            words[at : at + 1] = self.rng.choice(
                [[self["any"] + ending], [words[at], words[at]], [self["int"] + ending], [self["any"], words[at]]]
            )
        return capital(" ".join(words))

    def sentences(self, characters: int, at_most: int) -> list[str]:
        """Sentences of one manner, about `characters` long in all, `at_most` of them."""
        rng = self.rng
        self.new_article()
        manner = rng.choices(["news", "salad", "mixed", "invented", "few words", "strange"], [54, 11, 16, 7, 7, 5])[0]
        own: list[str] | None = None
        if manner == "invented":
            own = [self.pseudo_word() for _ in range(rng.choice([20, 80, 200]))]
        elif manner == "few words":
            own = [self["any"] if rng.random() < 0.6 else self["fn"] for _ in range(rng.choice([4, 6, 10, 16, 30]))]
        elif manner == "strange":
            own = [self["strange"] if rng.random() < 0.3 else self["any"] for _ in range(40)]
        echoes = rng.choice([0, 0, 0, 0.05, 0.15, 0.5])
        length = rng.choice([6, 12, 18, 18, 25, 40])
        written: list[str] = []
        while len(written) < at_most and characters > 0:
            if written and rng.random() < echoes:
                sentence = self.echo(written[-1] if rng.random() < 0.7 else rng.choice(written))
            elif manner == "news" or (manner == "mixed" and rng.random() < 0.5):
                sentence = self.news(first=not written)
            else:
                sentence = self.salad(1 + int(rng.random() * 2 * length), own)
            if rng.random() < 0.01:
                sentence = sentence.upper()
            written.append(sentence)
            characters -= len(sentence) + 1
        return written

    def news(self, first: bool = False) -> str:
        """A sentence that reads like one of a news story, if nobody looks closely."""
        sentence = self.fill(self["first_template"] if first and self.rng.random() < 0.5 else self["template"])
        roll = self.rng.random()
        if roll < 0.04:
            return self["fragment"]
        if roll < 0.12:  # a longer one: two clauses joined
            joint = self.rng.choice(["; ", ", and ", ", but ", self.dash, ", while ", ": ", ", which "])
            return sentence.rstrip(".!?\"”'’»") + joint + self["clause"] + "."
        if roll < 0.20:
            words = sentence.split(" ")
            words.insert(
                self.rng.randrange(len(words)), self.rng.choice([self["compound"], self["other"], self["strange"]])
            )
            return " ".join(words)
        return capital(sentence)

    def write(self, characters: int, at_most: int = 10_000, bare: bool = False) -> str:
        """An article of about `characters` characters and `at_most` sentences, in paragraphs of some kind.

        A `bare` one has no colon near its start, where it could be taken for a label before the article.
        """
        rng = self.rng
        sentences = self.sentences(characters, at_most)
        layout = rng.choices(["one", "each", "some", "lines"], [30, 25, 35, 10])[0]
        per_paragraph = rng.choice([2, 3, 4])
        text = [self._opening()]
        for index, sentence in enumerate(sentences):
            if index:
                new = layout in ("each", "lines") or (layout == "some" and rng.random() < 1 / per_paragraph)
                text.append(("\n" if layout == "lines" else "\n\n") if new else " ")
            text.append(sentence)
        article = "".join(text).strip()
        return article[:60].replace(":", ",") + article[60:] if bare else article

    def _opening(self) -> str:
        """What may stand before an article's first sentence: a dateline, a headline, a byline; mostly nothing."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.70:
            return ""
        if roll < 0.88:
            return self.fill(rng.choice(DATELINES)).replace("TOWN", self["place"].upper())
        headline = " ".join(self["any"] for _ in range(rng.randrange(3, 12)))
        headline = rng.choice([capital, str.title, str.upper])(headline)
        return headline + rng.choice(
            ["\n\n", "\n\n", "\n", self.fill("\n\nBy {person}\n\n"), self.fill("\nBy {person}\n\n")]
        )
