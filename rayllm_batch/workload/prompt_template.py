"""A workload without a class: a prompt with the names of columns in braces."""

from __future__ import annotations

import json
import re
from string import Formatter
from typing import Any

from rayllm_batch.data.column_values import is_null
from rayllm_batch.data.row_id import TEXT_IS_STABLE
from rayllm_batch.errors import WorkloadError, did_you_mean
from rayllm_batch.workload import ChatWorkloadBase


class PromptTemplate(ChatWorkloadBase):
    """Each row of `dataset_file` is asked `prompt`, where `{column}` stands for the row's value, and `{{` for a brace.

    Only plain names of columns: what else Python's format takes (`{a.b}`, `{a[0]}`, `{a!r}`, `{a:>9}`) is refused,
    since it runs code of the value. A null is that row's error, and so are columns that are all blank (a CSV has no
    other null), because a model that is asked about nothing makes something up. A list or a dict is written as JSON.
    """

    prompt: str

    def __post_init__(self) -> None:
        pieces(self.prompt)

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        parts = [(words, column, "" if column is None else _text(row, column)) for words, column in pieces(self.prompt)]
        names = list(dict.fromkeys(column for _, column, _ in parts if column is not None))
        if not any(value.strip() for _, _, value in parts):
            blank = f"the column {names[0]!r} is" if len(names) == 1 else f"the columns {', '.join(names)} are"
            raise ValueError(f"{blank} empty in this row, so there is nothing to ask about")
        return {"messages": [{"role": "user", "content": "".join(words + value for words, _, value in parts)}]}


class TextTemplate(PromptTemplate):
    """The same text as it is, without a chat around it: for tasks that read a text and say nothing."""

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": super().parse_row(row)["messages"][0]["content"]}


def pieces(prompt: str) -> list[tuple[str, str | None]]:
    """The prompt's words, each with the column that comes after them, or None. Raises WorkloadError."""
    if not isinstance(prompt, str):
        raise WorkloadError(f"The prompt must be text such as 'Summarise: {{body}}', given {prompt!r}.")
    found: list[tuple[str, str | None]] = []
    try:
        for words, column, how, conversion in Formatter().parse(prompt):
            if column is not None and (not column or how or conversion):
                raise WorkloadError(
                    f"The prompt {prompt!r} may hold plain {{column}} names, and {{{{ and }}}} for braces; "
                    f"{f'after {column!r} comes more' if column else 'one pair of braces is empty'}."
                )
            found.append((words, column))
    except ValueError as error:  # a brace alone
        raise WorkloadError(
            f"The prompt {prompt!r} cannot be read: {error}. A brace that is text is written twice: {{{{ or }}}}."
        ) from None
    if all(column is None for _, column in found):
        raise WorkloadError(
            f"The prompt {prompt!r} names no {{column}}, so each row would be asked the same. "
            "Put one in: 'Summarise: {body}'."
        )
    return found


def _text(row: dict[str, Any], column: str) -> str:
    if column not in row:
        plain = re.split(r"[.\[]", column, maxsplit=1)[0]
        only = (
            f" The prompt takes plain column names: {{{plain}}}, not a part of it."
            if plain in row and plain != column
            else ""
        )
        raise ValueError(
            f"the prompt names {{{column}}}, but the columns are {', '.join(row)}.{only or did_you_mean(column, row)}"
        )
    value = row[column]
    if is_null(value):
        raise ValueError(f"the column {column!r} is null in this row, so there is nothing to ask about")
    if isinstance(value, (str, int, float, *TEXT_IS_STABLE)):
        return str(value)
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except TypeError as error:
        raise ValueError(
            f"the column {column!r} holds {error}; the prompt takes text, numbers, dates, lists and dicts"
        ) from None


def _plain(value: Any) -> Any:
    """Of what JSON does not know. Not bytes or an object, of which a model would be shown the name and the address."""
    if isinstance(value, TEXT_IS_STABLE):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "tolist") and not isinstance(value, memoryview):  # NumPy's; its text leaves out the middle
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__}")
