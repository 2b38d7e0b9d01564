"""A replica's engine is started: with the model's files there, and again with less where memory was short."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

from rayllm_batch.config import EngineConfig
from rayllm_batch.engine import back_off
from rayllm_batch.engine.base import Engine, EngineDidNotStart
from rayllm_batch.errors import EngineError
from rayllm_batch.model.files import download_model
from rayllm_batch.workers import gpu
from rayllm_batch.workers.gpu_lock import gpu_to_itself
from rayllm_batch.workers.replica_log import ReplicaLog

MOST_UNCHANGED_STARTS = 3  # while other processes on the GPU end


class _Reaper(Protocol):
    def end_others(self) -> None: ...


class EngineStart:
    """Of one replica.

    pinned:  engine settings that the user has set, which stay. lowered: asks for those that other replicas have lowered.
    says:    tells the run about a step: its text, and the setting with its value where others should lower it too.
    decoder: loads what makes text of token ids, for an engine that has no model.
    """

    def __init__(
        self,
        config: EngineConfig,
        pinned: frozenset[str],
        *,
        log: ReplicaLog,
        reaper: _Reaper,
        lowered: Callable[[], dict[str, Any]],
        says: Callable[..., None],
        decoder: Callable[[], Any],
    ) -> None:
        self._config, self._log, self._reaper = config, log, reaper
        self._lowered, self._says, self._decoder = lowered, says, decoder
        self._pinned = pinned
        if config.engine_kwargs.get("enable_chunked_prefill") is False:
            self._pinned |= {"max_num_batched_tokens"}  # which must then hold the longest prompt
        self._less: dict[str, Any] = {}  # settings, changed after there was too little memory
        self._steps: list[str] = []
        gpus, lora = config.gpus_per_replica, config.dynamic_lora_loading_path
        self._starter = config.engine_kind.starter(config.engine_kwargs, config.accelerator_type, gpus, lora)

    async def download(self) -> str:
        """The model's folder."""
        config, kwargs = self._config, self._config.engine_kwargs
        return await asyncio.to_thread(
            download_model,
            config.model_id,
            os.environ.get("HF_TOKEN"),
            revision=kwargs.get("revision"),
            load_format=kwargs.get("load_format") or "auto",
        )

    async def start(self, model: str) -> Engine:
        """Raises what the engine raises, or EngineError where it does not fit."""
        with await asyncio.to_thread(gpu_to_itself) if self._config.engines_per_replica > 1 else nullcontext():
            unchanged = 0
            while True:
                began_at = self._log.size
                try:
                    return self._starter.start(model, self._settings(), self._decoder)
                except EngineDidNotStart as error:
                    words = f"{error}\n{self._log.since(began_at)}"
                    if self._starter.goes_another_way(words):
                        continue
                    if back_off.CHANGED_WHILE_MEASURED in words and unchanged < MOST_UNCHANGED_STARTS:
                        unchanged += 1
                        await asyncio.to_thread(self._reaper.end_others)
                    elif not await asyncio.to_thread(self.lower, words, error.settings):
                        if self._memory_matters and back_off.is_about_memory(words):
                            raise EngineError(self._does_not_fit(words)) from None
                        raise

    def lower(self, words: str, settings: dict[str, Any], *, was_running: bool = False) -> bool:
        """Whether there is something to lower; the engine that starts next has it lowered."""
        step = back_off.next_step(words, settings, self._pinned, self._less, was_running=was_running)
        if step is None or not self._memory_matters:
            return False
        self._less[step.name] = step.after
        self._steps.append(str(step))
        self._says(str(step), *(() if step.only_here else (step.name, step.after)))
        if not was_running:
            self._reaper.end_others()  # the engine that failed may still hold its memory
        return True

    def _settings(self) -> dict[str, Any]:
        for name, value in self._lowered().items():  # by others, perhaps on this GPU
            self._less[name] = min(value, self._less.get(name, value))
        kwargs = {name: value for name, value in self._config.engine_kwargs.items() if value is not None}
        if (share := self._config.memory_share) is not None:
            kwargs["gpu_memory_utilization"] = share
        return {**kwargs, **self._less}

    @property
    def _memory_matters(self) -> bool:
        """Not on a CPU: there the cache has a size of its own, and what there is besides is not measured."""
        return self._config.engine_kind.rehearses_memory or bool(self._config.gpus_per_replica)

    def _does_not_fit(self, words: str) -> str:
        kwargs = self._config.engine_kwargs
        held = {name: kwargs[name] for name in self._pinned if name in kwargs}
        why = back_off.does_not_fit(self._config.model_id, words, gpu.memory(), self._steps, held)
        return self._log.with_last_words(f"{why} The engine's last words:")
