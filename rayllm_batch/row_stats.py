"""What a replica's rows were like: lengths, finish reasons, failures, the slowest. Flat in memory, however many rows."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

from rayllm_batch import last_words
from rayllm_batch.tasks.base import Answer

EXACT = 32  # lengths below have a bin each; above, each octave has EXACT / 2 equal bins, of 3 to 6%
MAX_EXAMPLES = 3
EXAMPLE_CHARACTERS = 300
MAX_KINDS = 20
SLOWEST = 10
ANSWER_CHARACTERS = 80


class SlowRow(NamedTuple):
    """seconds: from when the row reached the engine until its answer was there, its wait in the engine's queue included."""

    seconds: float
    number: int  # of the slow rows of its replica: the order of rows that took equally long
    input_tokens: int
    output_tokens: int
    finish_reason: str
    answer: str


class Example(NamedTuple):
    """input_tokens: 0 where the row failed before it was tokenized."""

    error: str
    input_tokens: int


class RowStats:
    """Of one block's rows (`add`), or of several blocks' or replicas' (`merge`).

    input_lengths, output_lengths: rows by `bin_of` their tokens; of answers, only those that did not fail.
    finish_reasons: rows by finish reason, "error" among them.
    failures:       by kind, which is the stage that failed: how many, and some examples that differ.
    errors:         failed rows by what they say, see last_words.
    slowest:        the rows that took longest; `latency_s` and `answered` give the mean.
    """

    def __init__(self) -> None:
        self.input_lengths: dict[int, int] = {}
        self.output_lengths: dict[int, int] = {}
        self.finish_reasons: dict[str, int] = {}
        self.failures: dict[str, tuple[int, tuple[Example, ...]]] = {}
        self.errors: last_words.ErrorCounts = {}
        self.slowest: list[SlowRow] = []  # of `add`, a heap: the least slow is the first; of `merge`, the slowest first
        self.latency_s, self.answered = 0.0, 0
        self._numbers = itertools.count()

    def add(self, answer: Answer, seconds: float) -> None:
        """One row is done. Called for each, so it costs some microseconds at most."""
        _count(self.finish_reasons, answer.finish_reason)
        if answer.num_input_tokens:
            _count(self.input_lengths, bin_of(answer.num_input_tokens))
        if answer.error is not None:
            self._add_failure(answer.error, answer.num_input_tokens)
            return
        _count(self.output_lengths, bin_of(answer.num_generated_tokens))
        self.latency_s += seconds
        self.answered += 1
        if len(self.slowest) < SLOWEST or seconds > self.slowest[0].seconds:
            row = SlowRow(
                seconds, next(self._numbers), answer.num_input_tokens, answer.num_generated_tokens, answer.finish_reason,
                answer.reply.text[:ANSWER_CHARACTERS] if answer.reply else "",
            )  # fmt: skip
            (heapq.heappush if len(self.slowest) < SLOWEST else heapq.heapreplace)(self.slowest, row)

    @property
    def mean_latency_s(self) -> float:
        """Seconds that an answered row spent in the engine and its queue, on average."""
        return self.latency_s / self.answered if self.answered else 0.0

    def as_dict(self) -> dict[str, Any]:
        """A copy that nothing changes any more, to be sent. Other threads may call it: each part is copied in one step."""
        return {
            "input_lengths": dict(self.input_lengths), "output_lengths": dict(self.output_lengths),
            "finish_reasons": dict(self.finish_reasons), "failures": dict(self.failures), "slowest": list(self.slowest),
            "latency_s": self.latency_s, "answered": self.answered, "errors": dict(self.errors),
        }  # fmt: skip

    def merge(self, one: dict[str, Any], sign: int = 1) -> None:
        """Add what another one's `as_dict` has, or, with sign -1, take out what was added so; examples of failures stay."""
        for name in ("input_lengths", "output_lengths", "finish_reasons"):
            for key, rows in one[name].items():
                _count(getattr(self, name), key, sign * rows)
        for kind, (rows, examples) in one["failures"].items():
            known_rows, known = self.failures.get(kind, (0, ()))
            more = tuple(example for example in examples if example not in known)
            self.failures[kind] = (known_rows + sign * rows, (known + more)[:MAX_EXAMPLES])
            if not self.failures[kind][0]:
                del self.failures[kind]
        for rows, example in one["errors"].values():
            last_words.count(self.errors, example, sign * rows)
        slowest = [*self.slowest, *one["slowest"]] if sign > 0 else [row for row in self.slowest if row not in one["slowest"]]
        self.slowest = sorted(slowest, key=lambda row: -row.seconds)[:SLOWEST]
        self.latency_s += sign * one["latency_s"]
        self.answered += sign * one["answered"]

    @classmethod
    def merged(cls, dicts: Iterable[dict[str, Any]]) -> RowStats:
        """What the replicas' dicts add up to; the slowest are sorted, the slowest first."""
        total = cls()
        for one in dicts:
            total.merge(one)
        return total

    def _add_failure(self, error: str, input_tokens: int) -> None:
        last_words.count(self.errors, error)
        kind = error.partition(":")[0][:40]
        if kind not in self.failures and len(self.failures) >= MAX_KINDS:
            kind = "other"
        rows, examples = self.failures.get(kind, (0, ()))
        if len(examples) < MAX_EXAMPLES:
            text = " ".join(error[: 4 * EXAMPLE_CHARACTERS].split())
            example = Example(text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 4] + " ...", input_tokens)
            if all(example.error != known.error for known in examples):
                examples = (*examples, example)
        self.failures[kind] = (rows + 1, examples)


def bin_of(length: int) -> int:
    """The bin that a length falls in."""
    if length < EXACT:
        return length
    octave = length.bit_length() - EXACT.bit_length() + 1  # 1 for EXACT to 2 * EXACT - 1
    return EXACT // 2 * octave + (length >> octave)


def bin_range(number: int) -> tuple[int, int]:
    """The lengths of a bin: from the first, up to and without the second."""
    if number < EXACT:
        return number, number + 1
    octave, place = divmod(number - EXACT, EXACT // 2)
    first = (EXACT // 2 + place) << (octave + 1)
    return first, first + (1 << (octave + 1))


def _count(counts: dict[Any, int], key: Any, more: int = 1) -> None:
    counts[key] = counts.get(key, 0) + more
    if not counts[key]:
        del counts[key]
