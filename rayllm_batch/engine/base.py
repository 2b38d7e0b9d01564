"""What the replica asks of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Protocol


@dataclass
class Completion:
    """One generated answer. `finish_reason` is vLLM's: "stop", "length", or "repetition" (by `repetition_detection`)."""

    text: str
    num_generated_tokens: int
    finish_reason: str


class BadRequest(Exception):
    """The engine does not take this request, or ended it without an answer; its text says why."""


class EngineDied(Exception):
    """The engine can answer nothing any more; its process must be replaced."""


class EngineDidNotStart(Exception):
    """Its text is what the engine said. settings: the limits that it had resolved by then."""

    def __init__(self, text: str, settings: dict[str, Any]) -> None:
        super().__init__(text)
        self.settings = settings


class Engine(Protocol):
    """A started engine. `generate` is called from one event loop, many times at once."""

    max_model_len: int
    vocab_size: Optional[int]  # a token id from here on ends an engine; None where any is taken

    async def generate(
        self, prompt_token_ids: list[int], sampling_params: dict[str, Any], lora_name: Optional[str], cache_salt: Optional[str] = None
    ) -> Completion:
        """The answer to one prompt. EngineDied means a dead engine; any other error is of this request alone.

        cache_salt: prompts share what is in the prefix cache only with those of the same salt.
        """

    def limits(self) -> dict[str, Any]:
        """What decides how much memory it takes: max_num_seqs, max_num_batched_tokens, gpu_memory_utilization."""

    def settings(self) -> dict[str, Any]:
        """The limits the engine resolved: max_model_len, max_num_seqs, max_num_batched_tokens, KV cache tokens."""

    def load(self) -> dict[str, float]:
        """Now: running and waiting requests, kv_cache_usage from 0 to 1; generation_tokens, of all requests so far."""

    def is_deaf(self) -> bool:
        """Whether it has requests and, for some seconds now, does nothing at all: it will never answer."""

    def shutdown(self) -> None:
        """End the engine and every process it started."""
