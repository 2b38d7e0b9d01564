"""`dataset_file`: what can be read, and what is said about what cannot."""

from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from reading import read, refusal

from rayllm_batch.data import dataset_file, file_part
from rayllm_batch.data.read_options import ReadOptions

ROWS = [{"id": 1, "article": 'One, "two"\nand three.'}, {"id": 2, "article": "Größe, 図書館, 🙂"}]
JSONL = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)
ARRAY = json.dumps(ROWS, indent=2).encode()
CSV_ROWS = [{**row, "id": str(row["id"])} for row in ROWS]
CSV = 'id,article\n1,"One, ""two""\nand three."\n2,"Größe, 図書館, 🙂"\n'.encode()
BOM = b"\xef\xbb\xbf"


def parquet_bytes(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue().to_pybytes()


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
        ("rows.jsonl.gz", gzip.compress(JSONL, mtime=0)),
        ("rows.csv.gz", gzip.compress(CSV, mtime=0)),
        ("rows.json.bz2", bz2.compress(ARRAY)),
        ("without-a-newline-at-the-end.jsonl", JSONL.rstrip()),
        ("blank-lines.jsonl", b"\n\n" + JSONL.replace(b"\n", b"\n \n") + b"\n"),
        ("crlf.jsonl", JSONL.replace(b"\n", b"\r\n")),
        ("bom.jsonl", BOM + JSONL),
        ("bom.json", BOM + ARRAY),
        ("bom.csv", BOM + CSV),
        ("bom.jsonl.gz", gzip.compress(BOM + JSONL, mtime=0)),
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
    assert read(put(name, content.encode())) == (
        [{**row, "id": str(row["id"])} for row in rows] if name == "long.csv" else rows
    )


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
    assert (
        read(folder) == read(f"{folder}/") == [{"id": 1, "score": None}, {"id": 2, "score": 0.5}, {"id": 3, "score": 1}]
    )
    assert [type(row["score"]) for row in read(folder)[1:]] == [float, int]


def test_hidden_files_and_folders_are_ignored(put: Any, tmp_path: Path) -> None:
    for name in (
        "rows.jsonl",
        ".hidden.jsonl",
        "_SUCCESS",
        "_metadata.jsonl",
        ".ipynb_checkpoints/rows-checkpoint.jsonl",
        "_tmp/0.json",
        "sub/.git/x.jsonl",
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
    assert names(tmp_path / "*.jsonl", tmp_path) == ["other.jsonl", "part-0.jsonl", "part-1.jsonl"], (
        "not those of other folders"
    )
    assert names(tmp_path / "**/part-[345].jsonl", tmp_path) == ["other/part-4.jsonl/part-5.jsonl", "sub/part-3.jsonl"]
    assert names(tmp_path / "**/*1.jsonl", tmp_path) == ["part-1.jsonl"], "no folder is a number of folders too"
    assert names(tmp_path / "oth*", tmp_path) == ["other.jsonl", "other/part-4.jsonl/part-5.jsonl"], (
        "what lies in a folder of that name"
    )
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


def test_what_describes_the_data_beside_it_is_no_row(put: Any, tmp_path: Path) -> None:
    for name, content in (("train.jsonl", JSONL), ("train.json", ARRAY), ("train.parquet", parquet_bytes(ROWS))):
        ending = name.rpartition(".")[2]
        put(f"{ending}/{name}", content)
        for description in (
            "dataset_infos.json",
            "dataset_info.json",
            "datapackage.json",
            "dataset-metadata.json",
            "croissant.json",
            "deep/dataset_infos.json",
        ):
            put(f"{ending}/{description}", b'{"default": {"features": {}}}')
        assert read(tmp_path / ending) == read(tmp_path / ending / "*") == ROWS
    assert len(read(tmp_path / "json" / "dataset_infos.json")) == 1, "it may be asked for"


@pytest.mark.parametrize("name", ["stats.json", "sub/settings.json", "stats.json.gz"])
def test_json_beside_lines_may_be_no_rows(name: str, put: Any, tmp_path: Path) -> None:
    put("data/a.jsonl", JSONL)
    put(f"data/{name}", gzip.compress(b"{}") if name.endswith("gz") else b"{}")
    message = refusal(tmp_path / "data")
    assert "different formats (json, jsonl)" in message and "*.jsonl" in message
    assert read(tmp_path / "data" / "*.jsonl") == ROWS


@pytest.mark.parametrize(("given", "others"), [("data", "a.csv"), ("data/*", "a.csv.gz"), ("data/sub*", "sub/a.csv")])
@pytest.mark.parametrize("name", ["b.jsonl", "b.JSONL", "b.ndjson.gz"])
def test_the_glob_that_is_proposed_finds_what_it_says(
    given: str, others: str, name: str, put: Any, tmp_path: Path
) -> None:
    put(f"data/{others}", b"a,b\n1,2\n")
    put(f"data/sub/deep/{name}", gzip.compress(JSONL) if name.endswith("gz") else JSONL)
    if given == "data/*":
        put(f"data/{name}", gzip.compress(JSONL) if name.endswith("gz") else JSONL)
    proposed = refusal(tmp_path / given).partition("such as ")[2].rstrip(".")
    assert {row["article"] for row in read(proposed)} == {row["article"] for row in ROWS}


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
        ("blank.jsonl.gz", gzip.compress(b"\n", mtime=0), "no rows"),
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
        (b'{"article": "caf\xe9"}', 'not UTF-8 (byte 0xe9): \'{"article": "caf'),
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
    [
        ("b.json", b"[1, 2]"),
        ("b.json", b'["ab"]'),
        ("b.json.gz", b"not gzip"),
        ("b.json.gz", gzip.compress(JSONL, mtime=0)[:-9]),
    ],
)
def test_a_later_file_that_is_not(name: str, content: bytes, put: Any, tmp_path: Path) -> None:
    put("data/a.json", JSONL)
    path = put(f"data/{name}", content)
    assert str(path) in refusal(tmp_path / "data")


# --- relative paths, folders with columns in their names, folders that are something else


def test_a_relative_path_is_absolute_at_once(put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("in/rows.jsonl", JSONL)
    monkeypatch.chdir(tmp_path / "in")
    for given in ("rows.jsonl", "./rows.jsonl", "../in", "*.jsonl", "../in/*.jsonl"):
        assert dataset_file.find_files(given).paths == [str(tmp_path / "in" / "rows.jsonl")]


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("parquet", parquet_bytes([{"id": 1}])),
        ("jsonl", b'{"id": 1}\n'),
        ("json", b'[{"id": 1}]'),
        ("csv", b"id\n1\n"),
        ("csv.gz", gzip.compress(b"id\n1\n", mtime=0)),
    ],
)
def test_names_of_folders_are_columns_of_text(ending: str, content: bytes, put: Any, tmp_path: Path) -> None:
    for folder in ("year=2024/kind=a%2Fb", "year=0099/kind=__HIVE_DEFAULT_PARTITION__"):
        put(f"x=1/corpus/{folder}/part.{ending}", content)
    number = "1" if "csv" in ending else 1
    first, second = {"id": number, "year": "2024", "kind": "a/b"}, {"id": number, "year": "0099", "kind": None}
    corpus = tmp_path / "x=1" / "corpus"
    assert read(corpus) == [second, first], "and not of those above the given folder"
    assert read(corpus / "year=*" / "kind=a*" / "*") == [first]
    assert read(corpus / "year=2024") == read(corpus / "year=2024" / "kind=a%2Fb" / f"part.{ending}") == [first]


def test_a_column_of_the_file_goes_before_the_folders(put: Any, tmp_path: Path) -> None:
    put("lang=de/rows.jsonl", b'{"lang": "en"}\n')
    assert read(tmp_path / "lang=de") == [{"lang": "en"}]


@pytest.mark.parametrize("name", ["aa", "zz/deep"])
def test_answers_in_a_folder_of_the_input_are_no_input(name: str, put: Any, tmp_path: Path) -> None:
    put("data/rows.parquet", parquet_bytes(ROWS))
    part = put(f"data/{name}/part-000001-0123abcd.parquet", parquet_bytes([{"id": 9, "generated_text": "x"}]))
    assert len(read(tmp_path / "data")) == 3, "of a folder that is no output"
    put(f"data/{name}/_rayllm_batch/manifest.json", b"{}")
    for given in ("data", "data/", "data/**/*.parquet", "da*"):
        assert read(f"{tmp_path}/{given}") == ROWS, given
    for asked_for in (part.parent, f"{tmp_path}/data/{name[:2]}*/**/part-*.parquet"):
        assert read(asked_for) == [{"id": 9, "generated_text": "x"}]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["dataset_info.json", "state.json", "data-00000-of-00001.arrow"], ["save_to_disk", "load_from_disk("]),
        (
            ["dataset_dict.json", "train/dataset_info.json", "train/state.json", "train/data.arrow"],
            ["load_from_disk(", '["train"]'],
        ),
        (["_delta_log/00000000000000000000.json", "part-0.parquet"], ["Delta", "read_delta"]),
        (["metadata/v1.metadata.json", "data/part-0.parquet"], ["Iceberg", "read_iceberg"]),
        ([".hoodie/hoodie.properties", "part-0.parquet"], ["Hudi", "read_hudi"]),
    ],
)
def test_folders_that_are_more_than_their_files(files: list[str], words: list[str], put: Any, tmp_path: Path) -> None:
    for name in files:
        put(f"table/{name}", parquet_bytes([{"id": 1}]) if name.endswith("parquet") else b"{}")
    message = refusal(tmp_path / "table")
    assert all(word in message for word in words)


# --- what the driver knows without reading all


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Any:
    """read_dataset_file as it is for large files, without Ray: what it would give to Ray is in `tasks`."""

    class Dataset:
        tasks: Any = None

        def count(self) -> int:
            return -1

    def made(reader: Any, tasks: Any, size: int) -> Dataset:
        dataset = Dataset()
        dataset.reader, dataset.tasks = reader, tasks
        return dataset

    monkeypatch.setattr(dataset_file, "dataset_of", made)
    monkeypatch.setattr(dataset_file, "IN_MEMORY_BYTES", 0)
    return dataset_file.read_dataset_file


def test_rows_are_counted_where_that_costs_no_reading(
    large: Any, put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        pyarrow.parquet.write_table(pa.table({"article": ["x"] * number}), tmp_path / f"{number}.parquet")
    put("lines/rows.jsonl", b'{"article": "x"}\n')
    everything = large(tmp_path / "*.parquet")
    assert dataset_file.known_rows(everything) == dataset_file.count_rows(everything) == 6
    assert dataset_file.known_rows(large(tmp_path / "2.parquet")) == 2
    assert (
        dataset_file.known_rows(large(tmp_path / "lines")) is None
        and dataset_file.count_rows(large(tmp_path / "lines")) == -1
    )
    monkeypatch.setattr(dataset_file, "COUNTED_FILES", 2)
    assert dataset_file.known_rows(everything) is None, "too many to ask"
    assert dataset_file.count_rows(everything) == 6


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv", "json"])
def test_the_first_rows_are_those_that_the_tasks_read(
    ending: str, large: Any, put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        rows = [{"article": f"{number} {i}"} for i in range(number)]
        content = {
            "parquet": parquet_bytes(rows),
            "json": json.dumps(rows).encode(),
            "jsonl": "".join(f"{json.dumps(row)}\n" for row in rows).encode(),
            "csv": "\n".join(["article", *(row["article"] for row in rows)]).encode(),
        }
        put(f"lang=l{number}/rows.{ending}", content[ending])
    dataset = large(tmp_path)
    everything = [row for parts in dataset.tasks for table in dataset.reader(parts) for row in table.to_pylist()]
    assert len(everything) == 6 and everything[-1] == {"article": "3 2", "lang": "l3"}
    for most in (1, 2, 4, 6, 10):
        assert dataset_file.first_rows(dataset, most) == everything[:most]
    monkeypatch.setattr(dataset_file, "OPENED_FILES", 2)
    assert len(dataset_file.first_rows(dataset, 3)) == 3, "two files have them"
    assert dataset_file.first_rows(dataset, 4) is None, "Ray reads many files side by side"


def test_columns_of_the_first_rows_are_in_all_tables(large: Any, put: Any, tmp_path: Path) -> None:
    put("a.jsonl", b'{"id": 1, "note": "x"}\n')
    put("b.jsonl", b'{"id": 2}\n')
    dataset = large(tmp_path)
    assert [table.to_pylist() for parts in dataset.tasks for table in dataset.reader(parts)] == [
        [{"id": 1, "note": "x"}],
        [{"id": 2, "note": None}],
    ]


def test_large_files_are_shared_by_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = dataset_file.find_files
    sizes = [100 << 20, 1 << 20, 1 << 20, 0]
    for name in ("a", "b", "c", "d"):
        for ending in ("jsonl", "jsonl.gz", "csv", "parquet"):
            (tmp_path / ending).mkdir(exist_ok=True)
            (tmp_path / ending / f"{name}.{ending}").touch()
    how = ReadOptions()
    lines = file_part.tasks_of(files(tmp_path / "jsonl"), sizes, how)
    assert len(lines) == 8 and [len(parts) for parts in lines] == [1] * 6 + [2, 1], "small ones go together"
    assert (
        lines[0][0].start == 0
        and lines[6][0].stop is None
        and [p[0].start for p in lines[1:7]] == [p[0].stop for p in lines[:6]]
    )
    assert [len(parts) for parts in file_part.tasks_of(files(tmp_path / "parquet"), sizes, how)] == [1] * 6 + [2, 1]
    for ending in ("csv", "jsonl.gz"):
        assert [len(parts) for parts in file_part.tasks_of(files(tmp_path / ending), sizes, how)] == [1, 2]
    assert len(file_part.tasks_of(files(tmp_path / "jsonl"), sizes, ReadOptions("keep"))) == 2, (
        "its lines are counted from the top"
    )
    assert len(file_part.tasks_of(files(tmp_path / "jsonl"), sizes, ReadOptions(encoding="cp1252"))) == 2
    monkeypatch.setattr(file_part, "MOST_TASKS", 3)
    assert len(file_part.tasks_of(files(tmp_path / "jsonl"), sizes, how)) == 4


def test_row_groups_are_shared_by_tasks(large: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow.parquet.write_table(pa.table({"id": range(1000)}), tmp_path / "a.parquet", row_group_size=150)
    monkeypatch.setattr(file_part, "TASK_BYTES", os.path.getsize(tmp_path / "a.parquet") // 4)
    dataset = large(tmp_path / "a.parquet")
    read_by = [[row["id"] for table in dataset.reader(parts) for row in table.to_pylist()] for parts in dataset.tasks]
    assert len(read_by) == 4 and all(read_by) and [i for ids in read_by for i in ids] == list(range(1000))


def test_parquet_with_a_column_twice(put: Any) -> None:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), sink)
    message = refusal(put("twice.parquet", sink.getvalue().to_pybytes()))
    assert "twice.parquet" in message and "several columns of the name 'text'" in message


def test_parquet_with_a_column_of_a_name_that_a_run_uses(put: Any) -> None:
    message = refusal(put("ours.parquet", parquet_bytes([{"text": "a", "_rayllm_row_id": None}])))
    assert "ours.parquet" in message and "'_rayllm_row_id', which a run uses" in message


def test_days_of_all_years_in_the_dates_of_old_parquet(tmp_path: Path) -> None:
    days = [
        datetime.datetime(*day) for day in ((9999, 12, 31), (1, 1, 1), (1600, 2, 29), (2024, 2, 29, 23, 59, 59, 123456))
    ]
    table = pa.table(
        {
            "at": pa.array(days, pa.timestamp("us")),
            "list": pa.array([[day] for day in days], pa.list_(pa.timestamp("us"))),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", use_deprecated_int96_timestamps=True)
    assert read(tmp_path / "rows.parquet") == table.to_pylist()


def test_parquet_files_whose_types_differ(put: Any, tmp_path: Path) -> None:
    put("data/a.parquet", parquet_bytes([{"key": 2**60 + 1, "text": "a"}]))
    put("data/b.parquet", parquet_bytes([{"key": 0.5, "text": "b", "more": [1]}]))
    put("data/c.parquet", parquet_bytes([{"key": "k", "text": b"c"}]))
    assert [list(row.values()) for row in read(tmp_path / "data")] == [
        [2**60 + 1, "a", None],
        [0.5, "b", [1]],
        ["k", b"c", None],
    ]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (pa.array([1], pa.int32()), pa.array([0.5])),
        (pa.array([decimal.Decimal("1.5")]), pa.array([decimal.Decimal("1.25")])),
        (pa.array([{"a": 1}]), pa.array([{"a": 1, "b": None}], pa.struct([("a", pa.int64()), ("b", pa.int64())]))),
    ],
)
def test_a_value_of_one_parquet_file_is_not_changed_by_another(one: pa.Array, two: pa.Array, tmp_path: Path) -> None:
    for name, array in (("a", one), ("b", two), ("c", one)):
        pyarrow.parquet.write_table(pa.table({"x": array}), tmp_path / f"{name}.parquet")
    assert repr([row["x"] for row in read(tmp_path)]) == repr([*one.to_pylist(), *two.to_pylist(), *one.to_pylist()])


def test_the_first_rows_of_a_large_file_take_little_memory(tmp_path: Path) -> None:
    texts = [random.Random(number).randbytes(4000).hex() for number in range(8000)]
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.table({"article": texts}), path)  # one row group of 64 MB
    code = f"""
import re
from pathlib import Path
from rayllm_batch.data.dataset_file import _first_of, find_files
from rayllm_batch.data.file_part import Reader, whole
from rayllm_batch.data.read_options import ReadOptions
import pyarrow.parquet

def most_so_far():  # in KiB; getrusage has what the parent had too
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

begun = most_so_far()
files = find_files({str(path)!r})
tables = Reader(files.fs, "parquet", ReadOptions()).tables(whole(files, files.paths[0]), 1 << 20)
assert _first_of(tables, 256).num_rows == 256
print(most_so_far() - begun)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert int(run.stdout) < 60 << 10, "a row group has 64 MB, and it is held twice"


@pytest.mark.parametrize("ending", ["parquet", "jsonl.gz"])
def test_what_is_much_larger_than_its_file_is_not_read_into_the_drivers_memory(ending: str, tmp_path: Path) -> None:
    path, text = tmp_path / f"rows.{ending}", "x" * 40_000
    if ending == "parquet":
        pyarrow.parquet.write_table(
            pa.table(
                {"text": pa.DictionaryArray.from_arrays(pa.array([0] * 8000, pa.int32()), [text]).cast(pa.string())}
            ),
            path,
        )
    else:
        path.write_bytes(gzip.compress(b'{"text": "%s"}\n' % text.encode() * 100, 1) * 80)
    assert path.stat().st_size < 3 << 20, "of 320 MB"
    code = f"""
import re
from pathlib import Path
from rayllm_batch.data import dataset_file
from rayllm_batch.data.file_part import Reader, whole
from rayllm_batch.data.read_options import ReadOptions
import pyarrow.parquet

def most_so_far():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

begun, dataset_file.IN_MEMORY_BYTES = most_so_far(), 8 << 20
files = dataset_file.find_files({str(path)!r})
reader = Reader(files.fs, files.format, ReadOptions())
assert dataset_file._read_local(files, reader, [1]) is None
rows = 0
for table in reader.tables(whole(files, files.paths[0])):
    rows += table.num_rows
    assert table.nbytes < 40 << 20
assert rows == 8000
print(most_so_far() - begun)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert int(run.stdout) < 200 << 10


def test_a_file_that_is_too_large_for_memory_is_read_by_tasks(
    large: Any, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_file, "IN_MEMORY_BYTES", 1 << 20)
    dataset = large(put("rows.jsonl.gz", gzip.compress(b'{"text": "%s"}\n' % (b"x" * 4000) * 3000)))
    assert len(dataset.tasks) == 1 and sum(table.num_rows for table in dataset.reader(dataset.tasks[0])) == 3000


# --- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bad_lines": "keeps"}, "Did you mean 'keep'?"),
        ({"bad_lines": None}, "must be 'raise'"),
        ({"encoding": "cp125"}, "an encoding that Python knows"),
        ({"encoding": "base64"}, "an encoding that Python knows"),
        ({"column_types": {"id": "int46"}}, "column_types['id']"),
        ({"column_types": ["id"]}, "must be a dict"),
        ({"column_types": {"id": "int64"}}, "column_types is for CSV"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str, put: Any) -> None:
    assert words in refusal(put("rows.jsonl", JSONL), **options)
    if "encoding" in options:
        assert "Python knows" in refusal(put("rows.parquet", parquet_bytes(ROWS)), **options)


def test_parquet_has_no_encoding(put: Any) -> None:
    assert "is parquet" in refusal(put("rows.parquet", parquet_bytes(ROWS)), encoding="cp1252")
    assert read(put("rows.parquet", parquet_bytes(ROWS)), encoding="utf8", bad_lines="keep") == ROWS
