"""`dataset_file`: what can be read, and what is said about what cannot."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from rayllm_batch import dataset_file, file_part
from rayllm_batch.errors import DatasetError
from rayllm_batch.file_part import Reader
from rayllm_batch.read_options import ReadOptions

ROWS = [{"id": 1, "article": "One, \"two\"\nand three."}, {"id": 2, "article": "Größe, 図書館, 🙂"}]
JSONL = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)
ARRAY = json.dumps(ROWS, indent=2).encode()
CSV_ROWS = [{**row, "id": str(row["id"])} for row in ROWS]
CSV = 'id,article\n1,"One, ""two""\nand three."\n2,"Größe, 図書館, 🙂"\n'.encode()
BOM = b"\xef\xbb\xbf"


def parquet_bytes(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue().to_pybytes()


def read(given: Any, **options: Any) -> list[dict[str, Any]]:
    """The rows of local files, both as the driver reads small ones and as tasks read small parts of large ones."""
    how = ReadOptions(**options)
    files = dataset_file.find_files(given)
    assert files.filesystem is None
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
    """Told apart by type too, but for 1 and 1.0; what is null is as what is not there."""
    return list(map(_told_apart, rows))


def _told_apart(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _told_apart(item) for name, item in sorted(value.items()) if item is not None}
    if isinstance(value, list):
        return list(map(_told_apart, value))
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value)


def refusal(given: Any, **options: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        read(given, **options)
    return str(caught.value)


@pytest.fixture
def put(tmp_path: Path):
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


def names(given: Any, below: Path) -> list[str]:
    return [str(Path(path).relative_to(below)) for path in dataset_file.find_files(given).paths]


# --- formats


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", JSONL),
        ("rows.ndjson", JSONL),
        ("rows.json", JSONL),
        ("rows.JSONL", JSONL),
        ("rows.json", ARRAY),
        ("rows.jsonl", ARRAY),
        ("rows.csv", CSV),
        ("rows.parquet", parquet_bytes(ROWS)),
        ("rows.jsonl.gz", gzip.compress(JSONL)),
        ("rows.csv.gz", gzip.compress(CSV)),
        ("rows.json.bz2", bz2.compress(ARRAY)),
        ("without-a-newline-at-the-end.jsonl", JSONL.rstrip()),
        ("blank-lines.jsonl", b"\n\n" + JSONL.replace(b"\n", b"\n \n") + b"\n"),
        ("crlf.jsonl", JSONL.replace(b"\n", b"\r\n")),
        ("bom.jsonl", BOM + JSONL),
        ("bom.json", BOM + ARRAY),
        ("bom.csv", BOM + CSV),
        ("bom.jsonl.gz", gzip.compress(BOM + JSONL)),
        ("rows[1].jsonl", JSONL),
        ("what?.jsonl", JSONL),
        ("a name with spaces.jsonl", JSONL),
    ],
)
def test_rows_of_one_file(name: str, content: bytes, put: Any) -> None:
    path = put(name, content)
    assert read(path) == read(str(path)) == (CSV_ROWS if ".csv" in name else ROWS)


def test_home_folder(put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("rows.jsonl", JSONL)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("~/rows.jsonl") == ROWS


def test_columns_that_some_rows_lack(put: Any) -> None:
    expected = [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    assert read(put("rows.jsonl", b'{"a": 1}\n{"b": "x"}\n')) == expected
    assert read(put("rows.json", b'[{"a": 1}, {"b": "x"}]')) == expected


@pytest.mark.parametrize("name", ["long.jsonl", "long.json", "long.csv"])
def test_texts_longer_than_a_block(name: str, put: Any) -> None:
    rows = [{"id": i, "article": f"{'words ' * 500_000}\nand a line"} for i in range(2)]
    if name == "long.csv":
        content = "id,article\n" + "".join(f'{row["id"]},"{row["article"]}"\n' for row in rows)
    else:
        content = json.dumps(rows) if name == "long.json" else "\n".join(json.dumps(row) for row in rows)
    assert read(put(name, content.encode())) == ([{**row, "id": str(row["id"])} for row in rows] if name == "long.csv" else rows)


def test_csv_of_many_blocks_with_line_breaks_in_its_texts(put: Any) -> None:
    content = "id,article\n" + "".join(f'{i},"first line\nsecond, {"x" * 300}"\n' for i in range(8000))
    rows = read(put("rows.csv", content.encode()))
    assert len(rows) == 8000 and rows[-1]["id"] == "7999" and rows[-1]["article"].startswith("first line\nsecond")


# --- folders and globs


def test_folder(put: Any, tmp_path: Path) -> None:
    put("data/b.jsonl", b'{"id": 2, "score": 0.5}\n')
    put("data/sub/a.jsonl", b'{"id": 3, "score": 1}\n')
    put("data/a.jsonl", b'{"id": 1}\n')
    put("data/README.md", b"not data")
    folder = tmp_path / "data"
    assert names(folder, folder) == ["a.jsonl", "b.jsonl", "sub/a.jsonl"], "sorted, so that a second run reads the same"
    assert read(folder) == read(f"{folder}/") == [{"id": 1, "score": None}, {"id": 2, "score": 0.5}, {"id": 3, "score": 1.0}]


def test_hidden_files_and_folders_are_ignored(put: Any, tmp_path: Path) -> None:
    for name in (
        "rows.jsonl", ".hidden.jsonl", "_SUCCESS", "_metadata.jsonl", ".ipynb_checkpoints/rows-checkpoint.jsonl",
        "_tmp/0.json", "sub/.git/x.jsonl",
    ):
        put(f"data/{name}", JSONL)
    folder = tmp_path / "data"
    assert names(folder, folder) == names(folder / "*", folder) == ["rows.jsonl"]


def test_what_lies_in_a_hidden_folder_can_be_named(put: Any, tmp_path: Path) -> None:
    put(".cache/_data/rows.jsonl", JSONL)
    assert read(tmp_path / ".cache" / "_data") == read(tmp_path / ".cache" / "_data" / "*.jsonl") == ROWS


def test_glob(put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("part-0.jsonl", "part-1.jsonl", "part-2.csv", "other.jsonl", "sub/part-3.jsonl"):
        put(name, JSONL)
    assert names(tmp_path / "part-*.jsonl", tmp_path) == ["part-0.jsonl", "part-1.jsonl"]
    assert names(tmp_path / "part-[12]*.jsonl", tmp_path) == ["part-1.jsonl"]
    assert names(tmp_path / "*/part-?.jsonl", tmp_path) == ["sub/part-3.jsonl"]
    put("other/part-4.jsonl/part-5.jsonl", JSONL)
    assert names(tmp_path / "*.jsonl", tmp_path) == ["other.jsonl", "part-0.jsonl", "part-1.jsonl"], "not those of other folders"
    assert names(tmp_path / "**/part-[345].jsonl", tmp_path) == ["other/part-4.jsonl/part-5.jsonl", "sub/part-3.jsonl"]
    assert names(tmp_path / "**/*1.jsonl", tmp_path) == ["part-1.jsonl"], "no folder is a number of folders too"
    assert names(tmp_path / "oth*", tmp_path) == ["other.jsonl", "other/part-4.jsonl/part-5.jsonl"], "what lies in a folder of that name"
    monkeypatch.chdir(tmp_path)
    assert dataset_file.find_files("other*.jsonl").paths == [str(tmp_path / "other.jsonl")]


def test_empty_parts_beside_full_ones(put: Any, tmp_path: Path) -> None:
    put("data/part-0.jsonl", b"")
    put("data/part-1.jsonl", b"\n")
    put("data/part-2.jsonl", JSONL)
    assert read(tmp_path / "data") == ROWS


def test_parts_whose_columns_differ_in_kind(put: Any, tmp_path: Path) -> None:
    put("data/a.jsonl", b'{"id": 1}\n')
    put("data/b.jsonl", b'{"id": "x"}\n')
    assert read(tmp_path / "data") == [{"id": 1}, {"id": "x"}]
    put("data/b.jsonl", b'{"other": [1, 2]}\n')
    assert read(tmp_path / "data") == [{"id": 1, "other": None}, {"id": None, "other": [1, 2]}]


def test_mixed_formats(put: Any, tmp_path: Path) -> None:
    put("data/a.jsonl", JSONL)
    put("data/b.csv", CSV)
    message = refusal(tmp_path / "data")
    assert "csv" in message and "json" in message and "glob" in message


# --- what cannot be found


def test_missing_file_and_the_nearest_name(put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near = put("articles.jsonl", JSONL)
    message = refusal(tmp_path / "article.jsonl")
    assert "does not exist" in message and f"Did you mean {str(near)!r}?" in message
    monkeypatch.chdir(tmp_path)
    message = refusal("artcles.jsonl")
    assert str(tmp_path) in message and "Did you mean 'articles.jsonl'?" in message
    message = refusal("zzz.parquet")
    assert "Did you mean" not in message and "Check the path" in message
    assert "does not exist" in refusal("absent/folder/rows.jsonl")


def test_glob_that_matches_nothing(put: Any, tmp_path: Path) -> None:
    put("rows.txt", b"x")
    assert "matches no" in refusal(tmp_path / "*.jsonl") and "matches no" in refusal(tmp_path / "*.txt")
    assert "absent" in refusal(tmp_path / "absent" / "*.jsonl")


def test_folder_without_data(put: Any, tmp_path: Path) -> None:
    put("data/notes.txt", b"x")
    put("data/more.txt", b"x")
    (tmp_path / "empty").mkdir()
    assert "matches no" in refusal(tmp_path / "data") and "matches no" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.gz", "rows.xlsx"])
def test_unknown_ending(name: str, put: Any) -> None:
    message = refusal(put(name, JSONL))
    assert "unknown ending" in message and ".jsonl" in message and ".parquet" in message and ".gz" in message


@pytest.mark.parametrize("given", [7, ["a.jsonl", "b.jsonl"], b"rows.jsonl"])
def test_dataset_file_of_another_kind(given: Any) -> None:
    message = refusal(given)
    assert type(given).__name__ in message and "a glob" in message


def test_unknown_kind_of_uri() -> None:
    assert "cannot be opened" in refusal("zzz://bucket/rows.jsonl")
    message = refusal("zzz://key:password@bucket/rows.jsonl")
    assert "zzz://***@bucket/rows.jsonl" in message and "password" not in message


# --- what cannot be read


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_empty_file(name: str, put: Any) -> None:
    message = refusal(put(name, b""))
    assert name in message and "empty" in message


def test_folder_of_empty_files(put: Any, tmp_path: Path) -> None:
    put("data/a.jsonl", b"")
    put("data/b.jsonl", b"")
    assert "empty" in refusal(tmp_path / "data")
    put("data/b.jsonl", b"\n")
    assert "no rows" in refusal(tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("blank.jsonl", b"\n  \n\r\n", "no rows"),
        ("blank.jsonl.gz", gzip.compress(b"\n"), "no rows"),
        ("empty.json", b"[]", "at least one"),
        ("header.csv", b"id,article\n\n", "no rows"),
        ("no-rows.parquet", parquet_bytes([], pa.schema([("id", pa.int64())])), "no rows"),
    ],
)
def test_file_without_rows(name: str, content: bytes, words: str, put: Any) -> None:
    message = refusal(put(name, content))
    assert name in message and words in message


def seventh(line: bytes, before: int = 6, ending: bytes = b"\n") -> bytes:
    return ending.join([b'{"id": 1}'] * before + [line, b'{"id": 2}', b""])


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b'{"id": 7, "article": "cut off', "cut off"),
        (b"just text", "just text"),
        (b"{'id': 7}", "{'id': 7}"),
        (b'{"id": 7},', '{"id": 7},'),
        (b"[1, 2]", "[1, 2]"),
        (b'"a string"', '"a string"'),
        (b"null", "null"),
        (b'{"article": "caf\xe9"}', "not UTF-8 (byte 0xe9): '{\"article\": \"caf"),
        (b'{"article": "' + b"x" * 1000, "xxx..."),
    ],
)
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_line_7_is_named_and_shown(line: bytes, shown: str, ending: bytes, put: Any) -> None:
    message = refusal(put("rows.jsonl", seventh(line, ending=ending)))
    assert message.startswith("Line 7 of ") and "rows.jsonl" in message and shown in message
    assert ("JSON" in message or "UTF-8" in message) and "bad_lines='keep'" in message and len(message) < 600


def test_blank_lines_count(put: Any) -> None:
    assert refusal(put("rows.jsonl", b'{"id": 1}\n\n\n\n\n\nbad\n')).startswith("Line 7 of ")


def test_a_bad_line_far_down_is_named_too(put: Any) -> None:
    assert refusal(put("rows.jsonl", seventh(b"bad", before=1500))).startswith("Line 1501 of ")


def test_a_bad_line_in_a_later_file(put: Any, tmp_path: Path) -> None:
    put("data/a.jsonl", JSONL)
    path = put("data/b.jsonl", seventh(b"bad"))
    message = refusal(tmp_path / "data")
    assert message.startswith("Line 7 of ") and str(path) in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("array.json", b'[{"id": 1}, ', "not valid JSON"),
        ("array.json", b'[{"id": 1}, 2]', "array of JSON objects"),
        ("text.parquet", b"this is not parquet, but long enough", "cannot be read as parquet"),
        ("short.parquet", b"PAR1", "cannot be read as parquet"),
        ("text.jsonl.gz", JSONL, "cannot be read as json"),
    ],
)
def test_file_that_is_not_what_its_name_says(name: str, content: bytes, words: str, put: Any) -> None:
    message = refusal(put(name, content))
    assert name in message and words in message


@pytest.mark.parametrize(
    ("name", "content"),
    [("b.json", b"[1, 2]"), ("b.json", b'["ab"]'), ("b.json.gz", b"not gzip"), ("b.jsonl.gz", gzip.compress(JSONL)[:-9])],
)
def test_a_later_file_that_is_not(name: str, content: bytes, put: Any, tmp_path: Path) -> None:
    put("data/a.json", JSONL)
    path = put(f"data/{name}", content)
    assert str(path) in refusal(tmp_path / "data")


