"""Rows with media through the CPU stage and a real vLLM engine, without Ray; and LLM.chat's answers."""

from __future__ import annotations

import asyncio
import base64
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from rayllm_batch import ChatWorkloadBase, init_engine_from_config
from rayllm_batch.output import run_columns
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers.answering import Answering
from rayllm_batch.workers.media_prompts import MediaPrompts
from rayllm_batch.workers.monitor_client import Told
from rayllm_batch.workers.prompts import PromptJob, build_prompts
from rayllm_batch.workload.base import media_rules

KWARGS = {"enforce_eager": True, "max_num_seqs": 8, "max_model_len": 512, "limit_mm_per_prompt": {"image": 3}}


class Looking(ChatWorkloadBase):
    """Rows with a question and pictures, or sounds."""

    sampling_params = {"temperature": 0.0, "max_tokens": 8}

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        media = [{"type": "image", "image": one} for one in row.get("pictures") or ()]
        media += [{"type": "audio", "audio": one} for one in row.get("sounds") or ()]
        return {"messages": [{"role": "user", "content": [*media, {"type": "text", "text": row["question"]}]}]}


def picture(width: int, height: int, seed: int = 0, kind: str = "PNG") -> bytes:
    from PIL import Image

    colours = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(colours).save(file := io.BytesIO(), kind)
    return file.getvalue()


def config_of(model: str, **engine_kwargs: Any) -> Any:
    kwargs = {**KWARGS, **engine_kwargs}
    return init_engine_from_config(
        {"model_id": model, "llm_engine": "vllm", "accelerator_type": "CPU", "engine_kwargs": kwargs}
    )


def prompts(config: Any, rows: list[dict[str, Any]]) -> tuple[pa.Table, PromptJob]:
    workload = Looking()
    media = MediaPrompts.of(config, media_rules(workload))
    task = Generate().of(workload, config.engine_kwargs)
    job = PromptJob(workload.parse_row, tokenizer=config.model_id, task=task, media=media)
    return build_prompts(pa.Table.from_pylist(rows), job), job


def in_vllm(config: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns that come out; and `tokens_before`, those that were known before the engine."""
    table, job = prompts(config, rows)

    async def answers() -> tuple[list[Any], list[int]]:
        from rayllm_batch.engine.vllm import VLLMEngine

        engine = VLLMEngine(config.model_id, config.engine_kwargs, "CPU", None)
        replica: Any = SimpleNamespace(prompt=job, deduplicate=True, config=config)
        answering = Answering(engine, replica, Told(), lambda reason: None)
        try:
            stage = run_columns.stage_rows(table)
            before = [getattr(answering.request(row), "num_input_tokens", 0) for row in stage]
            return await asyncio.gather(*map(answering.answer, stage)), before
        finally:
            engine.shutdown()

    found, before = asyncio.run(answers())
    out = run_columns.with_answers(table, found, job.task).to_pylist()
    return [{**row, "tokens_before": tokens} for row, tokens in zip(out, before, strict=True)]


def by_llm_chat(config: Any, rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Texts and prompt tokens, as vLLM's own offline interface has them."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=config.model_id, **config.engine_kwargs)
    chats = []
    for row in rows:
        parts = [_part("image", "png", one) for one in row.get("pictures") or ()]
        parts += [_part("audio", "wav", one) for one in row.get("sounds") or ()]
        chats.append([{"role": "user", "content": [*parts, {"type": "text", "text": row["question"]}]}])
    answers = llm.chat(chats, SamplingParams(**Looking().sampling_params), use_tqdm=False)
    return [(one.outputs[0].text, len(one.prompt_token_ids)) for one in answers]


def _part(kind: str, form: str, data: bytes) -> dict[str, Any]:
    url = f"data:{kind}/{form};base64,{base64.b64encode(data).decode()}"
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
