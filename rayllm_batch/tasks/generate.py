"""The first task: a chat, or token ids, becomes one text."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

import pyarrow as pa

from rayllm_batch.engine import sampling
from rayllm_batch.engine.base import ParsedAnswer, Reply, Request
from rayllm_batch.engine.parser_names import PARSERS
from rayllm_batch.errors import ConfigError, WorkloadError, did_you_mean, shown
from rayllm_batch.tasks.base import TASK_FIELDS, Answer, InvalidAnswer, ParseRow, Task
from rayllm_batch.tasks.chat import Media, checked_ids, checked_messages, checked_tool_choice, checked_tools, guarded

PROMPTS = ("messages", "prompt", "prompt_token_ids")  # of which a row has one
KEYS = (*PROMPTS, "sampling_params", "model", "output_schema", "tools", "tool_choice")
MAX_LOGPROBS = 20  # of vLLM, where the config does not say
VOCABULARY = 128_000  # tokens, where logprobs of all are asked for: some models have twice as many, or a quarter
if TYPE_CHECKING:
    from rayllm_batch.tasks.output_schema import OutputSchema

MOST_REASKS = 10
AT_ITS_LIMIT = " (the answer reached its token limit: raise max_tokens, or bound the form's texts)"
TOKENS = pa.list_(
    pa.list_(
        pa.struct([("token_id", pa.int32()), ("token", pa.string()), ("logprob", pa.float32()), ("rank", pa.int32())])
    )
)
TOOL_CALLS = pa.list_(pa.struct([("id", pa.string()), ("name", pa.string()), ("arguments", pa.string())]))
NO_TOOL_PARSER = (
    'it has "tools", but engine_kwargs has no tool_parser, which reads the calls in what a model says: set it to '
    "vLLM's "
    "name for this model's (hermes for Qwen, llama3_json for Llama 3, openai for gpt-oss, ...)"
)
IN_A_MESSAGE = 'make it a part of a message: {"role": "user", "content": [{"type": "image", "image": ...}, ...]}'
AS_A_CHAT = 'write it as a chat: {"messages": [{"role": "user", "content": ...}]}'
# What other libraries take beside or in place of a chat.
NOT_TAKEN = {
    **dict.fromkeys(("text", "input"), AS_A_CHAT),
    **dict.fromkeys(("image", "images", "audio", "video", "videos", "multi_modal_data"), IN_A_MESSAGE),
    "functions": 'they are "tools" here, each {"type": "function", "function": {...}}',
    "response_format": 'it is sampling_params["structured_outputs"] here',
}


class Generate(Task):
    """A failed row's text is null, so that nobody takes "" for an answer."""

    answer_column = "generated_text"
    settings_key = "sampling_params"
    fields = TASK_FIELDS
    of_columns: tuple[str, ...] = ("n", "logprobs", "prompt_logprobs", "logprob_token_ids")  # settings that add columns

    def __init__(
        self,
        settings: Optional[dict[str, Any]] = None,
        excluded: Optional[Mapping[str, str]] = None,
        output: Optional[OutputSchema] = None,
        reask: int = 0,
        parsers: frozenset[str] = frozenset(),
    ) -> None:
        """excluded: settings that the engine excludes, and why. output: the form of each answer. parsers: of PARSERS,
        those that the engine has.
        """
        super().__init__(settings)
        self._excluded, self._output, self.reask, self._parsers = excluded or {}, output, reask, parsers
        self.compact_json = output is not None
        self.reads_by_user_code = output is not None and output.is_type
        self.seats = self.settings.get("n", 1)
        self.schema = pa.schema(list(self._columns().items()))

    def _columns(self) -> dict[str, pa.DataType]:
        columns = {"generated_text": pa.string()}
        if self.seats > 1:
            columns |= {"generated_texts": pa.list_(pa.string()), "finish_reasons": pa.list_(pa.string())}
        if self._output is not None:
            parsed = self._output.form.type
            columns["parsed"] = pa.list_(parsed) if self.seats > 1 else parsed
        for parser, name, kind in (
            ("reasoning_parser", "reasoning", pa.string()),
            ("tool_parser", "tool_calls", TOOL_CALLS),
        ):
            if parser in self._parsers:
                columns[name] = pa.list_(kind) if self.seats > 1 else kind
        columns |= {"num_input_tokens": pa.int64(), "num_generated_tokens": pa.int64()}
        if "reasoning_parser" in self._parsers:
            columns["num_reasoning_tokens"] = pa.int64()
        if self.reask:
            columns["num_requests"] = pa.int64()
        columns["finish_reason"] = pa.string()
        if any(self.settings.get(name) is not None for name in ("logprobs", "logprob_token_ids")):
            columns["logprobs"] = pa.list_(TOKENS) if self.seats > 1 else TOKENS
        if self.settings.get("prompt_logprobs") is not None:
            columns["prompt_logprobs"] = TOKENS
        return {**columns, "error": pa.string()}

    def of(self, workload: Any, engine_kwargs: Mapping[str, Any]) -> Generate:
        where = f"{type(workload).__name__}.sampling_params"
        given = getattr(workload, "sampling_params", {})
        if getattr(workload, "pooling_params", None):
            raise WorkloadError(
                f"{type(workload).__name__} has pooling_params, which are for task: embed, classify or score. Set task "
                "in the config, or remove them."
            )
        if given is None:
            raise WorkloadError(f"{where} must be a dict such as {{'max_tokens': 150}}, given None.")
        for old, new in sampling.translated(given).items():
            warnings.warn(f"{old} in {where} is another library's name: it is {new} here.", stacklevel=2)
        settings, excluded = sampling.settings(given, where), sampling.excluded_by(engine_kwargs)
        _check_logprobs(settings, where, engine_kwargs.get("max_logprobs") or MAX_LOGPROBS)
        sampling.check(settings, where, excluded=excluded)
        output, reask = _output_of(workload, settings), getattr(workload, "reask", 0)
        if output is not None:
            settings["structured_outputs"] = output.constraint
        if isinstance(reask, bool) or not isinstance(reask, int) or not 0 <= reask <= MOST_REASKS:
            name = type(workload).__name__
            raise WorkloadError(f"{name}.reask must be a whole number from 0 to {MOST_REASKS}, given {shown(reask)}.")
        asked: dict[str, Any] = {"settings": settings, "excluded": excluded, "output": output, "reask": reask}
        asked["parsers"] = frozenset(name for name in PARSERS if engine_kwargs.get(name))
        if getattr(workload, "answers_as_a_server", False):
            from rayllm_batch.tasks.completions import Completions  # which travels to workers only with such a workload

            return Completions(**asked)
        if not callable(getattr(workload, "rollout", None)):
            return Generate(**asked)
        from rayllm_batch.tasks.rollout import Limits, Rollout  # which travel to workers only with a rollout

        return Rollout(Limits.of(workload), **asked)

    def check_engine(self, engine_kwargs: Mapping[str, Any], source: str) -> None:
        pools = {"runner": ("pooling",), "convert": ("embed", "classify")}
        for key, values in pools.items():
            if engine_kwargs.get(key) in values:
                raise ConfigError(
                    f"{key}: {engine_kwargs[key]} under engine_kwargs in {source} makes an engine that generates "
                    "nothing. Set task: embed, classify or score at the top level instead: it follows from the task."
                )

    def decides(self, workload: Any) -> dict[str, Any]:
        output, reask = _output_of(workload, {}), getattr(workload, "reask", 0)
        return {
            "sampling_params": getattr(workload, "sampling_params", {}),
            **({} if output is None else {"output_schema": output.constraint}),
            **({"reask": reask} if reask else {}),
        }

    def parse(self, parse_row: ParseRow, row: dict[str, Any]) -> dict[str, Any]:
        returned = parse_row(row)
        given = returned if isinstance(returned, dict) else {}
        unknown = next((_no_effect(key) for key in given if key not in KEYS), "")
        chat = {key: value for key, value in given.items() if value is not None or key in PROMPTS}
        if len(chat.keys() & set(PROMPTS)) != 1:
            wanted = 'parse_row must return {"messages": [...]}, {"prompt": "..."} or {"prompt_token_ids": [...]}'
            raise TypeError(f"{wanted}, but returned {guarded(returned)}. {unknown}".rstrip(". "))
        if unknown:
            raise TypeError(f"parse_row must return no other keys than {', '.join(KEYS)}. {unknown}")
        if "prompt_token_ids" in chat:
            chat["prompt_token_ids"] = checked_ids(chat["prompt_token_ids"])
        elif "prompt" in chat:
            if not isinstance(chat["prompt"], str) or not chat["prompt"]:
                raise TypeError(
                    f'parse_row\'s "prompt" must be a text that is not empty, but is {shown(chat["prompt"])}'
                )
        else:
            media: Media = []
            chat["messages"] = checked_messages(chat["messages"], media)
            chat |= {"media": media} if media else {}
        if (model := chat.get("model")) is not None and not (isinstance(model, str) and model):
            raise TypeError(f'parse_row\'s "model" must be the name of a LoRA adapter, but is {shown(model)}')
        if "sampling_params" in chat:
            chat["sampling_params"] = self._own_settings(chat["sampling_params"])
        if (schema := chat.pop("output_schema", None)) is not None:
            chat["sampling_params"] = {**chat.get("sampling_params", {}), **self._own_schema(schema)}
        settings = {**self.settings, **chat.get("sampling_params", {})}
        return chat | self._tools(chat.pop("tools", None), chat.pop("tool_choice", None), settings)

    def _own_settings(self, given: Any) -> dict[str, Any]:
        if not isinstance(given, dict):
            raise TypeError(f'parse_row\'s "sampling_params" must be a dict, but is {shown(given)}')
        own = sampling.settings(given, "this row's sampling_params")
        if own:
            sampling.check(own, "this row's sampling_params", excluded=self._excluded, base=self.settings)
        if self._output is not None and "structured_outputs" in own:
            raise WorkloadError(
                "structured_outputs in this row's sampling_params would take the place of the workload's "
                "output_schema. "
                'Return {"output_schema": ...} beside the messages instead, where the workload\'s is {}.'
            )
        for key in self.of_columns:
            if key in own and key not in self.settings and own[key] != 1:
                raise WorkloadError(
                    f"{key} in this row's sampling_params needs a column, which the workload's sampling_params decide: "
                    f"set {key} there, for all rows."
                )
        return own

    def _tools(self, given: Any, choice: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As parse returns them, if any. Raises TypeError where their calls could not be read, or not be made."""
        tools = [] if given is None else checked_tools(given)
        if tools and "tool_parser" not in self._parsers:
            raise TypeError(NO_TOOL_PARSER)
        if tools and "structured_outputs" in settings:
            raise TypeError(
                'it has "tools" and a form that its answer must have (output_schema, or structured_outputs), which '
                "would let "
                "no call through: leave one of them out"
            )
        choice = checked_tool_choice(choice, tools)
        return {**({"tools": tools} if tools else {}), **({"tool_choice": choice} if choice else {})}

    def _own_schema(self, schema: Any) -> dict[str, Any]:
        """A row's, as settings. The column's type cannot be the row's affair: it is JSON text."""
        if self._output is None or self._output.given != {}:
            raise WorkloadError(
                "this row has an output_schema of its own, but the workload has "
                f"{'none' if self._output is None else 'one for all rows'}: set output_schema = {{}} there; then "
                "`parsed` is JSON text, and each row may bring a schema."
            )
        if not isinstance(schema, (dict, list, tuple)):
            raise WorkloadError(
                f"this row's output_schema must be a JSON schema or a list of texts, given {shown(schema)}"
            )
        return {"structured_outputs": type(self._output)(schema, "this row's output_schema").constraint}

    def read(self, settings: dict[str, Any]) -> dict[str, Any]:
        return sampling.settings(settings, "")

    def read_reply(self, request: Request, reply: Reply) -> dict[str, Any]:
        texts, reasons = reply.texts or (reply.text,), reply.finish_reasons or (reply.finish_reason,)
        check_parts(request, reply)
        output, asked = self._output, request.settings.get("structured_outputs") or {}
        if output is not None and asked != self.settings["structured_outputs"]:
            output = type(output)(asked["choice"] if "choice" in asked else asked["json"])
        if output is None:
            cut = [cut_short(asked, text) for text, why in zip(texts, reasons, strict=True) if why == "length"]
            if cut and all(cut) and len(cut) == len(texts):
                raise InvalidAnswer(f"{cut[0]} (it has {reply.num_generated_tokens} tokens)")
            return {}
        parsed: list[Any] = []
        complaints = []
        for text, why in zip(texts, reasons, strict=True):
            try:
                parsed.append(output.parse(text) if output is self._output else output.as_json(text))
            except InvalidAnswer as invalid:
                complaints.append(f"{invalid}{AT_ITS_LIMIT * (why == 'length')}")
                parsed.append(None)
        if len(complaints) == len(texts):
            raise InvalidAnswer(complaints[0])
        return {"parsed": parsed if self.seats > 1 else parsed[0]}

    def columns(self, answer: Answer) -> dict[str, Any]:
        reply = answer.reply
        parsed = (reply.parsed or [ParsedAnswer(content=text) for text in reply.texts or [reply.text]]) if reply else []
        of_answers = {
            "reasoning": [one.reasoning for one in parsed] or None,
            "tool_calls": [list(one.tool_calls) for one in parsed] or None,
        }
        values = {
            "generated_text": parsed[0].content if parsed else None,
            "generated_texts": [one.content for one in parsed] or None,
            **{name: its if self.seats > 1 or not its else its[0] for name, its in of_answers.items()},
            "num_reasoning_tokens": answer.num_reasoning_tokens,
            "finish_reasons": list(reply.finish_reasons or [reply.finish_reason]) if reply else None,
            "parsed": answer.values.get("parsed"),
            "num_generated_tokens": answer.num_generated_tokens,
            "num_requests": answer.num_requests,
            "finish_reason": answer.finish_reason,
            "logprobs": (reply.logprobs if self.seats > 1 else reply.logprobs[0]) if reply and reply.logprobs else None,
            "prompt_logprobs": reply.prompt_logprobs if reply else None,
        }
        return {name: value for name, value in values.items() if name in self.schema.names}

    def is_repeatable(self, request: Request) -> bool:
        return request.settings.get("temperature") == 0  # vLLM's own default is 1

    def most_generated_tokens(self, settings: Mapping[str, Any]) -> Optional[int]:
        most = settings.get("max_tokens")
        return most * settings.get("n", 1) if isinstance(most, int) else None

    def most_logprobs(self, settings: Mapping[str, Any], prompt_tokens: int) -> int:
        def a_token(key: str) -> int:
            asked = settings.get(key)
            return 0 if asked is None else 1 + (VOCABULARY if asked == -1 else asked)

        named = settings.get("logprob_token_ids")
        generated = max(a_token("logprobs"), 1 + len(named) if named else 0)
        return (self.most_generated_tokens(settings) or 0) * generated + prompt_tokens * a_token("prompt_logprobs")

    def reading_only(self, request: Request) -> Request:
        more = ("min_tokens", "n", "logprobs", "prompt_logprobs", "logprob_token_ids", "structured_outputs")
        settings = {key: value for key, value in request.settings.items() if key not in more}
        return replace(request, settings={**settings, "max_tokens": 1})


def _output_of(workload: Any, settings: Mapping[str, Any]) -> Optional[OutputSchema]:
    given, name = getattr(workload, "output_schema", None), type(workload).__name__
    if given is None:
        return None
    if "structured_outputs" in settings:
        raise WorkloadError(
            f"{name} has an output_schema and sampling_params['structured_outputs']: both say which form an answer "
            "has. Remove one."
        )
    from rayllm_batch.tasks.output_schema import OutputSchema  # which travels to workers only with a schema

    return OutputSchema(given, f"{name}.output_schema")


def _check_logprobs(settings: Mapping[str, Any], where: str, most: int) -> None:
    for key in ("logprobs", "prompt_logprobs"):
        given = settings.get(key)
        if isinstance(given, int) and most >= 0 and (given > most or given == -1):
            raise WorkloadError(
                f"{key} in {where} must be at most {most}, which is the engine's max_logprobs, given {given}. Raise "
                "max_logprobs in engine_kwargs (-1: the whole vocabulary), or ask for fewer."
            )


def _no_effect(key: Any) -> str:
    why = NOT_TAKEN.get(key)
    if key in sampling.known_fields().sampling:
        why = "a setting of the request goes into its sampling_params"
    return f"{key!r} would have no effect" + (f": {why}" if why else f".{did_you_mean(key, KEYS)}")


def check_parts(request: Request, reply: Reply) -> None:
    """Raises InvalidAnswer where each of its answers has nothing beside thoughts, calls that cannot be read, or none
    where one was forced.
    """
    reasons, forced = reply.finish_reasons or (reply.finish_reason,), request.forces_a_call
    pairs = zip(reply.parsed, reasons)  # noqa: B905 (none, or all)
    problems = [_no_answer(parsed, why, forced) for parsed, why in pairs]
    if problems and all(problems):
        raise InvalidAnswer(f"{problems[0]} (it has {reply.num_generated_tokens} tokens)")


def _no_answer(parsed: ParsedAnswer, finish_reason: str, forced: bool) -> str:
    """Why this is no answer; "" where it is one."""
    if forced and not parsed.tool_calls and not parsed.problem:
        cut = ": the token limit was reached before it was whole, raise max_tokens" * (finish_reason == "length")
        return f"it has no call of a tool, which its tool_choice asks for{cut}"
    if parsed.problem or (parsed.content is None and not parsed.tool_calls):
        cut = "the token limit was reached before anything came after the thoughts: raise max_tokens"
        return parsed.problem or (cut if finish_reason == "length" else "nothing came after the thoughts")
    for call in parsed.tool_calls:
        try:
            whole = isinstance(json.loads(call["arguments"], parse_constant=_refuse), dict)
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            return f"the arguments of its call of {call['name']!r} are no JSON object: {call['arguments'][:200]}"
    return ""


def _refuse(name: str) -> None:
    raise ValueError(f"JSON does not have {name}")


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
