"""Failed rows by what their errors say."""

from __future__ import annotations

from typing import Any

import pytest

from rayllm_batch.measures.failures import MAX_KINDS, MAX_STAGES, OTHERS, by_stage, count, counted, reason_of, stage_of
from rayllm_batch.tasks.base import InvalidAnswer
from rayllm_batch.tasks.output_schema import OutputSchema

ERRORS = [f"tokenize: the prompt has {n} tokens" for n in range(1000, 1007)]
ERRORS += [*["parse_row: KeyError: 'a'"] * 3, "engine: x"]


def test_errors_that_differ_in_numbers_are_one_kind() -> None:
    assert counted(ERRORS) == {
        "tokenize: the prompt has 0 tokens": (7, "tokenize: the prompt has 1000 tokens"),
        "parse_row: KeyError: 'a'": (3, "parse_row: KeyError: 'a'"),
        "engine: x": (1, "engine: x"),
    }
    assert by_stage(counted([*ERRORS, "engine: y"])) == {"tokenize": 7, "parse_row": 3, "engine": 2}


def test_rows_without_a_valid_answer_are_of_one_kind_whatever_the_value() -> None:
    errors = counted(f"answer: field 'a[{n}]': too short, given str: {'x' * n!r}" for n in range(300))
    assert [rows for rows, _ in errors.values()] == [300]
    for _, example in list(errors.values()):
        count(errors, example, -300)
    assert errors == {}


def test_what_is_taken_out_again_was_never_there() -> None:
    errors = counted(ERRORS)
    count(errors, "engine: x", -1)
    count(errors, "tokenize: the prompt has 1004 tokens", -3)
    assert [rows for rows, _ in errors.values()] == [4, 3]


def test_lines_that_could_not_be_read_are_of_one_kind_whatever_stands_in_them() -> None:
    width = "dataset_file: Line {} of '{}' has 8 cell(s) where the header has 6, with the separator ';': '{}'. A cell"
    jsonl = "dataset_file: Line {} of {} is not JSON (Expecting value: line 1 column {} (char 4)): '{}'. Each"
    errors = counted(
        [
            *(width.format(n, f"/data/{'ab'[n % 2]}.csv", "x" * n) for n in range(150)),
            *(jsonl.format(n, repr(f"it's {n % 3}.jsonl"), n, chr(97 + n % 26) * 9) for n in range(150)),
            *(
                f"dataset_file: Line {n} of 'a.csv': column 'age' is 'x{chr(97 + n)}', which is no int64."
                for n in range(9)
            ),
        ]
    )
    assert list(errors.values()) == [
        (150, width.format(0, "/data/a.csv", "")),
        (150, jsonl.format(0, repr("it's 0.jsonl"), 0, "a" * 9)),
        (9, "dataset_file: Line 0 of 'a.csv': column 'age' is 'xa', which is no int64."),
    ]
    assert by_stage(errors) == {"dataset_file": 309}


@pytest.mark.parametrize(
    ("error", "stage"),
    [
        ("parse_row: KeyError: 'a'", "parse_row"),
        ("sampling params: no", "sampling params"),
        ("prompt 7 of '/a/long/path: x", "other"),
        ("Line 14 of '/tmp/broken.csv' has 8 cells: 'a'", "other"),
        ("HTTP 503: busy", "other"),
        (f"{'long ' * 9}words: x", "other"),
        ("", "other"),
    ],
)
def test_a_stage_is_a_name_and_never_a_part_of_what_is_said(error: str, stage: str) -> None:
    assert stage_of(error) == stage and by_stage(counted([error, error])) == {stage: 2}


def test_many_kinds_take_no_more_room_and_stay_in_their_stage() -> None:
    errors = counted([*(f"engine: {'x' * n}" for n in range(500)), *(f"tokenize: {'y' * n}" for n in range(7))])
    assert len(errors) == MAX_KINDS + 2 and errors[f"tokenize: {OTHERS}"][0] == 7
    assert by_stage(errors) == {"engine": 500, "tokenize": 7}
    assert all(len(text) <= 201 for _, text in counted(["long " * 500]).values())


def test_many_stages_take_no_more_room() -> None:
    errors = counted("".join(chr(97 + int(digit)) for digit in str(n)) for n in range(1000))
    assert len(errors) == MAX_KINDS + MAX_STAGES + 1 and sum(rows for rows, _ in errors.values()) == 1000
    assert by_stage(errors)["other"] == 1000 - MAX_KINDS - MAX_STAGES


SCHEMA = {"properties": {"a": {"type": "integer"}, "b": {"maxLength": 2}}, "required": ["a"], "type": "object"}


@pytest.mark.parametrize(
    ("form", "answers", "reason"),
    [
        (SCHEMA, ('{"a": "x y"}', '{"a": {"is": 1}}', '{"a": 1.5}'), "field 'a': it is not of type 'integer'"),
        (SCHEMA, ('{"a": 1, "b": "one is long"}', '{"a": 1, "b": "xyz"}'), "field 'b': it is too long"),
        (SCHEMA, ("{}", '{"b": ""}'), "'a' is a required property"),
        (SCHEMA, ("[1]", '"it\'s"', "null"), "it is not of type 'object'"),
        (dict[str, int], ('{"a": "x"}', '{"a": "\': , given "}'), "field 'a': Input should be a valid integer, unable"),
        (["yes", "no"], ("maybe", "NO"), "it is none of 'yes', 'no'"),
    ],
)
def test_answers_that_are_wrong_in_the_same_way_count_together(
    form: Any, answers: tuple[str, ...], reason: str
) -> None:
    complaints = []
    for answer in answers:
        with pytest.raises(InvalidAnswer) as caught:
            OutputSchema(form).value(answer)
        complaints.append(str(caught.value))
    ((many, said),) = counted(map(reason_of, complaints)).values()
    assert many == len(answers) and said.startswith(reason) and "given" not in said


def test_a_number_may_have_commas() -> None:
    found = counted(f"tokenize: the text has {tokens} tokens, but it may have 512" for tokens in ("622", "12,341"))
    assert [rows for rows, _ in found.values()] == [2]
