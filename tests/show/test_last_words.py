"""The last words of a run: how many failed of what, where the answers are, what to do next."""

from __future__ import annotations

import glob
import json
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pytest

from rayllm_batch.measures.failures import counted
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_file import encoded
from rayllm_batch.show import last_words

ERRORS = [
    *(f"tokenize: the prompt has {n} tokens" for n in range(1000, 1007)),
    *["parse_row: KeyError: 'a'"] * 3,
    "engine: x",
    "engine: x",
    "b",
    "c",
]


def test_errors_that_differ_in_numbers_are_one_kind_and_the_most_frequent_come_first() -> None:
    lines = last_words.most_frequent(counted(ERRORS))
    assert lines == [
        "  7 x tokenize: the prompt has 1000 tokens",
        "  3 x parse_row: KeyError: 'a'",
        "  2 x engine: x",
        "  2 x other errors",
    ]


def test_those_that_were_too_many_to_keep_come_last() -> None:
    lines = last_words.most_frequent(counted(f"engine: {'x' * n}" for n in range(500)))
    assert len(lines) == 4 and lines[-1] == "  497 x other errors"
    assert all(len(line) < 220 for line in last_words.most_frequent(counted(["long " * 500])))


def test_invalid_answers_are_counted_by_reason() -> None:
    invalid = counted(["field 'title': too long"] * 3 + ["field 'tone': no such tone"])
    lines = last_words.of_invalid(invalid, 2, 1)
    assert lines == [
        "4 invalid answers; 2 asked for again, which mended 1 row(s):",
        "  3 x field 'title': too long",
        "  1 x field 'tone': no such tone",
    ]
    assert last_words.of_invalid(invalid, 0, 0)[0] == "4 invalid answers:" and last_words.of_invalid({}, 0, 0) == []
    text = last_words.of_memory(5, 0, "5 s", {}, lines)
    assert text.splitlines()[1:4] == lines
    where: dict[str, Any] = {"path": "out", "output_format": "jsonl", "alike": True, "id_column": None}
    assert last_words.of_folder(5, 0, "5 s", {}, **where, invalid=lines).splitlines()[1:4] == lines


def test_of_a_folder() -> None:
    errors = counted(ERRORS)
    text = last_words.of_folder(
        20, 14, "5 s", errors, path="out", output_format="parquet", alike=True, id_column="ticket"
    )
    assert text.startswith("20 rows, 14 failed, 6 answered; 5 s\n  7 x tokenize")
    assert "pd.read_parquet('out')[['ticket', 'generated_text', 'error']], on='ticket', how='left')" in text
    assert text.isascii() and "retry_failed=True (--retry-failed)" in text
    text = last_words.of_folder(
        20, 0, "5 s", {}, path="out", output_format="parquet", alike=True, id_column="zip", of_csv=True
    )
    assert "With your table, read with dtype=str and keep_default_na=False: table.merge(" in text
    text = last_words.of_folder(20, 0, "5 s", {}, path="s3://b/out", output_format="jsonl", alike=True, id_column="id")
    assert (
        "retry" not in text and "merge" not in text and "glob" not in text and "the Dataset that run() returns" in text
    )
    uri = "s3://b/out?endpoint_override=10.0.0.5:9000"
    text = last_words.of_folder(20, 0, "5 s", {}, path=uri, output_format="parquet", alike=True, id_column="id")
    assert "pd." not in text and "the Dataset that run() returns" in text, "pandas does not know the options"


PARTS = {
    "a column of later rows": ({"id": [1]}, {"id": [2], "more": ["e"]}),
    "a field of later rows": ({"id": [1], "m": [{"a": 1}]}, {"id": [2], "m": [{"a": 1, "b": 2}]}),
    "nothing, then text": ({"id": [1], "note": pa.nulls(1)}, {"id": [2], "note": ["x"]}),
    "days, then times": ({"id": [1], "at": [date(2024, 1, 1)]}, {"id": [2], "at": [datetime(2024, 1, 1, 12)]}),
    "whole numbers, then others": ({"id": [1], "n": [1]}, {"id": [2], "n": [1.5]}),
    "text like dates and numbers": (
        {"id": ["2024-01-02"], "n": ["007"]},
        {"id": ["2024-01-03"], "n": ["12345678901234567890"]},
    ),
    "all alike": ({"id": [1]}, {"id": [2]}),
}


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
@pytest.mark.parametrize("name", ["out", "o\"u't", "o\\n", "o u=t"])
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_what_it_says_reads_every_value_and_joins_every_row(
    tmp_path: Path, parts: Any, name: str, output_format: str
) -> None:
    with OutputFolder(tmp_path / name, Job({"model_id": "m"}), output_format) as folder:
        for number, columns in enumerate(parts, start=1):
            table = pa.table({**columns, "generated_text": [f"answer {number}"], "error": pa.nulls(1, pa.string())})
            file = encoded(table, output_format)
            folder.store(f"part-{number:06d}-aaaaaaaa.{output_format}", file, bytes([number]) * 16)
        where = {
            "path": folder.given,
            "output_format": output_format,
            "alike": folder.alike,
            "id_column": folder.has_as_is("id"),
        }
    lines = last_words.of_folder(2, 0, "5 s", {}, **where).splitlines()
    space = {
        "pd": pandas,
        "glob": glob,
        "json": json,
        "table": pandas.DataFrame({"id": [part["id"][0] for part in parts]}),
    }
    read = eval(lines[-2].partition("its row: ")[2].removesuffix("."), space)
    assert {*read.columns} == {*parts[0], *parts[1], "generated_text", "error"}
    for number, part in enumerate(parts, start=1):
        (row,) = (row for row in read.to_dict("records") if row["generated_text"] == f"answer {number}")
        for column, values in part.items():
            expected = values[0].as_py() if isinstance(values, pa.Array) else values[0]
            shown = row[column]
            if isinstance(expected, dict):
                assert {key: value for key, value in shown.items() if value is not None} == expected
            elif expected is None:
                assert pandas.isna(shown)
            else:
                assert (
                    (pandas.Timestamp(shown) == pandas.Timestamp(expected))
                    if isinstance(expected, date)
                    else shown == expected
                )
    joined = eval(lines[-1].partition("With your table: ")[2], space)
    assert list(joined["generated_text"]) == ["answer 1", "answer 2"]


@pytest.mark.parametrize(
    ("output_format", "ids", "joins"),
    [
        ("parquet", [date(2024, 1, 1)], True),
        ("jsonl", [date(2024, 1, 1)], False),
        ("jsonl", [b"x"], False),
        ("jsonl", [7], True),
        ("jsonl", ["7"], True),
    ],
)
def test_no_join_by_values_that_a_file_does_not_have(
    tmp_path: Path, output_format: str, ids: list[Any], joins: bool
) -> None:
    with OutputFolder(tmp_path / "out", Job({"model_id": "m"}), output_format) as folder:
        file = encoded(pa.table({"id": ids, "generated_text": ["a"], "error": pa.nulls(1, pa.string())}), output_format)
        folder.store(f"part-000001-aaaaaaaa.{output_format}", file, bytes(16))
        assert folder.has_as_is("id") == ("id" if joins else None) and folder.has_as_is(None) is None
        folder.store(f"part-000002-aaaaaaaa.{output_format}", replace(file, as_text=("id",)), bytes(16))
        assert folder.has_as_is("id") is None


def test_of_memory() -> None:
    assert "in memory only" in last_words.of_memory(2, 0, "1 s", {})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((3, 4, 0), ["3 rows are new, 4 were known, 0 are gone."]),
        (
            (0, 4, 2),
            [
                "0 rows are new, 4 were known, 2 are gone from the data and keep their answers (or does load_dataset read "
                "other rows each time?)."
            ],
        ),
        (
            (1, 399, 0, 1, True),
            [
                "1 rows are new, 399 were known, 0 are gone.",
                "1 row in the folder is no longer in the input. It had failed, and is set aside.",
            ],
        ),
        (
            (0, 1000, 1, 1200, True),
            [
                "0 rows are new, 1,000 were known, 1 are gone from the data and keep their answers (or is it another "
                "dataset_file (--input), or a smaller dataset_fraction?).",
                "1,200 rows in the folder are no longer in the input. They had failed, and are set aside.",
            ],
        ),
    ],
)
def test_rows_that_are_gone_are_said_as_they_are_read(given: tuple[Any, ...], said: list[str]) -> None:
    assert last_words.of_known(*given) == said
