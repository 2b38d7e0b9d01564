"""The words around the article: system prompts, instructions and markers, in as many wordings as can be made.

Where nothing but its wording tells an instruction from the article, the instruction is always one in English about
the article; made-up instructions in random words come only with a marker or in the system prompt.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from articles import ArticleWriter
from slots import capital
from wordings import (
    ANSWER_LABELS,
    ANYTHING,
    CHATTER,
    CLOSERS,
    DASHES,
    FAREWELLS,
    FENCES,
    GREETINGS,
    HEADS,
    INLINE,
    LABELS,
    LINES,
    LONG_LABELS,
    METADATA,
    PERSONAS,
    PLAIN,
    RARE_FENCES,
    REQUESTS,
    RULES,
    SLOTS,
    TAILS,
    TASK_LABELS,
    THINGS,
)

BUILT_IN_SYSTEM = "You are a news editor. You write short, factual highlights of the articles you are given."
BUILT_IN_TASK = "Task: Summarise the highlights of this article in clear and concise language."

SAME_LINE = 0.2  # share of the prompts that are not talk where the article shares its line with other words


@dataclass(frozen=True)
class Prompt:
    """A system prompt (None: no system turn) and the user's words before and after the article.

    `before` ends and `after` begins where the tokenizer starts a new piece; a space before the article belongs to
    `gap`, so that the article's first token is the same in the prompt and in the answer. `bare`: no mark on a line of
    its own says where the article starts.
    """

    system: str | None
    before: str
    gap: str
    after: str
    bare: bool = False


class PromptWriter:
    def __init__(self, rng: random.Random, writer: ArticleWriter):
        self.rng, self.writer = rng, writer

    def __getitem__(self, slot: str) -> str:
        if slot in SLOTS:
            return self.rng.choice(SLOTS[slot])
        if slot == "n":
            return self.rng.choice(["two", "three", "one or two", "1-2", "2", "3", "25", "40", "50", "60", "100"])
        return self.writer[slot]

    def fill(self, templates: list[str]) -> str:
        """One of `templates`; a slot may hold slots of its own."""
        text = self.rng.choice(templates)
        while "{" in text:
            text = text.format_map(self)
        return text

    def random_instruction(self) -> str:
        """An instruction of any content: "Never sink the loud harbour.", or worse."""
        if self.rng.random() < 0.3:
            return self.writer.salad(self.rng.randrange(2, 15))
        return capital(self.fill(ANYTHING))

    def instruction(self, about_article: bool = True) -> str:
        """One to five sentences that say what to do."""
        rng = self.rng
        sentences = [capital(self.fill(REQUESTS))]
        for _ in range(rng.choice([0, 0, 0, 1, 1, 2, 3, 4])):
            extra = self.fill(RULES) if about_article or rng.random() < 0.6 else self.random_instruction()
            sentences.insert(rng.randrange(len(sentences) + 1), capital(extra))
        if rng.random() < 0.08:
            return "\n".join(rng.choice(["- ", "* "]) + sentence for sentence in sentences)
        return rng.choice([" ", " ", " ", "\n"]).join(sentences)

    def system(self) -> str | None:
        rng = self.rng
        roll = rng.random()
        if roll < 0.25:
            return None
        if roll < 0.33:
            return BUILT_IN_SYSTEM
        sentences = [capital(self.fill(PERSONAS))] if rng.random() < 0.85 else []
        for _ in range(rng.choice([0, 1, 1, 2, 3, 6])):
            sentences.append(capital(self.fill(rng.choice([RULES, REQUESTS, PERSONAS]))))
        if roll > 0.8:
            for _ in range(rng.choice([1, 2, 4])):
                sentences.insert(rng.randrange(len(sentences) + 1), self.random_instruction())
        return rng.choice([" ", " ", " ", "\n", "\n\n"]).join(sentences) or None

    def label(self) -> str:
        """What stands before the article, mostly on its own line: "Article:", "# The story", "NEWS ITEM BELOW -".

        One with nothing but a line break after it is worded as a label; others may say anything.
        """
        rng = self.rng
        decoration = rng.choice(rng.choices([LINES, INLINE, PLAIN], [65, 25, 10])[0])
        if decoration in PLAIN or rng.random() < 0.7:
            words = self.fill(LABELS)
        else:
            words = self.fill(
                ["{any}", "{other} {noun}", "{any} {any} {any}", "{noun} from the {noun}", "the {adj} {noun}"]
            )
        return decoration.format(rng.choice([str, str, capital, capital, capital, str.upper, str.title])(words))

    def fences(self, inline: bool = False) -> tuple[str, str]:
        """Marks before and after the article, each with its line break, a space or neither."""
        rng = self.rng
        tag = self.fill(["article", "text", "story", "document", "input", "news", "{noun}", "{other}", "{any}_{noun}"])
        opening, closing = rng.choice(FENCES if rng.random() < (0.5 if inline else 0.96) else RARE_FENCES)
        opening, closing = opening.format(tag), closing.format(tag)
        if rng.random() < 0.3:
            opening, closing = opening.upper(), closing.upper()
        if opening[-1].isalnum():
            between = " " if inline else "\n"
        else:
            between = rng.choice(["", "", " "] if inline else ["\n", "\n", "\n", "", " ", "\n\n"])
        return opening + between, between + closing

    def end(self) -> str:
        """What stands between the article and the instruction after it."""
        ends = ["\n\n", "\n", " ", "\n\n\n", "\n\n---\n", "\n\n###\n", "\n***\n\n", "\n\n===\n\n"]
        return self.rng.choices(ends, [5, 2, 1.5, 1, 1, 1, 1, 1])[0]

    def trailer(self, marked: bool) -> str:
        """The words after the article."""
        rng = self.rng
        if rng.random() < 0.35:
            label = self.fill(ANSWER_LABELS)
            return rng.choice([str, str, str.upper])(label) + rng.choice([":", ":", "", " ->", ":\n"])
        text = self.instruction(about_article=not marked)
        if rng.random() < 0.45:
            text = self.fill(TASK_LABELS) + rng.choice([" ", " ", "\n"]) + text
        if rng.random() < 0.15:
            text += "\n\n" + self.fill(ANSWER_LABELS) + ":"
        return text

    def introduction(self) -> str:
        """What leads to an article on its own line: one word or thirty, of sense or of none, and a colon or a dash."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.2:  # no sense: only the colon tells
            words, mark = (
                " ".join(self[rng.choice(["any", "fn", "noun", "other"])] for _ in range(rng.randrange(1, 9))),
                ":",
            )
        elif roll < 0.45:
            words, mark = self.fill(LONG_LABELS + LABELS), rng.choice([":", ":", rng.choice(DASHES)])
        else:
            words = " ".join(
                [self.fill(HEADS), self.fill(THINGS), *(self.fill(TAILS) for _ in range(rng.choice([0, 1, 1, 2, 3])))]
            )
            mark = rng.choice([":", ":", ":", rng.choice(DASHES)])
        words = words.strip().replace(":", ",")
        return rng.choice([capital, capital, capital, capital, str, str.upper, str.title])(words) + mark

    def same_line(self) -> Prompt:
        """The article between words on its own line, before it or after it or both."""
        rng = self.rng
        before = "".join(
            capital(self.fill(rng.choice([REQUESTS, REQUESTS, RULES, CHATTER, GREETINGS, METADATA])))
            + rng.choice([" ", " ", "\n", "\n\n"])
            for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))
        )
        opening, gap, closing, bare = "", " ", "", True
        if rng.random() < 0.9:
            before += self.introduction()
            bare = rng.random() < 0.5
        if rng.random() < 0.25 or not before:
            opening, closing = self.fences(inline=True)
            before = (before.rstrip() + " " + opening).lstrip()
            gap = " " if opening[-1] == " " else ""
        elif rng.random() < 0.4:
            closing = rng.choice([" ", " ", "\n"]) + self.fill(CLOSERS)
        after = closing
        if rng.random() < 0.65:
            after += rng.choice([" ", " ", self.end()]) + self.trailer(marked=False)
        return Prompt(self.system(), before.rstrip(), gap, after.rstrip(), bare)

    def talk(self) -> Prompt:
        """Someone who talks: first persons, greetings, no marker but a line break, a colon or nothing at all."""
        rng = self.rng
        said = [self.fill(CHATTER) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        if not said or rng.random() < 0.6:
            said.insert(rng.randrange(len(said) + 1), self.fill(REQUESTS if rng.random() < 0.7 else RULES))
        before = " ".join(map(capital, said))
        if rng.random() < 0.25:
            before = self.fill(GREETINGS) + rng.choice(["\n\n", "\n\n", "\n", " "]) + before
        layout = rng.choices(["paragraph", "line", "same line", "label"], [40, 10, 20, 30])[0]
        gap = ""
        if layout in ("paragraph", "line"):
            before += "\n\n" if layout == "paragraph" else "\n"
        elif layout == "same line":
            before, gap = before + ("" if before[-1] in ".?!:" else "."), " "
        else:
            before = rng.choice(["", "", before + "\n\n", before + " "]) + self.introduction()
            before, gap = rng.choice([(before, " "), (before, " "), (before + "\n\n", ""), (before + "\n", "")])
        after = ""
        if rng.random() < 0.5:
            after += rng.choice(["\n\n", "\n\n", "\n", " "]) + rng.choice(
                [self.fill(CHATTER), self.trailer(marked=False)]
            )
        if rng.random() < 0.15:
            after += "\n\n" + self.fill(FAREWELLS)
        return Prompt(self.system(), before, gap, after.rstrip(), bare=True)

    def write(self, talk: float = 0.0) -> Prompt:
        """Any prompt; a share `talk` of them are of the kind that `talk` makes."""
        rng = self.rng
        if talk and rng.random() < talk:
            return self.talk()
        if rng.random() < SAME_LINE:
            return self.same_line()
        system = self.system()
        roll = rng.random()
        if roll < 0.12:
            return Prompt(BUILT_IN_SYSTEM if rng.random() < 0.7 else system, "Article:\n", "", "\n\n" + BUILT_IN_TASK)
        if roll < 0.18:  # the article alone
            return Prompt(system, "", "", "", bare=True)
        marker = rng.choices(["label", "fence", "both", "none"], [42, 18, 8, 32])[0]
        place = rng.choices(["before", "after", "both", "neither"], [40, 30, 20, 10 if marker != "none" else 0])[0]
        before = ""
        if place in ("before", "both"):
            before = self.instruction(about_article=marker == "none") + rng.choice(
                ["\n\n", "\n\n", "\n\n", "\n", "\n\n\n"]
            )
            if marker == "none" and rng.random() < 0.3:
                before = before.rstrip(".!?\n") + rng.choice([":\n\n", ":\n", ":"])
        if rng.random() < 0.04 and marker != "none":
            before += self.fill(METADATA) + "\n"
        closing = ""
        if marker in ("label", "both"):
            before += self.label()
        if marker in ("fence", "both"):
            before = before.rstrip() + "\n" if marker == "both" or before else before
            opening, closing = self.fences()
            before += opening
        after = closing
        if place in ("after", "both"):
            after += self.end() + self.trailer(marked=bool(closing))
        before, gap = before.lstrip(), ""
        if before.endswith((":", " ")):
            before, gap = before.rstrip(" "), " "
        return Prompt(system, before, gap, after.rstrip(), bare=marker == "none" or bool(gap))
