"""--prompt: columns in braces, and nothing else that Python's format would run."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from rayllm_batch.errors import WorkloadError
from rayllm_batch.workload.prompt_template import PromptTemplate


def asked(prompt: str, **row: Any) -> str:
    (message,) = PromptTemplate(prompt=prompt).parse_row(row)["messages"]
    assert message["role"] == "user"
    return message["content"]


def test_columns_are_put_in() -> None:
    assert asked("Summarise: {body}", body="a {b} {{c}}") == "Summarise: a {b} {{c}}"
    assert asked('{a}{b} {{"x": {c}}}', a=1, b=2.5, c=True) == '12.5 {"x": True}'
    assert asked("{a b}: {ü}", **{"a b": [1, {"é": "x"}], "ü": {"k": None}}) == '[1, {"é": "x"}]: {"k": null}'
    assert asked("{a.b}", **{"a.b": "a column of that name"}) == "a column of that name"
    assert asked("-{a}-{b}-", a="", b="there") == "--there-"
    assert asked("{a}", a=np.arange(2000)) == json.dumps(list(range(2000))), "NumPy's own text leaves out the middle"
    assert asked("{a} {b} {c}", a=(1, 2), b=[{"x": np.int64(3)}, {4}], c=[Decimal("1.10"), date(2024, 1, 2)]) == (
        '[1, 2] [{"x": 3}, [4]] ["1.10", "2024-01-02"]'
    )
    assert asked("{a} {b}", a=Decimal("1.10"), b=date(2024, 1, 2)) == "1.10 2024-01-02"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("{a!r}", "plain {column} names"),
        ("{a:>9}", "after 'a' comes more"),
        ("{a:{b}}", "after 'a' comes more"),
        ("{}", "one pair of braces is empty"),
        ("{a", "A brace that is text is written twice"),
        ("a} b", "A brace that is text is written twice"),
        ("Say hello", "names no {column}"),
        ("{{a}}", "names no {column}"),
        (None, "must be text"),
    ],
)
def test_a_prompt_that_cannot_be(prompt: Any, said: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        PromptTemplate(prompt=prompt)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("{bdoy}", "columns are body, n, raw, deep, view, thing. Did you mean 'body'"),
        ("{body.__class__}", "plain column names: {body}"),
        ("{body[0]}", "plain column names: {body}"),
        ("{0}", "the columns are body"),
        ("{n}", "'n' is null in this row"),
        ("{raw}", "'raw' holds a value of type bytes"),
        ("{deep}", "'deep' holds a value of type bytes"),
        ("{view}", "'view' holds a value of type memoryview"),
        ("{thing}", "'thing' holds a value of type object"),
    ],
)
def test_a_row_that_cannot_be_asked(prompt: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        asked(prompt, body="x", n=None, raw=b"x", deep={"a": [{"b": b"x"}]}, view=memoryview(b"x"), thing=[object()])
    assert said in str(caught.value)
    with pytest.raises(ValueError, match="null"):
        asked("{n}", n=float("nan"))


@pytest.mark.parametrize("blank", ["", "  ", "\n\t", "\u00a0"])
def test_a_row_in_which_all_is_blank_is_asked_nothing(blank: str) -> None:
    with pytest.raises(ValueError, match="the column 'a' is empty in this row"):
        asked("Of {a}: {a}", a=blank)
    with pytest.raises(ValueError, match="the columns a, b are empty"):
        asked("{a}{b}", a=blank, b="")


def test_the_prompt_must_be_given() -> None:
    with pytest.raises(WorkloadError, match="prompt="):
        PromptTemplate(dataset_file="rows.jsonl")
