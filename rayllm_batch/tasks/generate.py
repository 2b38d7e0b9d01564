"""The first task: a chat, or token ids, becomes one text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch.engine import sampling
from rayllm_batch.engine.base import Reply, Request
from rayllm_batch.errors import WorkloadError, did_you_mean, shown
from rayllm_batch.tasks.base import Answer, ParseRow, Task
from rayllm_batch.tasks.chat import checked_ids, checked_messages

KEYS = ("messages", "prompt_token_ids", "sampling_params", "model")
AS_A_CHAT = 'write it as a chat: {"messages": [{"role": "user", "content": ...}]}'
# What other libraries take beside or in place of a chat.
NOT_TAKEN = {
    **dict.fromkeys(("prompt", "text", "input"), AS_A_CHAT),
    **dict.fromkeys(("image", "images", "audio", "video", "videos", "multi_modal_data"), "only text is taken"),
    **dict.fromkeys(("tools", "tool_choice", "functions"), "tools are not passed on; describe them in a message"),
    "response_format": 'it is sampling_params["structured_outputs"] here',
}


class Generate(Task):
    """A failed row's text is null, so that nobody takes "" for an answer."""

    schema = pa.schema(
        [
            ("generated_text", pa.string()),
            ("num_input_tokens", pa.int64()),
            ("num_generated_tokens", pa.int64()),
            ("finish_reason", pa.string()),
            ("error", pa.string()),
        ]
    )
    answer_column = "generated_text"
    settings_key = "sampling_params"

    def __init__(self, settings: Optional[dict[str, Any]] = None, excluded: Optional[Mapping[str, str]] = None) -> None:
        """excluded: settings that the engine excludes, and why."""
        super().__init__(settings)
        self._excluded = excluded or {}

    def of(self, workload: Any, engine_kwargs: Mapping[str, Any]) -> Generate:
        where = f"{type(workload).__name__}.sampling_params"
        given = getattr(workload, "sampling_params", {})
        if given is None:
            raise WorkloadError(f"{where} must be a dict such as {{'max_tokens': 150}}, given None.")
        settings, excluded = sampling.settings(given, where), sampling.excluded_by(engine_kwargs)
        sampling.check(settings, where, excluded=excluded)
        return Generate(settings, excluded)

    def parse(self, parse_row: ParseRow, row: dict[str, Any]) -> dict[str, Any]:
        returned = parse_row(row)
        chat = dict(returned) if isinstance(returned, dict) else {}
        unknown = next((_no_effect(key) for key in chat if key not in KEYS), "")
        if ("messages" in chat) == ("prompt_token_ids" in chat):
            wanted = 'parse_row must return {"messages": [...]} or {"prompt_token_ids": [...]}'
            raise TypeError(f"{wanted}, but returned {shown(returned)}. {unknown}".rstrip(". "))
        if unknown:
            raise TypeError(f"parse_row must return no other keys than {', '.join(KEYS)}. {unknown}")
        if "prompt_token_ids" in chat:
            chat["prompt_token_ids"] = checked_ids(chat["prompt_token_ids"])
        else:
            chat["messages"] = checked_messages(chat["messages"])
        if (model := chat.get("model")) is not None and not (isinstance(model, str) and model):
            raise TypeError(f'parse_row\'s "model" must be the name of a LoRA adapter, but is {shown(model)}')
        if (given := chat.get("sampling_params")) is not None:
            if not isinstance(given, dict):
                raise TypeError(f'parse_row\'s "sampling_params" must be a dict, but is {shown(given)}')
            own = chat["sampling_params"] = sampling.settings(given, "this row's sampling_params")
            if own:
                sampling.check(own, "this row's sampling_params", excluded=self._excluded, base=self.settings)
        return chat

    def read(self, settings: dict[str, Any]) -> dict[str, Any]:
        return sampling.settings(settings, "")

    def problem(self, request: Request, reply: Reply) -> Optional[str]:
        if reply.finish_reason != "length":
            return None
        cut = cut_short(request.settings.get("structured_outputs"), reply.text)
        return f"{cut} (it has {reply.num_generated_tokens} tokens)" if cut else None

    def columns(self, answer: Answer) -> dict[str, Any]:
        return {
            "generated_text": answer.reply.text if answer.reply else None,
            "num_generated_tokens": answer.num_generated_tokens,
            "finish_reason": answer.finish_reason,
        }

    def is_repeatable(self, request: Request) -> bool:
        return request.settings.get("temperature") == 0  # vLLM's own default is 1

    def most_generated_tokens(self, settings: Mapping[str, Any]) -> Optional[int]:
        most = settings.get("max_tokens")
        return most if isinstance(most, int) else None

    def reading_only(self, request: Request) -> Request:
        settings = {key: value for key, value in request.settings.items() if key != "min_tokens"}
        return replace(request, settings={**settings, "max_tokens": 1})


def _no_effect(key: Any) -> str:
    why = NOT_TAKEN.get(key)
    if key in sampling.known_fields().sampling:
        why = "a setting of the request goes into its sampling_params"
    return f"{key!r} would have no effect" + (f": {why}" if why else f".{did_you_mean(key, KEYS)}")


def cut_short(asked: Optional[Mapping[str, Any]], text: str) -> Optional[str]:
    """What is said of an answer that reached its token limit before it had the form that was asked for; None of others.

    asked: the request's structured_outputs. The engine keeps to the form as far as it gets; where the form ends, it
    cannot know.
    """
    asked = asked or {}
    kind = next((name for name in sampling.CONSTRAINTS if asked.get(name)), None)
    if kind is None or _is_whole(kind, asked[kind], text):
        return None
    what = "the answer reached its token limit before it was whole, and structured_outputs asks for"
    return f"{what} {kind}: raise max_tokens"


def _is_whole(kind: str, form: Any, text: str) -> bool:
    try:
        if kind in ("json", "json_object"):
            json.loads(text)
            return True
        if kind == "regex":
            return re.fullmatch(form, text) is not None
    except (ValueError, RecursionError, re.error):  # no JSON, or brackets without end; a regex of another dialect
        return False
    return kind == "choice" and text in form  # a grammar: only its parser knows
