"""Rows of a task that pools, through the CPU stage, a real vLLM engine and the output's columns, without Ray."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from rayllm_batch import ChatWorkloadBase, init_engine_from_config
from rayllm_batch.model.folder import read_object
from rayllm_batch.output import run_columns
from rayllm_batch.tasks.base import Task
from rayllm_batch.workers.answering import Answering
from rayllm_batch.workers.monitor_client import Told
from rayllm_batch.workers.pooled_prompts import fill
from rayllm_batch.workers.prompts import PromptJob, build_prompts

KWARGS = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 16}


class AsTheyAre(ChatWorkloadBase):
    """Each row is what parse_row is to return, as JSON."""

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return json.loads(row["asked"])


def config_of(model: str, task: str, **given: Any) -> Any:
    engine_kwargs = {**KWARGS, **given.pop("engine_kwargs", {})}
    return init_engine_from_config(
        {
            "model_id": model,
            "llm_engine": "vllm",
            "accelerator_type": "CPU",
            "task": task,
            "engine_kwargs": engine_kwargs,
            **given,
        }
    )


def task_of(config: Any, **fields: Any) -> Task:
    folder, kwargs = Path(config.model_id), config.engine_kwargs
    return config.task_kind.of(AsTheyAre(**fields), kwargs).of_model(
        read_object(folder / "config.json"), folder, kwargs
    )


def prompts(config: Any, rows: list[dict[str, Any]], **fields: Any) -> tuple[pa.Table, PromptJob]:
    job = PromptJob(
        AsTheyAre().parse_row,
        tokenizer=config.model_id,
        task=task_of(config, **fields),
        pooled=fill,
        chat_template=config.chat_template,
        chat_template_kwargs=config.chat_template_kwargs,
    )
    return build_prompts(pa.table({"asked": [json.dumps(row) for row in rows]}), job), job


def answered(config: Any, engine: Any, rows: list[dict[str, Any]], **fields: Any) -> pa.Table:
    """engine: a coroutine that starts one; it is ended."""
    table, job = prompts(config, rows, **fields)

    async def answers() -> list[Any]:
        started = await engine(job.task)
        replica: Any = SimpleNamespace(prompt=job, deduplicate=True, config=config)
        answering = Answering(started, replica, Told(), lambda reason: None)
        try:
            return await asyncio.gather(*map(answering.answer, run_columns.stage_rows(table)))
        finally:
            started.shutdown()

    return run_columns.with_answers(table, asyncio.run(answers()), job.task)


def in_vllm(config: Any, rows: list[dict[str, Any]], **fields: Any) -> pa.Table:
    from rayllm_batch.engine.vllm import VLLMEngine

    async def engine(task: Task) -> Any:
        kwargs = config.engine_kwargs
        return VLLMEngine(config.model_id, {**kwargs, **task.engine_settings(kwargs)}, "CPU", None)

    return answered(config, engine, rows, **fields)


def in_echo(config: Any, rows: list[dict[str, Any]], **fields: Any) -> pa.Table:
    from rayllm_batch.engine.echo import EchoEngine

    async def engine(task: Task) -> Any:
        return EchoEngine({"max_model_len": config.engine_kwargs["max_model_len"]}, None)

    return answered(config, engine, rows, **fields)
