"""Which row is which: equal rows have equal ids wherever and whenever they are read, and ids are counted right."""

from __future__ import annotations

import datetime
import decimal
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayllm_batch.data.row_id import ID_BYTES, RowCounts, UniqueIds, as_pairs, row_id
from rayllm_batch.errors import DatasetError

DIFFERENT = [
    {"a": 1},
    {"a": 2},
    {"b": 1},
    {"a": "1"},
    {"a": "x"},
    {"a": "x "},
    {"a": ""},
    {},
    {"a": [1]},
    {"a": [[1]]},
    {"a": []},
    {"a": {"b": 1}},
    {"a": {"b": 2}},
    {"a": [{"b": 1}]},
    {"a": True},
    {"a": 0.5},
    {"a": float("nan")},
    {"a": float("inf")},
    {"a": b"x"},
    {"a": b""},
    {"a": 2**63},
    {"a": -(2**63)},
    {"a": 2**64 + 1},
    {"a": 2**64 + 2},
    {"a": 10**5000},
    {"a": "\ud800"},
    {"a": "\udfff"},
    {"a": datetime.datetime(2024, 1, 2)},
    {"a": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc)},
    {"a": datetime.time(1)},
    {"a": datetime.timedelta(1)},
    {"a": decimal.Decimal("1.50")},
    {"a": {"x", "y"}},
    {"a": "1", "b": "2"},
    {"a": "2", "b": "1"},
    {"a": "12", "b": ""},
    {"a": [None]},
    {"a": [None, None]},
    {"a": np.datetime64("2024-01-02T03")},
]
# As Arrow, NumPy and Ray Data give one row at different times, alone in its block or beside others.
EQUAL = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}),
    ({"a": 1}, {"a": 1.0}),
    ({"a": [1, 2]}, {"a": [1.0, 2.0]}),
    ({"a": 1}, {"a": 1, "b": None}),
    ({"a": {"x": 1}}, {"a": {"x": 1, "y": None}}),
    ({"a": 0.0}, {"a": -0.0}),
    ({"a": [1, 2]}, {"a": (1, 2)}),
    ({"a": [[1, 2], [3, 4]]}, {"a": np.array([[1, 2], [3, 4]])}),
    ({"a": 1}, {"a": np.int32(1)}),
    ({"a": 0.5}, {"a": np.float32(0.5)}),
    ({"a": True}, {"a": np.bool_(True)}),
    ({"a": b"x"}, {"a": bytearray(b"x")}),
    ({"a": float("nan")}, {"a": np.float64("nan")}),
    ({"a": datetime.datetime(2024, 1, 2)}, {"a": np.datetime64("2024-01-02T00:00:00")}),
]


class Point:
    """A value of a kind that Arrow does not know; its repr shows its address."""

    def __init__(self, x: int) -> None:
        self.x = x


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("no")


def test_rows_that_differ_have_ids_that_differ() -> None:
    ids = [row_id(row) for row in DIFFERENT]
    assert {len(i) for i in ids} == {ID_BYTES}
    assert [DIFFERENT[i] for i, count in enumerate(ids) if ids.count(count) > 1] == []


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=[str(pair) for pair in EQUAL])
def test_equal_rows_have_one_id(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert row_id(one) == row_id(other)


def test_a_row_keeps_its_id_whatever_block_it_is_in() -> None:
    """Blocks join in another way each time, and Arrow then widens columns and adds those that are missing."""
    rows = [{"a": 1, "s": {"x": 1}, "n": [1]}, {"a": 2.5, "b": "t", "s": {"y": "k"}, "n": [0.5]}]
    alone = [pa.Table.from_pylist([row]) for row in rows]
    together = pa.concat_tables(alone, promote_options="permissive").to_pylist()
    assert [row_id(row) for row in together] == [row_id(table.to_pylist()[0]) for table in alone]


def test_python_objects_have_ids_that_do_not_depend_on_where_they_lie_in_memory() -> None:
    keep = [Point(i) for i in range(100)]
    assert row_id({"a": Point(1)}) == row_id({"a": keep[1]}) != row_id({"a": Point(2)})
    with pytest.raises(DatasetError, match="id_column"):
        row_id({"a": Unpicklable()})
    assert row_id({"id": 7, "a": Unpicklable()}, "id") == row_id({"id": 7}, "id")


def test_ids_are_the_same_in_every_process() -> None:
    """Sets, and the hashes of text, differ between processes."""
    row = "{'a': {'x', 'y', 'z', 'w'}, 'b': frozenset('abcdef'), 'c': b'x', 'd': 0.1, 'e': [1, None, 'ä']}"
    code = f"from rayllm_batch.data.row_id import row_id; print(row_id({row}).hex())"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in "123"
    }
    assert printed == {row_id(eval(row)).hex() + "\n"}  # noqa: S307 (text of this file)


def test_an_id_column_alone_decides_the_id() -> None:
    assert row_id({"id": 1, "a": "x"}, "id") == row_id({"a": "y", "id": 1.0}, "id") != row_id({"id": 2, "a": "x"}, "id")
    assert row_id({"a": 1}, "id") == row_id({"id": None}, "id")  # a block without the column: told as a repeated None


def pairs(*numbers: tuple[int, int]) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64).reshape(-1, 2)


@pytest.mark.parametrize("seed", range(30))
def test_counts_and_places_against_a_counter(seed: int) -> None:
    """Few first halves, so that many ids share one; the ends of the range included."""
    choose = random.Random(seed)
    values = [0, 1, 2, 2**63, 2**64 - 2, 2**64 - 1]
    some = [(choose.choice(values), choose.choice(values)) for _ in range(choose.choice([0, 1, 2, 50, 400]))]
    counts, expected = RowCounts(pairs(*some)), Counter(some)
    asked = [(high, low) for high in values for low in values]
    places = counts.find(pairs(*asked))
    assert len(counts) == len(expected)
    assert [int(counts.counts[p]) if p >= 0 else 0 for p in places] == [expected[pair] for pair in asked]
    assert [tuple(map(int, counts.pairs()[p])) for p in places if p >= 0] == [
        pair for pair in asked if pair in expected
    ]


def test_bytes_and_pairs_are_one_order() -> None:
    ids = [row_id({"a": i}) for i in range(1000)]
    counts = RowCounts(as_pairs(b"".join(ids)))
    assert counts.pairs().astype(">u8").tobytes() == b"".join(sorted(ids))
    assert as_pairs(b"").shape == (0, 2)


@pytest.mark.parametrize("seed", range(10))
def test_unique_ids_against_a_set(seed: int) -> None:
    choose = random.Random(seed)
    unique, seen = UniqueIds(), Counter()
    for _ in range(60):
        some = [(choose.randrange(40), choose.randrange(40)) for _ in range(choose.choice([0, 1, 3, 20]))]
        here = Counter(some)
        assert list(unique.add(pairs(*some))) == [seen[pair] > 0 or here[pair] > 1 for pair in some]
        seen.update(some)


def test_unique_ids_of_many_small_batches_are_merged() -> None:
    """Each id is sorted again about log2(n) times; sorting all with each batch took hours for a million rows."""
    unique, ids = UniqueIds(), np.random.default_rng(0).integers(0, 2**63, (64_000, 2), dtype=np.uint64)
    for start in range(0, len(ids), 64):
        assert not unique.add(ids[start : start + 64]).any()
    assert len(unique._runs) <= 12
    assert unique.add(ids[::1000]).all()
