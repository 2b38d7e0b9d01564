"""`pooling_params`: which settings there are, of what type, for which tasks; checked beforehand.

Those of vLLM's `PoolingParams` that a request may set (tests/engine/test_pooling.py has the others, so that a new one
has to be sorted), and `truncate_prompt_tokens`, which vLLM has beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rayllm_batch.engine.sampling import INT32, plain_value
from rayllm_batch.errors import WorkloadError, did_you_mean, shown


class Setting(NamedTuple):
    kind: type
    wanted: str
    tasks: tuple[str, ...] = ("embed", "classify", "score")


TRUNCATE = "truncate_prompt_tokens"
SETTINGS = {
    "dimensions": Setting(int, "a whole number of at least 1", ("embed", "score")),
    "use_activation": Setting(bool, "true or false"),
    TRUNCATE: Setting(int, "a whole number of at least 1, or -1 for max_model_len"),
}
OTHER_NAMES = {
    **dict.fromkeys(("normalize", "normalize_embeddings", "softmax", "activation"), "use_activation"),
    **dict.fromkeys(("truncate", "truncation", "max_length", "max_seq_length"), TRUNCATE),
    **dict.fromkeys(("truncate_dim", "output_dimension", "dim"), "dimensions"),
}


def known(task: str) -> dict[str, Setting]:
    return {name: one for name, one in SETTINGS.items() if task in one.tasks}


def settings(given: Any, where: str, task: str) -> dict[str, Any]:
    """The settings as plain Python values; None, a table's "not given", is left out. Raises WorkloadError."""
    if given is not None and not isinstance(given, Mapping):
        raise WorkloadError(f"{where} must be a dict such as {{'truncate_prompt_tokens': 512}}, given {shown(given)}.")
    found = {key: plain_value(value) for key, value in (given or {}).items() if value is not None}
    of_task = known(task)
    for key, value in found.items():
        if key not in of_task:
            near = f" It is {OTHER_NAMES[key]} here." if key in OTHER_NAMES else did_you_mean(str(key), of_task)
            near = f" It is for {' and '.join(SETTINGS[key].tasks)}." if key in SETTINGS else near
            raise WorkloadError(f"Unknown setting {key!r} in {where}.{near} Those of {task} are {', '.join(of_task)}.")
        kind, wanted, _ = of_task[key]
        in_range = kind is bool or isinstance(value, int) and 1 <= value <= INT32 or (key, value) == (TRUNCATE, -1)
        if type(value) is not kind or not in_range:
            raise WorkloadError(f"{key} in {where} must be {wanted}, given {shown(value)}.")
    return found
