"""A task of one file: how many tokens a row's text has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from rayllm_batch.tasks.base import Answer, Task
from rayllm_batch.tasks.chat import checked_messages


class Count(Task):
    schema = pa.schema([("num_input_tokens", pa.int64()), ("num_tokens", pa.int32()), ("error", pa.string())])
    answer_column = "num_tokens"
    settings_key = "count_params"

    def of(self, workload: Any, engine_kwargs: Mapping[str, Any]) -> Count:
        return Count({"max_tokens": 1})

    def parse(self, parse_row: Callable[[dict[str, Any]], Any], row: dict[str, Any]) -> dict[str, Any]:
        returned = parse_row(row)
        if not isinstance(returned, str):
            raise TypeError(f"parse_row must return a text to count, but returned {returned!r}")
        return {"messages": checked_messages([{"role": "user", "content": returned}])}

    def columns(self, answer: Answer) -> dict[str, Any]:
        return {"num_tokens": None if answer.error else answer.num_input_tokens}
