"""Sampling parameters: read from the installed vLLM without importing it, else from the shipped lists."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from rayllm_batch.engine import sampling, sampling_fields
from rayllm_batch.errors import WorkloadError

SOURCE = '''
class SamplingParams(Base):
    """About it."""
    n: int = 1
    max_tokens: int | None = 16
    of_tomorrow: bool = False
    "Its documentation."
    _hidden: int = 0
    CONSTANT = 3

    def method(self) -> None:
        local: int = 1

@dataclass
class StructuredOutputsParams:
    json: str | dict | None = None
'''
Install = Callable[[Optional[Path]], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a folder in vLLM's place, or nothing."""
    real, spec_of = importlib.util.find_spec, dict[str, Any]()

    def install(folder: Path | None) -> None:
        spec_of["vllm"] = folder and SimpleNamespace(submodule_search_locations=[str(folder)])
        monkeypatch.setattr(sampling_fields, "here", sampling_fields.Here())

    def find_spec(name: str, *rest: Any) -> Any:
        return spec_of[name] if name in spec_of else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return install


def refusal(**params: Any) -> str:
    with pytest.raises(WorkloadError) as caught:
        sampling.check(params, "sampling_params")
    return str(caught.value)


def test_what_only_the_installed_vllm_has_is_taken_and_checked(install: Install, tmp_path: Path) -> None:
    (tmp_path / "sampling_params.py").write_text(SOURCE)
    install(tmp_path)
    assert sampling_fields.known_fields() == (
        {"n": "int", "max_tokens": "int | None", "of_tomorrow": "bool"},
        {},
        {"json": "str | dict | None"},
    )
    sampling.check({"of_tomorrow": True, "max_tokens": 3}, "sampling_params")
    assert "of_tomorrow in sampling_params must be true or false, given int: 1." in refusal(of_tomorrow=1)


def test_what_only_another_vllm_has_is_said_to_be_there(install: Install, tmp_path: Path) -> None:
    (tmp_path / "sampling_params.py").write_text(SOURCE)
    install(tmp_path)
    message = refusal(watermarking=True)
    assert "Unknown sampling parameter 'watermarking' in sampling_params. vLLM 0.32.0 has it" in message
    assert "vLLM 0.29.0 has it, and the installed vLLM does not." in refusal(top_k=3)
    assert "Did you mean 'max_tokens'?" in refusal(max_token=3)


def test_what_was_read_here_does_not_travel(install: Install, tmp_path: Path) -> None:
    (tmp_path / "sampling_params.py").write_text(SOURCE)
    install(tmp_path)
    assert "of_tomorrow" in sampling_fields.known_fields().sampling
    assert pickle.loads(pickle.dumps(sampling_fields.here)).fields is None


def test_without_vllm_all_that_is_shipped_counts(install: Install, tmp_path: Path) -> None:
    """Prompts are made on nodes without vLLM too; what its engine's vLLM lacks, the engine refuses."""
    install(None)
    assert sampling_fields.known_fields() is sampling_fields.SHIPPED
    sampling.check({"top_k": 3, "watermarking": True}, "sampling_params")
    install(tmp_path)  # a vLLM without that file
    assert sampling_fields.known_fields() is sampling_fields.SHIPPED


@pytest.mark.parametrize("source", ["", "SamplingParams = make()\n", "class SamplingParams:\n    n: int\n"])
def test_a_source_that_has_changed_shape_counts_as_none(install: Install, source: str, tmp_path: Path) -> None:
    (tmp_path / "sampling_params.py").write_text(source)
    install(tmp_path)
    assert sampling_fields.installed_fields() is None


def test_of_an_annotated_type_what_is_for_pydantic_is_left_out(install: Install, tmp_path: Path) -> None:
    source = SOURCE.replace("max_tokens: int | None", "max_tokens: Annotated[int, Field(gt=0), lambda x: x[0]] | None")
    (tmp_path / "sampling_params.py").write_text(source)
    install(tmp_path)
    assert sampling_fields.known_fields().sampling["max_tokens"] == "int | None"


def test_to_read_them_vllm_is_not_imported() -> None:
    code = (
        "import sys; from rayllm_batch.engine import sampling_fields;"
        "sampling_fields.known_fields(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
