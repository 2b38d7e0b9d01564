"""What is lowered after an engine ran out of memory. The words are vLLM's own, as it says them on a GPU."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rayllm_batch.engine.back_off import Step, does_not_fit, is_about_memory, next_step

OWN = {"max_num_seqs": 1024, "max_num_batched_tokens": 16_384, "gpu_memory_utilization": 0.92}
LOADED = "INFO 11-25 [gpu_model_runner.py:5348] Model loading took 14.99 GiB memory and 3.1 seconds\n"
CACHE = LOADED + "INFO 11-25 [kv_cache_utils.py:1] GPU KV cache size: 457,872 tokens\n"
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
SAMPLER = "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests."
LESS_FREE = "ValueError: Free memory on device cuda:0 (41.9/79.11 GiB) on startup is less than desired GPU memory"
NO_CACHE = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"
TOO_LONG = (
    "To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed, which is "
    "larger than the available KV cache memory (3.2 GiB)."
)


@pytest.mark.parametrize(
    ("words", "running", "name", "after"),
    [
        (LOADED + OOM, False, "max_num_batched_tokens", 8192),  # while it tries its largest step
        (CACHE + OOM, False, "gpu_memory_utilization", 0.86),  # while it captures graphs
        (CACHE + SAMPLER, False, "max_num_seqs", 512),
        (OOM, True, "gpu_memory_utilization", 0.86),
        (LESS_FREE, False, "gpu_memory_utilization", 0.5),  # by hand: 41.9 / 79.11 is 0.5296, less 0.02, rounded down
        (LOADED + NO_CACHE, False, "gpu_memory_utilization", 0.95),
        (TOO_LONG, False, "gpu_memory_utilization", 0.95),
    ],
)
def test_what_changes_first(words: str, running: bool, name: str, after: float) -> None:
    step = next_step(words, OWN, (), was_running=running)
    assert (step.name, step.before, step.after) == (name, OWN[name], after)


def test_what_the_user_has_set_is_never_changed() -> None:
    assert next_step(LOADED + OOM, OWN, {"max_num_batched_tokens"}).name == "max_num_seqs"
    assert next_step(CACHE + SAMPLER, OWN, {"max_num_seqs"}).name == "gpu_memory_utilization"
    assert next_step(LOADED + NO_CACHE, OWN, {"gpu_memory_utilization"}).name == "max_num_batched_tokens"
    for words in (LOADED + OOM, CACHE + OOM, CACHE + SAMPLER, LESS_FREE, LOADED + NO_CACHE):
        assert next_step(words, OWN, set(OWN)) is None


def test_it_ends() -> None:
    for words in (LOADED + OOM, CACHE + OOM, CACHE + SAMPLER, LOADED + NO_CACHE):
        settings: dict[str, Any] = dict(OWN)
        for _ in range(20):
            if (step := next_step(words, settings, ())) is None:
                break
            assert step.before == settings[step.name] != step.after
            settings[step.name] = step.after
        assert step is None
        assert settings["max_num_seqs"] == 64
        assert settings["max_num_batched_tokens"] == 2048


def test_it_ends_also_where_the_memory_that_is_free_comes_and_goes() -> None:
    """A model a little too large beside something that holds 5% of the GPU: more is not free, less not enough."""
    settings: dict[str, Any] = dict(OWN)
    changed: set[str] = set()
    said = []
    free = LESS_FREE.replace("41.9/79.11", "20.9/22.06")
    for words in [LOADED + NO_CACHE, free] * 10:
        if step := next_step(words, settings, (), changed):
            said.append((step.name, step.after))
            settings[step.name] = step.after
            changed.add(step.name)
    assert said[:2] == [("gpu_memory_utilization", 0.95), ("gpu_memory_utilization", 0.92)]
    assert "gpu_memory_utilization" not in dict(said[2:])
    assert next_step(LOADED + NO_CACHE, settings, (), changed) is None


def test_no_fewer_tokens_than_sequences() -> None:
    """vLLM refuses that."""
    assert (
        next_step(LOADED + OOM, {**OWN, "max_num_batched_tokens": 4096, "max_num_seqs": 4096}, {"max_num_seqs"}) is None
    )
    assert (
        next_step(LOADED + OOM, {**OWN, "max_num_batched_tokens": 4096, "max_num_seqs": 4096}, ()).name
        == "max_num_seqs"
    )


def test_a_cache_that_is_far_too_small_is_not_waited_for() -> None:
    settings = {**OWN, "gpu_memory_utilization": 0.95}
    assert next_step(LOADED + TOO_LONG, settings, ()) is None
    assert next_step(LOADED + TOO_LONG.replace("16.0", "4.0"), settings, ()).name == "max_num_batched_tokens"


def test_what_is_about_one_gpu_is_not_for_the_others() -> None:
    assert next_step(LESS_FREE, OWN, ()).only_here and next_step(LOADED + NO_CACHE, OWN, ()).only_here
    assert not next_step(CACHE + OOM, OWN, ()).only_here


def test_other_failures_and_weights_that_do_not_fit_change_nothing() -> None:
    assert next_step("ValueError: unsupported model", OWN, ()) is None
    assert not is_about_memory("ValueError: unsupported model")
    assert next_step(OOM, OWN, ()) is None  # before the weights were there
    assert is_about_memory(OOM)


def test_an_engine_beside_another_does_not_take_its_share() -> None:
    assert next_step(LOADED + NO_CACHE, {**OWN, "gpu_memory_utilization": 0.45}, ()).name == "max_num_batched_tokens"


def test_a_step_and_the_error_say_what_from_what_to_and_why() -> None:
    step = next_step(CACHE + SAMPLER, OWN, ())
    assert str(step) == "The GPU is out of memory: the engine is started again with max_num_seqs=512 instead of 1024."
    steps = [str(Step("max_num_seqs", 128, 64, "The GPU is out of memory"))]
    text = does_not_fit(
        "org/model",
        LOADED + OOM,
        "one NVIDIA A10G has 22.5 GiB, of which 21.9 are free now",
        steps,
        {"max_num_batched_tokens": 8192},
    )
    for words in ("org/model", "14.99 GiB", "one NVIDIA A10G has 22.5 GiB", steps[0], "max_num_batched_tokens=8192"):
        assert words in text
    assert len(re.findall(r"tensor_parallel_size|quantized|max_model_len", text)) >= 3
    assert "Only 41.9 of the GPU's 79.11 GiB are free, since something else" in does_not_fit(
        "org/model", LESS_FREE, "one GPU", (), {}
    )
    assert "weights alone" in does_not_fit("org/model", OOM, "one GPU", (), {})
