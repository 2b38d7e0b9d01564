"""What a model says, taken apart by vLLM's own parsers: thoughts, calls of tools, and the answer itself."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import uuid
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Optional

from rayllm_batch.engine import vllm_versions
from rayllm_batch.engine.base import ParsedAnswer, Request
from rayllm_batch.errors import one_line

# Of vllm_versions.PLACES, what an engine needs that has parsers.
PARTS = {"ChatCompletionRequest", "ParserManager", "ReasoningParserManager", "StructuredOutputsConfig"}
PARTS |= {"cached_tokenizer_from_config"}
ADJUSTED = (
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "structured_outputs",
)  # settings that parsers change
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
LARGE = 20_000  # characters: parsing more would keep the engine's loop for some 10 ms


class AnswerParser:
    """Of one engine. A parser of vLLM's holds state, so each answer gets its own.

    Raises ValueError for a name that vLLM does not have, and for a tokenizer without the marks that a parser reads.
    """

    def __init__(
        self,
        model_config: Any,
        reasoning_parser: Optional[str],
        tool_parser: Optional[str],
        plugin: Optional[str] = None,
    ) -> None:
        """plugin: a Python file that registers a reasoning parser."""
        if plugin:
            vllm_versions.part("ReasoningParserManager").import_reasoning_parser(plugin)
        self._tokenizer = vllm_versions.part("cached_tokenizer_from_config")(model_config)
        self._model_config = model_config
        self._is_harmony = model_config.hf_config.model_type == "gpt_oss"
        get_parser = partial(
            vllm_versions.part("ParserManager").get_parser,
            tool_parser_name=tool_parser or None,
            enable_auto_tools=True,
            model_name=model_config.model,
            is_harmony=self._is_harmony,
        )
        self._adjusted: dict[str, tuple[dict[str, Any], bool]] = {}
        try:
            self._new = get_parser(reasoning_parser_name=reasoning_parser or None)
            self._new_of_content = None if self._is_harmony else get_parser()
            # What is missing shows now: marks in the tokenizer, or a vocabulary that the first answer would download.
            self._parser(Request([])).parse("", self._chat(Request([])), model_output_token_ids=[])
        except Exception as problem:
            given = {"reasoning_parser": reasoning_parser, "tool_parser": tool_parser}
            names = " and ".join(f"{setting} {name!r}" for setting, name in given.items() if name)
            raise ValueError(
                f"{names} of engine_kwargs cannot be used with this model: {one_line(problem.__cause__ or problem)}"
            ) from problem

    def prepare(self, request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
        """The request's settings as its parsers want them, and further arguments of vLLM's `generate`.

        Many need the special tokens in the text; a form waits for the end of the thoughts. Raises what vLLM raises for
        tools that it cannot read.
        """
        asked = {name: request.settings[name] for name in ADJUSTED if request.settings.get(name) is not None}
        key = json.dumps(
            [asked, request.tools, request.tool_choice, request.chat_template_kwargs], sort_keys=True, default=str
        )
        if key not in self._adjusted:
            if len(self._adjusted) > 1024:  # a row may bring tools of its own; do not keep millions
                self._adjusted.clear()
            chat = self._chat(request, asked)
            before = {name: getattr(chat, name) for name in ADJUSTED}
            parser = self._parser(request)
            chat = parser.adjust_request(chat)
            if set(_marks(parser)) & set(self._tokenizer.all_special_tokens):  # not every parser sees to that
                chat.skip_special_tokens = False
            changed = {name: _plain(its) for name in ADJUSTED if (its := getattr(chat, name)) != before[name]}
            self._adjusted[key] = changed, bool(getattr(chat, "_grammar_from_parser", False))
        changed, has_grammar = self._adjusted[key]
        settings = {**request.settings, **changed}
        parser = self._parser(request) if settings.get("structured_outputs") else None
        if parser is None or parser.reasoning_parser is None:
            return settings, {}
        return settings, {
            "reasoning_ended": has_grammar or parser.is_reasoning_end(request.prompt_token_ids),
            "reasoning_parser_kwargs": {"chat_template_kwargs": request.chat_template_kwargs},
        }

    async def parse(self, request: Request, text: str, token_ids: Sequence[int]) -> ParsedAnswer:
        """One answer. What a parser raises stands in it, beside the whole text."""
        if len(text) <= LARGE:
            return self._parse(request, text, list(token_ids))
        return await asyncio.get_running_loop().run_in_executor(None, self._parse, request, text, list(token_ids))

    def _parse(self, request: Request, text: str, token_ids: list[int]) -> ParsedAnswer:
        try:
            parser, chat = self._parser(request), self._chat(request)
            if self._is_all_content(parser, request, text):
                parser = self._parser(request, self._new_of_content) if self._new_of_content else None
            reasoning, content, calls = None, text, None
            if parser is not None:
                reasoning, content, calls = parser.parse(
                    text, chat, enable_auto_tools=True, model_output_token_ids=token_ids
                )
            # None comes with an id of its own where the format has no place for it.
            named = [
                {
                    "id": call.id or f"call_{uuid.uuid4().hex[:24]}",
                    "name": _text(call.name),
                    "arguments": _text(call.arguments),
                }
                for call in calls or ()
            ]
            count = self._count(parser, token_ids) if reasoning else 0
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:  # a panic in Rust is no Exception
            return ParsedAnswer(content=text, problem=f"its parser raised {one_line(problem, 300)}")
        nothing = None if reasoning or named else ""
        return ParsedAnswer(_text(reasoning) or None, _text(content) or nothing, tuple(named), count)

    def _is_all_content(self, parser: Any, request: Request, text: str) -> bool:
        """Where the prompt has ended the thoughts (a template turns them off), which some parsers do not look for."""
        marks = _marks(parser)
        if self._is_harmony or not marks or any(mark in text for mark in marks):
            return False
        return parser.is_reasoning_end(request.prompt_token_ids)

    def _count(self, parser: Any, token_ids: list[int]) -> Optional[int]:
        """Of the thoughts' tokens; None where the parser does not count them."""
        if self._is_harmony:  # it tells the channel of each token
            segments = self._parser(Request([])).process_chunk(token_ids).segments
            # The first token of a channel is its mark.
            return sum(before.channel == its.channel == "analysis" for before, its in pairwise(segments))
        count = parser.count_reasoning_tokens(token_ids)
        if not count and (marks := _marks(parser)):  # the prompt has the mark that begins them
            start = self._tokenizer.get_vocab().get(marks[0])
            count = 0 if start is None else parser.count_reasoning_tokens([start, *token_ids])
        return count or None

    def _parser(self, request: Request, kind: Any = None) -> Any:
        how = {"model_config": self._model_config, "chat_template_kwargs": request.chat_template_kwargs}
        return (kind or self._new)(self._tokenizer, self._chat(request).tools, **how)

    def _chat(self, request: Request, asked: Optional[dict[str, Any]] = None) -> Any:
        """A request as vLLM's server has it; of its messages, the prompt's token ids are all there is."""
        tools: dict[str, Any] = {"tools": request.tools} if request.tools else {}
        if request.tool_choice:
            tools["tool_choice"] = request.tool_choice
        if request.forces_a_call:  # what has no parameters would be held to no form
            functions = ({"parameters": NO_PARAMETERS, **tool["function"]} for tool in request.tools)
            tools["tools"] = [{**tool, "function": its} for tool, its in zip(request.tools, functions, strict=True)]
        return vllm_versions.part("ChatCompletionRequest")(messages=[], **tools, **(asked or {}))


def _text(parsed: Optional[str]) -> str:
    """With halves of surrogate pairs as JSON writes them: parsers read \\ud83d in a call, and write what is no text."""
    return (parsed or "").encode("utf-8", "backslashreplace").decode()


def _marks(parser: Any) -> tuple[str, ...]:
    """That begin and end thoughts; none where the parser has others, or none."""
    reasoning = parser.reasoning_parser
    marks = (reasoning.reasoning_start_str, reasoning.reasoning_end_str) if reasoning else ()
    return marks if all(marks) else ()


def _plain(value: Any) -> Any:
    """Structured outputs as the keyword arguments that make them; any other value is plain."""
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    return {name: its for name, its in fields.items() if its is not None and its is not False}
