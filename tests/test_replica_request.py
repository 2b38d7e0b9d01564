"""What a row of the CPU stage becomes before it reaches the engine, and what never does."""

from __future__ import annotations

import types
from typing import Any, Optional

import numpy as np
import pytest

from rayllm_batch import output
from rayllm_batch.replica import BadRow, Replica


def request(ids: list[int], vocab_size: Optional[int]) -> Any:
    replica = Replica.__new__(Replica)
    replica._engine = types.SimpleNamespace(max_model_len=100, vocab_size=vocab_size)
    replica._job = types.SimpleNamespace(sampling_params={"max_tokens": 5})
    row = {output.TOKEN_IDS: np.array(ids, dtype=np.int32), output.STAGE_ERROR: None, output.REQUEST: None}
    return replica._request(row)


@pytest.mark.parametrize("beyond", [50, 51, 2**31 - 1])
def test_a_token_id_that_the_model_has_not_stays_away_from_the_engine(beyond: int) -> None:
    for ids in ([beyond], [3, beyond, 4], [3, beyond]):
        with pytest.raises(BadRow, match=f"the token id {beyond:,} is beyond the model's vocabulary of 50"):
            request(ids, 50)


def test_ids_that_the_model_has() -> None:
    assert request([0, 49], 50).token_ids == [0, 49]
    assert request([2**31 - 1], None).token_ids == [2**31 - 1], "an engine without a vocabulary"
