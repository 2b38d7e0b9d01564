"""Our table of settings against vLLM's own: what it refuses, or its engine's process could not read, we refuse before."""

from __future__ import annotations

import types
from typing import Any

import pytest
from test_sampling import BAD

from rayllm_batch import sampling
from rayllm_batch.engine.base import BadRequest
from rayllm_batch.errors import WorkloadError
from rayllm_batch.vllm_fields import SAMPLING_FIELDS

pytestmark = pytest.mark.vllm
VALUES: list[Any] = [
    0, 1, -1, -2, 2, 5, 1000, 2**31 - 1, 2**31, 2**63, -(2**63), 0.0, 0.5, 1.0, -0.5, 2.0, 2.5, float("nan"), float("inf"), True, False,
    "", "a", "5", [], [1], ["a"], [""], [1.5], [None], [[1]], {}, {"a": 1}, {1: 1.0}, {"json": {}}, {"choice": ["a"]}, "\ud800", b"a", (1,),
]  # fmt: skip


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


@pytest.mark.parametrize("key", sorted(set(SAMPLING_FIELDS) - set(sampling.NOT_TO_SET) - set(sampling.NO_COLUMN)))
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

    assert list(SAMPLING_FIELDS) == [field.name for field in msgspec.structs.fields(SamplingParams) if not field.name.startswith("_")]


def test_what_would_end_the_engines_reading_thread_is_found_before() -> None:
    """A value that has come past our own checks."""
    from rayllm_batch.engine.vllm import VLLMEngine

    engine = VLLMEngine.__new__(VLLMEngine)
    engine._defaults, engine._params = {}, {}
    for params in ({"max_tokens": 30.0}, {"seed": "7"}, {"ignore_eos": 1}, {"min_tokens": 5.0}, {"stop_token_ids": [2**70]}):
        with pytest.raises(BadRequest, match="sampling_params: .*(Error|Expected)"):
            engine._sampling_params(params)
    assert engine._sampling_params({"max_tokens": 30}).max_tokens == 30


def test_the_values_refused_elsewhere_are_no_mere_taste() -> None:
    """Most of what we refuse, vLLM refuses too; the rest has another meaning there than a user would think."""
    refused = [vllm_takes(key, value) for key, value in BAD if key in SAMPLING_FIELDS]
    assert refused.count(False) > 0.6 * len(refused)


@pytest.mark.parametrize(("params", "word"), [
    ({"allowed_token_ids": range(1025)}, "allowed_token_ids"), ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, "logit_bias"),
    ({"min_tokens": 1, "stop_token_ids": range(127)}, "stop ids"), ({"bad_words": ["w" * 600, "v" * 600]}, "bad_words"),
])  # fmt: skip
def test_what_a_step_on_a_gpu_has_no_room_for_is_found_before(params: dict[str, Any], word: str) -> None:
    """The model's own end tokens are 2 here, and a tokenizer makes a token of a letter."""
    engine, one_less = engine_of(v2=True), {key: shortened(value) for key, value in params.items()}
    params = {key: list(value) if isinstance(value, range) else value for key, value in params.items()}
    with pytest.raises(BadRequest, match=rf"sampling_params: the .*\b{word}.* must be at most [\d,]+"):
        engine._sampling_params(params)
    engine._sampling_params(one_less)
    engine_of(v2=False)._sampling_params(params)


def shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(list(value.items())[1:])
    return [one[:200] if isinstance(one, str) else one for one in value][1:] if not isinstance(value, int) else value


def engine_of(v2: bool) -> Any:
    from rayllm_batch.engine.vllm import VLLMEngine

    tokenizer = types.SimpleNamespace(encode=lambda text, add_special_tokens: list(map(ord, text)), max_token_id=1000)
    processor = types.SimpleNamespace(
        generation_config_fields={"eos_token_id": [5001, 5002]}, renderer=types.SimpleNamespace(get_eos_token_id=lambda: 5001),
        tokenizer=tokenizer,
    )  # fmt: skip
    engine = VLLMEngine.__new__(VLLMEngine)
    engine._defaults, engine._params = {}, {}
    engine._config, engine._engine = types.SimpleNamespace(use_v2_model_runner=v2), types.SimpleNamespace(input_processor=processor)
    return engine


def test_the_room_is_that_of_the_installed_vllm() -> None:
    from vllm.v1.worker.gpu.sample import logit_bias

    from rayllm_batch.engine import vllm as ours

    assert {logit_bias.MAX_NUM_ALLOWED_TOKEN_IDS, logit_bias.MAX_NUM_LOGIT_BIAS_TOKENS} == {ours.MOST_IDS}
    assert logit_bias.MAX_NUM_STOP_TOKEN_IDS == ours.MOST_STOP_IDS
