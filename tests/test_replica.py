"""What a replica asks of its engine, without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rayllm_batch import output
from rayllm_batch.replica import BadRow, Replica


def request(ids: list[int], vocab_size: int | None = 100, settings: str | None = None) -> Any:
    replica = Replica.__new__(Replica)
    replica._engine = SimpleNamespace(max_model_len=8, vocab_size=vocab_size)
    replica._job = SimpleNamespace(sampling_params={}, config=SimpleNamespace(engine_kwargs={"max_model_len": 8}, gpus_per_replica=0))
    row = {output.TOKEN_IDS: np.array(ids, dtype=np.int32), output.STAGE_ERROR: None, output.REQUEST: settings}
    return replica._request(row)


@pytest.mark.parametrize("ids", [[100], [5, 2**31 - 1, 6], [1, 2, 101]])
def test_token_ids_that_the_model_does_not_have(ids: list[int]) -> None:
    with pytest.raises(BadRow, match="is beyond the model's vocabulary of 100"):
        request(ids)
    assert request(ids, vocab_size=None).token_ids == ids


@pytest.mark.parametrize("ids", [[99], [0], []])
def test_token_ids_that_it_has(ids: list[int]) -> None:
    assert request(ids).token_ids == ids


def test_too_long() -> None:
    with pytest.raises(BadRow, match="raise max_model_len"):
        request([1] * 8)
