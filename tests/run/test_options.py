"""The constructor's options: values that Python would take for others."""

from __future__ import annotations

from typing import Any

import pytest

from rayllm_batch import CNNDailySummary, RayLLMBatch
from rayllm_batch.errors import ConfigError
from rayllm_batch.run.options import RunOptions


@pytest.mark.parametrize(
    "given",
    [
        {"deduplicate": "no"},
        {"preserve_order": "false"},
        {"reorder": None},
        {"verbose": 2},
        {"stall_timeout_s": "60"},
        {"stall_timeout_s": True},
        {"stall_timeout_s": float("nan")},
    ],
)
def test_what_cannot_be(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(given))} must be "):
        RunOptions(**given)


def test_a_switch_of_run() -> None:
    batch = RayLLMBatch("configs/demo-cpu.yaml", CNNDailySummary())
    with pytest.raises(ConfigError, match="retry_failed= must be True or False, given 'no'"):
        batch.run("somewhere", retry_failed="no")  # type: ignore[arg-type]


def test_what_can() -> None:
    assert RunOptions(stall_timeout_s=None, preserve_order=True).stall_timeout_s is None
    assert RunOptions(stall_timeout_s=0.5, num_replicas=(1, 2)).replica_range == (1, 2)
