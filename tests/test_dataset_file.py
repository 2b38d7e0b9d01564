"""`dataset_file`: what can be read, and what is said about what cannot."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from rayllm_batch import dataset_file
from rayllm_batch.errors import DatasetError

ROWS = [{"id": 1, "article": "One, \"two\"\nand three."}, {"id": 2, "article": "Größe, 図書館, 🙂"}]
JSONL = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)
ARRAY = json.dumps(ROWS, indent=2).encode()
CSV = 'id,article\n1,"One, ""two""\nand three."\n2,"Größe, 図書館, 🙂"\n'.encode()
BOM = b"\xef\xbb\xbf"


def parquet_bytes(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue().to_pybytes()


def read(given: Any) -> list[dict[str, Any]]:
    """The rows of local files: what read_dataset_file does with them before it hands them to Ray."""
    files = dataset_file.find_files(given)
    assert files.filesystem is None
    dataset_file.check_first_rows(files)
    return dataset_file._read_local(files).to_pylist()


def refusal(given: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        read(given)
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
    assert read(path) == read(str(path)) == ROWS


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
    assert read(put(name, content.encode())) == rows


def test_csv_of_many_blocks_with_line_breaks_in_its_texts(put: Any) -> None:
    content = "id,article\n" + "".join(f'{i},"first line\nsecond, {"x" * 300}"\n' for i in range(8000))
    rows = read(put("rows.csv", content.encode()))
    assert len(rows) == 8000 and rows[-1]["id"] == 7999 and rows[-1]["article"].startswith("first line\nsecond")


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
        "_delta_log/0.json", "sub/.git/x.jsonl",
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
    assert dataset_file.find_files("other*.jsonl").paths == ["other.jsonl"]


def test_empty_parts_beside_full_ones(put: Any, tmp_path: Path) -> None:
    put("data/part-0.jsonl", b"")
    put("data/part-1.jsonl", b"\n")
    put("data/part-2.jsonl", JSONL)
    assert read(tmp_path / "data") == ROWS


def test_parts_whose_columns_differ_in_kind(put: Any, tmp_path: Path) -> None:
    put("data/a.jsonl", b'{"id": 1}\n')
    put("data/b.jsonl", b'{"id": "x"}\n')
    message = refusal(tmp_path / "data")
    assert str(tmp_path / "data") in message and "do not go together" in message and "id" in message


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
        ("header.csv", b"id,article\n\n", "no rows below its header"),
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
        (b'{"article": "caf\xe9"}', "caf\ufffd"),
        (b'{"article": "' + b"x" * 1000, "xxx..."),
    ],
)
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_line_7_is_named_and_shown(line: bytes, shown: str, ending: bytes, put: Any) -> None:
    message = refusal(put("rows.jsonl", seventh(line, ending=ending)))
    assert message.startswith("Line 7 of ") and "rows.jsonl" in message and shown in message
    assert "JSON" in message and len(message) < 600


def test_blank_lines_count(put: Any) -> None:
    assert refusal(put("rows.jsonl", b'{"id": 1}\n\n\n\n\n\nbad\n')).startswith("Line 7 of ")


def test_a_bad_line_far_down_is_named_too(put: Any) -> None:
    path = put("rows.jsonl", seventh(b"bad", before=dataset_file.CHECKED_LINES + 500))
    dataset_file.check_first_rows(dataset_file.find_files(path))  # does not read so far
    assert refusal(path).startswith(f"Line {dataset_file.CHECKED_LINES + 501} of ")
    assert (dataset_file.find_bad_line(path) or "").startswith("Line 1501 of ")


def test_a_bad_line_in_a_later_file(put: Any, tmp_path: Path) -> None:
    put("data/a.jsonl", JSONL)
    path = put("data/b.jsonl", seventh(b"bad"))
    message = refusal(tmp_path / "data")
    assert message.startswith("Line 7 of ") and str(path) in message
    assert dataset_file.find_bad_line(tmp_path / "data") == message


def test_find_bad_line_of_a_good_file(put: Any) -> None:
    assert dataset_file.find_bad_line(put("rows.jsonl", BOM + JSONL)) is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("array.json", b'[{"id": 1}, ', "not valid JSON"),
        ("array.json", b'[{"id": 1}, 2]', "array of JSON objects"),
        ("kinds.jsonl", b'{"id": 1}\n{"id": "x"}\n', "changed from number to string"),
        ("kinds.json", b'[{"id": 1}, {"id": "x"}]', "cannot be read as json"),
        ("huge.json", b'[{"id": 99999999999999999999}]', "cannot be read as json"),
        ("ragged.csv", b"id,article\n1,a\n2\n", "cannot be read as csv"),
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


@pytest.mark.ray
def test_rows_are_counted_where_that_costs_no_reading(ray_cluster: Any, put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_file, "IN_MEMORY_BYTES", 0)
    for number in (1, 2, 3):
        pyarrow.parquet.write_table(pa.table({"article": ["x"] * number}), tmp_path / f"{number}.parquet")
    read = dataset_file.read_dataset_file
    assert dataset_file.known_rows(read(tmp_path)) == read(tmp_path).count() == 6
    assert dataset_file.known_rows(read(tmp_path / "2.parquet")) == 2
    assert dataset_file.known_rows(read(tmp_path).limit(1)) is None, "it is another Dataset"
    assert dataset_file.known_rows(read(put("lines/rows.jsonl", b'{"article": "x"}\n'))) is None
    assert dataset_file.first_rows(read(tmp_path / "*.parquet"), 4) == read(tmp_path / "*.parquet").take(4) == [{"article": "x"}] * 4
    assert len(dataset_file.first_rows(read(tmp_path / "2.parquet"), 4)) == 2
    assert dataset_file.first_rows(read(tmp_path / "2.parquet").limit(1), 4) is None
    (tmp_path / "year=2024").mkdir()
    pyarrow.parquet.write_table(pa.table({"article": ["x"]}), tmp_path / "year=2024" / "1.parquet")
    assert dataset_file.first_rows(read(tmp_path / "year=2024"), 4) is None, "Ray adds the year"
    monkeypatch.setattr(dataset_file, "OPENED_FILES", 2)
    assert len(dataset_file.first_rows(read(tmp_path / "*.parquet"), 3)) == 3, "two files have them"
    assert dataset_file.first_rows(read(tmp_path / "*.parquet"), 4) is None
    pyarrow.parquet.write_table(pa.table({"article": ["x"], "more": [1]}), tmp_path / "2.parquet")
    assert dataset_file.first_rows(read(tmp_path / "*.parquet"), 2) is None, "Ray brings columns into line"
    monkeypatch.setattr(dataset_file, "COUNTED_FILES", 2)
    assert dataset_file.known_rows(read(tmp_path / "*.parquet")) is None, "too many to ask"


def test_the_first_rows_of_a_large_file_take_little_memory(tmp_path: Path) -> None:
    texts = [random.Random(number).randbytes(4000).hex() for number in range(8000)]
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.table({"article": texts}), path)  # one row group of 64 MB
    assert dataset_file.first_of_file(str(path), None, 256) == (["article"], [{"article": text} for text in texts[:256]])
    code = f"""
import re
from pathlib import Path
from rayllm_batch.dataset_file import first_of_file
import pyarrow.parquet

def most_so_far():  # in KiB; getrusage has what the parent had too
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

begun = most_so_far()
first_of_file({str(path)!r}, None, 256)
print(most_so_far() - begun)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert int(run.stdout) < 60 << 10, "a row group has 64 MB, and it is held twice"
