"""What a replica's rows were like: lengths, finish reasons, failures, the slowest. Flat in memory."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any

from rayllm_batch.measures import failures
from rayllm_batch.measures.failures import Errors
from rayllm_batch.tasks.base import Answer

EXACT = 32  # lengths below have a bin each; above, each octave has EXACT / 2 equal bins, of 3 to 6%
SLOWEST = 10
ANSWER_CHARACTERS = 80
KEPT_BLOCKS = 4096  # some 10 MB: before one comes again, as many others may come


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


# Seconds from when the row reached the engine until its answer was there, its wait in the queue included; the tokens of
# its prompt and of its answer; its finish reason; and how the answer begins.
SlowRow = tuple[float, int, int, str, str]


@dataclass
class RowStats:
    """Of one block's rows (`add`), or of several blocks' or replicas' (`merge`).

    latency_s:      seconds that the answered rows spent in the engine and its queue, added up.
    input_lengths, output_lengths: rows by `bin_of` their tokens; of answers, only those that did not fail.
    finish_reasons: rows by finish reason, "error" among them.
    errors:         failed rows by what they say, see failures.
    invalid:        invalid answers by the reason, likewise. reasks: how many of them were asked for again. mended: rows
                    that have an answer since. truncated: rows whose text was cut, as was asked.
    slowest:        the rows that took longest, the slowest first.
    """

    counts: Counts = field(default_factory=Counts)
    latency_s: float = 0.0
    input_lengths: Counter[int] = field(default_factory=Counter)
    output_lengths: Counter[int] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    errors: Errors = field(default_factory=dict)
    invalid: Errors = field(default_factory=dict)
    reasks: int = 0
    mended: int = 0
    truncated: int = 0
    slowest: list[SlowRow] = field(default_factory=list)

    def add(self, answer: Answer, seconds: float) -> None:
        """One row is done."""
        self.counts.add(counts_of(answer))
        reason = answer.finish_reason or "no request"
        self.finish_reasons[reason] += 1
        if answer.num_input_tokens:
            self.input_lengths[bin_of(answer.num_input_tokens)] += 1
        for complaint in answer.complaints:
            failures.count(self.invalid, failures.reason_of(complaint))
        self.reasks += answer.num_reasks
        self.mended += answer.num_reasks > 0 and answer.error is None
        self.truncated += answer.is_truncated
        if answer.error is not None:
            failures.count(self.errors, answer.error)
            return
        self.output_lengths[bin_of(answer.num_generated_tokens)] += 1
        self.latency_s += seconds
        if len(self.slowest) < SLOWEST or seconds > self.slowest[-1][0]:
            beginning = answer.reply.text[:ANSWER_CHARACTERS] if answer.reply else ""
            tokens = answer.num_input_tokens, answer.num_generated_tokens
            self.slowest = nlargest(SLOWEST, [*self.slowest, (seconds, *tokens, reason, beginning)])

    def merge(self, one: RowStats, sign: int = 1) -> None:
        """Add another one, or, with sign -1, take out what was added so."""
        self.counts.add(one.counts, sign)
        self.latency_s += sign * one.latency_s
        for name in ("input_lengths", "output_lengths", "finish_reasons"):
            mine, others = getattr(self, name), getattr(one, name)
            setattr(self, name, mine + others if sign > 0 else mine - others)  # without those that are none
        self.reasks += sign * one.reasks
        self.mended += sign * one.mended
        self.truncated += sign * one.truncated
        for mine, others in ((self.errors, one.errors), (self.invalid, one.invalid)):
            for count, text in others.values():
                failures.count(mine, text, sign * count)
        slowest = [*self.slowest, *one.slowest] if sign > 0 else [row for row in self.slowest if row not in one.slowest]
        self.slowest = nlargest(SLOWEST, slowest)

    @classmethod
    def merged(cls, several: Iterable[RowStats]) -> RowStats:
        total = cls()
        for one in several:
            total.merge(one)
        return total

    def plain(self) -> dict[str, Any]:
        """To be sent: see snapshot."""
        return {**vars(self), "counts": vars(self.counts)}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> RowStats:
        return cls(**{**plain, "counts": Counts(**plain["counts"])})


class Delivered:
    """Rows that replicas have handed on: each block once, also one that was computed again, its process having died.

    Kept by the run's monitor. A replica says what it is about to hand on; whether it then does, nobody can say.
    """

    def __init__(self) -> None:
        self._totals: dict[str, RowStats] = {}
        self._blocks: OrderedDict[str, tuple[str, RowStats]] = OrderedDict()

    def add(self, replica: str, block: str, stats: RowStats) -> None:
        """stats: of the block's rows. block: the same when it is computed again."""
        if earlier := self._blocks.pop(block, None):
            self.of(earlier[0]).merge(earlier[1], -1)
        self._blocks[block] = (replica, stats)
        self.of(replica).merge(stats)
        if len(self._blocks) > KEPT_BLOCKS:
            self._blocks.popitem(last=False)

    def of(self, replica: str) -> RowStats:
        return self._totals.setdefault(replica, RowStats())


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
