"""Our table of settings against vLLM's own: what it refuses, or its engine could not read, we refuse before."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from test_sampling import BAD

from rayllm_batch.engine import sampling
from rayllm_batch.engine.sampling_fields import SHIPPED, installed_fields, known_fields
from rayllm_batch.engine.vllm_fields import RELEASE
from rayllm_batch.engine.vllm_newest_fields import NEWEST_RELEASE
from rayllm_batch.engine.vllm_versions import vllm_version
from rayllm_batch.errors import WorkloadError

pytestmark = pytest.mark.vllm
VALUES: list[Any] = [
    0,
    1,
    -1,
    -2,
    2,
    5,
    1000,
    2**31 - 1,
    2**31,
    2**63,
    -(2**63),
    0.0,
    0.5,
    1.0,
    -0.5,
    2.0,
    2.5,
    float("nan"),
    float("inf"),
    True,
    False,
    "",
    "a",
    "5",
    [],
    [1],
    ["a"],
    [""],
    [1.5],
    [None],
    [[1]],
    {},
    {"a": 1},
    {1: 1.0},
    {"json": {}},
    {"choice": ["a"]},
    "\ud800",
    b"a",
    (1,),
]


def vllm_takes(key: str, value: Any) -> bool:
    """Whether vLLM takes it and its engine's process can read it, as the engine room sends it."""
    from rayllm_batch.engine.vllm import VLLMEngine, _readable

    engine = VLLMEngine.__new__(VLLMEngine)
    engine._defaults = {}
    try:
        _readable(engine._new_params({key: value}))
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    "key", sorted(set(known_fields().sampling) - set(sampling.NOT_TO_SET) - set(sampling.NO_COLUMN))
)
def test_whatever_we_take_vllm_takes(key: str) -> None:
    taken = []
    for value in VALUES:
        try:
            plain = sampling.settings({key: value}, "here")
            sampling.check(plain, "here")
        except WorkloadError:
            continue
        taken.append(value)
        if plain:
            assert vllm_takes(key, plain[key]), f"{key}={value!r} is taken here, and not by vLLM"
    assert taken or key == "repetition_detection", f"nothing is taken for {key}"


def test_the_fields_are_those_of_the_installed_vllm() -> None:
    import msgspec
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

    fields = installed_fields()
    assert fields is not None
    assert list(fields.sampling) == [
        field.name for field in msgspec.structs.fields(SamplingParams) if not field.name.startswith("_")
    ]
    for names, of in ((fields.repetition, RepetitionDetectionParams), (fields.structured, StructuredOutputsParams)):
        assert list(names) == [field.name for field in dataclasses.fields(of) if not field.name.startswith("_")]


@pytest.mark.skipif(vllm_version().split("+")[0] not in (RELEASE, NEWEST_RELEASE), reason="shipped are other versions'")
def test_the_shipped_fields_have_those_of_the_installed_vllm() -> None:
    for shipped, installed in zip(SHIPPED, installed_fields() or (), strict=True):
        assert {name: kind for name, kind in installed.items() if shipped.get(name) != kind} == {}


def test_what_would_end_the_engines_reading_thread_is_found_before() -> None:
    """A value that has come past our own checks."""
    from rayllm_batch.engine.base import BadRequest
    from rayllm_batch.engine.vllm import VLLMEngine

    engine = VLLMEngine.__new__(VLLMEngine)
    engine._defaults, engine._params = {}, {}
    for params in (
        {"max_tokens": 30.0},
        {"seed": "7"},
        {"ignore_eos": 1},
        {"min_tokens": 5.0},
        {"stop_token_ids": [2**70]},
    ):
        with pytest.raises(BadRequest, match="sampling_params: .*(Error|Expected)"):
            engine._sampling_params(params)
    assert engine._sampling_params({"max_tokens": 30}).max_tokens == 30


def test_the_values_refused_elsewhere_are_no_mere_taste() -> None:
    """Most of what we refuse, vLLM refuses too; the rest has another meaning there than a user would think."""
    refused = [vllm_takes(key, value) for key, value in BAD if key in known_fields().sampling]
    assert refused.count(False) > 0.6 * len(refused)


def test_bad_words_that_an_engine_on_a_gpu_has_no_places_for() -> None:
    from vllm import SamplingParams
    from vllm.tokenizers import get_tokenizer

    from rayllm_batch.engine.vllm import _check_bad_words

    tokenizer = get_tokenizer("assets/demo-model")
    _check_bad_words(SamplingParams(bad_words=["harbour", "council"]), tokenizer)
    with pytest.raises(ValueError, match="bad_words are .* tokens, but must be at most 1,024"):
        _check_bad_words(SamplingParams(bad_words=["harbour council " * 1000]), tokenizer)
