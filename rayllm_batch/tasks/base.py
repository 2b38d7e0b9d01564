"""What every task says of itself, and what a row gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch.engine.base import Reply, Request

ParseRow = Callable[[dict[str, Any]], Any]
# Fields of ChatWorkloadBase that are the affair of one task or another.
TASK_FIELDS = tuple(
    "sampling_params output_schema reask max_calls max_rollout_tokens rollout_timeout_s pooling_params "
    "embedding_dtype".split()
)
SAMPLING_PARAMS = {"max_tokens": 150, "temperature": 0.0}  # where a workload sets none


class InvalidAnswer(ValueError):
    """An answer that has not the form asked for; its text names the field and says why."""


@dataclass
class Answer:
    """What one row gets: the engine's last reply, or an error, or both where the reply is not what was asked for.

    num_input_tokens, num_generated_tokens, num_reasoning_tokens: of all requests that the row took; the last None where
    it is not known. num_requests: those that got a reply.
    complaints: why replies were invalid, each. num_reasks: requests for a valid one in place of these.
    values: what the task read in the last reply, for `Task.columns`. own_columns: of a task that has them.
    own_text: what the CPU stage found out of the row, see `Task.own_text`. is_truncated: its text was cut, as asked.
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
    own_text: Optional[str] = None
    is_truncated: bool = False
    unasked: bool = False

    @property
    def finish_reason(self) -> Optional[str]:
        """ "error" of a failed row; None of one that asked nothing of the engine, as a rollout may."""
        return "error" if self.error is not None else self.reply.finish_reason if self.reply else None

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
    tells_apart = ""  # its requests from others of the job's, with the same prompt and settings of the row's own
    seats = 1  # of the engine's max_num_seqs that a row takes
    numbers = 0  # that a row's columns hold beside those, nearly
    legend = ""  # a line that explains the columns, where their names and types do not
    pools = False  # it asks for vectors (Request.pooling), and nothing is generated
    rows_may_all_fail = False  # each row's error is a result of its own, and none of them speaks of the workload

    def __init__(self, settings: Optional[dict[str, Any]] = None) -> None:
        self.settings = settings or {}

    def of(self, workload: Any, engine_kwargs: Mapping[str, Any]) -> Task:
        """This task as the workload asks for it. Raises WorkloadError for what no engine takes."""
        raise NotImplementedError

    def of_model(self, config: Mapping[str, Any], folder: Optional[Path], engine_kwargs: Mapping[str, Any]) -> Task:
        """This task with what follows from the model. config: its config.json, {} where that is not known. folder:
        where its small files are, if they are here. Raises ConfigError where the model is not one for this task.
        """
        return self

    def check_engine(self, engine_kwargs: Mapping[str, Any], source: str) -> None:
        """Raise ConfigError for settings of the engine that contradict this task. source: where they stand."""

    def engine_settings(self, engine_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What the engine is started with for this task, beside the user's engine_kwargs."""
        return {}

    def decides(self, workload: Any) -> dict[str, Any]:
        """What of the workload decides its answers, as plain values: those of `fields` that are not their defaults."""
        return {self.settings_key: getattr(workload, self.settings_key, None)}

    def parse(self, parse_row: ParseRow, row: dict[str, Any]) -> dict[str, Any]:
        """What `parse_row` returns for the row, checked and read to mean one thing.

        "messages" (as `chat.checked_messages` gives them; with "media", if there are any), "prompt" (a text) or
        "prompt_token_ids" (an array of shape (n,) of int32); the task's settings_key (plain values), "model",
        "tools" and "tool_choice", if they are given. Raises TypeError or WorkloadError, which becomes the row's error.
        """
        raise NotImplementedError

    def own_text(self, parsed: Mapping[str, Any]) -> Optional[str]:
        """A row's own settings, adapter and tools; None where it has none.

        One JSON string a row: as an Arrow struct, a key that one row sets would appear as null in all others. Folders
        have digests of it (see finished_rows.py).
        """
        own = {key: parsed[key] for key in (self.settings_key, "model") if parsed.get(key)}
        if parsed.get("digests"):  # of its media, in their order, as the CPU stage has read them
            own["media"] = parsed["digests"]
        if parsed.get("tools"):
            own["tools"] = json.dumps(parsed["tools"])  # in their own order, in which templates write them
        if parsed.get("tool_choice"):
            own["tool_choice"] = parsed["tool_choice"]
        return json.dumps(own, sort_keys=True) if own else None

    def request(self, prompt_token_ids: list[int], own_text: Optional[str]) -> Request:
        own = json.loads(own_text) if own_text else {}
        settings = {**self.settings, **self.read(own.get(self.settings_key) or {})}
        tools = json.loads(own["tools"]) if own.get("tools") else []
        return Request(prompt_token_ids, settings, own.get("model"), tools=tools, tool_choice=own.get("tool_choice"))

    def read(self, settings: dict[str, Any]) -> dict[str, Any]:
        """A row's settings out of JSON, which makes texts of keys that are numbers."""
        return settings

    def was_truncated(self, own_text: Optional[str]) -> bool:
        """Whether the CPU stage has cut the row's text, as was asked."""
        return False

    reads_by_user_code = False  # which may block, and is kept out of the engine's way

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

    def lengths_of_prompts(self, own_text: Optional[str], tokens: int) -> list[int]:
        """Of the prompts that a row's token ids are, one after the other."""
        return [tokens]

    def for_people(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row's output columns, to be shown: values that are not to be read as they are, as text."""
        return row

    def notes(self, rows: list[dict[str, Any]]) -> list[str]:
        """What a preview says of its rows together, a line each."""
        return []
