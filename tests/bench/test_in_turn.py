"""Contenders in processes of their own, in turn. Their engines are clocks."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

import pytest

from bench.in_turn import compare


def fixed(job: dict[str, Any], seconds: float) -> Generator[Any, Any, None]:
    print("an engine's own words, which are not the table's")
    work = yield None
    while True:
        if work.get("breaks"):
            raise ValueError("out of memory")
        work = yield {"seconds": seconds * work["rows"], "pid": job["pid"]}


def test_all_answer_each_work_and_ratios_are_those_of_neighbours(capfd: pytest.CaptureFixture[str]) -> None:
    contenders = {"base": partial(fixed, seconds=0.2), "twice": partial(fixed, seconds=0.1)}
    last = compare(contenders, {"pid": 1}, {"few": {"rows": 2}, "many": {"rows": 10}}, pairs=2)
    out = capfd.readouterr().out
    assert [found["seconds"] for found in last["many"]] == [2.0, 1.0]
    assert out.count("| few |") == 4 and "| many | 2 | twice | 10.0 | - | 2.000 |" in out
    assert "few, median ratios: base 1.000, twice 2.000" in out and "own words" not in out


def test_a_contender_that_breaks_ends_the_comparison_with_its_name(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="base: ValueError: out of memory"):
        compare({"base": partial(fixed, seconds=1)}, {"pid": 1}, {"one": {"rows": 1, "breaks": True}}, pairs=1)
