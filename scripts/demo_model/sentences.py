"""Where a sentence ends: the one rule that the training text, the evaluation and the tests share.

- A blank line ends a sentence. A single line break is white space like any other.
- So does a full stop, question mark, exclamation mark or ellipsis, with any closing quotes and brackets after it,
  if white space follows and then something that can open a sentence: a capital letter, a digit, an opening quote or
  bracket, a currency sign, a letter of a script without capitals.
- Not after a title or a short form that needs a next word ("Dr.", "No.", "vs.").
- After initials and short forms that may close a sentence ("J.", "U.S.", "a.m.", "Inc.", "Jan.") only if a word that
  commonly opens a sentence follows ("The", "He", "In", ...) or an opening double quote.
- A sentence holds at least one letter, so the number of a list item ("1.") belongs to what follows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice

LEAD = 2  # sentences in an answer

NEVER_LAST = frozenset(
    "Dr Mr Mrs Ms Mx Prof Sen Rep Gov Gen Col Lt Sgt Cpl Capt Cmdr Maj Adm Rev Hon Pres Supt Det Insp Msgr Fr Sr St "
    "Ste Mt Ft No Nos Fig Vol pp vs v al e.g i.e approx est cf Mme Mlle".split()
)
MAYBE_LAST = frozenset(
    "Inc Corp Co Ltd Bros Jr etc Ave Blvd Rd Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Mon Tue Wed Thu Fri "
    "Sat Sun Ph.D".split()
)
OPENERS = frozenset(
    "The A An This That These Those There He She It They We I You His Her Its Their Our My But And Or So Yet If In On "
    "At By For From With After Before When While As To Since Under During Until Although Though Because However "
    "Meanwhile Some Many Most Both All Another Each Only Now Then Here What Who Why How Where Not No".split()
)

_STOP = re.compile(r"""[.!?…]+["'”’)\]»]*(?=\s+\S)""")
_NOT_SPACE = re.compile(r"\S")
_BLANK_LINE = re.compile(r"\s*\n[^\S\n]*\n\s*")
_LAST_WORD = re.compile(r"[^\s\"'“”‘’()\[\]«»—–/-]+\Z")
_DOTTED = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]\Z")
_NEXT_WORD = re.compile(r"[\"“‘'(\[«]*([^\W\d_]+)(?![.\w])")


def _ends(text: str, stop: re.Match[str], resume: int) -> bool:
    """Whether the sentence ends at `stop`, a run of stops and closing marks; the text goes on at `resume`."""
    first = text[resume]
    if not (first.isdigit() or first in "\"“‘'([«¿¡$£€¥₹#@" or (first.isalpha() and not first.islower())):
        return False
    if not stop.group().startswith(".") or stop.group().startswith(".."):
        return True
    word = _LAST_WORD.search(text, max(0, stop.start() - 40), stop.start())
    if word is None:
        return True
    if word.group() in NEVER_LAST:
        return False
    if word.group() in MAYBE_LAST or _DOTTED.match(word.group()):
        opener = _NEXT_WORD.match(text, resume)
        return first in '"“' or (opener is not None and opener.group(1) in OPENERS)
    return True


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """The sentences of `text` as (start, end) offsets in characters, white space around them left out."""
    start = len(text) - len(text.lstrip())
    end = len(text.rstrip())
    blank_lines = ((match.start(), match.end()) for match in _BLANK_LINE.finditer(text, start, end))
    for paragraph_end, next_paragraph in chain(blank_lines, [(end, end)]):
        for stop in _STOP.finditer(text, start, paragraph_end):
            resume = _NOT_SPACE.search(text, stop.end()).start()
            if any(map(str.isalpha, text[start : stop.end()])) and _ends(text, stop, resume):
                yield start, stop.end()
                start = resume
        if start < paragraph_end:
            yield start, paragraph_end
        start = next_paragraph


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, each as it stands there."""
    return [text[start:end] for start, end in sentence_spans(text)]


def lead(article: str) -> str:
    """The answer the model is trained to give: the first `LEAD` sentences, as they stand in the article."""
    spans = list(islice(sentence_spans(article), LEAD))
    return article[spans[0][0] : spans[-1][1]] if spans else ""
