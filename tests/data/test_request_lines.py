"""Lines as they are: each once, whatever it is and wherever a file is divided."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

import pyarrow.fs
import pytest

from rayllm_batch.data.file_part import FilePart
from rayllm_batch.data.read_options import ReadOptions
from rayllm_batch.data.request_lines import LineReader
from rayllm_batch.errors import DatasetError

LINES = [
    b'{"custom_id": "1"}',
    b"not json",
    b"\xff\xfe",
    b'{"custom_id": 7}',
    b'{"custom_id": "\\ud800"}',
    b'["custom_id"]',
    '{"custom_id": "größe"}'.encode(),
    b'{"custom_id": "7", "a": NaN}',
]
IDS = ["1", None, None, None, None, None, "größe", "7"]


def read(path: Path, parts: Iterable[FilePart] = (), **how: Any) -> list[tuple[Optional[str], Optional[bytes]]]:
    reader = LineReader(pyarrow.fs.LocalFileSystem(), "json", ReadOptions(), **how)
    found = []
    for part in parts or [FilePart(str(path))]:
        for table in reader.tables(part, size=7):
            found += [(row["custom_id"], row["request"]) for row in table.to_pylist()]
    return found


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n \n"])
def test_every_line_comes_and_names_itself(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(LINES) + end)
    assert read(path) == list(zip(IDS, LINES, strict=True))


def test_a_divided_file_has_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(LINES) + b"\n")
    size = path.stat().st_size
    for step in range(1, size + 1):
        starts = list(range(0, size, step))
        ends: list[Optional[int]] = [*starts[1:], None]
        parts = [FilePart(str(path), start=start, stop=stop) for start, stop in zip(starts, ends, strict=True)]
        assert [request for _, request in read(path, parts)] == LINES, step


def test_a_compressed_file_and_a_byte_order_mark(tmp_path: Path) -> None:
    packed, marked = tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl"
    packed.write_bytes(gzip.compress(b"\n".join(LINES)))
    marked.write_bytes(b"\xef\xbb\xbf" + b"\n".join(LINES))
    assert read(packed) == read(marked) == list(zip(IDS, LINES, strict=True))


def test_a_line_that_is_too_long_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = json.dumps({"custom_id": 'l"ong', "x": "a" * 5000}).encode()
    late = json.dumps({"x": "a" * 5000, "custom_id": "late"}).encode()
    path.write_bytes(b"\n".join([LINES[0], long, late, LINES[0]]))
    assert read(path, longest=1000) == [("1", LINES[0]), ('l"ong', None), (None, None), ("1", LINES[0])]


def test_another_encoding_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"custom_id": "1"}'.encode("utf-16"))
    with pytest.raises(DatasetError, match="UTF-16-LE, but a file of requests is UTF-8"):
        read(path)
