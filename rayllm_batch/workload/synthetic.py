"""Made-up prompts of known length that share prefixes: for measuring throughput and prefix caching."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from rayllm_batch.errors import WorkloadError
from rayllm_batch.workload import ChatWorkloadBase

if TYPE_CHECKING:
    import ray.data

# Common words that are one token, with their leading space, in the Llama 3, Qwen and GPT tokenizers.
WORDS = (
    "the of and to in is it that was for on are as with his they at be this from have or by one had not but what "
    "all were when we there can an your which their said if do will each about how up out them then she many some "
    "so these would other into has more her two like him see time could no make than first been its who now people "
    "my made over did down only way find use may water long little very after words called just where most know"
).split()


@dataclass(init=False, kw_only=True)
class SyntheticWithSharedPrefix(ChatWorkloadBase):
    """`num_synthetic_requests` prompts; prompt i starts with prefix i % `num_synthetic_prefixes`.

    Lengths are in words of one token each for common tokenizers, so token counts are near and not exact, and the
    chat template's own tokens come on top. Every answer has exactly `max_tokens` tokens (`ignore_eos`), unless
    `sampling_params` says otherwise. Numbers may be floats, as from a command line; they are truncated.
    """

    num_synthetic_requests: int
    num_synthetic_prefixes: int
    num_synthetic_prefix_tokens: int
    num_unique_synthetic_prompt_tokens: int
    max_tokens: int

    def __init__(
        self,
        num_synthetic_requests: float = 1000,
        num_synthetic_prefixes: float = 1,
        num_synthetic_prefix_tokens: float = 512,
        num_unique_synthetic_prompt_tokens: float = 128,
        max_tokens: float = 128,
        *,
        dataset_fraction: float = 1.0,
        sampling_params: Optional[dict[str, Any]] = None,
    ) -> None:
        self.num_synthetic_requests = _whole("num_synthetic_requests", num_synthetic_requests, 1)
        self.num_synthetic_prefixes = _whole("num_synthetic_prefixes", num_synthetic_prefixes, 1)
        self.num_synthetic_prefix_tokens = _whole("num_synthetic_prefix_tokens", num_synthetic_prefix_tokens, 0)
        self.num_unique_synthetic_prompt_tokens = _whole(
            "num_unique_synthetic_prompt_tokens", num_unique_synthetic_prompt_tokens, 0
        )
        self.max_tokens = _whole("max_tokens", max_tokens, 1)
        super().__init__(
            dataset_fraction=dataset_fraction,
            sampling_params={
                "temperature": 0.0,
                "ignore_eos": True,
                **(sampling_params or {}),
                "max_tokens": self.max_tokens,
            },
        )

    def load_dataset(self) -> ray.data.Dataset:
        import ray.data

        return ray.data.range(self.num_synthetic_requests)

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        index = int(row["id"])
        prefix = _words(f"prefix {index % self.num_synthetic_prefixes}", self.num_synthetic_prefix_tokens)
        unique = _words(f"request {index}", self.num_unique_synthetic_prompt_tokens)
        return {"messages": [{"role": "user", "content": " ".join(prefix + unique)}]}


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = int(float(value))
    except (TypeError, ValueError, OverflowError):
        number = least - 1
    if number < least:
        raise WorkloadError(f"{name} must be a whole number of at least {least}, given {value!r}.")
    return number


def _words(seed: str, count: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)
