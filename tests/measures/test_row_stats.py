"""What is kept of a replica's rows."""

from __future__ import annotations

import json
import pickle
import random

import pytest
from answers import a_failure, an_answer

from rayllm_batch.measures.failures import CHARACTERS
from rayllm_batch.measures.row_stats import SLOWEST, RowStats, bin_of, bin_range
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
    stats = of(
        (answered(100, 10), 1.0),
        (answered(100, 12, reason="length"), 3.0),
        (failed("engine: ValueError: x", 100), 50.0),
    )
    assert stats.input_lengths == {bin_of(100): 3} and stats.output_lengths == {10: 1, 12: 1}
    assert stats.finish_reasons == {"stop": 1, "length": 1, "error": 1}
    assert stats.latency_s == 4.0, "of the rows that were answered"


def test_failures_by_what_they_say() -> None:
    rows = [(failed("parse_row: KeyError: 'text'"), 0.0)] * 500 + [
        (failed(f"engine: bad row {n}", n), 0.0) for n in range(1, 9)
    ]
    assert [*of(*rows, (failed("engine: x"), 0.0)).errors.values()] == [
        (500, "parse_row: KeyError: 'text'"),
        (8, "engine: bad row 1"),
        (1, "engine: x"),
    ]


def typed(*complaints: str, reasks: int = 0, error: str | None = None) -> tuple[Answer, float]:
    answer = answered()
    answer.complaints, answer.num_reasks, answer.error = list(complaints), reasks, error
    return answer, 1.0


TITLE, AGE = "field 'title': too long, given str: 'x{}'", "field 'people[{}].age': must be an integer, but is {}"
TYPED = [
    typed(),
    typed(TITLE.format(1), reasks=1),
    typed(TITLE.format(2), AGE.format(0, '"old"'), reasks=1, error="answer: field 'people[0].age': must be ..."),
    typed(AGE.format(1, "null"), error="answer: ..."),
]


def test_invalid_answers_by_what_was_wrong_and_what_came_of_asking_again() -> None:
    stats = of(*TYPED)
    assert [*stats.invalid.values()] == [
        (2, "field 'title': too long"),
        (2, "field 'people[0].age': must be an integer"),
    ]
    assert (stats.reasks, stats.mended) == (2, 1) and stats.counts.failed == 2
    assert RowStats.of(pickle.loads(pickle.dumps(stats.plain()))) == stats and json.dumps(stats.plain())
    total = RowStats.merged([stats, of(*TYPED)])
    assert (total.reasks, total.mended, total.invalid.popitem()[1][0]) == (4, 2, 4)


def test_the_slowest_rows() -> None:
    rows = [(answered(n, 1, f"row {n} " + "x" * 500), float(n)) for n in range(1000)]
    random.Random(0).shuffle(rows)
    halves = of(*rows[:500]), of(*rows[500:])
    slowest = RowStats.merged(halves).slowest
    assert [seconds for seconds, *_ in slowest] == [float(n) for n in range(999, 999 - SLOWEST, -1)]
    assert slowest[0][1] == 999 and slowest[0][4].startswith("row 999 x") and len(slowest[0][4]) == 80


def test_two_replicas_add_up_to_what_one_would_have() -> None:
    rows = [(answered(n, n % 7), n / 10) for n in range(1, 300)] + [
        (failed(f"tokenize: {n % 2}", n), 0.0) for n in range(50)
    ]
    one, both = of(*rows), RowStats.merged(of(*part) for part in (rows[::2], rows[1::2]))
    assert both.latency_s == pytest.approx(one.latency_s) and both.slowest == one.slowest
    for same in ("counts", "input_lengths", "output_lengths", "finish_reasons"):
        assert getattr(both, same) == getattr(one, same)
    assert [rows for rows, _ in both.errors.values()] == [50]
    assert RowStats.merged([]) == RowStats()


def test_what_is_taken_out_again_was_never_there() -> None:
    stays = of((answered(100, 10), 1.0), (failed("engine: x", 7), 0.0))
    stays.merge(of(*TYPED))
    total = RowStats.merged([stays])
    block = of(
        TYPED[2],
        (answered(2000, 99, reason="length"), 5.0),
        (failed("parse_row: y"), 0.0),
        (failed("engine: x", 7), 0.0),
    )
    total.merge(block)
    assert total != stays and total.slowest[0][0] == 5.0
    total.merge(block, -1)
    assert total == stays


def test_it_stays_small() -> None:
    stats, draw = RowStats(), random.Random(1)
    for n in range(20_000):
        stats.add(answered(draw.randrange(1_000_000), draw.randrange(1_000_000), "x" * 5000), draw.random())
        stats.add(failed(f"stage {chr(97 + n % 26)}: " + "y" * 5000), 0.0)
        stats.add(typed(f"field '{chr(97 + n % 26) * (n % 300)}': {'z' * 5000}")[0], 0.0)
    assert {len(error) for _, error in stats.errors.values()} == {CHARACTERS + 1}
    assert {len(reason) for _, reason in stats.invalid.values()} <= set(range(CHARACTERS + 2))
    assert sum(answers for answers, _ in stats.invalid.values()) == 20_000
    assert len(pickle.dumps(stats.plain())) < 60_000, "with 26 kinds of failures, far more than there are"


def test_what_is_sent_is_plain_and_arrives_whole() -> None:
    stats = of((answered(), 1.0), (answered(5, 6), 2.0), (failed("engine: x", 7), 0.0))
    sent = json.dumps(stats.plain())
    assert len(sent) < 600
    assert RowStats.of(pickle.loads(pickle.dumps(stats.plain()))) == stats
