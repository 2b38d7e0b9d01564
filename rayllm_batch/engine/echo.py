"""An engine without a model, for tests of scale and faults: it answers with the prompt's beginning, or its numbers."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Optional

import numpy as np

from rayllm_batch.engine.base import EngineDidNotStart, EngineDied, EngineKind, Pooling, Reply, Request, Starter
from rayllm_batch.engine.engine_args import UTILIZATION


class EchoEngine:
    """Answers with the first `max_tokens` token ids of the prompt, decoded, and the beginning of the SHA-256 of each of
    its media; a pooling request with numbers that are always the same for the same token ids: of length 1, or between 0
    and 1 and of sum 1.

    engine_kwargs: max_model_len (4096), max_num_seqs (256), max_num_batched_tokens (8192); and to act up: start_seconds
    and seconds_per_request (sleeps), start_error (a message: the engine does not start), oom_above (a number of
    max_num_seqs: above it there is no memory for a start), run_oom_above (of gpu_memory_utilization: above it there is
    none for the first request, of which the engine dies), fail_on and crash_on (a text: a prompt that holds it makes
    its request fail, or the engine die), calls_file (gets a byte for each request that is answered, so that what is
    answered twice can be counted).
    """

    def __init__(self, engine_kwargs: dict[str, Any], tokenizer: Any) -> None:
        if start_error := engine_kwargs.get("start_error"):
            raise RuntimeError(start_error)
        time.sleep(engine_kwargs.get("start_seconds", 0))
        self._kwargs, self._tokenizer = engine_kwargs, tokenizer
        if self.limits()["max_num_seqs"] > engine_kwargs.get("oom_above", math.inf):
            words = "Model loading took 2.0 GiB\nGPU KV cache size: 10 tokens\n"
            raise EngineDidNotStart(f"{words}CUDA out of memory occurred with 8 dummy requests", self.limits())
        self.max_model_len: int = engine_kwargs.get("max_model_len") or 4096
        self.vocab_size: Optional[int] = None
        self._running, self._generation_tokens, self._dead = 0, 0, False

    async def generate(self, request: Request) -> Reply:
        self._running += 1
        try:
            reply = await self._answer(request)
        finally:
            self._running -= 1
        self._generation_tokens += reply.num_generated_tokens
        return reply

    async def _answer(self, request: Request) -> Reply:
        prompt_token_ids = request.prompt_token_ids
        if self._dead:
            raise EngineDied("the echo engine is dead")
        if self.limits()["gpu_memory_utilization"] > self._kwargs.get("run_oom_above", math.inf):
            self._dead = True
            raise EngineDied("torch.OutOfMemoryError: CUDA out of memory")
        max_tokens = request.settings.get("max_tokens") or self.max_model_len
        ids = prompt_token_ids[: min(max_tokens, self.max_model_len - len(prompt_token_ids))]
        crash_on, fail_on = self._kwargs.get("crash_on"), self._kwargs.get("fail_on")
        if crash_on or fail_on:
            prompt = self._tokenizer.decode(prompt_token_ids)
            if crash_on and crash_on in prompt:
                self._dead = True
                raise EngineDied(f"crash_on: the prompt holds {crash_on!r}")
            if fail_on and fail_on in prompt:
                raise ValueError(f"fail_on: the prompt holds {fail_on!r}")
        if seconds := self._kwargs.get("seconds_per_request", 0):
            await asyncio.sleep(seconds)
        if path := self._kwargs.get("calls_file"):
            with open(path, "ab") as file:
                file.write(b".")
        if request.pooling is not None:
            return Reply("", 0, "stop", vectors=_vectors(prompt_token_ids, request.pooling))
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        text += "".join(f" [{one.kind} {hashlib.sha256(one.data).hexdigest()[:8]}]" for one in request.media)
        return Reply(text, len(ids), "length" if len(ids) < len(prompt_token_ids) else "stop")

    def limits(self) -> dict[str, Any]:
        return {
            "max_num_seqs": self._kwargs.get("max_num_seqs") or 256,
            "max_num_batched_tokens": self._kwargs.get("max_num_batched_tokens") or 8192,
            "gpu_memory_utilization": self._kwargs.get("gpu_memory_utilization") or UTILIZATION,
        }

    def settings(self) -> dict[str, Any]:
        limits = self.limits()
        del limits["gpu_memory_utilization"]
        return {"max_model_len": self.max_model_len, **limits}

    def load(self) -> dict[str, float]:
        generated = self._generation_tokens
        return {"running": self._running, "waiting": 0, "kv_cache_usage": 0.0, "generation_tokens": generated}

    def is_deaf(self) -> bool:
        return False

    def shutdown(self) -> None:
        self._dead = True


def _vectors(token_ids: list[int], pooling: Pooling) -> tuple[np.ndarray, ...]:
    """Of each prompt: of its token ids in any order, so that texts with many words in common are near each other."""
    vectors, first = [], 0
    for length in pooling.lengths:
        own, first = token_ids[first : first + length], first + length
        # Each token id has one place in the vector and a number there: one product of large integers gives both.
        hashes = np.array(own, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        places = (hashes >> np.uint64(32)) % np.uint64(pooling.size)
        spread = (hashes & np.uint64(0xFFFFFFFF)) / 2**31 - 1
        numbers = np.copysign(1, spread) + spread / 4  # none is near 0, and two that differ do not cancel out
        vector: np.ndarray = np.bincount(places.astype(np.int64), numbers, minlength=pooling.size)
        if pooling.task == "embed":
            vector /= np.linalg.norm(vector)
        elif pooling.size == 1:
            vector = 1 / (1 + np.exp(-vector))
        else:
            vector = np.exp(vector - vector.max())
            vector /= vector.sum()
        vectors.append(vector.astype(np.float32))
    return tuple(vectors)


class EchoStarter(Starter):
    def start(self, model: str, engine_kwargs: dict[str, Any], decoder: Callable[[], Any]) -> EchoEngine:
        return EchoEngine(engine_kwargs, decoder())


class Echo(EngineKind):
    """A real configuration can be rehearsed on it: of vLLM's settings, those that mean nothing here are ignored."""

    needs_model = False
    needs_gpus = False
    pools = True
    takes_media = True
    rehearses_memory = True
    own_settings = tuple(
        "max_model_len max_num_seqs max_num_batched_tokens start_seconds seconds_per_request start_error oom_above "
        "run_oom_above fail_on crash_on calls_file".split()
    )

    def starter(
        self, engine_kwargs: Mapping[str, Any], accelerator_type: str, gpus: float, lora_path: Optional[str]
    ) -> EchoStarter:
        return EchoStarter()
