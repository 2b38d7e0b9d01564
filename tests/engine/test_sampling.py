"""Settings of requests: what no engine takes is refused by name, and what a table gives is taken as what it means."""

from __future__ import annotations

import decimal
import math
from typing import Any, Optional

import numpy as np
import pytest

from rayllm_batch.engine import ENGINES, sampling
from rayllm_batch.errors import WorkloadError

NAN, INF = float("nan"), float("inf")
BAD = [
    *[("max_tokens", value) for value in (12.0, "12", False, 0, -3, 2**31, 10**30, NAN, [1], decimal.Decimal(5), {})],
    *[("min_tokens", value) for value in (1.0, "1", -1, True)],
    *[("temperature", value) for value in ("0", -0.01, 2.01, NAN, INF, True, [0.5], 10**400)],
    *[("top_p", value) for value in (0, 0.0, 1.0001, "1", NAN, False)],
    *[("top_k", value) for value in (-2, 5.0, "5", True)],
    *[("min_p", value) for value in (-1e-9, 2, "0.1", INF)],
    *[("presence_penalty", value) for value in (-2.1, 2.1, "a")],
    *[("frequency_penalty", value) for value in (-2.1, 2.1, [])],
    *[("repetition_penalty", value) for value in (0, 0.0, -1, INF, "2")],
    *[("seed", value) for value in (1.5, "1", True, 2**63, -(2**63) - 1)],
    *[("stop", value) for value in (1, "", ["a", ""], ["a", 1], {"a": 1}, "\ud800", ["ok", "\udfff"], b"x")],
    *[("stop_token_ids", value) for value in (1, [1.0], ["1"], [-1], [2**31], [True], "12")],
    *[("bad_words", value) for value in ("word", [""], [3], [f"word {n}" for n in range(129)])],
    *[("ignore_eos", value) for value in (0, 1, "false", 1.0)],
    *[("detokenize", value) for value in (1, "true", False)],
    *[("skip_special_tokens", value) for value in (0, "no")],
    *[("spaces_between_special_tokens", value) for value in (1,)],
    *[("include_stop_str_in_output", value) for value in ("yes",)],
    *[
        ("logit_bias", value)
        for value in (
            [1],
            {"a": 1.0},
            {1: "1"},
            {1: NAN},
            {-1: 1.0},
            {1.5: 1.0},
            {"1.5": 1.0},
            {2**31: 1.0},
            dict.fromkeys(range(1025), 1.0),
        )
    ],
    *[("allowed_token_ids", value) for value in ([], [1.0], 1, [-2], list(range(1025)))],
    *[("extra_args", value) for value in ([], {1: 2}, {"a": object()}, {"a": "\ud800"})],
    *[("thinking_token_budget", value) for value in (-2, 1.0)],
    *[
        ("repetition_detection", value)
        for value in (5, {"max_pattern": 1}, {"max_pattern_size": 3}, {"min_pattern_size": 2, "min_count": 3})
    ],
    *[
        ("structured_outputs", value)
        for value in (
            "json",
            {},
            {"json": {}, "regex": "a"},
            {"jsn": {}},
            {"choice": []},
            {"choice": "ab"},
            {"choice": [1]},
            {"choice": ["a", ""]},
            {"regex": ""},
            {"regex": "("},
            {"regex": "a)"},
            {"regex": "[a"},
            {"regex": "*a"},
            {"regex": "a\0"},
            {"json_object": False},
            {"grammar": " \n"},
            {"grammar": ""},
            {"structural_tag": "{"},
            {"structural_tag": " "},
            {"structural_tag": "[]"},
            {"structural_tag": "{}"},
            {"json": "{"},
            {"json": ""},
            {"json": "[1]"},
            {"json": {"type": "strng"}},
            {"json": {"type": ["string", "nul"]}},
            {"json": {"properties": {"a": "string"}}},
            {"json": {"properties": []}},
            {"json": {"type": "object", "required": True}},
            {"json": {"type": "array", "items": 5}},
            {"json": {"type": "string", "minLength": "5"}},
            {"json": '{"type": "any"}'},
            {"json": {"type": "object", "properties": {"a": {"type": "text"}}}},
            {"json": "[" * 9000},
            {"regex": 5},
            {"json": 5},
            {"disable_any_whitespace": True},
            {"json_object": "yes"},
        )
    ],
    *[(name, 1) for name in ("n_", "flat_logprobs", "output_kind", "skip_clone", "stream_interval")],
]


def checked(params: Any, **how: Any) -> dict[str, Any]:
    plain = sampling.settings(params, "here")
    sampling.check(plain, "here", **how)
    return plain


@pytest.mark.parametrize(("key", "value"), BAD)
def test_what_no_engine_takes_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(WorkloadError, match=rf"\b{key}\b") as caught:
        checked({key: value})
    assert "here" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "params",
    [
        {"max_tokens": 8, "min_tokens": 8},
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 1},
        {"top_k": -1},
        {"top_k": 0},
        {"seed": -5},
        {"seed": 2**63 - 1},
        {"stop": "x"},
        {"stop": ["a", "ü", "🙂"]},
        {"stop": []},
        {"logit_bias": {5: 1, 6: -100.0}},
        {"bad_words": ["x"]},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"structured_outputs": {"json": {"type": "object"}, "disable_any_whitespace": True}},
        {"structured_outputs": {"json_object": True}},
        {"extra_args": {"a": [1, None, {"b": "c"}]}},
        {"n": 1},
        {"allowed_token_ids": [0, 5]},
        {"repetition_detection": {"max_pattern_size": 5, "min_pattern_size": 1, "min_count": 3}},
        {"ignore_eos": True},
        {"min_p": 0},
        {},
    ],
)
def test_what_is_meant_is_taken_as_it_is(params: dict[str, Any]) -> None:
    assert checked(params) == params


@pytest.mark.parametrize(
    ("value", "plain"), [(np.int64(5), 5), (np.uint8(5), 5), (np.array(5), 5), (np.int32(7).astype(object), 7)]
)
def test_numpys_whole_numbers(value: Any, plain: int) -> None:
    [taken] = checked({"max_tokens": value}).values()
    assert taken == plain and type(taken) is int


def test_numpys_other_kinds() -> None:
    given = {
        "temperature": np.float64(0.5),
        "ignore_eos": np.bool_(True),
        "stop": np.array(["a", "b"]),
        "stop_token_ids": (3, np.int64(4)),
    }
    assert checked(given) == {"temperature": 0.5, "ignore_eos": True, "stop": ["a", "b"], "stop_token_ids": [3, 4]}
    taken = checked({**given, "logit_bias": {np.int64(3): np.float32(1.5)}})
    assert {type(value) for value in taken.values()} == {float, bool, list, dict} and taken["logit_bias"] == {3: 1.5}
    with pytest.raises(WorkloadError, match="max_tokens"):
        checked({"max_tokens": np.float64(30)})
    with pytest.raises(WorkloadError, match="temperature"):
        checked({"temperature": np.float32("nan")})


def test_json_has_texts_for_token_ids() -> None:
    assert checked({"logit_bias": {"300": 5.0, 7: 1}}) == {"logit_bias": {300: 5.0, 7: 1}}


def test_what_is_null_is_not_given() -> None:
    assert checked({"max_tokens": None, "temperature": None, "stop": None, "seed": 3}) == {"seed": 3}
    assert checked(None) == {}


def test_a_number_with_a_point_is_told_how_to_be_written() -> None:
    with pytest.raises(
        WorkloadError, match=r"max_tokens in here must be a whole number \(write 30\), given float: 30\.0\."
    ):
        checked({"max_tokens": 30.0})


@pytest.mark.parametrize(
    ("base", "own", "words"),
    [
        ({"max_tokens": 10}, {"min_tokens": 11}, "min_tokens=11.*max_tokens=10"),
        ({"min_tokens": 5}, {"max_tokens": 4}, "min_tokens=5.*max_tokens=4"),
        ({"min_tokens": 5}, {"stop_token_ids": list(range(121))}, "stop_token_ids.*beside min_tokens"),
        ({"stop_token_ids": list(range(121))}, {"min_tokens": 1}, "stop_token_ids.*beside min_tokens"),
        ({"temperature": 0.0}, {"n": 3}, "n=3.*temperature above 0"),
        ({"n": 2}, {"temperature": 0}, "n=2.*temperature above 0"),
    ],
)
def test_what_excludes_each_other_between_workload_and_row(base: dict, own: dict, words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        checked(own, base=base)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"speculative_config": {"method": "ngram"}},
        {"spec_method": "ngram"},
        {"spec_model": "org/draft"},
        {"spec_tokens": 3},
    ],
)
@pytest.mark.parametrize("own", [{"min_p": 0.1}, {"logit_bias": {5: 1.0}}])
def test_what_speculation_excludes(own: dict[str, Any], kwargs: dict[str, Any]) -> None:
    checked(own, excluded=sampling.excluded_by({"max_num_seqs": 4, "speculative_config": None, "spec_method": None}))
    excluded = sampling.excluded_by(kwargs)
    with pytest.raises(WorkloadError, match=f"{next(iter(own))}.*speculative.*{next(iter(kwargs))}"):
        checked(own, excluded=excluded)
    with pytest.raises(WorkloadError, match="speculative"):
        checked({"max_tokens": 3}, base=own, excluded=excluded)
    checked({"min_p": 0}, excluded=excluded)


def test_a_budget_for_thoughts_needs_to_know_where_they_end() -> None:
    for budget in (0, 10, -1):
        with pytest.raises(WorkloadError, match="thinking_token_budget in here needs.*reasoning_parser"):
            checked({"thinking_token_budget": budget}, excluded=sampling.excluded_by({}))
        for kwargs in ({"reasoning_parser": "qwen3"}, {"reasoning_config": {"think_end_str": "</think>"}}):
            checked({"thinking_token_budget": budget}, excluded=sampling.excluded_by(kwargs))


@pytest.mark.parametrize(
    "taken",
    [
        {"regex": r"\p{L}+"},
        {"regex": "(?<n>a)"},
        {"regex": "a**"},
        {"regex": "(?=a)b"},
        {"regex": " "},
        {"regex": "(" * 2000 + ")" * 2000},
        {"json": {"type": "string", "title": None, "description": 5, "default": None}},
        {"json": {"required": ["a", "a"], "type": "object"}},
        {
            "json": {
                "properties": {"type": {"type": "string"}, "items": {"type": "array", "items": {"$ref": "#/$defs/x"}}},
                "$defs": {"x": {}},
            }
        },
        {"json": '{"type": "integer"}'},
        {"json": {}},
        {"structural_tag": '{"type": "structural_tag", "format": {"type": "any_text"}}'},
        {"structural_tag": '{"structures": [], "triggers": []}'},
    ],
)
def test_what_an_engine_may_take(taken: dict[str, Any]) -> None:
    assert checked({"structured_outputs": taken}) == {"structured_outputs": taken}


def test_a_deep_schema() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(45):
        schema = {"type": "object", "properties": {"a": schema}}
    checked({"structured_outputs": {"json": schema}})


def test_nulls_in_a_struct_are_not_given() -> None:
    assert checked({"logit_bias": {"5": 1.0, "6": None}}) == {"logit_bias": {5: 1.0}}
    assert checked({"structured_outputs": {"regex": None, "choice": ["a"], "json": None}}) == {
        "structured_outputs": {"choice": ["a"]}
    }
    detection = {"max_pattern_size": 4, "min_pattern_size": None, "min_count": 3}
    assert checked({"repetition_detection": detection}) == {
        "repetition_detection": {"max_pattern_size": 4, "min_count": 3}
    }
    assert checked({"logit_bias": {"6": None}, "structured_outputs": {"regex": None}, "seed": 3}) == {"seed": 3}
    schema = {"json": {"enum": [None, "a"], "default": None}}
    assert checked({"structured_outputs": schema}) == {"structured_outputs": schema}


def test_what_holds_itself() -> None:
    ring: dict[str, Any] = {}
    ring["a"] = [ring, ring]
    deep: Any = 1
    for _ in range(5000):
        deep = {"a": deep}
    for inner in (ring, deep):
        for given in ({"extra_args": inner}, inner, {"structured_outputs": {"json": inner}}, {"stop": [inner]}):
            with pytest.raises(WorkloadError, match=r"here holds .* 100 levels"):
                checked(given)


@pytest.mark.parametrize(
    ("given", "known"), [("max_new_tokens", "max_tokens"), ("stop_sequences", "stop"), ("temperatur", "temperature")]
)
def test_names_of_others_are_translated(given: str, known: str) -> None:
    with pytest.raises(WorkloadError, match=f"{given}.*{known}"):
        checked({given: 5})


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("given", "is_here"),
    [
        ({"guided_json": SCHEMA}, {"json": SCHEMA}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"guided_grammar": "root ::= 'a'"}, {"grammar": "root ::= 'a'"}),
        ({"guided_json_object": True}, {"json_object": True}),
        ({"guided_decoding": {"regex": "a+"}}, {"regex": "a+"}),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
            {"json": SCHEMA},
        ),
        ({"response_format": {"type": "text"}}, None),
    ],
)
def test_forms_by_the_names_of_others(given: dict[str, Any], is_here: Optional[dict[str, Any]]) -> None:
    found = sampling.settings({"max_tokens": 5, **given}, "here")
    assert found == {"max_tokens": 5, **({"structured_outputs": is_here} if is_here else {})}
    sampling.check(found, "here")
    assert list(sampling.translated(given)) == list(given)


@pytest.mark.parametrize(
    "given",
    [
        {"guided_regex": 5},
        {"choices": ["a", "b"]},
        {"json_schema": SCHEMA},
        {"guided_decoding": 5},
        {"response_format": "json"},
        {"response_format": {"type": "grammar"}},
        {"guided_regex": "a", "guided_choice": ["a"]},
        {"guided_regex": "a", "structured_outputs": {"regex": "b"}},
    ],
)
def test_forms_that_are_none_or_two(given: dict[str, Any]) -> None:
    with pytest.raises(WorkloadError, match="structured_outputs"):
        sampling.check(sampling.settings(given, "here"), "here")


def test_not_a_dict() -> None:
    for given in ([("max_tokens", 1)], "max_tokens", 5):
        with pytest.raises(WorkloadError, match="must be a dict"):
            checked(given)


def test_the_widest_ranges_are_those_of_the_fields() -> None:
    assert set(sampling.RANGES) <= set(sampling.known_fields().sampling) and all(
        math.isfinite(bounds.least) for bounds in sampling.RANGES.values()
    )


def test_on_a_cpu_nothing_is_sampled_beside_speculation() -> None:
    ngram = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}}
    kind = ENGINES.get("vllm")
    seen = kind.seen_by_tasks(ngram, "CPU")
    excluded = sampling.excluded_by(seen)
    for params in ({}, {"temperature": 1.0}, {"temperature": None}, {"temperature": 0.5}):
        with pytest.raises(WorkloadError, match="temperature in .* must be 0: .* or remove speculative_config"):
            checked(params, excluded=excluded)
    checked({"temperature": 0}, excluded=excluded)
    checked({"max_tokens": 3}, base={"temperature": 0.0}, excluded=excluded)
    for engine_kwargs, accelerator in ((ngram, "H100"), ({}, "CPU")):
        assert kind.seen_by_tasks(engine_kwargs, accelerator) is engine_kwargs


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": 2**64}, "seed in .* must be a whole number of at most 64 bits"),
        ({"ignore_eos": 1}, "ignore_eos in .* must be true or false, given"),
        ({"max_tokens": 2**31}, "max_tokens in .* must be at most 2,147,483,647"),
        ({"temperature": 10**9 * 9}, "temperature in .* must be at most 2, "),
    ],
)
def test_too_much_is_said_so(given: dict[str, Any], said: str) -> None:
    with pytest.raises(WorkloadError, match=said):
        checked(given)
