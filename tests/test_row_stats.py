"""What is kept of a replica's rows."""

from __future__ import annotations

import pickle
import random

from answers import a_failure, an_answer

from rayllm_batch.row_stats import EXAMPLE_CHARACTERS, MAX_EXAMPLES, MAX_KINDS, SLOWEST, RowStats, bin_of, bin_range
from rayllm_batch.tasks.base import Answer


def answered(tokens_in: int = 100, tokens_out: int = 10, text: str = "An answer.", reason: str = "stop") -> Answer:
    return an_answer(text, tokens_in, tokens_out, reason)


def failed(error: str, tokens_in: int = 0) -> Answer:
    return a_failure(error, tokens_in)


def of(*rows: tuple[Answer, float]) -> RowStats:
    stats = RowStats()
    for answer, seconds in rows:
        stats.add(answer, seconds)
    return stats


def test_each_length_has_one_bin_and_the_bins_are_narrow() -> None:
    lengths = [*range(5000), *(2**n + d for n in range(13, 21) for d in (-1, 0, 1))]
    bins = [bin_of(length) for length in lengths]
    assert bins == sorted(bins) and set(bins[:5000]) == set(range(bins[4999] + 1)), "none is skipped"
    for length, number in zip(lengths, bins, strict=True):
        low, high = bin_range(number)
        assert low <= length < high and high - low <= max(1, low / 16)


def test_counts_and_means() -> None:
    stats = of((answered(100, 10), 1.0), (answered(100, 12, reason="length"), 3.0), (failed("engine: ValueError: x", 100), 50.0))
    assert stats.input_lengths == {bin_of(100): 3} and stats.output_lengths == {10: 1, 12: 1}
    assert stats.finish_reasons == {"stop": 1, "length": 1, "error": 1}
    assert stats.mean_latency_s == 2.0, "of the rows that were answered"
    assert RowStats().mean_latency_s == 0.0


def test_failures_by_the_stage_that_failed_with_examples_that_differ() -> None:
    rows = [(failed("parse_row: KeyError: 'text'"), 0.0)] * 500 + [(failed(f"engine: bad row {n}", n), 0.0) for n in range(1, 9)]
    failures = of(*rows).failures
    assert {kind: rows for kind, (rows, _) in failures.items()} == {"parse_row": 500, "engine": 8}
    assert failures["parse_row"][1] == (("parse_row: KeyError: 'text'", 0),)
    assert failures["engine"][1] == tuple((f"engine: bad row {n}", n) for n in (1, 2, 3))


def test_the_slowest_rows() -> None:
    rows = [(answered(n, 1, f"row {n} " + "x" * 500), float(n)) for n in range(1000)]
    random.Random(0).shuffle(rows)
    halves = of(*rows[:500]), of(*rows[500:])
    slowest = RowStats.merged(half.as_dict() for half in halves).slowest
    assert [row.seconds for row in slowest] == [float(n) for n in range(999, 999 - SLOWEST, -1)]
    assert slowest[0].input_tokens == 999 and slowest[0].answer.startswith("row 999 x") and len(slowest[0].answer) == 80


def test_two_replicas_add_up_to_what_one_would_have() -> None:
    rows = [(answered(n, n % 7), n / 10) for n in range(1, 300)] + [(failed(f"tokenize: {n % 2}", n), 0.0) for n in range(50)]
    one, both = of(*rows).as_dict(), RowStats.merged(of(*part).as_dict() for part in (rows[::2], rows[1::2])).as_dict()
    assert both.pop("latency_s") - one.pop("latency_s") < 1e-9
    for same in ("input_lengths", "output_lengths", "finish_reasons", "answered"):
        assert both[same] == one[same]
    assert both["failures"]["tokenize"][0] == 50 and len(both["failures"]["tokenize"][1]) == 2
    assert RowStats.merged([]).as_dict() == RowStats().as_dict()


def test_what_is_sent_stays_as_it_was_and_stays_small() -> None:
    stats, draw = RowStats(), random.Random(1)
    first = of((answered(), 1.0)).as_dict()
    for n in range(20_000):
        stats.add(answered(draw.randrange(1_000_000), draw.randrange(1_000_000), "x" * 5000), draw.random())
        stats.add(failed(f"kind {n}: " + "y" * 5000), 0.0)
    sent = stats.as_dict()
    assert len(sent["failures"]) == MAX_KINDS + 1 and sent["failures"]["other"][0] == 20_000 - MAX_KINDS
    assert all(len(examples) <= MAX_EXAMPLES for _, examples in sent["failures"].values())
    assert max(len(example.error) for _, examples in sent["failures"].values() for example in examples) == EXAMPLE_CHARACTERS
    assert len(pickle.dumps(sent)) < 16_000, "with 20 kinds of failures, far more than there are"
    before = pickle.dumps(sent)
    stats.add(answered(), 9.0)
    stats.add(failed("kind 1: z"), 0.0)
    assert pickle.dumps(sent) == before and len(pickle.dumps(first)) < 500
