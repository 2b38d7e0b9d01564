"""Answered rows become parts: all of them, once, readable together, whatever fails meanwhile."""

from __future__ import annotations

import datetime
import decimal
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from answers import a_failure, an_answer
from column_samples import PLAIN, rays

from rayllm_batch.data import columns
from rayllm_batch.data.columns import carried, merged
from rayllm_batch.data.row_id import as_pairs, row_id
from rayllm_batch.errors import DatasetError, OutputError
from rayllm_batch.output import part_writer
from rayllm_batch.output import run_columns as output
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_reader import common_schema
from rayllm_batch.output.part_writer import PartWriter
from rayllm_batch.tasks.generate import Generate

ROOT = str(Path(__file__).parents[2])


def answered(
    rows: list[dict[str, Any]] | pa.Table, failed: tuple[int, ...] = (), id_column: str | None = None
) -> pa.Table:
    """What comes out of the engine stage for these rows."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    ids = [row_id(row, id_column) for row in table.to_pylist()]
    table = output.with_row_ids(table, ids).drop_columns([output.FINISHED_IDS])
    answers = [a_failure("bad row") if i in failed else an_answer("text", 1, 2, "stop") for i in range(len(ids))]
    return output.with_answers(table, answers, Generate())


def opened(path: Path, output_format: str = "parquet") -> OutputFolder:
    return OutputFolder(path, Job({"model_id": "m"}), output_format)


def read(folder: OutputFolder) -> pa.Table:
    """All parts together, as `OutputFolder.dataset` reads them."""
    pieces = [piece for task in folder.pieces() for piece in task]
    wanted = common_schema(pieces, folder.place.fs, folder.format)
    return pa.concat_tables([merged(piece.read(folder.place.fs, folder.format), wanted) for piece in pieces])


def ids_match(folder: OutputFolder) -> bool:
    """Whether the ids that count are those of the rows in the files, duplicates included."""
    rows = read(folder).drop_columns(Generate().schema.names).to_pylist()
    expected, counts = Counter(row_id(row) for row in rows), folder.asked().rows
    places = counts.find(as_pairs(b"".join(expected)))
    return len(counts) == len(expected) and [int(counts.counts[p]) for p in places] == list(expected.values())


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_every_row_is_written_once_and_failed_ones_apart(tmp_path: Path, output_format: str) -> None:
    with opened(tmp_path, output_format) as folder, PartWriter(folder) as writer:
        for start in range(0, 50, 10):
            writer.add(answered([{"a": i % 7} for i in range(start, start + 10)], failed=(3,)))
        writer.add(answered([{"a": 0}]).slice(0, 0))
    with opened(tmp_path, output_format) as folder:
        assert ids_match(folder) and (folder.rows, folder.failed_rows) == (50, 5)
        assert Counter(read(folder).column("a").to_pylist()) == Counter(i % 7 for i in range(50))
        failed = [name for name in folder.parts if name.startswith("failed")]
        assert len(failed) == 1 and len(folder.parts) == 2
        assert read(folder).schema.field("error").type == pa.string()


# Two parts whose columns differ, and how one value of each is read from both together.
SCHEMAS = {
    "null, then text": ([{"x": None}], [{"x": "t"}], [None, "t"]),
    "whole, then fraction": ([{"x": 1}], [{"x": 2.5}], [1.0, 2.5]),
    "fraction, then whole": ([{"x": 2.5}], [{"x": 1}], [2.5, 1.0]),
    "a struct that grows": ([{"x": {"a": 1}}], [{"x": {"a": 1, "b": "k"}}], [{"a": 1, "b": None}, {"a": 1, "b": "k"}]),
    "a struct with a null": ([{"x": {"a": None}}], [{"x": {"a": "s"}}], [{"a": None}, {"a": "s"}]),
    "an empty list": ([{"x": []}], [{"x": ["s"]}], [[], ["s"]]),
    "a list of whole numbers": ([{"x": [1]}], [{"x": [0.5]}], [[1.0], [0.5]]),
    "a column more": ([{"y": 1}], [{"x": "t"}], [None, "t"]),
    "a column less": ([{"x": "t"}], [{"y": 1}], ["t", None]),
    "null again": ([{"x": "t"}], [{"x": None}], ["t", None]),
    "text like a date": ([{"x": "2024-01-02"}], [{"x": "no"}], ["2024-01-02", "no"]),
    "text like a date, then null": ([{"x": "2024-01-02"}], [{"x": None}], ["2024-01-02", None]),
}


@pytest.mark.parametrize("columns", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
@pytest.mark.parametrize("resumed", [False, True])
def test_parts_with_other_columns_are_read_together(
    tmp_path: Path, columns: tuple[Any, Any, Any], output_format: str, resumed: bool
) -> None:
    one, two, expected = columns
    folder = opened(tmp_path, output_format)
    if resumed:
        for rows in (one, two):
            with opened(tmp_path, output_format) as folder, PartWriter(folder) as writer:
                writer.add(answered(rows))
    else:
        with folder, PartWriter(folder) as writer:
            writer.add(answered(one))
            writer._flush()
            writer.add(answered(two))
    with opened(tmp_path, output_format) as folder:
        assert len(folder.parts) == 2
        assert read(folder).sort_by([("generated_text", "ascending")]).column("x").to_pylist() == expected
        assert ids_match(folder)


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_a_column_of_numbers_here_and_text_there_has_the_values_themselves(tmp_path: Path, output_format: str) -> None:
    with opened(tmp_path, output_format) as folder, PartWriter(folder) as writer:
        writer.add(answered([{"x": 7}, {"x": 2**60}]))
        writer._flush()
        for i in range(10):
            writer.add(answered([{"x": i if i % 2 else f"t{i}"}, {"x": None}], failed=(1,)))
        writer._flush()
        writer.add(answered([{"x": "again"}]))
        writer.add(answered([{"x": True}]))
    with opened(tmp_path, output_format) as folder, PartWriter(folder) as writer:
        writer.add(answered([{"x": 3}]))
    with opened(tmp_path, output_format) as folder:
        assert Counter(map(repr, read(folder).column("x").to_pylist())) == Counter(
            map(repr, [7, 2**60, *(i if i % 2 else f"t{i}" for i in range(10)), *[None] * 10, "again", True, 3])
        )
        assert folder.rows == 25 and ids_match(folder)
        assert folder.as_text == (["x"] if output_format == "parquet" else [])
        assert len({folder.parts[name].schema for name in folder.parts}) == 2, "what is known to be mixed stays so"


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_blocks_as_they_come_from_a_run_whose_columns_have_other_types(tmp_path: Path, output_format: str) -> None:
    every = {**PLAIN, **rays()}
    known = pa.schema([("n", pa.int64()), *((name, pa.float64()) for name in every)])
    blocks = [
        pa.table({"n": [1, 2, 3], **every}),
        pa.table({"n": [4], **{name: pa.array([0.5]) for name in every}}),
        pa.table({"n": [5, 6, 7], **every}),
        pa.table({"n": [8]}),
    ]
    with opened(tmp_path, output_format) as folder, PartWriter(folder) as writer:
        for block in blocks:
            rows = carried(block, known)
            table = output.with_row_ids(rows, [row_id(row) for row in columns.rows(rows)]).drop_columns(
                [output.FINISHED_IDS]
            )
            writer.add(
                output.with_answers(
                    table, [an_answer(str(n), 1, 2, "stop") for n in block.column("n").to_pylist()], Generate()
                )
            )
            if block is blocks[2]:
                writer._flush()
    with opened(tmp_path, output_format) as folder:
        back = {row["n"]: row for row in read(folder).to_pylist()}
    assert len(back) == folder.rows == 8
    for row in (row for block in blocks for row in block.to_pylist()):
        for name in every:
            found, value = back[row["n"]][name], row.get(name)
            assert repr(found) == repr(value) or found == value or isinstance(value, dict) or tuple(value) == found, (
                name
            )


def test_whole_numbers_beside_fractions_keep_every_digit(tmp_path: Path) -> None:
    for path, whole in ((tmp_path / "few", 2**53), (tmp_path / "many", 2**53 + 1)):
        for rows in ([{"x": whole}], [{"x": 0.5}], [{"x": 3}]):
            with opened(path) as folder, PartWriter(folder) as writer:
                writer.add(answered(rows))
        with opened(path) as folder:
            assert sorted(read(folder).column("x").to_pylist()) == [0.5, 3, whole]
            assert pa.types.is_floating(read(folder).schema.field("x").type) == (whole == 2**53)


VALUES = {
    "ünïcode 図": 'ünïcode 図 🙂 \u2028 \n \t " \\ \x00',
    "none": None,
    "when": datetime.datetime(2024, 1, 2, 3, 4, 5, 6),
    "day": datetime.date(2024, 1, 2),
    "zone": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "bytes": b"\x00\xff",
    "nan": float("nan"),
    "inf": [float("inf"), 1.5],
    "big": 2**63 - 1,
    "small": -(2**63),
    "price": decimal.Decimal("1.50"),
    "nested": {"a": [{"b": float("-inf"), "c": b"x"}], "d": None},
    "took": datetime.timedelta(seconds=1),
    "yes": True,
}


def test_jsonl_is_valid_json_of_every_kind_of_value(tmp_path: Path) -> None:
    with opened(tmp_path, "jsonl") as folder, PartWriter(folder) as writer:
        writer.add(answered([VALUES, VALUES]))
    (path,) = tmp_path.glob("*.jsonl")
    assert path.read_bytes().count(b"\n") == 2 and path.read_bytes().endswith(b"}\n")

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        row = json.loads(line, parse_constant=refuse)
        assert (
            row["ünïcode 図"] == VALUES["ünïcode 図"]
            and row["none"] is None
            and row["nan"] == "NaN"
            and row["yes"] is True
        )
        assert (
            row["bytes"] == "AP8="
            and row["inf"] == ["Infinity", 1.5]
            and (row["big"], row["small"]) == (2**63 - 1, -(2**63))
        )
        assert row["nested"] == {"a": [{"b": "-Infinity", "c": "eA=="}], "d": None} and row["price"] == "1.50"
        assert row["when"] == "2024-01-02 03:04:05.000006" and row["day"] == "2024-01-02" and row["error"] is None


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_every_kind_of_value_is_read_as_it_was(tmp_path: Path, output_format: str) -> None:
    with opened(tmp_path, output_format) as folder, PartWriter(folder) as writer:
        writer.add(answered([VALUES]))
    with opened(tmp_path, output_format) as folder:
        (back,) = read(folder).to_pylist()
        assert folder.asked().rows.find(as_pairs(row_id({name: back[name] for name in VALUES}))) >= 0
    assert str({name: back[name] for name in VALUES}) == str(pa.Table.from_pylist([VALUES]).to_pylist()[0])


def test_rows_do_not_wait_in_memory_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_writer, "WAIT_S", (0.0, 0.0))
    with opened(tmp_path) as folder, PartWriter(folder) as writer:
        writer.add(answered([{"a": 1}]))
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob("part-*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.glob("part-*.parquet"))
        writer.add(answered([{"a": 2}]))
    with opened(tmp_path) as folder:
        assert folder.rows == 2 and ids_match(folder)


# What fails.


class Full:
    """Lets `stores` parts be stored; then the disk is full, or Ctrl-C comes before or after the next is stored."""

    def __init__(self, folder: OutputFolder, stores: int, error: BaseException, stored_first: bool = False) -> None:
        self._store, self._left, self._error, self._stored_first = folder.store, stores, error, stored_first
        folder.store = self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._left -= 1
        if self._left == -1 or self._left < 0 and isinstance(self._error, OSError):
            if self._stored_first:
                self._store(*args, **kwargs)
            raise self._error
        self._store(*args, **kwargs)


def test_a_full_disk_is_told_with_the_next_step_and_loses_nothing_stored(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        Full(folder, 1, OSError(28, "No space left on device"))
        with (
            pytest.raises(OutputError, match=r"No space left.*The 2 rows written so far are safe.*run the same again"),
            PartWriter(folder) as w,
        ):
            w.add(answered([{"a": 1}, {"a": 2}]))
            w._flush()
            w.add(answered([{"a": 3}]))
    with opened(tmp_path) as folder:
        assert folder.rows == 2 and ids_match(folder)
        with PartWriter(folder) as writer:
            writer.add(answered([{"a": 3}]))
    with opened(tmp_path) as folder:
        assert folder.rows == 3 and ids_match(folder)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug")], ids=["full", "bug"])
def test_an_error_in_the_background_reaches_the_next_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(part_writer, "WAIT_S", (0.0, 0.0))
    raised = []
    with opened(tmp_path) as folder:
        Full(folder, 0, error)
        with pytest.raises((OutputError, RuntimeError)) as caught, PartWriter(folder) as writer:
            writer.add(answered([{"a": 1}]))
            deadline = time.monotonic() + 20
            while writer._error is None and time.monotonic() < deadline:
                time.sleep(0.05)
            for _ in range(2):
                try:
                    writer.add(answered([{"a": 2}]))
                except Exception as problem:
                    raised.append(problem)
    assert len(raised) == 2 and raised[0] is raised[1] is caught.value and str(error) in str(caught.value)


@pytest.mark.parametrize("failing", ["store", "write_manifest", "encode", "nothing"])
@pytest.mark.parametrize(
    "original", [ValueError("the original"), KeyboardInterrupt("the original")], ids=["error", "interrupt"]
)
def test_leaving_after_an_error_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, original: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise pa.ArrowInvalid("a second error") if failing == "encode" else OSError(28, "No space left on device")

    with opened(tmp_path) as folder:
        with pytest.raises(type(original), match="the original"), PartWriter(folder) as writer:
            writer.add(answered([{"a": 1}]))
            if failing == "encode":
                monkeypatch.setattr(part_writer, "encoded", fail)
            elif failing != "nothing":
                monkeypatch.setattr(folder, failing, fail)
            raise original
        assert folder.rows == (1 if failing in ("nothing", "write_manifest") else 0)
    assert not any(thread.name == "part-writer" for thread in threading.enumerate())


def test_a_manifest_that_cannot_be_written_at_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with (
        opened(tmp_path) as folder,
        pytest.raises(OutputError, match="1 rows written so far are safe"),
        PartWriter(folder) as writer,
    ):
        writer.add(answered([{"a": 1}]))
        monkeypatch.setattr(folder, "write_manifest", fail)


@pytest.mark.parametrize("stores", range(4))
@pytest.mark.parametrize("stored_first", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_an_interrupt_while_parts_are_stored_neither_loses_nor_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stores: int, stored_first: bool, mixed: bool
) -> None:
    """Ctrl-C in a notebook comes in the middle of anything; what waits is written on leaving."""
    monkeypatch.setattr(part_writer, "PART_BYTES", 100)
    added = []
    with opened(tmp_path) as folder:
        Full(folder, stores, KeyboardInterrupt(), stored_first)
        with pytest.raises(KeyboardInterrupt), PartWriter(folder) as writer:
            for i in range(100):
                rows = [{"a": i}, {"a": i}, {"a": f"x{i}" if mixed else -i}]
                added += [str(row["a"]) for row in rows]
                monkeypatch.setattr(part_writer, "PART_BYTES", 100 if i % 3 == 2 else 1 << 30)
                for row in rows:
                    writer._waiting["failed" if row["a"] == i and i % 2 else "part"].append(("", answered([row])))
                writer.add(answered([{"a": i}]).slice(0, 0)) if i % 3 != 2 else writer.add(
                    answered([{"a": "y" if mixed else 0}])
                )
                added += ["y" if mixed else "0"] if i % 3 == 2 else []
    added += ["y" if mixed else "0"]  # of the call that was interrupted
    with opened(tmp_path) as folder:
        assert Counter(str(x) for x in read(folder).column("a").to_pylist()) == Counter(added)
        assert folder.rows == len(added) == folder.asked().rows.counts.sum()


def test_an_id_column_with_repeated_values_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        with (
            pytest.raises(DatasetError, match="id_column='id' is not unique: 7 comes more than once"),
            PartWriter(folder, "id") as writer,
        ):
            for i in range(20):
                writer.add(answered([{"id": i, "a": "x"}], id_column="id"))
            writer.add(answered([{"id": 30, "a": "x"}, {"id": 7, "a": "y"}], id_column="id"))
        assert folder.rows == 20, "what came before is kept"
    with (
        opened(tmp_path / "within") as folder,
        pytest.raises(DatasetError, match="'k' comes more"),
        PartWriter(folder, "id") as writer,
    ):
        writer.add(answered([{"id": "j"}, {"id": "k"}, {"id": "k"}], id_column="id"))


MANY = """
import json, resource, sys
import pyarrow as pa
from rayllm_batch.data import columns
from rayllm_batch.output import part_writer, run_columns as output
from rayllm_batch.data.columns import carried, merged
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_writer import PartWriter
from rayllm_batch.engine.base import Reply
from rayllm_batch.tasks.base import Answer
from rayllm_batch.tasks.generate import Generate
part_writer.PART_BYTES = 4 << 20
text, peaks, size = "an answer of some length " * 12, [], 5000
answers = [Answer(1, Reply(text, 2, "stop"))] * size
with OutputFolder(sys.argv[1], Job({"model_id": "m"}), "parquet") as folder, PartWriter(folder) as writer:
    for start in range(0, int(sys.argv[2]), size):
        ids = [i.to_bytes(16, "big") for i in range(start, start + size)]
        table = output.with_row_ids(pa.table({"a": list(range(start, start + size))}), ids)
        table = table.drop_columns([output.FINISHED_IDS])
        writer.add(output.with_answers(table, answers, Generate()))
        if start % 100_000 == 0:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    print(json.dumps(peaks))
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    rows = 500_000
    run = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path), str(rows)],
        env={"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = json.loads(run.stdout)
    assert peaks[-1] - peaks[1] < 60, f"MiB after each 100,000 rows: {peaks}"  # rows that are kept would be 100 more
    with opened(tmp_path) as folder:
        assert folder.rows == rows == len(folder.asked().rows)
