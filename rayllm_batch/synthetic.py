"""Made-up prompts of known length that share prefixes: for measuring throughput and prefix caching."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


@dataclass
class SyntheticWithSharedPrefix(ChatWorkloadBase):
    """`num_synthetic_requests` prompts; prompt i starts with prefix i % `num_synthetic_prefixes`.

    Lengths are in words of one token each for common tokenizers, so token counts are near and not exact, and the
    chat template's own tokens come on top. Every answer has exactly `max_tokens` tokens (`ignore_eos`), unless
    `sampling_params` says otherwise. Numbers may be floats, as from a command line; they are truncated.
    """

    num_synthetic_requests: int = 1000
    num_synthetic_prefixes: int = 1
    num_synthetic_prefix_tokens: int = 512
    num_unique_synthetic_prompt_tokens: int = 128
    max_tokens: int = 128

    def __post_init__(self) -> None:
        least = {"num_synthetic_prefix_tokens": 0, "num_unique_synthetic_prompt_tokens": 0}
        for name in (
            "num_synthetic_requests", "num_synthetic_prefixes", "num_synthetic_prefix_tokens",
            "num_unique_synthetic_prompt_tokens", "max_tokens",
        ):
            try:
                value = int(float(getattr(self, name)))
            except (TypeError, ValueError, OverflowError):
                value = -1
            if value < least.get(name, 1):
                raise WorkloadError(
                    f"{name} must be a whole number of at least {least.get(name, 1)}, given {getattr(self, name)!r}."
                )
            setattr(self, name, value)
        self.sampling_params = {
            **self.sampling_params, "max_tokens": self.max_tokens, "ignore_eos": self.sampling_params.get("ignore_eos", True),
        }

    def load_dataset(self) -> ray.data.Dataset:
        import ray.data

        return ray.data.range(self.num_synthetic_requests)

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        index = int(row["id"])
        prefix = _words(f"prefix {index % self.num_synthetic_prefixes}", self.num_synthetic_prefix_tokens)
        unique = _words(f"request {index}", self.num_unique_synthetic_prompt_tokens)
        return {"messages": [{"role": "user", "content": " ".join(prefix + unique)}]}


def _words(seed: str, count: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)
