"""A run into a folder whose data has changed, without Ray: what counts in the end, and whether an engine is wanted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from rayllm_batch.data.row_id import row_id
from rayllm_batch.output import run_columns
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.finished_rows import FinishedRows
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_file import encoded
from rayllm_batch.run.folder_run import FolderRun
from rayllm_batch.run.survey import Survey
from rayllm_batch.tasks.generate import Generate

BEFORE, NOW = Job({"a": "b"}, {}, {"files": "1"}), Job({"a": "b"}, {}, {"files": "2"})
ANSWERED, FAILED = ["a", "b", "c"], ["bad line 3", "bad line 7"]


class EngineStarted(Exception):
    """A row would be computed."""


def store(folder: OutputFolder, name: str, rows: list[str], error: str | None) -> None:
    table = pa.table({"row": rows, "error": pa.array([error] * len(rows), pa.string())})
    folder.store(name, encoded(table, folder.format), b"".join(row_id({"row": row}) for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with OutputFolder(tmp_path / "out", BEFORE, "parquet") as folder:
        store(folder, "part-000001-aaaaaaaa.parquet", ANSWERED, None)
        store(folder, "failed-000002-aaaaaaaa.parquet", FAILED, "dataset_file: bad")
        folder.write_manifest("complete")
    return tmp_path / "out"


def run(
    path: Path, monkeypatch: pytest.MonkeyPatch, data: list[str], retry_failed: bool = False, job: Job = NOW
) -> tuple[int, int, str]:
    """Rows in the folder, failed ones, its state. data: the rows that are there now; computed ones are answered."""
    surveyed: list[bool] = []

    def survey(self: FolderRun, ready: Any, asked: Any, all_ids: bool, **_: Any) -> Survey | None:
        if not all_ids:
            return None
        surveyed.append(True)
        known = [row for row in data if asked.rows.find(ids_of([row]))[0] >= 0]
        found = Survey(FinishedRows(asked.rows), new=len(data) - len(known))
        found.known.saw(b"".join(row_id({"row": row}) for row in known))
        return found

    def execute(plan: Any, rows: Any, total: Any, token: Any, write: Any, *, finished: Any = None, **_: Any) -> None:
        known = [row for row in data if finished is not None and finished.find(ids_of([row]))[0] >= 0]
        todo = [row for row in data if row not in known]
        if not todo:
            raise EngineStarted
        assert total == len(todo)
        seen = b"".join(row_id({"row": row}) for row in known)
        table = {"row": todo, "error": pa.nulls(len(todo), pa.string()), run_columns.FINISHED_IDS: [seen] * len(todo)}
        written.extend(todo)
        store(opened, f"part-00000{opened.next_number()}-bbbbbbbb.parquet", todo, None)
        write(SimpleNamespace(iter_batches=lambda **_: [pa.table(table).slice(0, 1)]))

    written: list[str] = []
    monkeypatch.setattr(FolderRun, "_survey", survey)
    monkeypatch.setattr("rayllm_batch.run.folder_run.PartWriter", lambda *_: Nothing())
    monkeypatch.setattr(OutputFolder, "dataset", lambda self: SimpleNamespace())
    rows = SimpleNamespace(carried=lambda: None, exact_total=len(data), task=SimpleNamespace(legend=""))
    execution: Any = SimpleNamespace(
        workload=SimpleNamespace(),
        options=SimpleNamespace(preserve_order=False, replica_range=(1, 1)),
        config=SimpleNamespace(task_kind=Generate()),
        preflight=lambda *_: (SimpleNamespace(token="", rows=rows), SimpleNamespace(engines=(1, 1), chosen=str)),
        begin=lambda *_: None,
        measure=lambda: SimpleNamespace(rows=len(written), to_dict=dict),
        report=lambda: SimpleNamespace(to_json=lambda: b"{}"),
        execute=execute,
        metrics=SimpleNamespace(),
    )
    with OutputFolder(path, job, "parquet") as opened:
        FolderRun(execution, opened, None, retry_failed, "refuse").run()
    with OutputFolder(path, job, "parquet") as opened:
        return opened.rows, opened.failed_rows, "complete" if opened.complete else "unfinished"


class Nothing:
    """In place of a PartWriter: what `execute` answers is stored at once."""

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def add(self, table: pa.Table) -> None:
        pass


def ids_of(rows: list[str]) -> Any:
    from rayllm_batch.data.row_id import as_pairs

    return as_pairs(b"".join(row_id({"row": row}) for row in rows))


def test_a_line_that_was_mended_takes_the_place_of_the_failed_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(folder, monkeypatch, [*ANSWERED, FAILED[1], "line 3, mended"]) == (5, 1, "complete")
    said = capsys.readouterr().out
    assert "1 rows are new, 4 were known, 0 are gone." in said and "5 rows, 1 failed, 4 answered" in said
    assert "1 row in the folder is no longer in the input. It had failed, and is set aside." in said


@pytest.mark.parametrize("retry_failed", [False, True])
@pytest.mark.parametrize("job", [NOW, BEFORE])
def test_lines_that_were_removed_start_no_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, retry_failed: bool, job: Job
) -> None:
    """job: with BEFORE, the folder is of a version that let such rows stay, and is said to be of this data."""
    found = run(folder, monkeypatch, ANSWERED, retry_failed, job)
    if job == BEFORE and not retry_failed:  # the data is not read again
        assert found == (5, 2, "complete")
        return
    said = capsys.readouterr().out
    assert found == (3, 0, "complete") and "3 rows, 0 failed, 3 answered; there was nothing to run." in said
    assert "2 rows in the folder are no longer in the input. They had failed, and are set aside." in said


def test_failed_rows_that_are_there_are_tried_again_and_those_that_are_gone_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(folder, monkeypatch, [*ANSWERED, FAILED[1]], retry_failed=True) == (4, 0, "complete")
    said = capsys.readouterr().out
    assert "1 rows are new, 3 were known, 0 are gone." in said and "1 row in the folder is no longer in the" in said


def test_answers_of_rows_that_are_gone_stay(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run(folder, monkeypatch, ["b", "c", *FAILED, "d"]) == (6, 2, "complete")
    said = capsys.readouterr().out
    assert "1 rows are new, 4 were known, 1 are gone from the data and keep their answers (or is it another" in said
    assert "no longer in the input" not in said
