"""What a replica's rows were like: lengths, finish reasons, failures, the slowest. Flat in memory."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rayllm_batch.measures import failures
from rayllm_batch.measures.failures import MAX_STAGES, Errors, stage_of
from rayllm_batch.tasks.base import Answer

EXACT = 32  # lengths below have a bin each; above, each octave has EXACT / 2 equal bins, of 3 to 6%
MAX_EXAMPLES = 3
EXAMPLE_CHARACTERS = 300
SLOWEST = 10
ANSWER_CHARACTERS = 80


@dataclass
class Counts:
    """Rows, those of them with an error, and the tokens of their prompts and of their answers."""

    rows: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, more: Counts, sign: int = 1) -> None:
        self.rows += sign * more.rows
        self.failed += sign * more.failed
        self.input_tokens += sign * more.input_tokens
        self.output_tokens += sign * more.output_tokens

    @classmethod
    def total(cls, several: Iterable[Counts]) -> Counts:
        total = Counts()
        for one in several:
            total.add(one)
        return total


class SlowRow(NamedTuple):
    """seconds: from when the row reached the engine until its answer was there, its wait in the queue included."""

    seconds: float
    input_tokens: int
    output_tokens: int
    finish_reason: str
    answer: str


@dataclass
class RowStats:
    """Of one block's rows (`add`), or of several blocks' or replicas' (`merge`).

    latency_s:      seconds that the answered rows spent in the engine and its queue, added up.
    input_lengths, output_lengths: rows by `bin_of` their tokens; of answers, only those that did not fail.
    finish_reasons: rows by finish reason, "error" among them.
    errors:         failed rows by what they say, see failures.
    examples:       of each stage some errors that differ, with the tokens of their prompts, or 0 where there were none.
    slowest:        the rows that took longest, the slowest first.
    """

    counts: Counts = field(default_factory=Counts)
    latency_s: float = 0.0
    input_lengths: Counter[int] = field(default_factory=Counter)
    output_lengths: Counter[int] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    errors: Errors = field(default_factory=dict)
    examples: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    slowest: list[SlowRow] = field(default_factory=list)

    def add(self, answer: Answer, seconds: float) -> None:
        """One row is done."""
        self.counts.add(counts_of(answer))
        self.finish_reasons[answer.finish_reason] += 1
        if answer.num_input_tokens:
            self.input_lengths[bin_of(answer.num_input_tokens)] += 1
        if answer.error is not None:
            failures.count(self.errors, answer.error)
            text = " ".join(answer.error[: 4 * EXAMPLE_CHARACTERS].split())
            short = text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 4] + " ..."
            self._add_examples(stage_of(answer.error), [(short, answer.num_input_tokens)])
            return
        self.output_lengths[bin_of(answer.num_generated_tokens)] += 1
        self.latency_s += seconds
        if len(self.slowest) < SLOWEST or seconds > self.slowest[-1].seconds:
            beginning = answer.reply.text[:ANSWER_CHARACTERS] if answer.reply else ""
            tokens = answer.num_input_tokens, answer.num_generated_tokens
            row = SlowRow(seconds, *tokens, answer.finish_reason, beginning)
            insort(self.slowest, row, key=lambda known: -known.seconds)
            del self.slowest[SLOWEST:]

    @property
    def mean_latency_s(self) -> float:
        """Seconds that an answered row spent in the engine and its queue, on average."""
        answered = self.counts.rows - self.counts.failed
        return self.latency_s / answered if answered else 0.0

    def merge(self, one: RowStats, sign: int = 1) -> None:
        """Add another one, or, with sign -1, take out what was added so; examples of failures stay."""
        self.counts.add(one.counts, sign)
        self.latency_s += sign * one.latency_s
        for name in ("input_lengths", "output_lengths", "finish_reasons"):
            mine, others = getattr(self, name), getattr(one, name)
            setattr(self, name, mine + others if sign > 0 else mine - others)  # without those that are none
        for rows, error in one.errors.values():
            failures.count(self.errors, error, sign * rows)
        for stage, examples in one.examples.items():
            self._add_examples(stage, examples)
        slowest = [*self.slowest, *one.slowest] if sign > 0 else [row for row in self.slowest if row not in one.slowest]
        self.slowest = sorted(slowest, key=lambda row: -row.seconds)[:SLOWEST]

    @classmethod
    def merged(cls, several: Iterable[RowStats]) -> RowStats:
        total = cls()
        for one in several:
            total.merge(one)
        return total

    def plain(self) -> dict[str, Any]:
        """To be sent: see snapshot."""
        return {**vars(self), "counts": vars(self.counts), "slowest": [tuple(row) for row in self.slowest]}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> RowStats:
        slowest = [SlowRow(*row) for row in plain["slowest"]]
        return cls(**{**plain, "counts": Counts(**plain["counts"]), "slowest": slowest})

    def _add_examples(self, stage: str, examples: list[tuple[str, int]]) -> None:
        if stage in self.examples or len(self.examples) < MAX_STAGES:
            known = self.examples.setdefault(stage, [])
            known += [example for example in examples if example[0] not in dict(known)]
            del known[MAX_EXAMPLES:]


def counts_of(answer: Answer) -> Counts:
    return Counts(1, answer.error is not None, answer.num_input_tokens, answer.num_generated_tokens)


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
