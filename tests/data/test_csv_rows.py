"""CSV files: text stays text, bad lines are named, and no file becomes one column."""

from __future__ import annotations

import csv
import gzip
import io
import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pytest
from reading import read, refusal

from rayllm_batch.data import csv_rows
from rayllm_batch.data.file_text import FileText
from rayllm_batch.data.read_options import BAD_LINE
from rayllm_batch.errors import DatasetError

CELLS = [
    "",
    "NA",
    "N/A",
    "NaN",
    "nan",
    "None",
    "null",
    "NULL",
    "true",
    "False",
    "007",
    "+4930123",
    "1e5",
    "-0",
    "1,5",
    "3.10",
    "2024-03-01",
    "1234567890123456789012345",
    " padded ",
    'with "quotes"',
    "two\nlines",
    "two\r\nlines",
    "a;b\tc|d",
    "図書館 🙂",
    "'",
    "=1+1",
    "#",
    "0x1F",
    "\u2028",
]


def written(rows: list[list[str]], separator: str = ",", ending: str = "\r\n") -> bytes:
    sink = io.StringIO()
    csv.writer(sink, delimiter=separator, lineterminator=ending).writerows(rows)
    return sink.getvalue().encode()


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_text_stays_text(ending: str, put: Any) -> None:
    rows = [{"n": str(n), "cell": cell, "same": "NA"} for n, cell in enumerate(CELLS)]
    content = written([["n", "cell", "same"], *(list(row.values()) for row in rows)], ending=ending)
    assert read(put("rows.csv", content)) == read(put("rows.csv.gz", gzip.compress(b"\xef\xbb\xbf" + content))) == rows
    assert read(put("rows.csv", content.rstrip())) == rows


def test_random_cells(put: Any) -> None:
    dice = random.Random(3)
    for separator in ",;\t|":
        rows = [[dice.choice(CELLS) for _ in range(4)] for _ in range(200)]
        content = written([["a", "b", "c", "d"], *rows], separator)
        assert [list(row.values()) for row in read(put("rows.csv", content))] == rows


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("rows.tsv", b"a\tb\n1,5\t2\n", {"a": "1,5", "b": "2"}),
        ("rows.tsv", b"a,b\n1,2\n", {"a": "1", "b": "2"}),
        ("rows.csv", b"a\tb\n1,5\t2\n", {"a": "1,5", "b": "2"}),
        ("rows.csv", b"a;b\n1,5;2\n", {"a": "1,5", "b": "2"}),
        ("rows.csv", b"price, net;b\n1,5;2\n1;3\n2;3\n", {"price, net": "1,5", "b": "2"}),
        ("rows.csv", b"a|b|c\n1|2|3\n", {"a": "1", "b": "2", "c": "3"}),
        ("rows.csv", b'"a;b"\n1;2\n', {"a;b": "1;2"}),
        ("rows.csv", b"a, b;c;d\n1,5;2;3\n2,5;4;6\n", {"a, b": "1,5", "c": "2", "d": "3"}),
        ("rows.csv", b'"name";"price, net"\nx;1,5\ny;2,5\n', {"name": "x", "price, net": "1,5"}),
        (
            "rows.csv",
            b'name;"address, city";z\nx;Street 1, Berlin;z\n',
            {"name": "x", "address, city": "Street 1, Berlin", "z": "z"},
        ),
        ("rows.csv", b'name;"price, net"\nx;1,5\ny;2,5\n', {"name": "x", "price, net": "1,5"}),
        ("rows.csv", b"price, net;b\n1,5;2\n2,5;3\n", {"price, net": "1,5", "b": "2"}),
        ("rows.csv", b"a;b, c;d\n1;2;3\n4;5,5;6\n7;8;9\n", {"a": "1", "b, c": "2", "d": "3"}),
        ("rows.csv", b"a,b;c,d\n1,2;2,3\n4,5;6,7\n", {"a": "1", "b;c": "2;2", "d": "3"}),
        ("rows.csv", b"id, label\n1, x\n", {"id": "1", " label": " x"}),
        ("rows.tsv", b"a, b\tc, d\n1, 5\t2, 3\n", {"a, b": "1, 5", "c, d": "2, 3"}),
        ("rows.csv", b'"a","b;c"\n1,2;3\n', {"a": "1", "b;c": "2;3"}),
        ("rows.csv", b"sep=;\na,b;c\n1;2\n", {"a,b": "1", "c": "2"}),
        ("rows.csv", b'"sep=|"\r\na;b|c,d\r\n1|2\r\n', {"a;b": "1", "c,d": "2"}),
        ("rows.csv", b"\xef\xbb\xbfSEP=\t\r\na\tb\r\n1\t2\r\n", {"a": "1", "b": "2"}),
        ("rows.csv", b"text\nfirst; second\n", {"text": "first; second"}),
        ("rows.csv", b'a,b\n"x;y",z;w\n', {"a": "x;y", "b": "z;w"}),
    ],
)
def test_the_separator_is_the_headers(name: str, content: bytes, row: dict[str, str], put: Any) -> None:
    assert read(put(name, content))[0] == row


def test_types_that_are_asked_for(put: Any) -> None:
    path = put("rows.csv", b"age,score,ok,code\n07,1.5,true,007\n,,,\n-3,2,false,1\n")
    types = {"age": "int64", "score": pa.float32(), "ok": "bool"}
    assert read(path, column_types=types) == [
        {"age": 7, "score": 1.5, "ok": True, "code": "007"},
        {"age": None, "score": None, "ok": None, "code": ""},
        {"age": -3, "score": 2.0, "ok": False, "code": "1"},
    ]
    bad = put("rows.csv", b"age,x\n1,a\n1.5,b\n2,c\n")
    message = refusal(bad, column_types={"age": "int64"})
    assert message.startswith("Line 3 of ") and "column 'age' is '1.5', which is no int64" in message
    rows = read(bad, column_types={"age": "int64"}, bad_lines="keep")
    assert [row["age"] for row in rows] == [1, None, 2] and rows[1]["x"] is None and "Line 3" in rows[1][BAD_LINE]
    assert "Did you mean 'age'?" in refusal(bad, column_types={"agee": "int64"})


@pytest.mark.parametrize(
    "kind",
    [
        "int",
        int,
        None,
        5,
        ["int64"],
        "list",
        pa.list_(pa.int64()),
        pa.null(),
        pa.struct([("a", pa.int64())]),
        pa.duration("s"),
        pa.map_(pa.string(), pa.string()),
    ],
)
@pytest.mark.parametrize("bad_lines", ["raise", "keep"])
def test_types_that_text_cannot_become(kind: Any, bad_lines: str, put: Any) -> None:
    message = refusal(put("rows.csv", b"a,b\n1,2\n,\n"), column_types={"a": kind}, bad_lines=bad_lines)
    assert "column_types['a'] must be an Arrow type that text can become" in message and repr(kind) in message


@pytest.mark.parametrize("bad_lines", ["raise", "keep"])
def test_types_that_only_the_whole_column_cannot_have(bad_lines: str, put: Any) -> None:
    path = put("rows.csv", b"a\n" + b"".join(b"%d\n" % n for n in range(200)) + b"\n")
    assert "'a'" in refusal(path, column_types={"a": pa.dictionary(pa.int8(), pa.string())}, bad_lines=bad_lines)


@pytest.mark.parametrize("kind", ["string", "large_string", pa.string_view()])
def test_an_empty_cell_of_text_is_text(kind: Any, put: Any) -> None:
    assert read(put("rows.csv", b"a,b\n1,2\n,\n"), column_types={"a": kind})[1] == {"a": "", "b": ""}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32"])
@pytest.mark.parametrize("half", ["\ud83d", "\ude00", "\ude00\ud83d"])
def test_half_of_a_pair_is_a_bad_line(encoding: str, half: str, put: Any) -> None:
    asked = {"encoding": encoding} if encoding[-2:] in ("le", "be") else {}
    for name, lines in (
        ("rows.csv", ["a,b", "1,🙂", f"2,{half}", "3,x"]),
        ("rows.jsonl", ['{"a": "0"}', '{"a": "1"}', f'{{"a": "{half}"}}', '{"a": "3"}']),
    ):
        path = put(name, "".join(f"{line}\n" for line in lines).encode(encoding, "surrogatepass"))
        message = refusal(path, **asked)
        assert message.startswith("Line 3 of ") and "half of a surrogate pair" in message and "UTF" in message
        rows = read(path, bad_lines="keep", **asked)
        assert [row["a"] for row in rows][-3:] == ["1", None, "3"] and "Line 3" in rows[-2][BAD_LINE]


def test_a_separator_that_is_named_has_a_line(put: Any) -> None:
    assert refusal(put("rows.csv", b"sep=;\na;b\n1;2\n3\n")).startswith("Line 4 of ")
    assert "no rows" in refusal(put("rows.csv", b"sep=;\n"))


def test_quotes_that_are_lost_in_each_line_do_not_take_the_square_of_the_lines(put: Any) -> None:
    path = put("rows.csv", b"a,b\n" + b'x","y\n' * 20_000 + b"1,2\n")
    rows = read(path, bad_lines="keep")
    assert len(rows) == 20_001 and rows[-1]["a"] == "1" and all("not closed" in row[BAD_LINE] for row in rows[:-1])
    assert rows[7][BAD_LINE].startswith("Line 9 of")


def test_a_row_is_bad_for_what_is_in_it_wherever_an_earlier_one_fails(put: Any) -> None:
    rows = read(put("rows.csv", b'a,b\n1,"open\n2,2\n"x\ny",3\n4,"z"z\n5,"5\n5"\n'), bad_lines="keep")
    assert [(row["a"], row["b"]) for row in rows if row[BAD_LINE] is None] == [("2", "2"), ("x\ny", "3"), ("5", "5\n5")]


@pytest.mark.parametrize(
    ("content", "number", "word", "others"),
    [
        (b"a,b\n1,2\n3\n4,5\n", 3, "1 cell(s) where the header has 2", ["1", "4"]),
        (b'a,b\n1,"x\ny"\n3,4,5\n6,7\n', 4, "3 cell(s)", ["1", "6"]),
        (b'a,b\n1,2\n3,"open\n4,5\n6,7\n', 3, "a quote is opened and not closed", ["1", "4", "6"]),
        (b'a,b\n1,2\n3,"open\n4,"5"\n6,7\n', 3, "expected after", ["1", "4", "6"]),
        (b'a,b\n1,2\n3,"x"y\n6,7\n', 3, "expected after", ["1", "6"]),
        (b"a,b\n1,2\n3,caf\xe9\n6,7\n", 3, "is not UTF-8 (byte 0xe9): 'caf?'", ["1", "6"]),
        (b"a,b\n\n\n1,2\n3,\xff\xfe\n", 5, "is not UTF-8 (byte 0xff)", ["1"]),
    ],
)
def test_bad_lines(content: bytes, number: int, word: str, others: list[str], put: Any) -> None:
    path = put("rows.csv", content)
    message = refusal(path)
    assert message.startswith(f"Line {number} of {str(path)!r}") and word in message and "bad_lines='keep'" in message
    rows = read(path, bad_lines="keep")
    assert [row["a"] for row in rows if row[BAD_LINE] is None] == others
    (bad,) = [row for row in rows if row[BAD_LINE]]
    assert bad["a"] is bad["b"] is None and bad[BAD_LINE].startswith(f"Line {number} of ") and word in bad[BAD_LINE]


@pytest.mark.parametrize(
    ("content", "quoted", "separator", "advice"),
    [
        (b"id;text;stars\n1;a;2\n2;good, but; dear;1\n", "'2;good, but; dear;1'", ";", "A cell with ';' in it must"),
        (b"id\ttext\n1\ta\n\tb\t\r\n", repr("\tb\t"), "\t", "A cell with '\\t' in it must"),
        (b"a|b|c\n1|2|3\n 4, 5|6 \n", "' 4, 5|6 '", "|", "a line break in a cell, which must then stand in quotes"),
        (b'a,b\n1,2\n"x, ""y""\nz"\n', repr('"x, ""y""\nz"'), ",", "An empty cell needs its separator too"),
        (b"sep=;\na;b\n1;2\n3;%s\n" % (b"x;" * 300), "'3;" + "x;" * 99 + "...'", ";", "A cell with ';'"),
    ],
)
def test_a_row_of_another_width_is_shown_as_it_stands_in_the_file(
    content: bytes, quoted: str, separator: str, advice: str, put: Any
) -> None:
    message = refusal(put("rows.csv", content))
    assert f"with the separator {separator!r}: {quoted}. " in message and advice in message
    assert "bad_lines='keep' (on the command line: -w bad_lines=keep)" in message


def test_rows_of_another_width_do_not_hide_those_between(put: Any) -> None:
    rows = read(put("rows.csv", b'a,b\n1\n2,2\n3,3,3\n4,"4\n5,5\n6\n'), bad_lines="keep")
    assert [row["a"] for row in rows] == [None, "2", None, None, "5", None]
    assert [row[BAD_LINE].split()[1] for row in rows if row[BAD_LINE]] == ["2", "4", "5", "7"]


def test_lines_far_down_are_numbered_in_small_blocks(put: Any) -> None:
    path = put("rows.csv", b"a,b\n" + b'1,"x\ny"\n' * 50_000 + b"bad\n")
    with pytest.raises(DatasetError, match="^Line 100002 of "):
        list(csv_rows.csv_tables(FileText(str(path), pa.fs.LocalFileSystem(), "csv"), 1000))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,text,id\n1,2,3\n", ["several columns of the name 'id'"]),
        (b",text\n0,a\n", ["column 1 of 2", "index=False"]),
        (b"a,,b,\n1,2,3,4\n", ["column 2, 4 of 4"]),
        (b"caf\xe9,b\n1,2\n", ["Line 1", "the header", "not UTF-8"]),
        (b'a,"b\n1,2\n', ["Line 1", "a quote is opened"]),
        (b"id,_rayllm_bad_line\n1,\n", ["'_rayllm_bad_line'", "which a run uses"]),
        (b'{"a": 1}\n{"a": 2}\n', ["its content is JSON", ".jsonl"]),
        (b'[{"a": 1}]\n', ["its content is JSON"]),
    ],
)
@pytest.mark.parametrize("bad_lines", ["raise", "keep"])
def test_headers_that_cannot_be(content: bytes, words: list[str], bad_lines: str, put: Any) -> None:
    message = refusal(put("rows.csv", content), bad_lines=bad_lines)
    assert "rows.csv" in message and all(word in message for word in words)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "‘café’ – 5 €"),
        ("shift-jis", "表示 ソ"),
        ("utf-16", "Größe 🙂"),
        ("utf-32", "図"),
        ("utf-8-sig", "図"),
        ("utf-16-be", "naïve plain text"),
    ],
)
def test_encodings(encoding: str, text: str, put: Any) -> None:
    content = f"id,text\n1,{text}\n2,plain\n".encode(encoding)
    known = encoding in ("utf-16", "utf-32", "utf-8-sig")
    wanted = [{"id": "1", "text": text}, {"id": "2", "text": "plain"}]
    assert read(put("rows.csv", content), **({} if known else {"encoding": encoding})) == wanted
    assert read(put("rows.csv.gz", gzip.compress(content)), **({} if known else {"encoding": encoding})) == wanted
    if not known:
        message = refusal(put("rows.csv", content))
        assert "UTF-8" in message and "dataset_encoding=" in message
        assert re.search(r"dataset_encoding='([\w-]+)' \(on the command line: -w dataset_encoding=\1\)", message)


def test_a_byte_order_mark_goes_before_the_encoding_that_is_asked_for(put: Any, tmp_path: Path) -> None:
    put("data/a.csv", "text\ncafé\n".encode("utf-8-sig"))
    put("data/b.csv", "text\n5 €\n".encode("cp1252"))
    assert read(tmp_path / "data", encoding="cp1252") == [{"text": "café"}, {"text": "5 €"}]


def test_columns_of_several_files(put: Any, tmp_path: Path) -> None:
    put("data/a.csv", b"id,text\n1,a\n")
    put("data/b.csv", b"text;more\nb;c\n")
    assert read(tmp_path / "data") == [{"id": "1", "text": "a", "more": None}, {"id": None, "text": "b", "more": "c"}]


def test_a_cell_of_megabytes(put: Any) -> None:
    text = 'word "word"\n' * 500_000
    path = put("rows.csv", written([["id", "text"], ["1", text], ["2", "short"]]))
    assert [row["text"] == wanted for row, wanted in zip(read(path), (text, "short"), strict=True)] == [True, True]
