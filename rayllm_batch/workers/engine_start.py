"""A replica's engine is started: with the model's files there, and again with less where memory was short."""

from __future__ import annotations

import asyncio
import os
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from rayllm_batch.engine import back_off
from rayllm_batch.engine.base import Engine, EngineDidNotStart
from rayllm_batch.errors import EngineError
from rayllm_batch.model.files import download_model
from rayllm_batch.workers import gpu
from rayllm_batch.workers.monitor_client import MonitorClient
from rayllm_batch.workers.tokenizer import load_decoder

if TYPE_CHECKING:
    from rayllm_batch.workers.replica import ReplicaJob, ReplicaProcess

MOST_UNCHANGED_STARTS = 3  # while other processes on the GPU end


class EngineStart:
    """Of one replica. What it lowers, the monitor tells to the others, and those to it."""

    def __init__(self, job: ReplicaJob, process: ReplicaProcess, monitor: MonitorClient) -> None:
        config, self._task = job.config, job.prompt.task
        self._config = config
        self._pinned, self._monitor = job.pinned, monitor
        self._log, self._reaper = process.log, process.reaper
        self._decoder = partial(load_decoder, job.prompt)  # for an engine that has no model
        if config.engine_kwargs.get("enable_chunked_prefill") is False or self._task.pools:
            self._pinned |= {"max_num_batched_tokens"}  # which must then hold the longest prompt
        self._less: dict[str, Any] = {}  # settings, changed after there was too little memory
        self._steps: list[str] = []
        gpus, lora = config.gpus_per_replica, config.dynamic_lora_loading_path
        # Not on a CPU: there the cache has a size of its own, and what there is besides is not measured.
        self._memory_matters = config.engine_kind.rehearses_memory or bool(gpus)
        self._starter = config.engine_kind.starter(config.engine_kwargs, config.accelerator_type, gpus, lora)

    async def download(self) -> str:
        """The model's folder."""
        kwargs, token = self._config.engine_kwargs, os.environ.get("HF_TOKEN")
        what: dict[str, Any] = {"revision": kwargs.get("revision"), "load_format": kwargs.get("load_format") or "auto"}
        return await asyncio.to_thread(download_model, self._config.model_id, token, **what)

    async def start(self, model: str) -> Engine:
        """Raises what the engine raises, or EngineError where it does not fit."""
        # Where the cache's size is given vLLM measures nothing, so what starts beside it cannot be in its measure.
        alone = self._config.engines_per_replica > 1 and not self._config.engine_kwargs.get("kv_cache_memory_bytes")
        with await asyncio.to_thread(gpu.gpu_to_itself) if alone else nullcontext():
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
        self._monitor.backs_off(str(step), *(() if step.only_here else (step.name, step.after)))
        if not was_running:
            self._reaper.end_others()  # the engine that failed may still hold its memory
        return True

    def _settings(self) -> dict[str, Any]:
        for name, value in self._monitor.lowered().items():  # by others, perhaps on this GPU
            self._less[name] = min(value, self._less.get(name, value))
        kwargs = {name: value for name, value in self._config.engine_kwargs.items() if value is not None}
        kwargs |= self._task.engine_settings(kwargs)
        if (share := self._config.memory_share) is not None:
            kwargs["gpu_memory_utilization"] = share
        return {**kwargs, **self._less}

    def _does_not_fit(self, words: str) -> str:
        kwargs = self._config.engine_kwargs
        held = {name: kwargs[name] for name in self._pinned if name in kwargs}
        why = back_off.does_not_fit(self._config.model_id, words, gpu.memory(), self._steps, held)
        return self._log.with_last_words(f"{why} The engine's last words:")
