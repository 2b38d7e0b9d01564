"""What every task says of itself, and what a row gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch.engine.base import Reply, Request

ParseRow = Callable[[dict[str, Any]], Any]


class InvalidAnswer(ValueError):
    """An answer that has not the form asked for; its text names the field and says why."""


@dataclass
class Answer:
    """What one row gets: the engine's last reply, or an error, or both where the reply is not what was asked for.

    num_input_tokens, num_generated_tokens, num_reasoning_tokens: of all requests that the row took; the last None where
    it is not known. num_requests: those that got a reply.
    complaints: why replies were invalid, each. num_reasks: requests for a valid one in place of these.
    values: what the task read in the last reply, for `Task.columns`. own_columns: of a task that has them.
    unasked: the engine answers nothing any more, and this row has no answer for that alone: it is none of the output.
    """

    num_input_tokens: int = 0
    reply: Optional[Reply] = None
    error: Optional[str] = None
    num_generated_tokens: int = 0
    num_requests: int = 0
    num_reasoning_tokens: Optional[int] = 0
    complaints: list[str] = field(default_factory=list)
    num_reasks: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    own_columns: dict[str, Any] = field(default_factory=dict)
    unasked: bool = False

    @property
    def finish_reason(self) -> str:
        return self.reply.finish_reason if self.reply and self.error is None else "error"

    def replied(self, reply: Reply) -> None:
        self.reply, self.num_requests = reply, self.num_requests + 1
        self.num_input_tokens += reply.num_input_tokens
        self.num_generated_tokens += reply.num_generated_tokens
        for parsed in reply.parsed:
            before, its = self.num_reasoning_tokens, parsed.num_reasoning_tokens
            self.num_reasoning_tokens = None if before is None or its is None else before + its


class Task:
    """schema: the output's columns beside the input's, in their order, with "num_input_tokens" and "error"; their types
    never depend on the rows. answer_column: the one that people read first. settings_key: the workload's field, and
    parse_row's key, that has the task's settings. settings: what every row's request begins with, as plain values.
    """

    schema: pa.Schema
    answer_column: str
    settings_key: str
    fields: tuple[str, ...] = ()  # of a workload, that are this task's affair, its settings_key among them
    reask = 0  # how often an invalid answer is asked for again
    has_own_columns = False  # beside those of the schema, such as a user's code returns
    code = ""  # tells what the user's code asks of the model, where nobody knows it before
    compact_json = False  # answers are JSON that nobody reads as it is
    seats = 1  # of the engine's max_num_seqs that a row takes

    def __init__(self, settings: Optional[dict[str, Any]] = None) -> None:
        self.settings = settings or {}

    def of(self, workload: Any, engine_kwargs: Mapping[str, Any]) -> Task:
        """This task as the workload asks for it. Raises WorkloadError for what no engine takes."""
        raise NotImplementedError

    def decides(self, workload: Any) -> dict[str, Any]:
        """What of the workload decides its answers, as plain values: those of `fields` that are not their defaults."""
        return {self.settings_key: getattr(workload, self.settings_key, None)}

    def parse(self, parse_row: ParseRow, row: dict[str, Any]) -> dict[str, Any]:
        """What `parse_row` returns for the row, checked and read to mean one thing.

        "messages" (as `chat.checked_messages` gives them), "prompt" (a text) or "prompt_token_ids" (an array of shape
        (n,) of int32); the task's settings_key (plain values), "model" and "tools", if they are given. Raises TypeError
        or WorkloadError, which becomes the row's error.
        """
        raise NotImplementedError

    def own_text(self, parsed: Mapping[str, Any]) -> Optional[str]:
        """A row's own settings, adapter and tools; None where it has none.

        One JSON string a row: as an Arrow struct, a key that one row sets would appear as null in all others. Folders
        have digests of it (see finished_rows.py).
        """
        own = {key: parsed[key] for key in (self.settings_key, "model") if parsed.get(key)}
        if parsed.get("tools"):
            own["tools"] = json.dumps(parsed["tools"])  # in their own order, in which templates write them
        return json.dumps(own, sort_keys=True) if own else None

    def request(self, prompt_token_ids: list[int], own_text: Optional[str]) -> Request:
        own = json.loads(own_text) if own_text else {}
        settings = {**self.settings, **self.read(own.get(self.settings_key) or {})}
        return Request(prompt_token_ids, settings, own.get("model"), tools=json.loads(own.get("tools") or "[]"))

    def read(self, settings: dict[str, Any]) -> dict[str, Any]:
        """A row's settings out of JSON, which makes texts of keys that are numbers."""
        return settings

    def read_reply(self, request: Request, reply: Reply) -> dict[str, Any]:
        """What else the columns need of it. Raises InvalidAnswer for a reply that has not the form asked for."""
        return {}

    def columns(self, answer: Answer) -> dict[str, Any]:
        """The values of the schema's columns, without "num_input_tokens" and "error"; of a failed row too."""
        raise NotImplementedError

    def is_repeatable(self, request: Request) -> bool:
        """Whether the same request gets the same answer each time, so that equal rows may share one."""
        return False

    def most_generated_tokens(self, settings: Mapping[str, Any]) -> Optional[int]:
        """Of a request with these settings; None where only the model's context is a limit."""
        return 0

    def most_logprobs(self, settings: Mapping[str, Any], prompt_tokens: int) -> int:
        """How many a row's columns hold, each with its token; 0 where the generated tokens are not known."""
        return 0

    def reading_only(self, request: Request) -> Request:
        """The same prompt, and as little as can be asked for it."""
        return request
