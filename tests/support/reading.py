"""Reads data files in each way in which a job may read them, and holds that the rows are the same."""

from __future__ import annotations

import dataclasses
import os
import pickle
from typing import Any

import pytest

from rayllm_batch.data import dataset_file, file_part
from rayllm_batch.data.file_part import Reader
from rayllm_batch.data.read_options import ReadOptions
from rayllm_batch.errors import DatasetError


def read(given: Any, **options: Any) -> list[dict[str, Any]]:
    """The rows of local files, both as the driver reads small ones and as tasks read small parts of large ones."""
    how = ReadOptions(**options)
    files = dataset_file.find_files(given)
    assert files.is_local
    dataset_file._check_options(files, how)
    sizes = [os.path.getsize(path) for path in files.paths]
    reader = Reader(files.fs, files.format, how)
    rows = dataset_file._read_local(files, reader, sizes).to_pylist()
    with pytest.MonkeyPatch.context() as patch:
        for size in (50, 1000, 20_000_000):
            patch.setattr(file_part, "TASK_BYTES", size)
            tasks = file_part.tasks_of(files, sizes, how) if sum(sizes) < 1000 * size else []
            there = pickle.loads(pickle.dumps(dataclasses.replace(reader, names=tuple(rows[0]))))
            found = [row for parts in tasks for table in there(parts) for row in table.to_pylist()]
            assert not tasks or present(found) == present(rows)
    return rows


def present(rows: list[dict[str, Any]]) -> list[Any]:
    """Told apart by type too; a column that is null is as one that is not there."""
    return [{name: _told_apart(item) for name, item in row.items() if item is not None} for row in rows]


def _told_apart(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _told_apart(item) for name, item in value.items()}
    return list(map(_told_apart, value)) if isinstance(value, list) else repr(value)


def refusal(given: Any, **options: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        read(given, **options)
    return str(caught.value)
