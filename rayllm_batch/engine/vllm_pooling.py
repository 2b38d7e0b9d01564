"""vLLM's answer to a pooling request: `AsyncLLM.encode`, for each of its prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Optional

from rayllm_batch.engine import vllm_versions
from rayllm_batch.engine.base import BadRequest, Reply, Request
from rayllm_batch.errors import one_line


def engine_kwargs(given: dict[str, Any]) -> dict[str, Any]:
    """The same, with a pooler_config that vLLM takes: unlike other configs of a config, not as a dict."""
    pooler = given.get("pooler_config")
    if not isinstance(pooler, dict):
        return given
    return {**given, "pooler_config": vllm_versions.part("PoolerConfig")(**pooler)}


async def reply(request: Request, pool: Callable[[Optional[str], Any, Any], Awaitable[Any]]) -> Reply:
    """pool: of an adapter's name, a prompt and its PoolingParams, the output of the engine.

    Raises BadRequest where vLLM refuses the settings or the vectors are of another size; else what `pool` raises.
    """
    from vllm import PoolingParams

    pooling, prompts, first = request.pooling, [], 0
    assert pooling is not None
    for i, length in enumerate(pooling.lengths):
        prompt: Any = {"prompt_token_ids": request.prompt_token_ids[first : first + length]}
        if request.cache_salt:
            prompt["cache_salt"] = request.cache_salt
        extra = {"compressed_token_type_ids": pooling.second_texts[i]} if pooling.second_texts else None
        try:  # always with the task: without it, vLLM takes one that answers for each token, where the model has one
            params = PoolingParams(task=pooling.task, extra_kwargs=extra, **request.settings)
        except Exception as error:
            raise BadRequest(f"pooling_params: {one_line(error)}") from None
        prompts.append(asyncio.ensure_future(pool(request.model, prompt, params)))
        first += length
    try:
        outputs = await asyncio.gather(*prompts)
    finally:  # of a row that has failed, the others are not wanted
        for one in prompts:
            one.cancel()
    # NumPy has no bfloat16.
    vectors = tuple(output.outputs.data.float().reshape(-1).numpy() for output in outputs)
    wrong = next((vector for vector in vectors if len(vector) != pooling.size), None)
    if wrong is not None:
        raise BadRequest(
            f"the model gives {len(wrong)} numbers, but by its config.json they were to be {pooling.size}. Set "
            'engine_kwargs.hf_overrides to {"embedding_size": ...} for embeddings, or {"num_labels": ...} for classes.'
        )
    return Reply("", 0, "stop", vectors=vectors)
