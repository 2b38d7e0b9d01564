"""The rows of a workload before the run: a Dataset of this file's own stands in for Ray's, which would start Ray."""

from __future__ import annotations

import copy
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data
from ray.data.dataset import MaterializedDataset

from rayllm_batch.cluster import resources
from rayllm_batch.data import columns, dataset_file
from rayllm_batch.data.dataset_file import Room
from rayllm_batch.data.file_part import Reader
from rayllm_batch.data.read_options import ReadOptions
from rayllm_batch.errors import DatasetError, WorkloadError
from rayllm_batch.run import rows
from rayllm_batch.run.rows import COUNTED_ROWS, PARSED_ROWS, SAMPLE_ROWS, explain_read, read_rows
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workload import ChatWorkloadBase


class Lazy(ray.data.Dataset):
    """What read_rows uses of a Dataset, over a list; `taken` has how many rows were asked for each time."""

    def __init__(self, all_rows: list[dict[str, Any]], error: Exception | None = None) -> None:
        self._rows, self._error, self._current_executor = all_rows, error, None
        self._context = copy.deepcopy(ray.data.DataContext.get_current())
        self.limited: int | None = None
        self.taken: list[int] = []
        self.counted = 0

    def limit(self, limit: int) -> Lazy:
        assert self.context.execution_options.preserve_order or limit == SAMPLE_ROWS, "not whichever come first"
        limited = Lazy(self._rows[:limit], self._error)
        limited.taken = self.taken
        limited._context, limited.limited = self._context, limit
        return limited

    def iter_rows(self) -> Any:
        self.taken.append(0)
        for row in self._rows:
            if self._error:
                raise self._error
            self.taken[-1] += 1
            yield row

    def count(self) -> int:
        self.counted += 1
        if self._error:
            raise self._error
        return len(self._rows)


class Materialized(Lazy, MaterializedDataset):
    def get_internal_block_refs(self) -> list[Any]:
        return []  # of Ray's store, which is not there: the rows come from take()


@dataclass
class Work(ChatWorkloadBase):
    data: Any = None
    parsed: list[dict[str, Any]] = field(default_factory=list)

    def load_dataset(self) -> Any:
        return self.data

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        self.parsed.append(row)
        if row.get("bad"):
            raise ValueError("this row is bad")
        return {"messages": [{"role": "user", "content": row["text"]}]}


def some(number: int, **columns: Any) -> list[dict[str, Any]]:
    return [{"id": n, "text": f"text {n}", **columns} for n in range(number)]


def read(data: Any, fraction: float = 1.0, **kwargs: Any) -> rows.Rows:
    return read_rows(Work(data=data, dataset_fraction=fraction), **kwargs)


def test_a_long_dataset_is_read_only_at_its_beginning() -> None:
    work = Work(data=Lazy(some(5000)))
    found = read_rows(work)
    assert found.dataset is work.data and found.sample == some(SAMPLE_ROWS) and found.total is None
    assert work.data.taken == [SAMPLE_ROWS] and not work.data.counted and work.parsed == some(PARSED_ROWS)
    assert not found.dataset.context.execution_options.preserve_order


@pytest.mark.parametrize("picture", [bytes(1000), [bytes(10)] * 100, np.zeros(500, np.uint16)], ids=type)
def test_a_sample_of_large_rows_has_fewer(picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "SAMPLE_BYTES", 20_500)
    lazy = Lazy([{**row, "picture": picture} for row in some(100)])
    found = read(lazy)
    assert 15 < len(found.sample) <= 20 and lazy.taken[0] < 22, "the others are not read"
    assert found.total is None and str(found) == f"more than {len(found.sample)} rows", "there are more, by whatever"
    monkeypatch.setattr(rows, "SAMPLE_BYTES", 1)
    assert len(read(lazy).sample) == 1
    monkeypatch.setattr(rows, "SAMPLE_BYTES", 200_000)
    assert read(lazy).total == 100


def test_large_rows_of_files_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"text": [f"text {n}" for n in range(100)], "picture": [bytes([n]) * 10_000 for n in range(100)]})
    pq.write_table(table, tmp_path / "rows.parquet", compression="none")
    monkeypatch.setattr(dataset_file, "HEAD_BYTES", 50_000)
    files = dataset_file.find_files(str(tmp_path / "rows.parquet"))
    dataset: Any = SimpleNamespace(_rayllm_batch_files=(files, Reader(files.fs, "parquet", ReadOptions())))
    room = Room(300_000)
    assert dataset_file.first_rows(dataset, 256, room) == table.to_pylist()[:29] and room.is_spent
    room = Room(300_000)
    assert room.fitting(table).num_rows == 29 and room.is_spent and not room.fitting(table).num_rows
    room = Room(3_000_000)
    assert len(dataset_file.first_rows(dataset, 256, room) or ()) == 100 and not room.is_spent
    room = Room(5)
    assert room.fitting(table).num_rows == 1, "the first has room, whatever its size"


@pytest.mark.parametrize(
    ("size", "others"), [(5000, list(range(8, 249, 31))[:8]), (10, [8, 9]), (8, []), (3, []), (16, list(range(8, 16)))]
)
def test_other_rows_are_tried_when_asked_for(size: int, others: list[int]) -> None:
    work = Work(data=Lazy(some(size)))
    found = read_rows(work)
    work.parsed.clear()
    chats, failed = found.others()
    assert [row["id"] for row in work.parsed] == others and len(chats) == len(others) and not failed


def test_a_short_datasets_size_is_known() -> None:
    assert read(Lazy(some(255))).total == 255
    assert read(Lazy(some(256))).total is None, "there may be more"
    assert read(Lazy(some(1))).total == 1


def test_files_say_how_many_rows_there_are_at_least() -> None:
    lazy = Lazy(some(5000))
    assert read(lazy).at_least == 0
    lazy._rayllm_batch_bytes = 10**9
    row_bytes = len(str(some(SAMPLE_ROWS)[0]))
    assert 0.5 * 10**9 / (row_bytes + 5) < read(lazy).at_least <= 0.5 * 10**9 / row_bytes
    assert read(lazy, 1000).at_least == 0, "the number is known"


def test_the_size_of_a_dataset_in_memory_is_known() -> None:
    assert read(Materialized(some(5000))).total == 5000
    assert read(Materialized(some(5000)), 1000).total == 1000
    assert read(Materialized(some(5000)), 9000).total == 5000


def test_a_size_that_the_files_have_told_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "known_rows", lambda data: len(data._rows) if data.limited is None else None)
    for fraction, total in ((1.0, 600), (250, 250), (9000, 600)):
        found = read(Lazy(some(600)), fraction)
        assert (found.total, found.total_is_a_limit) == (total, False)


@pytest.mark.parametrize(
    ("fraction", "of", "expected"),
    [
        (0.25, 1000, 250),
        (0.07, 100, 7),
        (0.55, 100, 55),
        (0.29, 100, 29),
        (1e-9, 1000, 1),
        (0.999, 10, 10),
        (0.34, 3, 2),
        (300, 1000, 300),
        (1000.0, 5000, 1000),
        (1.5, 1000, 1),
        (2.9, 1000, 2),
    ],
)
def test_a_fraction_is_a_share_or_a_number(fraction: float, of: int, expected: int) -> None:
    found = read(Lazy(some(of)), fraction)
    assert found.dataset.limited == found.total == expected
    assert found.sample == some(min(expected, SAMPLE_ROWS))


def test_more_rows_asked_for_than_there_are() -> None:
    assert read(Lazy(some(20)), 1000).total == 20


def test_a_number_of_rows_that_was_asked_for_is_a_limit_where_nobody_has_counted() -> None:
    many = read(Lazy(some(COUNTED_ROWS + 5)), 10 * COUNTED_ROWS)
    assert many.total_is_a_limit and many.exact_total is None and str(many) == "at most 100,000 rows"
    few = read(Lazy(some(5000)), 10 * COUNTED_ROWS)
    assert few.exact_total == 5000 and str(few) == "5,000 rows" and str(read(Lazy(some(5000)))) == "more than 256 rows"
    for known in (
        read(Lazy(some(5000)), 1000),
        read(Lazy(some(20)), 1000),
        read(Lazy(some(5000)), 0.5),
        read(Materialized(some(5000)), 9000),
        read(Lazy(some(300))),
    ):
        assert not known.total_is_a_limit


def test_all_rows_are_not_limited() -> None:
    assert read(Lazy(some(300)), 1.0).dataset.limited is None
    assert read(Lazy(some(300)), 1).dataset.limited is None


def test_order_is_kept_when_asked_for() -> None:
    assert read(Lazy(some(3)), preserve_order=True).dataset.context.execution_options.preserve_order


@pytest.mark.parametrize("fraction", [1.0, 0.5, 10])
def test_no_rows(fraction: float) -> None:
    with pytest.raises(DatasetError, match="The dataset of Work has no rows"):
        read(Lazy([]), fraction)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1, 2, 1], "not unique: 1 comes more than once"),
        (["a", "b", "b"], "not unique: 'b'"),
        ([[1], [1], [2]], "not unique"),
        ([1, None, 2], "null in row 2"),
        ([1.0, 2, 1], "not unique"),
        ([1.5, float("nan")], "null in row 2"),
        ([{"a": 1}, {"a": 1}], "not unique"),
        (["", ""], "not unique"),
    ],
)
def test_ids_that_do_not_tell_rows_apart(ids: list[Any], words: str) -> None:
    data = [{"id": n, "text": "t", "key": key} for n, key in enumerate(ids)]
    with pytest.raises(DatasetError, match=f"id_column='key' is {words}"):
        read(Lazy(data), id_column="key")


def test_ids_of_several_kinds_tell_rows_apart() -> None:
    data = [{"id": n, "text": "t", "key": key} for n, key in enumerate([1, "1", True, b"1", [1], {"1": 1}])]
    assert read(Lazy(data), id_column="key").total == len(data)


def test_an_id_that_some_rows_lack() -> None:
    with pytest.raises(DatasetError, match="id_column='key' is null in row 3"):
        read(Lazy([*({"text": "t", "key": n} for n in range(2)), {"text": "t"}]), id_column="key")


def test_a_column_that_is_not_there_has_a_neighbour() -> None:
    with pytest.raises(DatasetError, match="has: id, text, key.*Did you mean 'key'"):
        read(Lazy(some(3, key=1)), id_column="keys")


def test_a_row_of_nothing() -> None:
    with pytest.raises(DatasetError, match="have no columns"):
        read(Lazy([{}, {}]))


def test_a_column_that_comes_twice() -> None:
    error = KeyError('Field "text" exists 2 times in schema')
    with pytest.raises(DatasetError, match="more than one column named 'text'"):
        read(Lazy(some(3), error))


def test_what_parse_row_does_to_its_row_stays_there() -> None:
    class Changing(Work):
        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            row["tags"].append("seen")
            return {"messages": [{"role": "user", "content": row.pop("text")}]}

    found = read_rows(Changing(data=Lazy(some(3, tags=["a"]))))
    assert found.sample[0] == {"id": 0, "text": "text 0", "tags": ["a"]}


def test_a_value_that_python_has_no_object_for_is_its_rows_error() -> None:
    odd = columns.UnreadableRow(id=1, text="text", when=10**15)
    odd.error = ValueError("the value of column 'when' cannot be read: year 33658 is out of range")
    found = read(Lazy([*some(2), odd]))
    assert len(found.chats) == 2 and found.failed == (f"parse_row: ValueError: {odd.error}",)


@pytest.mark.ray
def test_rows_in_memory_are_read_without_a_task(ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.data.Dataset, "iter_rows", lambda *_: pytest.fail("Ray Data has a task for this"))
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # with which Ray refuses types that it otherwise pickles
    table = pa.table({"id": range(600), "text": pa.array([f"text {n}" for n in range(600)], pa.string_view())})
    given = {
        "arrow": ray.data.from_arrow(table),
        "items": ray.data.from_items(table.to_pylist()),
        "pandas": ray.data.from_pandas(table.to_pandas()),
        "several": ray.data.from_arrow([table.slice(0, 100), table.slice(100, 0), table.slice(100)]),
        "computed": ray.data.range(600).map(lambda row: {"id": row["id"], "text": f"text {row['id']}"}).materialize(),
    }
    for name, dataset in given.items():
        found = read(dataset)
        assert found.sample == table.to_pylist()[:SAMPLE_ROWS] and found.total == 600, name
    when = pa.array([0, 10**18], pa.timestamp("s"))
    assert len(read(ray.data.from_arrow(pa.table({"text": ["a", "b"], "when": when}))).failed) == 1


def test_a_parse_row_that_would_end_the_process() -> None:
    class Leaving(Work):
        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            raise SystemExit(3)

    with pytest.raises(WorkloadError, match="SystemExit: 3"):
        read_rows(Leaving(data=Lazy(some(3))))


def test_columns_that_the_output_adds() -> None:
    with pytest.raises(DatasetError, match="already has the column.*'error'"):
        read(Lazy(some(3, error="none")))
    with pytest.raises(DatasetError, match="already has the column.*'finish_reason'"):
        read(Lazy([*some(3), *some(3, finish_reason="none")]))


def test_an_id_column_that_is_not_there() -> None:
    read(Lazy(some(3)), id_column="id")
    with pytest.raises(DatasetError, match="id_column='uid' is not a column of the dataset, which has: id, text"):
        read(Lazy(some(3)), id_column="uid")


def test_some_bad_rows_pass_and_none_good_do_not() -> None:
    read(Lazy([*some(PARSED_ROWS - 1, bad=True), *some(1)]))
    with pytest.raises(WorkloadError, match=r"Work.parse_row fails on each of the first 8 row\(s\).*this row is bad"):
        read(Lazy([*some(PARSED_ROWS, bad=True), *some(100)]))
    with pytest.raises(WorkloadError, match=r"each of the first 2 row\(s\)"):
        read(Lazy(some(2, bad=True)))


# --- errors of a read


class OfRay(Exception):
    def __init__(self, cause: BaseException | None) -> None:
        super().__init__("a task failed")
        self.cause = cause


def test_our_own_error_inside_rays() -> None:
    ours = DatasetError("line 7 is not JSON")
    middle = RuntimeError("in between")
    middle.__cause__ = OfRay(ours)
    assert explain_read(OfRay(middle)) is ours


@pytest.mark.parametrize("fraction", [1.0, 0.5], ids=["take", "count"])
def test_an_error_is_explained_wherever_it_comes(fraction: float) -> None:
    with pytest.raises(DatasetError, match="line 7") as caught:
        read(Lazy(some(3), OfRay(DatasetError("line 7 is not JSON"))), fraction)
    assert caught.value.__cause__ is None
    with pytest.raises(PermissionError):
        read(Lazy(some(3), PermissionError("prompts.csv")), fraction)


def test_an_error_that_goes_in_a_circle_ends() -> None:
    error = OfRay(None)
    error.cause = error
    assert explain_read(error) is error


def test_a_long_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "NOTICE_S", 0.01)
    monkeypatch.setattr(resources, "free", lambda: "The cluster has 2 CPUs on 1 node; free: 0 CPUs.")
    said, heard = [], threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            heard.set()

    monkeypatch.setattr(rows.log, "handlers", [Handler()])

    class Slow(Lazy):
        def limit(self, limit: int) -> Lazy:
            heard.wait(60)
            return super().limit(limit)

    assert read(Slow(some(3))).total == 3
    assert said == [
        "Reading the first rows of Work takes more than 0 s. The cluster has 2 CPUs on 1 node; free: 0 CPUs."
    ]


def test_a_quick_read_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    monkeypatch.setattr(rows.log, "handlers", [])
    read(Lazy(some(3)), 0.5)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(60)  # cancelled: it ends by itself, long before its time
    assert threading.active_count() <= before


def test_rows_that_all_fail_are_no_errors_of_the_workload_where_each_error_is_a_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, data, task = [], Lazy(some(20, bad=True)), Generate()
    monkeypatch.setattr(rows.log, "warning", lambda text, *args: said.append(text % args))
    with pytest.raises(WorkloadError, match="fails on each of the first 8"):
        rows.read_rows(Work(data=data))
    assert not said
    task.rows_may_all_fail = True
    found = rows.read_rows(Work(data=data), task=task)
    assert (found.chats, len(found.failed)) == ((), 8)
    assert "fails on each of the first 8 row(s)" in said[0], "seen before an engine starts"
