"""`sampling_params`: which settings there are, of what type and range, which exclude each other; checked beforehand.

vLLM checks few types itself, and some wrong ones (a `max_tokens` of 30.0) end the thread that its engine reads requests
with: from then on nothing is answered. Types are those of vLLM's own fields, see sampling_fields.py; ranges those of
`SamplingParams._verify_args` and `verify` of vLLM 0.29 and 0.32 (tests/engine/test_sampling_against_vllm.py).

By hand, not pydantic: types come as text; what is strict there takes half of a surrogate pair and any subclass of int;
and checkers would have to travel to workers, where a recursive one (JSON) does not arrive.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

import numpy as np

from rayllm_batch.engine.engine_args import of_another_vllm
from rayllm_batch.engine.sampling_fields import known_fields
from rayllm_batch.engine.vllm_fields import SAMPLING_FIELDS
from rayllm_batch.engine.vllm_newest_fields import MORE_SAMPLING_FIELDS
from rayllm_batch.errors import WorkloadError, did_you_mean, is_deep, one_line, shown

INT32, INT64 = 2**31 - 1, 2**63 - 1
HALF_OF_A_PAIR = re.compile(r"[\ud800-\udfff]")  # of surrogates: it can be neither sent to an engine nor stored


class Range(NamedTuple):
    least: float
    most: float = math.inf
    without_least: bool = False

    def __contains__(self, value: Any) -> bool:
        return self.least <= value <= self.most and not (self.without_least and value == self.least)

    def __str__(self) -> str:
        least = f"{'above' if self.without_least else 'at least'} {self.least:g}"
        return least if self.most in (math.inf, INT32) else f"{least} and at most {self.most:g}"


RANGES = {
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "repetition_penalty": Range(0, without_least=True),
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, without_least=True),
    "top_k": Range(-1, INT32),
    "min_p": Range(0, 1),
    "max_tokens": Range(1, INT32),
    "min_tokens": Range(0, INT32),
    "n": Range(1, 16384),
    "logprobs": Range(-1, INT32),
    "prompt_logprobs": Range(-1, INT32),
    "thinking_token_budget": Range(-1, INT32),
}
TOKEN_IDS = ("stop_token_ids", "allowed_token_ids", "logit_bias")
NO_COLUMN = ("flat_logprobs", "prompt_logprob_token_ids", "prompt_logprob_start")
NOT_TO_SET = (
    "output_kind stream_interval skip_clone output_text_buffer_length routed_experts_prompt_start "
    "trace_decode_token_ids"
).split()
OF_STRUCTS = ("logit_bias", "structured_outputs", "repetition_detection")
# How many an engine on a GPU has places for: its process ends of a request with more (vllm/v1/worker/gpu/sample).
MOST = {"allowed_token_ids": 1024, "logit_bias": 1024, "bad_words": 128}
MOST_STOP_IDS = 120  # beside min_tokens: 128, with the model's own
CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
# Errors of Python's that are those of every engine of regexes; of others, each has more or less than Python.
BAD_REGEX = ("missing )", "unbalanced parenthesis", "unterminated character set", "nothing to repeat")
# What a grammar is made of. Elsewhere a schema may hold what it likes: a title that is null, as some tools write it.
READ_OF_SCHEMAS = "type properties items required anyOf allOf oneOf minLength maxLength minItems maxItems".split()
SPECULATION = ("speculative_config", "spec_method", "spec_model", "spec_tokens")
REASONING = ("reasoning_parser", "reasoning_config")
# Names of other libraries and of earlier vLLMs.
_GUIDED = "guided_json guided_regex guided_choice guided_grammar guided_decoding guided_json_object response_format"
_GUIDED += " choice choices json_schema schema"
OTHER_NAMES = {
    **dict.fromkeys(("max_new_tokens", "max_completion_tokens", "max_length"), "max_tokens"),
    **dict.fromkeys(("stop_sequences", "stop_strings"), "stop"),
    "do_sample": "temperature (0 is greedy)",
    "num_beams": "n",
    "random_seed": "seed",
    **dict.fromkeys(_GUIDED.split(), "structured_outputs, such as {'json': {...}} or {'choice': ['yes', 'no']}"),
}
GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list[int]": "a list of whole numbers",
    "list[str]": "a list of texts",
    "dict[int, float]": "a dict of numbers by token id",
    **dict.fromkeys(("dict", "dict[str, Any]"), "a dict"),
}


def settings(given: Any, where: str) -> dict[str, Any]:
    """The settings as plain Python values: NumPy's become Python's, token ids in JSON text numbers; None is left out.

    A null is what a table has for "not given"; it must not lift a limit that the workload sets. Raises WorkloadError.
    """
    if given is not None and not isinstance(given, Mapping):
        raise WorkloadError(f"{where} must be a dict such as {{'max_tokens': 150}}, given {shown(given)}.")
    if is_deep(given):
        deep = "holds lists or dicts in more than 100 levels, or one that holds itself"
        raise WorkloadError(f"{where} {deep}. Make it flatter.")
    plain = {key: plain_value(value) for key, value in (given or {}).items() if value is not None}
    plain = {key: value for key, value in _translated(plain)[0].items() if value is not None}
    for key in OF_STRUCTS:  # columns have all fields of a struct in each row, those that are not given as nulls
        if isinstance(inner := plain.get(key), dict) and any(value is None for value in inner.values()):
            plain[key] = {name: value for name, value in inner.items() if value is not None}
            if not plain[key]:
                del plain[key]
    if isinstance(bias := plain.get("logit_bias"), dict):
        plain["logit_bias"] = {_token_id(key): value for key, value in bias.items()}
    return plain


def translated(given: Any) -> dict[str, str]:
    """Which names of earlier vLLMs and of the OpenAI API `settings` takes for others, and for which."""
    return _translated(given)[1] if isinstance(given, Mapping) else {}


def _translated(given: Mapping[Any, Any]) -> tuple[dict[Any, Any], dict[str, str]]:
    settings, notes = dict(given), dict[str, str]()
    for old in (name for name in (*GUIDED, "guided_decoding", "response_format") if given.get(name) is not None):
        value = given[old]
        form = {GUIDED[old]: value} if old in GUIDED else value if isinstance(value, dict) else None
        if old == "response_format":
            form = _form_of_response(value)
        if form is None or "structured_outputs" in settings:
            continue  # `check` says what it is called here
        del settings[old]
        settings["structured_outputs"] = form or None
        notes[old] = (
            f"structured_outputs={{{', '.join(map(repr, form))}: ...}}" if form else "left out: text is the default"
        )
    return settings, notes


def _form_of_response(value: Any) -> Optional[dict[str, Any]]:
    """OpenAI's response_format as structured_outputs; {} where it asks for text, None where it is not OpenAI's."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    schema = value.get("json_schema") if kind == "json_schema" else None
    if isinstance(schema, Mapping) and "schema" in schema:
        return {"json": schema["schema"]}
    return {"text": {}, "json_object": {"json_object": True}}.get(kind or "")


def excluded_by(engine_kwargs: Mapping[str, Any]) -> dict[str, str]:
    """The settings that such an engine refuses in every request, and why."""
    excluded = dict(engine_kwargs.get("excluded_settings") or {})
    if speculative := [name for name in SPECULATION if engine_kwargs.get(name)]:
        named = " and ".join(speculative)
        why = f"does not go together with speculative decoding. Remove it, or {named} from engine_kwargs."
        excluded |= {"min_p": why, "logit_bias": why}
    if not any(engine_kwargs.get(name) for name in REASONING):
        why = "needs to know where thoughts end. Set reasoning_parser in engine_kwargs, or remove it."
        excluded["thinking_token_budget"] = why
    return excluded


def check(
    params: Mapping[str, Any], where: str, *, excluded: Mapping[str, str] = {}, base: Mapping[str, Any] = {}
) -> None:
    """Raise WorkloadError, naming the parameter, unless `params` are settings that this library and vLLM can honour.

    params: as `settings` gives them. base: what they go over, checked before. excluded: see `excluded_by`.
    """
    known = known_fields().sampling
    for key, value in params.items():
        if key not in known:
            near = f" It is {OTHER_NAMES[key]} here." if key in OTHER_NAMES else ""
            near = near or of_another_vllm(key, SAMPLING_FIELDS, MORE_SAMPLING_FIELDS) or did_you_mean(key, known)
            near += " They are the fields of vLLM's SamplingParams."
            raise WorkloadError(f"Unknown sampling parameter {key!r} in {where}.{near}")
        if key in NO_COLUMN:
            raise WorkloadError(f"{where} sets {key!r}, which the output has no column for. Remove it.")
        if key in NOT_TO_SET:
            raise WorkloadError(f"{where} sets {key!r}, which is the engine's own affair. Remove it.")
        if (problem := _problem(key, value)) is not None:
            raise WorkloadError(f"{key} in {where} must be {problem}, given {shown(value)}.")
    params = {**base, **params}
    if params.get("n", 1) > 1 and params.get("temperature") == 0:
        same = (
            f"{where} asks for n={params['n']} answers with temperature 0, which would be {params['n']} times the same"
        )
        raise WorkloadError(f"{same}. Set a temperature above 0, or leave n out.")
    least, most = params.get("min_tokens", 0), params.get("max_tokens", math.inf)
    if least > most:
        raise WorkloadError(
            f"min_tokens={least} in {where} is more than max_tokens={most}. Lower it, or raise max_tokens."
        )
    if least and len(params.get("stop_token_ids", ())) > MOST_STOP_IDS:
        most_said = f"the {MOST_STOP_IDS} that there may be beside min_tokens"
        raise WorkloadError(f"stop_token_ids in {where} are more than {most_said}. Shorten them.")
    if "temperature" in excluded and params.get("temperature") is None:  # then it is 1
        raise WorkloadError(f"temperature in {where} {excluded['temperature']}")
    for key, why in excluded.items():
        if params.get(key) or key in ("thinking_token_budget", "prompt_logprobs") and key in params:  # 0 asks for some
            raise WorkloadError(f"{key} in {where} {why}")


def _problem(key: str, value: Any) -> Optional[str]:  # noqa: PLR0911 (a line a kind)
    """What the value must be, if it is not."""
    if key == "structured_outputs":
        return _structured_problem(value)
    if key == "repetition_detection":
        return _fields_problem(value, known_fields().repetition) or _repetition_problem(value)
    kinds = known_fields().sampling[key]
    if not _fits(value, kinds):
        # A 30.0 is what a table with gaps makes of 30.
        whole = "int" in kinds.split(" | ") and type(value) is float and value.is_integer() and abs(value) <= INT64
        large = type(value) is int and abs(value) > INT64
        more = f" (write {int(value)})" if whole else " of at most 64 bits" if large else ""
        return f"{_kinds(kinds)}{more}"
    if key in RANGES and value not in RANGES[key]:
        return str(RANGES[key]) if value < INT32 else f"at most {RANGES[key].most:,.0f}"
    if key in ("stop", "bad_words") and not (value if isinstance(value, str) else all(value)):
        return "text that is not empty"
    if key == "detokenize" and not value:
        return "true, or left out: the text is the answer, and what stop looks at"
    if key in MOST and len(value) > MOST[key]:
        return f"of at most {MOST[key]:,} entries"
    if key == "allowed_token_ids" and not value:
        return "a list of at least one token id"
    if key in TOKEN_IDS and not all(0 <= one <= INT32 for one in value):
        return "of token ids, whole numbers from 0"
    return None


def _structured_problem(value: Any) -> Optional[str]:
    if (problem := _fields_problem(value, known_fields().structured)) is not None:
        return problem
    named = [name for name in CONSTRAINTS if value.get(name) is not None]
    if len(named) != 1:
        return f"a dict with one of {', '.join(CONSTRAINTS)}"
    return _constraint_problem(named[0], value[named[0]])


def _constraint_problem(name: str, value: Any) -> Optional[str]:  # noqa: PLR0911 (a line a kind)
    """What is wrong whatever a vLLM's backend is; each has more that it does not take."""
    if name == "choice" and not all(value or [""]):
        return "a dict whose choice is a list of at least one text that is not empty"
    if name == "json_object" and not value:
        return "a dict whose json_object is true, or be left out"
    if name in ("grammar", "structural_tag") and not value.strip() or value == "":
        return f"a dict whose {name} is not empty"
    if name == "regex":
        try:
            re.compile(value)
        except re.error as error:
            if error.msg.startswith(BAD_REGEX):
                return f"a dict whose regex is one ({error})"
        except (RecursionError, OverflowError):  # too much for Python alone, perhaps
            pass
        return "a dict whose regex has no NUL character" if "\0" in value else None
    if name not in ("json", "structural_tag"):
        return None
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        return f"a dict whose {name} is JSON ({one_line(error)})"
    if not isinstance(value, dict):
        return f"a dict whose {name} is a JSON object"
    if name == "structural_tag":
        known = "format" in value or {"structures", "triggers"} <= value.keys()
        return None if known else 'a dict whose structural_tag has a "format", or "structures" and "triggers"'
    return _schema_problem(value)


def _schema_problem(schema: dict[str, Any]) -> Optional[str]:
    from jsonschema import Draft202012Validator

    try:
        for error in Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema):
            where = list(error.absolute_path)
            of = where[-2] if where[-2:-1] == ["properties"] else where[-1] if where else None
            if of in READ_OF_SCHEMAS and error.validator != "uniqueItems":
                at = ".".join(map(str, where))
                return f"a dict whose json is a JSON schema (it has {shown(error.instance, 80)} at {at})"
    except RecursionError:  # deep; the engine has the last word
        pass
    return None


def _repetition_problem(value: dict[str, Any]) -> Optional[str]:
    least, most, count = (value.get(name) or 0 for name in ("min_pattern_size", "max_pattern_size", "min_count"))
    if 0 <= least <= most and (not most or count >= 2):
        return None
    return "a dict with min_pattern_size <= max_pattern_size and min_count >= 2"


def _fields_problem(value: Any, fields: Mapping[str, str]) -> Optional[str]:
    keys = f"a dict with keys of {', '.join(fields)}"
    if not isinstance(value, dict):
        return keys
    for name, one in value.items():
        if name not in fields:
            return f"{keys} ({name!r} is none of them){did_you_mean(name, fields).rstrip('?')}"
        if one is not None and not _fits(one, fields[name]):
            return f"a dict whose {name} is {_kinds(fields[name])}"
    return None


def _fits(value: Any, kinds: str) -> bool:
    return any(_is(value, kind) for kind in kinds.split(" | "))


def _is(value: Any, kind: str) -> bool:  # noqa: PLR0911 (a line a kind)
    if kind == "int":
        return type(value) is int and -INT64 - 1 <= value <= INT64
    if kind == "float":
        return _is(value, "int") or type(value) is float and math.isfinite(value)
    if kind == "bool":
        return type(value) is bool
    if kind == "str":
        return isinstance(value, str) and not HALF_OF_A_PAIR.search(value)
    if kind.startswith("list["):
        return isinstance(value, list) and all(_is(one, kind[5:-1]) for one in value)
    if kind == "dict[int, float]":
        return isinstance(value, dict) and all(_is(key, "int") and _is(one, "float") for key, one in value.items())
    return kind.startswith("dict") and isinstance(value, dict) and _is_json(value)


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is(key, "str") and _is_json(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or any(_is(value, kind) for kind in ("bool", "float", "str"))


def plain_value(value: Any) -> Any:
    """NumPy's values and arrays as Python's, and tuples as lists."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain_value(one) for one in value]
    if isinstance(value, Mapping):
        return {plain_value(key): plain_value(one) for key, one in value.items()}
    return value


def _token_id(key: Any) -> Any:
    """JSON has no other keys than text."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 20 else key


def _kinds(kinds: str) -> str:
    return " or ".join(_WORDS.get(kind, kind) for kind in kinds.split(" | ") if kind != "None")
