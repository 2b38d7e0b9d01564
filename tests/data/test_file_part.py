"""What one task reads of files, from a storage that fails in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pytest

from rayllm_batch.data import file_part
from rayllm_batch.data.file_part import FilePart, Reader
from rayllm_batch.data.read_options import RAISE, ReadOptions
from rayllm_batch.errors import DatasetError

BUSY = "dataset_file 'a' cannot be read: AWS Error SLOW_DOWN during GetObject operation: of the test"


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reads ten rows in several tables; raises the errors of `fails`, by the table before which it does."""
    monkeypatch.setattr(file_part, "RETRY_S", (0.0, 0.0))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": i}) + "\n" for i in range(10)))
    fails: list[tuple[int, str]] = []
    real = Reader.tables

    def tables(self: Reader, part: FilePart) -> Iterator[pa.Table]:
        for i, table in enumerate(real(self, part, size=20)):
            if fails and fails[0][0] == i:
                raise DatasetError(fails.pop(0)[1])
            yield table

    monkeypatch.setattr(Reader, "tables", tables)
    made = Reader(pa.fs.LocalFileSystem(), "json", ReadOptions(RAISE, None, {}))

    def read() -> list[int]:
        found = list(made([FilePart(str(tmp_path / "a.jsonl"))]))
        assert len(found) > 2
        return [i for table in found for i in table.column("id").to_pylist()]

    return read, fails


@pytest.mark.parametrize("at", [[0], [1], [2, 1], [2, 2]])
def test_each_row_comes_once(at: list[int], reader: Any) -> None:
    read, fails = reader
    fails += [(i, BUSY) for i in at]
    assert read() == list(range(10)) and not fails


@pytest.mark.parametrize("errors", [[BUSY] * 3, ["line 3 is no JSON: timeout"]])
def test_what_does_not_pass_is_raised(errors: list[str], reader: Any) -> None:
    read, fails = reader
    fails += [(1, error) for error in errors]
    with pytest.raises(DatasetError, match=errors[0][-10:]):
        read()
    assert not fails
