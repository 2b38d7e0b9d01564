"""Scores of the demo model's answers, as the model card quotes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sentences import lead, split_sentences

TOKEN_LIMIT = 150
_WORD = re.compile(r"[^\W_]+")
_LOOP = re.compile(r"(.{2,60}?)\1{3,}", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What the model gave for an article; `stopped` says that it ended by itself within `TOKEN_LIMIT` tokens."""

    article: str
    text: str
    stopped: bool
    lead_tokens: int


@dataclass(frozen=True)
class Scores:
    """`verbatim`, `rouge_l`, `stopped` and `exact` are shares (0 to 1); the others count answers."""

    answers: int
    verbatim: float
    rouge_l: float
    stopped: float
    exact: float
    shared: int
    empty: int
    looping: int

    def row(self) -> str:
        """The scores as a row of a Markdown table."""
        return " | ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in asdict(self).values())


def plain(text: str) -> str:
    """`text` with every run of white space made one space."""
    return " ".join(text.split())


def verbatim_sentences(answer: Answer) -> list[bool]:
    """For each sentence of the answer, whether it is a sentence of its own article, white space aside."""
    own = {plain(sentence) for sentence in split_sentences(answer.article)}
    return [plain(sentence) in own for sentence in split_sentences(answer.text)]


def rouge_l(candidate: str, reference: str) -> float:
    """ROUGE-L F1 over lower-case words: the longest common subsequence against both lengths."""
    ours, theirs = (_WORD.findall(text.lower()) for text in (candidate, reference))
    longest = [0] * (len(theirs) + 1)
    for word in ours:
        previous = 0
        for at, other in enumerate(theirs):
            previous, longest[at + 1] = (
                longest[at + 1],
                (previous + 1 if word == other else max(longest[at], longest[at + 1])),
            )
    return 2 * longest[-1] / (len(ours) + len(theirs)) if ours or theirs else 0.0


def loops(answer: Answer) -> bool:
    """Whether the answer repeats a piece four times over where its article does not."""
    match = _LOOP.search(answer.text)
    return match is not None and match.group() not in answer.article


def score(answers: Sequence[Answer]) -> Scores:
    """Scores one answer to each of several articles."""
    sentences = [verbatim for answer in answers for verbatim in verbatim_sentences(answer)]
    may_stop = [answer.stopped for answer in answers if answer.lead_tokens < TOKEN_LIMIT]
    texts = Counter(plain(answer.text) for answer in answers)
    return Scores(
        answers=len(answers),
        verbatim=sum(sentences) / max(1, len(sentences)),
        rouge_l=sum(rouge_l(answer.text, lead(answer.article)) for answer in answers) / len(answers),
        stopped=sum(may_stop) / max(1, len(may_stop)),
        exact=sum(plain(answer.text) == plain(lead(answer.article)) for answer in answers) / len(answers),
        shared=sum(count for text, count in texts.items() if count > 1 and text),
        empty=texts[""],
        looping=sum(map(loops, answers)),
    )
