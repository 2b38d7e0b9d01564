"""`parse_answer`, behind the engine: what it returns are columns, and what it does is its own row's affair."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest

from rayllm_batch import ChatWorkloadBase
from rayllm_batch.data import columns
from rayllm_batch.errors import WorkloadError
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers.parse_answer import parse_answers
from rayllm_batch.workload.base import check_workload


def parsed(parse: Any, rows: int = 3) -> list[dict[str, Any]]:
    answers = {"generated_text": ["text"] * rows, "num_input_tokens": [5] * rows, "num_generated_tokens": [1] * rows}
    answers |= {"finish_reason": ["stop"] * rows, "error": pa.nulls(rows, pa.string())}
    return columns.rows(parse_answers(pa.table({"id": range(rows), **answers}), parse, Generate()))


def test_each_row_has_what_was_returned_for_it() -> None:
    """Whatever the user's code keeps, or does to what it was given."""
    kept: dict[str, Any] = {"all": []}

    def parse(row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        kept["of"] = row["id"]
        kept["all"].append(row["id"])
        row["id"], answer["generated_text"] = 99, "changed"
        return kept

    rows = parsed(parse)
    assert [(row["id"], row["of"], row["all"]) for row in rows] == [(0, 0, [0]), (1, 1, [0, 1]), (2, 2, [0, 1, 2])]
    assert {row["generated_text"] for row in rows} == {"text"} and not any(row["error"] for row in rows)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raises(problem: type[BaseException]) -> None:
    raise problem


BAD = {
    "nothing": lambda: None,
    "a list": lambda: [{"a": 1}],
    "no names": lambda: {1: 2},
    "a taken name": lambda: {"error": "mine"},
    "a name that is no text": lambda: {"\udcff": 1},
    "what is read once": lambda: {"a": iter("ab")},
    "what nobody awaits": lambda: {"a": asyncio.Future(loop=asyncio.new_event_loop())},
    "SystemExit": lambda: raises(SystemExit),
    "GeneratorExit": lambda: raises(GeneratorExit),
    "an error without a text": lambda: raises(Mute),
    "StopIteration": lambda: raises(StopIteration),
}


@pytest.mark.parametrize("what", BAD)
def test_what_it_does_wrong_is_its_rows_error(what: str) -> None:
    rows = parsed(lambda row, answer: BAD[what]() if row["id"] == 1 else {"good": row["id"]})
    assert [row["good"] for row in rows] == [0, None, 2] and [row["error"] for row in rows[::2]] == [None, None]
    assert rows[1]["error"].startswith("parse_answer: ") and rows[1]["generated_text"] == "text"
    assert rows[1]["finish_reason"] == "error" and len(rows[1]["error"]) < 520


async def awaits(row: Any, answer: Any) -> dict[str, Any]:
    return {}


def yields(row: Any, answer: Any) -> Any:
    yield {}


@pytest.mark.parametrize("given", [awaits, yields, lambda row: {}, lambda: {}, 3])
def test_what_could_return_no_columns_is_said_before_an_engine_starts(given: Any) -> None:
    class Mine(ChatWorkloadBase):
        parse_answer = staticmethod(given) if callable(given) else given

        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return {}

    with pytest.raises(WorkloadError, match=r"def parse_answer\(self, row, answer\)"):
        check_workload(Mine())
