"""The folder of a job: what counts after a kill or a cut, whose folder it is, and what it says is wrong with it."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from rayllm_batch.data.row_id import RowCounts, as_pairs, row_id
from rayllm_batch.errors import OutputError
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.finished_rows import DIGEST, FinishedRows
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.folder_view import FolderView
from rayllm_batch.output.part_file import decoded, encoded

JOB = Job({"model_id": "org/model"}, {"workload": "Mine"}, {"files of dataset_file": "1 file(s)"})
ROOT = str(Path(__file__).parents[2])
NAMES = ["part-000001-aaaaaaaa.parquet", "failed-000002-aaaaaaaa.parquet", "part-000003-aaaaaaaa.parquet"]


def opened(path: Any, **given: Any) -> OutputFolder:
    return OutputFolder(path, given.pop("job", JOB), given.pop("output_format", "parquet"), **given)


def store(folder: OutputFolder, name: str, values: list[int], asked: Any = None) -> None:
    table = pa.table({"a": values})
    digests = b"" if asked is None else asked.astype(DIGEST).tobytes()
    folder.store(name, encoded(table, folder.format), b"".join(row_id({"a": v}) for v in values), digests)


def read(folder: OutputFolder, name: str) -> list[int]:
    part = folder.parts[name]
    content = Path(folder.place.root, name).read_bytes()
    return decoded(content, folder.format, pa.ipc.read_schema(pa.py_buffer(part.schema))).column("a").to_pylist()


def begun(path: Path, state: str = "unfinished") -> Path:
    """Three parts: 1 2 3, failed 4 5, 6 6."""
    with opened(path) as folder:
        for name, values in zip(NAMES, ([1, 2, 3], [4, 5], [6, 6]), strict=True):
            store(folder, name, values)
        folder.write_manifest(state)
    return path


def finished(folder: OutputFolder) -> Counter:
    """The values whose ids count as finished."""
    counts = folder.asked().rows
    values = {v: counts.find(as_pairs(row_id({"a": v})))[0] for v in range(20)}
    return Counter({v: int(counts.counts[place]) for v, place in values.items() if place >= 0})


def in_files(folder: OutputFolder) -> Counter:
    """The values in the parts that count; raises when one cannot be read."""
    return Counter(
        v for name in folder.parts for v in pa.parquet.read_table(f"{folder.place.root}/{name}").column("a").to_pylist()
    )


def test_a_folder_is_continued_where_it_was_left(tmp_path: Path) -> None:
    with opened(begun(tmp_path / "out")) as folder:
        assert finished(folder) == in_files(folder) == Counter({1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2})
        assert (folder.rows, folder.failed_rows, folder.complete, folder.set_aside) == (7, 2, False, [])
        assert folder.next_number() == 4 and folder.schema == pa.schema([("a", pa.int64())])


def test_a_complete_folder_is_complete_as_long_as_its_parts_are(tmp_path: Path) -> None:
    begun(tmp_path, "complete")
    with opened(tmp_path) as folder:
        assert folder.complete
    (tmp_path / NAMES[2]).unlink()
    with opened(tmp_path) as folder:
        assert not folder.complete and finished(folder) == in_files(folder) == Counter([1, 2, 3, 4, 5])


@pytest.mark.parametrize("left", [0, 1, 4, 100, -100, -8, -4, -1, "longer"])
def test_a_part_that_is_not_what_was_written_does_not_count(tmp_path: Path, left: Any) -> None:
    part = begun(tmp_path) / NAMES[2]
    content = part.read_bytes()
    part.write_bytes(content + b"x" if left == "longer" else content[:left])
    with opened(tmp_path) as folder:
        assert folder.set_aside == [NAMES[2]] and finished(folder) == in_files(folder) == Counter([1, 2, 3, 4, 5])
        store(folder, "part-000003-bbbbbbbb.parquet", [6, 6])
    with opened(tmp_path) as folder:
        assert folder.set_aside == [] and finished(folder) == in_files(folder) == Counter([1, 2, 3, 4, 5, 6, 6])


IDS_CUTS = {
    "empty": lambda b: b"",
    "a byte": lambda b: b[:1],
    "half of the header": lambda b: b[:40],
    "the header": lambda b: b[: b.index(b"\n")],
    "the header's line": lambda b: b[: b.index(b"\n") + 1],
    "half an id": lambda b: b[:-24],
    "an id": lambda b: b[:-16],
    "a byte less": lambda b: b[:-1],
    "an id more": lambda b: b + bytes(16),
    "zeros": lambda b: bytes(len(b)),
    "a number": lambda b: b"7\n",
    "a list": lambda b: b"[]\n",
    "no fields": lambda b: b"{}\n",
    "a wrong field": lambda b: b.replace(b'"rows": 2', b'"rows": "x"'),
    "no rows": lambda b: b.replace(b'"rows": 2', b'"rows": null'),
    "not text": lambda b: b"\xff\xfe" + b,
}


@pytest.mark.parametrize("cut", IDS_CUTS.values(), ids=IDS_CUTS)
def test_a_part_without_readable_ids_does_not_count(tmp_path: Path, cut: Any) -> None:
    ids = begun(tmp_path) / "_rayllm_batch/rows" / f"{NAMES[2]}.ids"
    assert cut(ids.read_bytes()) != ids.read_bytes()
    ids.write_bytes(cut(ids.read_bytes()))
    with opened(tmp_path) as folder:
        assert folder.set_aside == [NAMES[2]] and finished(folder) == in_files(folder) == Counter([1, 2, 3, 4, 5])
    with opened(tmp_path) as folder:
        assert folder.set_aside == [] and finished(folder) == in_files(folder) == Counter([1, 2, 3, 4, 5])


MANIFEST_CUTS = {
    "missing": None,
    "empty": lambda b: b"",
    "a byte": lambda b: b[:1],
    "half": lambda b: b[: len(b) // 2],
    "a byte less": lambda b: b[:-1],
    "garbage": lambda b: b"\xff\x00garbage",
    "zeros": lambda b: bytes(len(b)),
    "null": lambda b: b"null",
    "a list": lambda b: b"[1]",
}


@pytest.mark.parametrize("cut", MANIFEST_CUTS.values(), ids=MANIFEST_CUTS)
@pytest.mark.parametrize("state", ["unfinished", "complete"])
def test_without_its_manifest_a_folder_is_still_that_of_its_rows(tmp_path: Path, cut: Any, state: str) -> None:
    manifest = begun(tmp_path, state) / "_rayllm_batch/manifest.json"
    content = manifest.read_bytes()
    for attempt in ("other job", "other format", "same"):
        manifest.unlink() if cut is None else manifest.write_bytes(cut(content))
        if attempt == "other job":
            with (
                pytest.raises(OutputError, match=r"another job.*another output_path"),
                opened(tmp_path, job=Job({"model_id": "x"})),
            ):
                pass
        elif attempt == "other format":
            with (
                pytest.raises(OutputError, match="output_format='parquet', not 'jsonl'"),
                opened(tmp_path, output_format="jsonl"),
            ):
                pass
        else:
            with opened(tmp_path) as folder:
                assert not folder.complete and finished(folder) == in_files(folder) == Counter([1, 2, 3, 4, 5, 6, 6])
        manifest.write_bytes(content) if cut is None and attempt != "same" else None
    assert json.loads(manifest.read_bytes())["fingerprint"] == JOB.fingerprint


def test_parts_without_any_record_are_refused_and_left_alone(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / "_rayllm_batch/manifest.json").unlink()
    for path in (tmp_path / "_rayllm_batch/rows").iterdir():
        path.unlink()
    with pytest.raises(OutputError, match="Give an empty or a new folder"), opened(tmp_path):
        pass
    assert all((tmp_path / name).exists() for name in NAMES)


def test_another_job_is_refused_and_told_apart(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(OutputError, match=r"model_id was org/model, is org/other\. .*another output_path"):
        opened(tmp_path, job=Job({"model_id": "org/other"})).__enter__()
    with pytest.raises(OutputError, match="begun with output_format='parquet', not 'jsonl'"):
        opened(tmp_path, output_format="jsonl").__enter__()
    manifest = tmp_path / "_rayllm_batch/manifest.json"
    manifest.write_text(json.dumps({"fingerprint": "x", "job": [1]}))
    with pytest.raises(OutputError, match="holds another job"):
        opened(tmp_path).__enter__()
    manifest.unlink()
    with opened(tmp_path) as folder:  # a refusal releases the lock
        assert folder.rows == 7


@pytest.mark.parametrize(
    "name", ["notes.txt", "data.parquet", "part-1.parquet", "sub/file", "part-000001-aaaaaaaa.parquet"]
)
def test_a_folder_with_other_files_is_refused_and_nothing_is_made_in_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        OutputError, match=f"not of a run of this library.*{Path(name).parts[0]}.*Give an empty or a new folder"
    ):
        opened(tmp_path).__enter__()
    assert sorted(tmp_path.rglob("*")) == before


def test_hidden_files_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    begun(tmp_path)
    (tmp_path / ".nfs0001").write_text("x")
    (tmp_path / "_rayllm_batch/manifest.json").unlink()
    with opened(tmp_path) as folder:
        assert folder.rows == 7
    (tmp_path / "my_notes.txt").write_text("x")
    with opened(tmp_path) as folder:  # in a folder that is ours anyway
        assert folder.rows == 7


def test_what_a_killed_driver_was_writing_is_removed(tmp_path: Path) -> None:
    begun(tmp_path)
    inside = tmp_path / "_rayllm_batch"
    left = [
        tmp_path / "part-000004-bbbbbbbb.parquet.unfinished",
        inside / "manifest.json.unfinished",
        inside / "rows/x.ids.unfinished",
    ]
    for path in left:
        path.write_bytes(b"x" * 100)
    (tmp_path / "mine.unfinished").write_text("kept")
    with opened(tmp_path) as folder:
        assert folder.rows == 7
    assert [path for path in left if path.exists()] == [] and (tmp_path / "mine.unfinished").exists()
    left[0].write_bytes(b"x")
    (tmp_path / "mine.unfinished").unlink()
    (inside / "manifest.json").write_bytes(b"")
    with opened(tmp_path) as folder:
        assert folder.rows == 7


def test_ids_without_a_part_are_forgotten(tmp_path: Path) -> None:
    """A kill between the two leaves this: the ids come first."""
    begun(tmp_path)
    os.unlink(tmp_path / NAMES[0])
    with opened(tmp_path) as folder:
        assert finished(folder) == in_files(folder) == Counter([4, 5, 6, 6])
    assert not (tmp_path / "_rayllm_batch/rows" / f"{NAMES[0]}.ids").exists()


def test_retry_failed_takes_failed_parts_away_and_no_others(tmp_path: Path) -> None:
    begun(tmp_path, "complete")
    with opened(tmp_path) as folder:
        folder.run_again(failed=True)
        assert not folder.complete and finished(folder) == in_files(folder) == Counter([1, 2, 3, 6, 6])
        assert (folder.rows, folder.failed_rows) == (5, 0)
    assert (tmp_path / "_rayllm_batch/set_aside" / NAMES[1]).is_file()
    with opened(tmp_path) as folder:  # killed before the rows were run again
        assert not folder.complete and finished(folder) == in_files(folder) == Counter([1, 2, 3, 6, 6])


def test_failed_rows_that_are_gone_are_put_aside_and_no_others(tmp_path: Path) -> None:
    with opened(begun(tmp_path, "complete")) as folder:
        store(folder, "failed-000004-aaaaaaaa.parquet", [7])
        before = FinishedRows(folder.asked().rows)
        before.saw(row_id({"a": 1}) + row_id({"a": 5}) + row_id({"a": 6}))
        assert folder.forget_failed(before.take_out) == 2  # 4 and 7
        assert before.missing().sum() == 3, "2, 3 and one of 6 have answers"
        assert folder.failed_rows == 1 and not folder.complete
        assert folder.forget_failed(before.take_out) == 0
    with opened(tmp_path) as folder:
        assert in_files(folder) == finished(folder) == Counter([1, 2, 3, 5, 6, 6])
        aside = Path(folder.place.inside("set_aside"))
        assert sorted(path.name for path in aside.iterdir()) == [NAMES[1], "failed-000004-aaaaaaaa.parquet"]


def test_retry_failed_of_a_folder_without_failed_rows_has_nothing_to_do(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        store(folder, NAMES[0], [1])
        folder.write_manifest("complete")
    with opened(tmp_path) as folder:
        folder.run_again(failed=True)
        assert folder.complete


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("again", [True, False])
def test_retry_failed_killed_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, again: bool
) -> None:
    """Two failed parts; each is moved, then its ids are removed. No row is doubled, none that is not there counts."""
    begun(tmp_path)
    with opened(tmp_path) as folder:
        store(folder, "failed-000004-aaaaaaaa.parquet", [7, 7])
        folder.write_manifest("complete")
    taken = []

    class Killed(BaseException):
        pass

    class Dying:
        """The filesystem until it dies."""

        def __init__(self, fs: Any) -> None:
            self._fs = fs

        def __getattr__(self, name: str) -> Any:
            if name not in ("move", "delete_file"):
                return getattr(self._fs, name)

            def call(*args: Any) -> Any:
                if len(taken) == step:
                    raise Killed
                taken.append(name)
                return getattr(self._fs, name)(*args)

            return call

    folder = opened(tmp_path)
    try:
        with folder:
            folder.place.fs = Dying(folder.place.fs)
            folder.run_again(failed=True)
    except Killed:
        assert step < 4
    else:
        assert step >= 4
    with opened(tmp_path) as folder:
        folder.run_again(failed=again)
        assert not folder.complete and finished(folder) == in_files(folder)
        left = Counter() if again or step >= 3 else Counter([7, 7]) if step >= 1 else Counter([4, 5, 7, 7])
        assert in_files(folder) == Counter([1, 2, 3, 6, 6]) + left


def asked_of(folder: OutputFolder) -> dict[int, int]:
    asked = folder.asked()
    places = {v: asked.rows.find(as_pairs(row_id({"a": v})))[0] for v in range(20)}
    return {v: int(asked.digests[place]) for v, place in places.items() if place >= 0}


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
@pytest.mark.parametrize("step", range(8))
def test_rows_that_are_run_again_killed_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, output_format: str
) -> None:
    """Of three parts, one loses a row, one all, one none. The others stay, with what was asked."""
    parts = {
        "part-000001-aaaaaaaa": [1, 2, 3],
        "part-000002-aaaaaaaa": [4],
        "failed-000003-aaaaaaaa": [5],
        "part-000004-aaaaaaaa": [6, 6],
    }
    with opened(tmp_path, output_format=output_format) as folder:
        for name, values in parts.items():
            store(folder, f"{name}.{output_format}", values, np.array([10 * v for v in values]))
        folder.write_manifest("complete")
    calls, kill_at = [], step

    def dying(call: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            if len(calls) == kill_at:
                raise KeyboardInterrupt
            calls.append(call)
            return call(*args, **kwargs)

        return called

    with opened(tmp_path, output_format=output_format) as folder:
        for whose, name in ((folder.place, "write"), (folder, "_put_aside")):
            monkeypatch.setattr(whose, name, dying(getattr(whose, name)))
        again = b"".join(row_id({"a": v}) for v in (2, 4, 5, 9))
        try:
            folder.run_again(ids=again)
            assert step >= 5
        except KeyboardInterrupt:
            assert step < 5
    with opened(tmp_path, output_format=output_format) as folder:
        found = Counter(v for name in folder.parts for v in read(folder, name))
        assert found == finished(folder) and found - Counter({2: 1, 4: 1}) == Counter([1, 3, 5, 6, 6])
        assert asked_of(folder) == {v: 10 * v if v != 5 else 0 for v in found}, "a failed row has no answer to protect"
        assert folder.complete == (step < 1)
        kill_at = -1
        folder.run_again(ids=again)
        assert finished(folder) == Counter([1, 3, 5, 6, 6]) and folder.failed_rows == 1
    with opened(tmp_path, output_format=output_format) as folder:
        assert finished(folder) == Counter([1, 3, 5, 6, 6]) and asked_of(folder) == {1: 10, 3: 30, 5: 0, 6: 60}
        assert folder.schema == pa.schema([("a", pa.int64())])


def test_other_hints_are_no_other_job_and_count_from_when_they_are_accepted(tmp_path: Path) -> None:
    begun(tmp_path, "complete")
    other = Job(JOB.settings, {"workload": "Yours", "workload.note": '""'}, JOB.rows)
    for _ in range(2):
        with opened(tmp_path, job=other) as folder:
            assert folder.changed == ["workload was Mine, is Yours", 'workload.note was not set, is ""']
            folder.write_manifest("unfinished")
    with opened(tmp_path) as folder:
        assert folder.changed == []
    with opened(tmp_path, job=other) as folder:
        folder.accept()
        folder.write_manifest("complete")
    with opened(tmp_path, job=other) as folder:
        assert folder.changed == [] and folder.same_rows
    with opened(tmp_path, job=Job(JOB.settings, other.hints, {"files of dataset_file": "2 file(s)"})) as folder:
        assert folder.complete and not folder.same_rows
    (tmp_path / "_rayllm_batch/manifest.json").unlink()
    with opened(tmp_path) as folder:
        assert folder.changed == ["workload was not set, is Mine"], "what asked for them is not known"


def test_a_folder_of_a_later_format_is_refused(tmp_path: Path) -> None:
    manifest = begun(tmp_path) / "_rayllm_batch/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 3, "version": "9.1"}))
    with pytest.raises(OutputError, match="written by rayllm_batch 9.1, in a format .*3.* Install that version"):
        opened(tmp_path).__enter__()


@pytest.mark.parametrize("given", [None, 7, "", b"x", ["a"]])
def test_an_output_path_that_is_none(given: Any) -> None:
    with pytest.raises(OutputError, match="output_path must be the path or URI of a folder"):
        opened(given)
    with pytest.raises(OutputError, match="parquet, jsonl"):
        opened("x", output_format="csv")


@pytest.mark.parametrize(
    "place", ["file", "file/below", "/proc/x", "/proc/self/x", "/sys/x/y", "/dev/null", "/dev/null/x"]
)
def test_a_place_that_cannot_be_a_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="Give the path of a folder|Choose another output_path"):
        opened(tmp_path / place).__enter__()
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("uri", ["nosuch://key:pass%2Fword@x/y@z", "nosuch://key:pass%2Fword@x/y@z*"])
def test_the_password_of_a_uri_is_not_shown(uri: str) -> None:
    with pytest.raises(OutputError) as caught:
        opened(uri)
    assert "pass" not in str(caught.value) and "word" not in str(caught.value)
    assert "nosuch://***@x/y@z" in str(caught.value)


@pytest.mark.parametrize("uri", ["nosuch://x/y", "://", "s3://", "s3:///"])
def test_a_uri_that_cannot_be_opened(uri: str) -> None:
    with pytest.raises(OutputError, match="output_path"):
        opened(uri)


def test_a_uri_of_the_local_disk_and_a_path_with_strange_characters(tmp_path: Path) -> None:
    begun(tmp_path / "a b")
    with opened(f"file://{tmp_path}/a%20b") as folder:
        assert folder.rows == 7 and folder.place.is_local
    for name in ("a%20b", "model=8b", "ü图", "x y;z&w"):
        with opened(begun(tmp_path / name)) as folder:
            assert finished(folder) == in_files(folder) and folder.rows == 7


@pytest.mark.parametrize("name", ["a*", "a?b", "a[1]", "a#b"])
def test_a_name_that_ray_data_takes_for_a_pattern_is_refused_before_any_row_is_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="Leave it out"):
        opened(tmp_path / name)


def test_a_second_driver_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        with pytest.raises(OutputError, match=f"Another run is writing.*process {os.getpid()} "):
            opened(tmp_path).__enter__()
        store(folder, NAMES[0], [1])
    with opened(tmp_path) as folder:
        assert folder.rows == 1


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A storage without locks or renames: what s3:// is."""
    for name, value in {"HEARTBEAT_S": 0.1, "LEASE_S": 0.4, "LOOK_EVERY_S": 0.05, "SETTLE_S": 0.05}.items():
        monkeypatch.setattr(f"rayllm_batch.output.lock.{name}", value)
    fs = pa.fs.SubTreeFileSystem(str(tmp_path), pa.fs.LocalFileSystem())
    monkeypatch.setattr("rayllm_batch.output.place._filesystem", lambda given: (fs, "bucket/out", False))
    return tmp_path / "bucket/out"


def test_a_folder_on_storage_without_locks(remote: Path) -> None:
    with opened("s3://bucket/out") as folder:
        for name, values in zip(NAMES, ([1, 2, 3], [4, 5], [6, 6]), strict=True):
            store(folder, name, values)
        with pytest.raises(OutputError, match="Another run"):
            opened("s3://bucket/out").__enter__()
    part = remote / NAMES[0]
    part.write_bytes(part.read_bytes()[:50])
    with opened("s3://bucket/out") as folder:
        folder.run_again(failed=True)
        assert folder.set_aside == [NAMES[0]] and finished(folder) == Counter([6, 6])
    with pytest.raises(OutputError, match="holds another job"), opened("s3://bucket/out", job=Job({"x": "y"})):
        pass


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def look(path: Any) -> None:
    """As a check does, and a run that is refused before anything is computed."""
    with opened(path):
        pass
    with pytest.raises(ValueError, match="a typo"), opened(path) as folder:
        folder.write_manifest("unfinished")
        raise ValueError("a typo in the prompt")


@pytest.mark.parametrize("there", [[], ["a"], ["a/b/out"], ["a/b/out", "a/b/out/.DS_Store"], ["a/b/out", "a/b/more"]])
def test_nothing_is_left_of_a_folder_in_which_nothing_was_computed(tmp_path: Path, there: list[str]) -> None:
    for name in there:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    before = everything(tmp_path)
    look(tmp_path / "a/b/out")
    assert everything(tmp_path) == before


def test_what_a_killed_driver_has_left_without_rows_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "_rayllm_batch" / "rows").mkdir(parents=True)
    (tmp_path / "_rayllm_batch" / "manifest.json").write_text(
        '{"format": 2, "fingerprint": "of a job that has no rows"}'
    )
    look(tmp_path)
    assert not everything(tmp_path)


@pytest.mark.parametrize(
    "name", ["metrics.json", "rows/part-000001-aaaaaaaa.parquet.ids.unfinished", "set_aside/x", "y"]
)
def test_what_says_something_is_left(tmp_path: Path, name: str) -> None:
    with opened(tmp_path) as folder:
        Path(folder.place.inside(name)).touch()
    assert (tmp_path / "_rayllm_batch" / name).exists()


def test_rows_are_left_and_all_that_belongs_to_them(tmp_path: Path) -> None:
    before = everything(begun(tmp_path / "out"))
    look(tmp_path / "out")
    assert everything(tmp_path / "out") == before


def test_of_a_folder_that_another_driver_holds_nothing_is_removed(tmp_path: Path) -> None:
    with opened(tmp_path / "out") as folder:
        before = everything(tmp_path)
        for job in (JOB, Job({"x": "y"})):
            with pytest.raises(OutputError, match="Another run"):
                opened(tmp_path / "out", job=job).__enter__()
        assert everything(tmp_path) == before
        store(folder, NAMES[0], [1])
    assert (tmp_path / "out" / NAMES[0]).exists()


def test_on_storage_nothing_is_left_but_the_name(remote: Path) -> None:
    look("s3://bucket/out")
    assert not everything(remote)
    with opened("s3://bucket/out") as folder:
        store(folder, NAMES[0], [1])
        lease = remote / "_rayllm_batch" / "lock"
        other = {**json.loads(lease.read_text()), "pid": 1, "start": 1.0}
        del folder.parts[NAMES[0]]
        (remote / NAMES[0]).unlink()
        (remote / "_rayllm_batch" / "rows" / f"{NAMES[0]}.ids").unlink()
        lease.write_text(json.dumps(other))  # this one slept for longer than its lease
    assert json.loads(lease.read_text()) == other


def test_drivers_that_come_and_go_are_never_two_and_lose_no_row(tmp_path: Path) -> None:
    path, inside, problems = tmp_path / "a" / "out", list[int](), list[str]()
    end = time.monotonic() + 2

    def come_and_go(number: int) -> None:
        while time.monotonic() < end and not problems:
            try:
                with opened(path) as folder:
                    inside.append(number)
                    if inside != [number]:
                        problems.append("two at once")
                    if number == 0 and time.monotonic() > end - 0.2 and not folder.rows:
                        store(folder, NAMES[0], [1, 2])
                    inside.remove(number)
            except OutputError as error:
                if "Another run" not in str(error):
                    problems.append(str(error))
            except Exception as error:
                problems.append(repr(error))

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    with opened(path) as folder:
        if not folder.rows:
            store(folder, NAMES[0], [1, 2])
    with opened(path) as folder:
        assert folder.rows == 2


def many(path: Path, output_format: str = "parquet", parts: int = 20) -> list[int]:
    """As many parts of two rows each, of a job that is over, and two with failed rows."""
    with opened(path, output_format=output_format) as folder:
        for i in range(parts):
            store(folder, f"part-{i + 1:06}-aaaaaaaa.{output_format}", [2 * i, 2 * i + 1], np.array([i + 1, i + 1]))
        for i in range(2):
            store(folder, f"failed-{parts + i + 1:06}-aaaaaaaa.{output_format}", [100 + i])
    return [*range(2 * parts), 100, 101]


def of_all(folder: OutputFolder) -> list[int]:
    return [value for name in sorted(folder.parts) if name.startswith("part") for value in read(folder, name)]


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_small_parts_are_merged(output_format: str, tmp_path: Path) -> None:
    values = many(tmp_path, output_format)
    with opened(tmp_path, output_format=output_format) as folder:
        asked = folder.asked()
        folder.merge_small()
        assert [name.rpartition("-")[0] for name in folder.parts] == ["part-000020", "failed-000022"]
        assert of_all(folder) == values[:40]
        files = {path.name for path in tmp_path.iterdir() if path.is_file()}
        ids = {path.stem for path in (tmp_path / "_rayllm_batch" / "rows").iterdir()}
        assert files == ids == set(folder.parts)
    with opened(tmp_path, output_format=output_format) as folder:
        assert folder.rows == 42 and folder.failed_rows == 2 and not folder.set_aside and of_all(folder) == values[:40]
        again = folder.asked()
        assert np.array_equal(again.rows.pairs(), asked.rows.pairs()) and np.array_equal(again.digests, asked.digests)
        folder.merge_small()
        assert len(folder.parts) == 2, "few are left alone"


def test_parts_are_merged_until_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = many(tmp_path)
    with opened(tmp_path) as folder:
        size = folder.parts["part-000001-aaaaaaaa.parquet"].size
        monkeypatch.setattr("rayllm_batch.output.folder.MERGED_BYTES", 5 * size - 100)
        folder.merge_small()
        assert [part.rows for part in folder.parts.values() if not part.failed] == [10, 10, 10, 10]
        assert of_all(folder) == values[:40]


def test_parts_of_another_schema_stay_apart(tmp_path: Path) -> None:
    many(tmp_path)
    with opened(tmp_path) as folder:
        table = pa.table({"a": [50], "b": ["x"]})
        folder.store("part-000030-aaaaaaaa.parquet", encoded(table, "parquet"), row_id({"a": 50, "b": "x"}))
        folder.merge_small()
        assert sorted(part.rows for part in folder.parts.values()) == [1, 2, 40]
    with opened(tmp_path) as folder:
        assert folder.schema is not None and folder.schema.names == ["a", "b"], "the newest part's"


@pytest.mark.parametrize("steps", range(6))
def test_a_merge_that_is_cut_short_loses_and_doubles_nothing(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    values = many(tmp_path)
    with opened(tmp_path) as folder:
        write, done = folder.place.write, []

        class Limited:
            """Of the steps that change the folder, so many."""

            def __getattr__(self, name: str) -> Any:
                return getattr(pa.fs.LocalFileSystem(), name)

            def delete_file(self, path: str) -> None:
                limited(pa.fs.LocalFileSystem().delete_file, path)

        def limited(step: Any, *given: Any) -> None:
            if len(done) == steps:
                raise OSError("no more")
            done.append(given[0])
            step(*given)

        monkeypatch.setattr(folder.place, "write", lambda *given: limited(write, *given))
        folder.place.fs = Limited()
        folder.merge_small()
        assert len(done) == steps and "stay as they are: OSError: no more" in caplog.text
    view = FolderView(tmp_path)
    assert (view.rows, view.failed_rows) == (42, 2), "for who only reads, too"
    with opened(tmp_path) as folder:
        assert sorted(in_files(folder).elements()) == values and folder.rows == 42 and folder.failed_rows == 2


def test_a_part_that_cannot_be_read_is_left(tmp_path: Path, caplog: Any) -> None:
    many(tmp_path)
    path = tmp_path / "part-000003-aaaaaaaa.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    with opened(tmp_path) as folder:
        folder.merge_small()
        assert folder.rows == 42 and "stay as they are" in caplog.text


def test_half_a_part_is_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    values = many(tmp_path, "jsonl")
    with opened(tmp_path, output_format="jsonl") as folder:
        read_whole = folder.place.read
        monkeypatch.setattr(folder.place, "read", lambda path: read_whole(path).split(b"\n")[0] + b"\n")
        folder.merge_small()
        monkeypatch.undo()
        assert "could be read" in caplog.text and len(folder.parts) == 22 and of_all(folder) == values[:40]


def test_a_storage_that_is_busy_for_a_while(remote: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr("rayllm_batch.output.folder.RETRY_S", (0.01, 0.01, 0.01))
    with opened("s3://bucket/out") as folder:
        write, errors = folder.place.write, ["AWS Error SLOW_DOWN", "AWS Error NETWORK_CONNECTION", "HTTP status 503"]

        def fails(path: str, content: bytes) -> None:
            if errors and NAMES[0] in path:
                raise OSError(errors.pop(0))
            write(path, content)

        monkeypatch.setattr(folder.place, "write", fails)
        store(folder, NAMES[0], [1, 2])
        assert folder.rows == 2 and not errors and "again in" in caplog.text
        errors += ["AWS Error SLOW_DOWN"] * 4
        with pytest.raises(OSError, match="SLOW_DOWN"):  # in the end it is one
            store(folder, NAMES[0], [1, 2])
        errors[:] = ["AWS Error ACCESS_DENIED"]
        with pytest.raises(OSError, match="ACCESS_DENIED"):  # which does not pass
            store(folder, NAMES[0], [1, 2])
        assert not errors


@pytest.mark.parametrize(
    "name", ["a?", "a*/b", "a[1]", "a#b", "s3://bucket/a*", "s3://bucket/a#b?region=x", "file:///tmp/a?b=c"]
)
def test_names_that_cannot_be_read_back(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot read it back"):
        opened(name if "://" in name else tmp_path / name)


def test_a_storages_options_are_no_part_of_the_name() -> None:
    folder = opened("s3://me:secret@bucket/a?scheme=http&endpoint_override=127.0.0.1:1&region=eu-north-1")
    assert folder.place.root == "bucket/a" and not folder.place.is_local and "secret" not in folder.given


# Killed for real.


def write_until_killed(path: str, seed: int) -> None:
    choose = random.Random(seed)
    wait = choose.uniform(0, 0.1)
    with opened(path) as folder:
        threading.Thread(target=lambda: (time.sleep(wait), os.kill(os.getpid(), signal.SIGKILL)), daemon=True).start()
        while True:
            name = f"{choose.choice(['part', 'failed'])}-{folder.next_number():06d}-{os.getpid():08x}.parquet"
            store(folder, name, [choose.randrange(20) for _ in range(choose.choice([1, 5, 3000]))])
            folder.write_manifest("unfinished")


def kill_again_and_again(path: str) -> None:
    seen = Counter()
    begun(Path(f"{path}-first"))  # so that those forked need not set up Arrow's writers
    for seed in range(40):
        pid = os.fork()
        if pid == 0:
            write_until_killed(path, seed)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        with opened(path) as folder:
            now = in_files(folder)
            assert finished(folder) == now and sum(now.values()) == folder.rows
            assert seen <= now, "rows that counted before are gone"
            assert not list(Path(path).rglob("*.unfinished"))
            seen = now
    print(seen.total())


def run_here(code: str) -> subprocess.CompletedProcess:
    env = {"PYTHONPATH": f"{ROOT}:{ROOT}/tests/support:{Path(__file__).parent}"}
    code = "import test_folder as t\n" + code
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=120
    )


def test_killed_while_writing_nothing_that_counts_is_broken(tmp_path: Path) -> None:
    """Each writer goes on where the last was killed. A process of its own forks them: imports take long."""
    run = run_here(f"t.kill_again_and_again({str(tmp_path)!r} + '/out')")
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 100


FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with t.opened({path!r}) as folder:
    t.store(folder, t.NAMES[0], [1, 2, 3])
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    try:
        t.store(folder, t.NAMES[2], list(range(5)) * 1000)
    except OSError as error:
        print("refused:", error)
"""


def test_a_full_disk_leaves_earlier_parts_and_nothing_half_written(tmp_path: Path) -> None:
    run = run_here(FULL.format(path=str(tmp_path / "out")))
    assert run.stdout == "refused: [Errno 27] File too large\n", run.stderr
    assert not list(tmp_path.rglob("*.unfinished"))
    with opened(tmp_path / "out") as folder:
        assert finished(folder) == in_files(folder) == Counter([1, 2, 3])


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    """The limit is nearer: not even the manifest fits."""
    begun(tmp_path)
    run = run_here(
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); t.opened({str(tmp_path)!r}).__enter__()"
    )
    assert "OutputError: The output folder" in run.stderr and "run the same again" in run.stderr
    with opened(tmp_path) as folder:
        assert folder.rows == 7


# Which rows are left.


@pytest.mark.parametrize("seed", range(40))
def test_finished_rows_against_a_counter(seed: int) -> None:
    choose = random.Random(seed)
    values = range(choose.choice([1, 3, 30]))
    done = Counter(choose.choices(values, k=choose.choice([0, 1, 5, 100])))
    read = Counter(choose.choices(values, k=choose.choice([0, 1, 5, 100])))
    ids = {v: row_id({"a": v}) for v in values}
    rows = FinishedRows(RowCounts(as_pairs(b"".join(ids[v] for v in done.elements()))))
    again = [v for v in read.elements() if v in done]
    choose.shuffle(again)
    while again:
        some, again = again[: (k := choose.randint(1, 7))], again[k:]
        rows.saw(b"".join(ids[v] for v in some))
    rows.saw(b"")
    assert rows.owed() == {ids[v]: n - done[v] for v, n in read.items() if v in done and n > done[v]}
    assert rows.missing().sum() == sum((done - read).values())
    failed = [v for v in done.elements() if choose.random() < 0.5] + [50]  # the last, of this run
    ids[50], gone = row_id({"a": 50}), Counter[int]()
    while failed:
        some, failed = failed[: (k := choose.randint(1, 7))], failed[k:]
        found = rows.take_out(b"".join(ids[v] for v in some))
        expected = Counter({v: min(n, (done - read - gone)[v]) for v, n in Counter(some).items()})
        assert Counter(v for v, is_gone in zip(some, found, strict=True) if is_gone) == +expected
        gone += expected
    assert rows.missing().sum() == sum((done - read - gone).values())
    assert not len(rows.take_out(b""))


def test_a_row_that_was_left_out_wrongly_is_noticed() -> None:
    rows = FinishedRows(RowCounts(as_pairs(row_id({"a": 1}))))
    with pytest.raises(ValueError, match="left out"):
        rows.saw(row_id({"a": 2}))


def test_the_last_runs_metrics_stand_beside_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "_rayllm_batch" / "metrics.json"
    with opened(begun(tmp_path)) as folder:
        folder.write_metrics({"rows": 7, "mean_gpu_utilization": None})
        folder.write_metrics({"rows": 3, "mean_gpu_utilization": None})
        assert json.loads(path.read_text()) == {"rows": 3, "mean_gpu_utilization": None}
    with opened(tmp_path) as folder:
        assert path.exists() and (folder.rows, folder.set_aside) == (7, [])


@pytest.mark.parametrize(
    "problem", [OSError(28, "No space left on device"), OutputError("another driver has the folder"), ValueError("x")]
)
def test_metrics_that_cannot_be_written_are_a_warning(
    tmp_path: Path, problem: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise problem

    with opened(begun(tmp_path)) as folder:
        monkeypatch.setattr(folder.place, "write", fail)
        with caplog.at_level(logging.WARNING, "rayllm_batch"):
            folder.write_metrics({"rows": 7})
    assert "metrics cannot be written" in caplog.text and str(problem) in caplog.text
    assert not (tmp_path / "_rayllm_batch" / "metrics.json").exists()


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(
        OutputError, match=r"The output folder '/proc/answers' cannot be written: .*Choose another output_path\."
    ):
        opened("/proc/answers").__enter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written: .*Permission denied.*Choose another output_path"):
        opened(tmp_path).__enter__()


@pytest.mark.parametrize("number", [3, "3", 2.5, None, [], -1, 0])
@pytest.mark.parametrize("left", ["all", "no fingerprint", "no parts that this version knows"])
def test_a_folder_of_any_format_that_is_not_known_is_refused_and_left_alone(
    tmp_path: Path, number: Any, left: str
) -> None:
    manifest = begun(tmp_path, "complete") / "_rayllm_batch" / "manifest.json"
    changed = {**json.loads(manifest.read_text()), "format": number}
    if left != "all":
        del changed["fingerprint"]
    if left == "no parts that this version knows":
        for file in (*tmp_path.glob("*.parquet"), *(tmp_path / "_rayllm_batch" / "rows").iterdir()):
            file.unlink()
    manifest.write_text(json.dumps(changed))
    with pytest.raises(OutputError, match="in a format .* does not know"), opened(tmp_path):
        pass
    assert json.loads(manifest.read_text()) == changed


@pytest.mark.parametrize("state", ["unfinished", "complete"])
def test_parts_that_were_copied_from_another_job_s_folder_are_refused(tmp_path: Path, state: str) -> None:
    """cp -r other/. answers/, with or without the other's manifest."""
    for name, job, values in (("mine", JOB, [1, 2]), ("other", Job({"model_id": "org/other"}), [2, 3])):
        with opened(tmp_path / name, job=job) as folder:
            store(folder, f"part-000001-{name.encode().hex()[:8]}.parquet", values, np.array([7, 8]))
            folder.write_manifest(state)
    mine, other = tmp_path / "mine", tmp_path / "other"
    shutil.copytree(other, mine, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
    with pytest.raises(OutputError, match="some parts are of another one.*: part-000001-6f746865"), opened(mine):
        pass
    shutil.copy(other / "_rayllm_batch" / "manifest.json", mine / "_rayllm_batch")
    with (
        pytest.raises(OutputError, match="some parts are of another one.*: part-000001-6d696e65"),
        opened(mine, job=Job({"model_id": "org/other"})),
    ):
        pass
    next(mine.glob("*6d696e65.parquet")).unlink()
    with opened(mine, job=Job({"model_id": "org/other"})) as folder:
        assert in_files(folder) == Counter([2, 3])


def test_a_part_that_was_copied_under_another_name_does_not_count_twice(tmp_path: Path) -> None:
    begun(tmp_path, "complete")
    rows, copy = tmp_path / "_rayllm_batch" / "rows", "part-000009-cccccccc.parquet"
    shutil.copy(tmp_path / NAMES[0], tmp_path / copy)
    shutil.copy(rows / f"{NAMES[0]}.ids", rows / f"{copy}.ids")
    with opened(tmp_path) as folder:
        assert folder.complete and folder.set_aside == [copy] and finished(folder) == Counter([1, 2, 3, 4, 5, 6, 6])


ODD = [
    ("job", ["x"]),
    ("job", {}),
    ("replaces", [1]),
    ("replaces", {"a": 1}),
    ("as_text", [["a"]]),
    ("as_text", [1]),
    ("part", None),
]


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize(("key", "value"), ODD)
def test_ids_with_odd_json_do_not_count(tmp_path: Path, manifest: bool, key: str, value: Any) -> None:
    ids = begun(tmp_path) / "_rayllm_batch" / "rows" / f"{NAMES[0]}.ids"
    head, _, content = ids.read_bytes().partition(b"\n")
    ids.write_bytes(json.dumps({**json.loads(head), key: value}).encode() + b"\n" + content)
    if not manifest:
        (tmp_path / "_rayllm_batch" / "manifest.json").unlink()
    with opened(tmp_path) as folder:
        assert finished(folder) == in_files(folder) == Counter([4, 5, 6, 6])


@pytest.mark.parametrize("name", ["manifest.json", f"rows/{NAMES[0]}.ids"])
def test_json_that_is_deeper_than_python_reads_is_as_good_as_none(tmp_path: Path, name: str) -> None:
    (begun(tmp_path) / "_rayllm_batch" / name).write_bytes(b"[" * 100_000)
    with opened(tmp_path) as folder:
        assert finished(folder) == in_files(folder)


@pytest.mark.parametrize(
    ("output_format", "hurt"),
    [
        ("parquet", lambda content: content[:-60] + bytes(60)),
        ("parquet", lambda content: bytes(len(content))),
        ("jsonl", lambda content: b"x" * len(content)),
        ("jsonl", lambda content: content.replace(b'"error"', b'"errol"')),
        ("jsonl", lambda content: content.replace(b"went", b"\xff\xfewe")[: len(content)]),
    ],
)
def test_failed_rows_that_cannot_be_read_any_more_name_their_file(
    tmp_path: Path, output_format: str, hurt: Any
) -> None:
    name = f"failed-000001-aaaaaaaa.{output_format}"
    table = pa.table({"error": ["what went wrong with this row" * 9]})
    with opened(tmp_path, output_format=output_format) as folder:
        folder.store(name, encoded(table, output_format), row_id({"a": 1}))
    (tmp_path / name).write_bytes(hurt((tmp_path / name).read_bytes()))
    with (
        opened(tmp_path, output_format=output_format) as folder,
        pytest.raises(OutputError, match=f"{name} in the output folder .* Delete it"),
    ):
        list(folder.errors())


def test_an_adapter_trained_again_under_its_name_is_another(tmp_path: Path) -> None:
    def with_adapters(**adapters: str) -> Job:
        return Job(JOB.settings, JOB.hints, JOB.rows, adapters)

    out = tmp_path / "out"
    with opened(out, job=with_adapters(a="1", b="1")) as folder:
        store(folder, NAMES[0], [1, 2])
        folder.write_manifest("unfinished")
    for more in (with_adapters(a="1", c="1"), with_adapters(), with_adapters(b="1")):  # others beside, and some gone
        with opened(out, job=more) as folder:
            folder.accept()
            folder.write_manifest("unfinished")
            assert folder.rows == 2
    for adapters, named in (({"b": "2"}, "'b'"), ({"a": "1", "c": "9"}, "'c'"), ({"a": "2", "b": "2"}, "'a', 'b'")):
        with pytest.raises(OutputError, match=f"LoRA adapters whose files were others: {named}\\. Put"):
            opened(out, job=with_adapters(**adapters)).__enter__()
    with opened(begun(tmp_path / "older"), job=with_adapters(a="1")) as folder:  # none of them is known
        assert folder.rows == 7
