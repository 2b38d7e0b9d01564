"""Files that are not what their names say: the message says what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest
from reading import read, refusal

from rayllm_batch.file_kind import kind_of

TABLE = pa.table({"text": ["a"]})


def made(write: Any) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def zipped(*names: str) -> bytes:
    def write(sink: io.BytesIO) -> None:
        with zipfile.ZipFile(sink, "w") as archive:
            for name in names:
                archive.writestr(name, "<x/>")

    return made(write)


def tarred() -> bytes:
    def write(sink: io.BytesIO) -> None:
        with tarfile.open(fileobj=sink, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("rows.jsonl"))

    return made(write)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.jsonl", gzip.compress(b'{"text": "a"}\n', mtime=0), ["gzip", "rows.jsonl.gz"]),
        ("rows.csv", bz2.compress(b"text\na\n"), ["bz2", "rows.csv.bz2"]),
        ("rows.parquet", gzip.compress(b"x", mtime=0), ["gzip"]),
        ("rows.csv", made(lambda sink: pyarrow.parquet.write_table(TABLE, sink)), ["parquet", "name it .parquet"]),
        ("rows.jsonl", made(lambda sink: pyarrow.feather.write_feather(TABLE, sink)), ["Arrow"]),
        ("rows.json", made(lambda sink: pyarrow.orc.write_table(TABLE, sink)), ["ORC", "read_orc"]),
        ("rows.csv", zipped("[Content_Types].xml", "xl/workbook.xml"), ["Excel workbook", "CSV UTF-8"]),
        ("rows.csv", zipped("[Content_Types].xml", "word/document.xml"), ["Word document"]),
        ("rows.csv", zipped("rows.csv"), ["zip archive"]),
        ("rows.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), ["Office"]),
        ("rows.jsonl", tarred(), ["tar archive"]),
        ("rows.jsonl", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", ["HTML", "login"]),
        ("rows.csv", b"\n <html lang='en'>", ["HTML"]),
        (
            "rows.parquet",
            b"<?xml version='1.0'?><Error><Message>Access Denied</Message></Error>",
            ["XML", "Access Denied"],
        ),
        (
            "rows.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            ["Git LFS", "git lfs pull"],
        ),
        ("rows.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", ["Git LFS"]),
        ("rows.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", ["Git LFS"]),
        ("rows.jsonl.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", ["Git LFS"]),
        ("rows.jsonl.gz", b'{"text": "a"}\n', ["not gzip"]),
        ("rows.jsonl.zst", gzip.compress(b"x", mtime=0), ["gzip"]),
        ("rows.parquet", b"text\na\n", ["not parquet", "text"]),
        ("rows.csv", b"%PDF-1.7\n", ["a PDF"]),
    ],
)
def test_the_message_says_what_it_is(name: str, content: bytes, words: list[str], put: Any) -> None:
    message = refusal(put(name, content))
    assert name in message and all(word in message for word in words), message


def test_sqlite(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rows.csv") as database:
        database.execute("create table rows (text)")
    database.close()
    assert "SQLite" in refusal(tmp_path / "rows.csv")


def test_a_later_file_too(put: Any, tmp_path: Path) -> None:
    put("data/a.jsonl", b'{"text": "a"}\n')
    path = put("data/b.jsonl", b"<html>")
    message = refusal(tmp_path / "data")
    assert str(path) in message and "HTML" in message


@pytest.mark.parametrize("header", ["ORC", "PAR1", "BZh", "Rar!", "version", "html", "PK"])
def test_text_that_begins_like_something_else(header: str, put: Any) -> None:
    assert read(put("rows.csv", f"{header},b\n1,2\n".encode())) == [{header: "1", "b": "2"}]


def test_text_has_no_kind() -> None:
    assert [kind_of(head) for head in (b"", b"a,b\n", b'{"a": 1}', b"[", b"<a> b", lzma.compress(b"")[:0])] == [
        None
    ] * 6
