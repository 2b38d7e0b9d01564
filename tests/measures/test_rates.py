"""How fast a run goes now, and when it will be done."""

from __future__ import annotations

import pytest

from rayllm_batch.measures.rates import ETA_S, NOW_S, Rates
from rayllm_batch.measures.row_stats import Counts


def rates_of(*samples: tuple[float, int]) -> Rates:
    rates = Rates()
    for at_s, rows in samples:
        rates.add(at_s, Counts(rows))
    return rates


def test_nothing_is_known_at_first() -> None:
    assert Rates().per_s("rows") is None and Rates().left_s(10) is None
    assert rates_of((100.0, 0)).per_s("rows") is None
    assert rates_of((100.0, 0), (100.5, 40)).per_s("rows") is None, "half a second is no measure"


def test_now_is_the_last_seconds() -> None:
    slow_then_fast = [(float(t), t) for t in range(50)] + [(50.0 + t, 50 + 8 * t) for t in range(11)]
    assert rates_of(*slow_then_fast).per_s("rows", NOW_S) == pytest.approx(8.0)
    assert rates_of(*slow_then_fast).per_s("rows", ETA_S) == pytest.approx(130 / 60)


def test_a_standstill_is_a_rate_of_zero_and_has_no_end() -> None:
    rates = rates_of(*((float(t), 7) for t in range(70)))
    assert rates.per_s("rows") == 0.0 and rates.left_s(10) is None


def test_the_time_that_is_left() -> None:
    rates = rates_of((0.0, 0), (10.0, 20), (20.0, 40))
    assert rates.left_s(100) == pytest.approx(30.0)
    assert rates.left_s(40) is None and rates.left_s(39) is None


def test_memory_does_not_grow() -> None:
    rates = rates_of(*((float(t), 3 * t) for t in range(10_000)))
    assert len(rates._samples) <= ETA_S + 2
    assert rates.per_s("rows", ETA_S) == pytest.approx(3.0)
