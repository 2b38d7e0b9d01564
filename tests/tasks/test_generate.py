"""Answers that were cut before they had the form that was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from rayllm_batch.tasks.generate import cut_short

WHOLE = [
    (None, "any"),
    ({}, "any"),
    ({"json": {"type": "object"}}, '{"a": [1, 2]} '),
    ({"json": '{"type": "string"}'}, '"x"'),
    ({"json_object": True}, "{}\n"),
    ({"choice": ["yes", "no"]}, "no"),
    ({"regex": r"\d{3}"}, "123"),
    ({"regex": r"[a-z]*"}, "abc"),
    ({"disable_any_whitespace": True}, "any"),
]
CUT = [
    ({"json": {"type": "object"}}, '{"a": [1, 2'),
    ({"json": {"type": "object"}}, ""),
    ({"json_object": True}, '{"a": "b'),
    ({"json_object": True}, "[" * 100_000),
    ({"choice": ["yes", "no"]}, "ye"),
    ({"regex": r"\d{3}"}, "12"),
    ({"regex": "(?<a"}, "x"),
    ({"grammar": 'root ::= "ab"'}, "a"),
    ({"structural_tag": "{}"}, "<a"),
]


@pytest.mark.parametrize(("asked", "text"), WHOLE)
def test_a_whole_answer(asked: Any, text: str) -> None:
    assert cut_short(asked, text) is None


@pytest.mark.parametrize(("asked", "text"), CUT)
def test_a_cut_answer_is_told(asked: Any, text: str) -> None:
    said = cut_short(asked, text)
    assert said is not None and "raise max_tokens" in said and f"asks for {next(iter(asked))}" in said
