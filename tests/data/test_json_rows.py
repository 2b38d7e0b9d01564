"""JSON files: each value is what Python's json gives, each bad line is named."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pytest
from reading import read, refusal

from rayllm_batch.data import json_rows
from rayllm_batch.data.column_values import steady, together
from rayllm_batch.data.file_part import FilePart, Reader
from rayllm_batch.data.file_text import FileText
from rayllm_batch.data.read_options import BAD_LINE, ReadOptions
from rayllm_batch.output.part_file import decoded, encoded


def lines(*rows: Any, **kwargs: Any) -> bytes:
    return "".join(json.dumps(row, **kwargs) + "\n" for row in rows).encode()


def as_sent(value: Any) -> Any:
    """Rows without nulls, which stand for keys that other rows have; 1 is not 1.0; a row's values keep their keys."""
    if isinstance(value, list):
        return list(map(as_sent, value))
    return {
        key: repr(item) if not isinstance(item, dict) else told(item) for key, item in value.items() if item is not None
    }


def told(value: Any) -> Any:
    """Types told apart; of dicts the order of keys does not count."""
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    return list(map(told, value)) if isinstance(value, list) else repr(value)


@pytest.mark.parametrize(
    "values",
    [
        ["1999-12-31", "2024-02-30"],
        ["2024-03-01T10:20:30+02:00"] * 2,
        ["2024-03-01 10:20"] * 2,
        ["10:20:30", "2024"],
        ["20240301"],
        [["2024-03-01T00:00:00Z"], []],
        [{"at": ["2024-03-01"]}, {"at": None}],
        [{"a": {"b": "2024-03-01 00:00:00.123456"}}],
        ["+4930123", "0049", "007", "1e5", "NaN", "None", "null", "true", "-0"],
        [2**63 - 1, -(2**63)],
        [2**63, 2**64 - 1],
        [2**64, 1],
        [1234567890123456789012345, None],
        [2**63, -1],
        [[2**70], [1]],
        [{"id": 2**65}],
        [9007199254740993, 0.5],
        [9007199254740993, [0.5]],
        [[1, 9007199254740993, 0.5]],
        [1e22, 123456789012345678],
        [0.1, 1e-320, 1.7976931348623157e308, 5e-324, 0.1234567890123456789, 123456.789e3],
        [float("nan"), float("inf"), -float("inf")],
        [1, "1"],
        [True, 1],
        [True, 0.5],
        [None, "a", 1],
        [{"a": 1}, [1]],
        [{"a": 1}, {"a": "x"}],
        [[1], ["x"]],
        [[1, "x", None, True]],
        [{}, None, {"a": None}],
        [[[None, 1], None], [[]]],
        [["a", None, "b"], None, [None]],
        [{"m": [{"role": "user", "content": None}]}, {"m": [None]}],
        ["\ud800", "fine"],
        ["a\u0000b"],
        ["\u2028\u0085\x0b\x0c \r"],
        ["🙂" * 3, "} null", "[null", ", null"],
        [{"": 1}],
        [""],
        [[]],
        [{}],
        [None],
        [[[[[[[[[[1]]]]]]]]]],
        ["[" * 500],
        [{"a" * 1000: "[{" * 300}],
        [json.loads("[" * 40 + "]" * 40)],
        [json.loads('{"a":[' * 49 + "1" + "]}" * 49)],
        [[], [None], []],
        [[{"a": None}], [{"a": 1}], [None]],
        [{"a": []}, {"a": [None]}],
        [[], ["x"]],
    ],
    ids=lambda values: json.dumps(values)[:40],
)
def test_values_stay_what_they_are(values: list[Any], put: Any) -> None:
    rows = [{"n": n, "value": value} for n, value in enumerate(values)]
    for ascii_only in (True, False):
        content = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
        if ascii_only or content.isprintable() or "\ud800" not in content:
            assert as_sent(read(put("rows.jsonl", content.encode()))) == as_sent(rows)
            assert as_sent(read(put("rows.jsonl.gz", gzip.compress(content.encode())))) == as_sent(rows)
            assert as_sent(
                read(put("rows.json", json.dumps(rows, ensure_ascii=ascii_only, indent=1).encode()))
            ) == as_sent(rows)


@pytest.mark.parametrize(
    ("before", "value"),
    [
        ([0.5], 1),
        ([0.5], 1.0),
        ([0.5], -0.0),
        ([0.5], 0),
        ([0.5], 1e400),
        ([1], 0.5),
        ([[0.5]], [1]),
        ([{"a": 0.5}], {"a": 1}),
        ([[{"a": [0.5]}]], [{"a": [2.0, 1]}]),
        ([{"a": 1}], {"a": 1, "b": None}),
        ([{"a": 1, "b": None}], {"a": 1}),
        ([{"a": 1, "b": 2}], {"a": 1}),
        ([{"a": None}], {}),
        ([[{"a": 1}]], [{"b": 1}]),
        ([{"a": {"b": 1}}], {"a": {}}),
        ([{}], {"a": None}),
        ([{"a": 1}, {"b": 2}], {"a": 3}),
        ([{"a": [1]}], {"a": [{"b": 2}]}),
    ],
)
def test_a_value_does_not_depend_on_what_came_before(before: list[Any], value: Any, tmp_path: Path) -> None:
    rows = [{"n": n, "x": before[n % len(before)] if n % 50 else value} for n in range(1, 101)]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(*rows))
    for size in (500, 1 << 20):
        tables = list(json_rows.json_tables(FileText(str(path), pa.fs.LocalFileSystem(), "json"), size))
        for found in (together(tables), *([tables[0]] if len(tables) == 1 else [])):
            assert told(found.to_pylist()) == told(rows)
        assert told([row for table in steady(tables) for row in table.to_pylist()]) == told(rows)


def test_what_is_made_of_random_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Arrow reads them, where it is taken, and as Python does, in blocks of any size."""
    dice = random.Random(5)

    def kind(depth: int) -> Any:
        if depth == 0 or dice.random() < 0.5:
            return dice.choice("sibfdx")
        return (
            [kind(depth - 1)]
            if dice.random() < 0.5
            else {key: kind(depth - 1) for key in dice.sample("abcdef", dice.randint(0, 3))}
        )

    def value(of: Any, absent: float) -> Any:
        if dice.random() < absent:
            return None
        if isinstance(of, list):
            return [value(of[0], absent) for _ in range(dice.choice([0, 1, 3]))]
        if isinstance(of, dict):
            return {key: value(item, absent) for key, item in of.items() if dice.random() > absent}
        return {
            "s": dice.choice(["", "null", "é\n", "} null"]),
            "i": dice.choice([-1, 2**53 + 1]),
            "b": dice.random() < 0.5,
            "f": dice.random(),
            "d": "2024-03-01T10:20:30Z",
            "x": None,
        }[of]

    def noted(parser: Any, block: Any, by_arrow: Any = json_rows.LineParser._by_arrow) -> Any:
        table = by_arrow(parser, block)
        taken.append(table is not None)
        return table

    taken, path = [], str(tmp_path / "rows.jsonl")
    monkeypatch.setattr(json_rows.LineParser, "_by_arrow", noted)
    for _ in range(300):
        of, absent = {key: kind(3) for key in "abc"}, dice.choice([0, 0, 0.2])
        rows = [
            value(of, 0) if not absent else {key: value(of[key], absent) for key in of}
            for _ in range(dice.randint(1, 9))
        ]
        Path(path).write_bytes(lines(*rows, ensure_ascii=dice.random() < 0.5))
        for size in (1, 100, 1 << 20):
            text = FileText(path, pa.fs.LocalFileSystem(), "json")
            found = [row for table in json_rows.json_tables(text, size) for row in table.to_pylist()]
            assert as_sent(found) == as_sent(rows)
    assert 0.2 < sum(taken) / len(taken) < 0.95, "both are tried"


def test_a_key_that_comes_twice(put: Any) -> None:
    content = b'{"id": 1, "a": "x"}\n{"id": 2, "a": "x", "a": null, "a": "y"}\n{"id": 3, "b": {"c": 1, "c": [2]}}\n'
    assert as_sent(read(put("rows.jsonl", content))) == as_sent(
        [{"id": 1, "a": "x"}, {"id": 2, "a": "y"}, {"id": 3, "b": {"c": [2]}}]
    )


def test_keys_that_are_data(put: Any) -> None:
    rows = [
        {"id": n, "votes": {f"user {n} {i}": i for i in range(3)}, "list": [{f"k{n}": [{f"k{n}": n}]}]}
        for n in range(3000)
    ]
    assert read(put("rows.jsonl", lines(*rows))) == rows
    few = [{"id": n, "votes": {f"user {n % 3}": 1}} for n in range(100)]
    assert read(put("rows.jsonl", lines(*few))) == few


def test_keys_that_are_data_take_no_more_memory_than_they_have() -> None:
    tables = [json_rows.table_of_rows([{"votes": {f"user {n}": 1}}]) for n in range(2000)]
    assert together(tables).nbytes < 1 << 20


def test_keys_that_come_late(put: Any) -> None:
    rows = [{"id": n, **({"late": [n]} if n > 2500 else {})} for n in range(3000)]
    assert as_sent(read(put("rows.jsonl", lines(*rows)))) == as_sent(rows)
    assert read(put("rows.json", json.dumps(rows).encode()))[-1] == {"id": 2999, "late": [2999]}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("null", "must be a JSON object"),
        ("[1]", "must be a JSON object"),
        ('{"a": 1} {"a": 2}', "Extra data"),
        ('{"a": 1} null', "Extra data"),
        ('{"a": 01}', "delimiter"),
        ('{"a": "x\ty"}', "control character"),
        ('{"a": .5}', "Expecting value"),
        ('{"a": 1', "delimiter"),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "brackets"),
        ('{"a": ' * 300 + "1" + "}" * 300, "brackets"),
        ('{"a": ' * 5000 + "1" + "}" * 5000, "brackets"),
        ('{"a": ' + "9" * 5000 + "}", "4300 digits"),
        ('{"a": 1}}', "Extra data"),
        ('{"a": ' + "[" * 189 + "]" * 189 + "}", "brackets"),
        ('{"a":[' * 51 + "]}" * 51, "brackets"),
        ("\x00", "Expecting value"),
        ("<html>", "Expecting value"),
    ],
)
@pytest.mark.parametrize("before", [0, 5])
def test_bad_lines(line: str, word: str, before: int, put: Any) -> None:
    if before == 0 and line[0] in "[<":
        return
    content = lines(*[{"a": n} for n in range(before)]) + line.encode() + b"\n" + lines({"a": 9})
    path = put("rows.jsonl", content)
    message = refusal(path)
    assert message.startswith(f"Line {before + 1} of {str(path)!r}") and word in message and len(message) < 700
    rows = read(path, bad_lines="keep")
    assert [row.pop(BAD_LINE) is None for row in rows] == [True] * before + [False, True]
    assert [row["a"] for row in rows] == [*range(before), None, 9]


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("_rayllm_bad_line", "a name that a run uses"),
        ("_rayllm_row_id", "a name that a run uses"),
        ("_rayllm_other:12345678:a", "a name that a run uses"),
        ("\\u005frayllm_bad_line", "a name that a run uses"),
        ("\\ud83d", "half of a surrogate pair"),
        ("x\\udc00", "half of a surrogate pair"),
    ],
)
@pytest.mark.parametrize("value", ["5", '"text"', "null"])
def test_keys_that_no_column_can_have(key: str, word: str, value: str, put: Any) -> None:
    line = f'{{"a": 2, "{key}": {value}}}'
    for path, where in (
        (put("rows.jsonl", lines({"a": 1}) + line.encode() + b"\n" + lines({"a": 3})), "Line 2"),
        (put("rows.json", f'[{{"a": 1}}, {line}, {{"a": 3}}]'.encode()), "Item 2"),
    ):
        assert refusal(path).startswith(f"{where} of {str(path)!r}: the key ") and word in refusal(path)
        rows = read(path, bad_lines="keep")
        assert (
            [row["a"] for row in rows] == [1, None, 3]
            and word in rows[1][BAD_LINE]
            and all(row.keys() == {"a", BAD_LINE} for row in rows)
        )


def test_a_reserved_key_behind_a_bad_line_is_a_bad_line_too(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(
        lines({"a": 1}) * 50 + b"bad\n" + lines({"a": 1}) * 50 + b'{"a": 2, "_rayllm_bad_line": "mine"}\n'
    )
    text = FileText(str(tmp_path / "rows.jsonl"), pa.fs.LocalFileSystem(), "json", ReadOptions("keep"))
    found = [row[BAD_LINE] for table in json_rows.json_tables(text, 100) for row in table.to_pylist()]
    assert len(found) == 102 and "Line 51" in found[50] and "Line 102" in found[101] and found.count(None) == 100


def test_the_deepest_rows_can_be_written_with_little_stack_left() -> None:
    row = json.loads('{"a":[' * 49 + "1" + "]}" * 49)
    table = json_rows.table_of_rows([json_rows._row(json.dumps({"x": row}))])

    def written(depth: int) -> None:
        if depth:
            return written(depth - 1)
        for output_format in ("jsonl", "parquet"):
            file = encoded(table, output_format)
            assert decoded(bytes(file.content), output_format, file.schema, file.as_text).to_pylist() == [{"x": row}]

    written(400)


@pytest.mark.parametrize("between", ["\n\n", "\n\r\n", "\n \n"])
def test_two_objects_in_one_line_are_a_bad_line_where_another_line_is_empty_too(between: str, put: Any) -> None:
    good = '{"a": 0}\n' * 5
    for content, number in (
        (f'{good}{{"a": 1}}{{"a": 2}}{between}{{"a": 3}}\n', 6),
        (f'{good[:-1]}{between}{{"a": 1}} {{"a": 2}}\n{{"a": 3}}', 7),
        (f'\n{{"a": 1}}{{"a": 2}}\n{good}', 2),
    ):
        path = put("rows.jsonl", content.encode())
        assert refusal(path).startswith(f"Line {number} of ") and "Extra data" in refusal(path)
        assert [row["a"] for row in read(path, bad_lines="keep") if row[BAD_LINE] is None].count(3) == (number > 2)


def test_one_object_over_several_lines(put: Any) -> None:
    assert "pretty-printed" in refusal(put("rows.jsonl", json.dumps({"a": 1, "b": [2]}, indent=2).encode()))
    assert "pretty-printed" in refusal(put("rows.json", json.dumps({"rows": [{"a": 1}]}, indent="\t").encode()))
    assert "pretty-printed" not in refusal(put("rows.jsonl", b'{"a": 1\n{"a": 2}\n'))


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        ('[\n{"a": 1},\n{"a": 2}\n{"a": 3}]', 4, "','"),
        ('[{"a": 1},\n{"a": }]', 2, "Expecting value"),
        ('[{"a": 1},\n{"a": 2}', 2, "','"),
        ('[{"a": 1}]\n\n[{"a": 2}]', 3, "behind the array"),
        ('[{"a": "x\n"}]', 2, "control character"),
        ('[{"a": 1},\n]', 2, "Expecting value"),
        ('[{"a": "' + "x" * 5000, 1, "Unterminated"),
        ("[" * 5000, 1, "brackets"),
    ],
)
def test_bad_arrays(content: str, line: int, word: str, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(put("rows.json", content.encode()))
    assert message.startswith(f"Line {line} of ") and word in message and len(message) < 400


def test_items_of_an_array_that_are_no_objects(put: Any) -> None:
    assert "item 2 is '7'" in refusal(put("rows.json", b'[{"a": 1}, 7, "x"]'))
    for item, word in (("7", "item 2 is"), ('{"a":' + "[" * 189 + "]" * 189 + "}", "Item 2 of")):
        rows = read(put("rows.json", f'[{{"a": 1}}, {item}, {{"a": 2}}]'.encode()), bad_lines="keep")
        assert [row["a"] for row in rows] == [1, None, 2] and word in rows[1][BAD_LINE]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "cp1252", "shift-jis", "gb18030", "latin-1"])
def test_encodings(encoding: str, put: Any) -> None:
    text = {"cp1252": "‘café’ – 5 €", "latin-1": "naïve", "shift-jis": "表示 ソ", "gb18030": "中文"}.get(
        encoding, "Größe 図書館 🙂"
    )
    rows = [{"id": n, "text": text} for n in range(50)]
    asked = {} if encoding in ("utf-16", "utf-32") else {"encoding": encoding}
    for name, content in (
        ("rows.jsonl", lines(*rows, ensure_ascii=False)),
        ("rows.json", json.dumps(rows, ensure_ascii=False).encode()),
    ):
        coded = content.decode().encode(encoding)
        assert read(put(name, coded), **asked) == rows
        assert read(put(f"{name}.gz", gzip.compress(coded)), **asked) == rows
        if asked:
            message = refusal(put(name, coded))
            assert "is not UTF-8" in message and "dataset_encoding=" in message and name in message


def test_bytes_that_the_encoding_does_not_have(put: Any) -> None:
    path = put("rows.jsonl", b'{"a": "fine"}\n{"a": "\x81"}\n')
    message = refusal(path, encoding="cp1252")
    assert message.startswith("Line 2 of ") and "is not CP1252 (byte 0x81)" in message
    rows = read(path, encoding="cp1252", bad_lines="keep")
    assert rows[0]["a"] == "fine" and "CP1252" in rows[1][BAD_LINE]
    assert "UTF-8 (byte 0xe9)" in refusal(put("rows.json", '[{"a": "x"},\n{"a": "caf\u00e9"}]'.encode("latin-1")))


def test_a_bad_line_in_the_middle_of_a_large_file(tmp_path: Path) -> None:
    """Each task reads its part alone, and the one with the bad line says which line of the file it is."""
    path, filler = tmp_path / "large.jsonl", "words and more " * 90
    with path.open("w") as file:
        for n in range(80_000):
            file.write('{"id": 69999, "te\n' if n == 69_999 else f'{{"id": {n}, "text": "{filler}{n}"}}\n')
    size = path.stat().st_size
    assert size > 100 << 20
    reader, cuts = (
        Reader(pa.fs.LocalFileSystem(), "json", ReadOptions(), ("id", "text")),
        [*range(0, size, 9_999_999), None],
    )
    ids, errors = [], []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        try:
            for table in reader([FilePart(str(path), (), start, stop)]):
                ids += table.column("id").to_pylist()
        except Exception as error:
            errors.append(str(error))
    assert len(errors) == 1 and errors[0].startswith(f"Line 70000 of {str(path)!r} is not JSON")
    assert ids[:60_000] == list(range(60_000)) and ids[-1] == 79_999
    kept = [
        row
        for table in Reader(reader.fs, "json", ReadOptions("keep"))([FilePart(str(path))])
        for row in table.to_pylist()
        if row[BAD_LINE]
    ]
    assert len(kept) == 1 and kept[0][BAD_LINE].startswith("Line 70000 of")


def test_an_array_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    with path.open("w") as file:
        file.write("[")
        for n in range(60_000):
            file.write(("," if n else "") + json.dumps({"text": "x" * 4000, "n": n}))
        file.write("]")
    code = f"""
import re
from pathlib import Path
import pyarrow.fs
from rayllm_batch.data.file_part import FilePart, Reader
from rayllm_batch.data.read_options import ReadOptions

def most_so_far():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

reader, rows, begun = Reader(pyarrow.fs.LocalFileSystem(), "json", ReadOptions()), 0, most_so_far()
for table in reader([FilePart({str(path)!r})]):
    rows += table.num_rows
assert rows == 60000
print(most_so_far() - begun)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert int(run.stdout) < 150 << 10, "of 240 MB"
