"""What a replica's rows were like: lengths, finish reasons, failures, the slowest. Flat in memory."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rayllm_batch import failures
from rayllm_batch.counts import Counts
from rayllm_batch.failures import MAX_STAGES, Errors, Example, stage_of
from rayllm_batch.tasks.base import Answer

EXACT = 32  # lengths below have a bin each; above, each octave has EXACT / 2 equal bins, of 3 to 6%
MAX_EXAMPLES = 3
EXAMPLE_CHARACTERS = 300
SLOWEST = 10
ANSWER_CHARACTERS = 80


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
    errors:         failed rows by what they say; examples: of each stage some that differ. See failures.
    slowest:        the rows that took longest, the slowest first.
    """

    counts: Counts = field(default_factory=Counts)
    latency_s: float = 0.0
    input_lengths: dict[int, int] = field(default_factory=dict)
    output_lengths: dict[int, int] = field(default_factory=dict)
    finish_reasons: dict[str, int] = field(default_factory=dict)
    errors: Errors = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    slowest: list[SlowRow] = field(default_factory=list)

    def add(self, answer: Answer, seconds: float) -> None:
        """One row is done."""
        self.counts.add(counts_of(answer))
        _count(self.finish_reasons, answer.finish_reason)
        if answer.num_input_tokens:
            _count(self.input_lengths, bin_of(answer.num_input_tokens))
        if answer.error is not None:
            failures.count(self.errors, answer.error)
            text = " ".join(answer.error[: 4 * EXAMPLE_CHARACTERS].split())
            short = text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 4] + " ..."
            self._add_examples(stage_of(answer.error), [Example(short, answer.num_input_tokens)])
            return
        _count(self.output_lengths, bin_of(answer.num_generated_tokens))
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
        for mine, others in (
            (self.input_lengths, one.input_lengths),
            (self.output_lengths, one.output_lengths),
            (self.finish_reasons, one.finish_reasons),
        ):
            for key, rows in others.items():
                _count(mine, key, sign * rows)
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
        examples = {stage: [tuple(example) for example in some] for stage, some in self.examples.items()}
        slowest = [tuple(row) for row in self.slowest]
        return {**vars(self), "counts": dict(vars(self.counts)), "examples": examples, "slowest": slowest}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> RowStats:
        examples = {stage: [Example(*example) for example in some] for stage, some in plain["examples"].items()}
        slowest = [SlowRow(*row) for row in plain["slowest"]]
        return cls(**{**plain, "counts": Counts(**plain["counts"]), "examples": examples, "slowest": slowest})

    def _add_examples(self, stage: str, examples: list[Example]) -> None:
        if stage not in self.examples and len(self.examples) >= MAX_STAGES:
            return
        known = self.examples.setdefault(stage, [])
        known += [new for new in examples if all(new.error != old.error for old in known)]
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


def _count(counts: dict[Any, int], key: Any, more: int = 1) -> None:
    counts[key] = counts.get(key, 0) + more
    if not counts[key]:
        del counts[key]
