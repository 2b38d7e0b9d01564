"""Which grammar backend an engine gets where vLLM need not be asked."""

from __future__ import annotations

from typing import Any

import pytest

from rayllm_batch import ChatWorkloadBase, init_engine_from_config
from rayllm_batch.errors import ConfigError
from rayllm_batch.run.forms import with_backend
from rayllm_batch.tasks.generate import Generate


class Turns(ChatWorkloadBase):
    async def rollout(self, row: dict[str, Any], generate: Any) -> dict[str, Any]:
        return {}


def config(llm_engine: str = "vllm", **structured_outputs_config: Any) -> Any:
    engine_kwargs = {"structured_outputs_config": structured_outputs_config} if structured_outputs_config else {}
    override = {"llm_engine": llm_engine, "engine_kwargs": engine_kwargs}
    return init_engine_from_config("configs/demo-cpu.yaml", override=override)


ROLLOUT = Generate().of(Turns(), {})


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, {"backend": "xgrammar", "disable_any_whitespace": True}),
        ({"backend": "auto"}, {"backend": "xgrammar", "disable_any_whitespace": True}),
        ({"backend": "guidance"}, {"backend": "guidance", "disable_any_whitespace": True}),
        ({"disable_any_whitespace": False}, {"backend": "xgrammar", "disable_any_whitespace": False}),
        ({"backend": "outlines"}, {"backend": "outlines"}),  # it has no such setting, and vLLM would refuse it
    ],
)
def test_a_rollout_may_ask_for_json_which_is_compact(given: dict[str, Any], chosen: dict[str, Any]) -> None:
    assert with_backend(config(**given), ROLLOUT, []).engine_kwargs["structured_outputs_config"] == chosen


@pytest.mark.parametrize("given", ["xgrammar", {"backend": 5}, ["xgrammar"]])
def test_a_choice_that_is_none_is_said(given: Any) -> None:
    override = {"engine_kwargs": {"structured_outputs_config": given}}
    with pytest.raises(ConfigError, match="structured_outputs_config"):
        with_backend(init_engine_from_config("configs/demo-cpu.yaml", override=override), ROLLOUT, [])


def test_where_nothing_is_asked_for_nothing_is_chosen() -> None:
    for given, task in ((config(), Generate({"max_tokens": 5})), (config("echo"), ROLLOUT)):
        assert with_backend(given, task, [{"prompt_token_ids": [1]}]) is given
