"""Settings of pooling requests: which there are, kept against the installed vLLM's own, and what is said of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rayllm_batch.engine import pooling
from rayllm_batch.engine.engine_args import installed_classes
from rayllm_batch.errors import WorkloadError

# Of vLLM's PoolingParams, what is not a request's to set: the engine's own affair, or for models that judge each token.
NOT_TO_SET = (
    "step_tag_id returned_token_ids task requires_token_ids skip_reading_prefix_cache late_interaction_params "
    "extra_kwargs output_kind"
).split()


def test_every_field_of_vllm_is_sorted() -> None:
    [fields] = installed_classes("pooling_params.py", "PoolingParams")
    assert set(fields) == {*pooling.SETTINGS, *NOT_TO_SET} - {pooling.TRUNCATE}
    assert fields["dimensions"] == "int | None" and fields["use_activation"] == "bool | None"


def test_plain_values() -> None:
    given = {"dimensions": np.int64(256), "use_activation": np.bool_(False), "truncate_prompt_tokens": None}
    assert pooling.settings(given, "here", "embed") == {"dimensions": 256, "use_activation": False}
    assert pooling.settings(None, "here", "embed") == {}
    assert pooling.settings({"truncate_prompt_tokens": -1}, "here", "score") == {"truncate_prompt_tokens": -1}


@pytest.mark.parametrize(
    ("task", "given", "said"),
    [
        ("embed", {"dimension": 8}, "Unknown setting 'dimension' in here. Did you mean 'dimensions'"),
        ("embed", {"normalize": True}, "It is use_activation here"),
        ("embed", {"max_length": 8}, "It is truncate_prompt_tokens here"),
        ("classify", {"dimensions": 8}, "It is for embed and score. Those of classify are use_activation, truncate"),
        ("embed", {"task": "embed"}, "Those of embed are dimensions, use_activation, truncate_prompt_tokens"),
        ("embed", {"dimensions": 8.0}, "must be a whole number of at least 1, given float: 8.0"),
        ("embed", {"dimensions": True}, "given bool: True"),
        ("embed", {"dimensions": -1}, "given int: -1"),
        ("embed", {"truncate_prompt_tokens": 0}, "or -1 for max_model_len, given int: 0"),
        ("score", {"use_activation": 1}, "must be true or false, given int: 1"),
        ("embed", ["dimensions"], "must be a dict such as"),
    ],
)
def test_what_is_wrong_is_said(task: str, given: Any, said: str) -> None:
    with pytest.raises(WorkloadError) as raised:
        pooling.settings(given, "here", task)
    assert said in str(raised.value)
