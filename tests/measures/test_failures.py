"""Failed rows by what their errors say."""

from __future__ import annotations

from rayllm_batch.measures.failures import MAX_KINDS, MAX_STAGES, OTHERS, by_stage, count, counted

ERRORS = [f"tokenize: the prompt has {n} tokens" for n in range(1000, 1007)]
ERRORS += [*["parse_row: KeyError: 'a'"] * 3, "engine: x"]


def test_errors_that_differ_in_numbers_are_one_kind() -> None:
    assert counted(ERRORS) == {
        "tokenize: the prompt has 0 tokens": (7, "tokenize: the prompt has 1000 tokens"),
        "parse_row: KeyError: 'a'": (3, "parse_row: KeyError: 'a'"),
        "engine: x": (1, "engine: x"),
    }
    assert by_stage(counted([*ERRORS, "engine: y"])) == {"tokenize": 7, "parse_row": 3, "engine": 2}


def test_what_is_taken_out_again_was_never_there() -> None:
    errors = counted(ERRORS)
    count(errors, "engine: x", -1)
    count(errors, "tokenize: the prompt has 1004 tokens", -3)
    assert [rows for rows, _ in errors.values()] == [4, 3]


def test_many_kinds_take_no_more_room_and_stay_in_their_stage() -> None:
    errors = counted([*(f"engine: {'x' * n}" for n in range(500)), *(f"tokenize: {'y' * n}" for n in range(7))])
    assert len(errors) == MAX_KINDS + 2 and errors[f"tokenize: {OTHERS}"][0] == 7
    assert by_stage(errors) == {"engine": 500, "tokenize": 7}
    assert all(len(text) <= 201 for _, text in counted(["long " * 500]).values())


def test_many_stages_take_no_more_room() -> None:
    errors = counted("".join(chr(97 + int(digit)) for digit in str(n)) for n in range(1000))
    assert len(errors) == MAX_KINDS + MAX_STAGES + 1 and sum(rows for rows, _ in errors.values()) == 1000
    assert by_stage(errors)["other"] == 1000 - MAX_KINDS - MAX_STAGES
