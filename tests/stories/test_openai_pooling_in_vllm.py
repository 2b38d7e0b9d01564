"""Requests for embeddings, scores and rankings: our responses, and those of vLLM's own server, of the same engine."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from test_openai_batch_files import differences
from test_pooling_in_vllm import DOCUMENTS, QUERY, begun, found_by

pytestmark = pytest.mark.vllm
# vLLM's app, asked as over HTTP, without a port; it starts no engine of its own.
BOTH = """
import asyncio, httpx
from types import SimpleNamespace
from rayllm_batch import OpenAIBatchFile
from rayllm_batch.engine.vllm import VLLMEngine
from rayllm_batch.output import run_columns
from rayllm_batch.workers.prompts import build_prompts, PromptJob
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
config = p.config_of(**job["config"])
kwargs, folder, workload = config.engine_kwargs, p.Path(config.model_id), OpenAIBatchFile("x", served_model_name="demo")
task = config.task_kind.of(workload, kwargs).of_model(p.read_object(folder / "config.json"), folder, kwargs)
lines = [json.dumps({"custom_id": name, "url": url, "body": body}) for name, (url, body) in job["rows"].items()]
table = p.pa.table({"custom_id": list(job["rows"]), "request": [line.encode() for line in lines]})
prompts = PromptJob(workload.parse_row, tokenizer=config.model_id, task=task, pooled=p.fill)
table = build_prompts(table, prompts)
async def both():
    engine = VLLMEngine(config.model_id, {**kwargs, **task.engine_settings(kwargs)}, "CPU", None)
    replica = SimpleNamespace(prompt=prompts, deduplicate=True, config=config)
    answering = p.Answering(engine, replica, p.Told(), lambda reason: None)
    answers = await asyncio.gather(*map(answering.answer, run_columns.stage_rows(table)))
    given = ["--model", config.model_id, "--served-model-name", "demo"]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(given)
    tasks = await engine._engine.get_supported_tasks()
    app = build_app(args, tasks, engine._engine.model_config)
    await init_app_state(engine._engine, app.state, args, tasks)
    theirs = {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        for name, (url, body) in job["rows"].items():
            response = await client.post(url, json=body)
            theirs[name] = response.status_code, response.json()
    engine.shutdown()
    return run_columns.with_answers(table, answers, task), theirs
answered, theirs = asyncio.run(both())
ours = {row["custom_id"]: (row["response"], row["error"]) for row in answered.drop_columns(["request"]).to_pylist()}
found = {name: [theirs[name], ours[name]] for name in theirs}
"""
TEXTS = ["The harbour was closed on Friday.", "A council voted for the new bridge, 12 to 3.", "x"]
CHAT = [{"role": "user", "content": TEXTS[0]}]
EMBEDDINGS: dict[str, dict[str, Any]] = {
    "text": {"input": TEXTS[0]},
    "texts": {"input": TEXTS},
    "ids": {"input": [5, 6, 7]},
    "lists of ids": {"input": [[5, 6, 7], [8]]},
    "base64": {"input": TEXTS, "encoding_format": "base64"},
    "base64 of ids": {"input": [[5, 6]], "encoding_format": "base64", "user": "u"},
    "dimensions": {"input": TEXTS, "dimensions": 16},
    "not normalised": {"input": TEXTS[0], "use_activation": False},
    "cut": {"input": TEXTS, "truncate_prompt_tokens": 5},
    "cut ids": {"input": [[5, 6, 7, 8], [9]], "truncate_prompt_tokens": 2},
    "cut to the context": {"input": "harbour " * 300, "truncate_prompt_tokens": -1},
    "other dimensions": {"input": TEXTS, "dimensions": 24},
    "too long": {"input": "harbour " * 300},
    "nothing": {"input": []},
    "number": {"input": 5},
    "another model": {"input": "a", "model": "gpt-4"},
    "another format": {"input": "a", "encoding_format": "hex"},
}
SCORES: dict[str, tuple[str, dict[str, Any]]] = {
    "one": ("/score", {"text_1": QUERY, "text_2": DOCUMENTS[0]}),
    "one to all": ("/v1/score", {"queries": QUERY, "documents": DOCUMENTS}),
    "each": ("/score", {"data_1": [QUERY, "why"], "data_2": DOCUMENTS[:2]}),
    "raw": ("/score", {"queries": QUERY, "items": DOCUMENTS, "use_activation": False}),
    "ranked": ("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}),
    "best": ("/rerank", {"query": QUERY, "documents": DOCUMENTS, "top_n": 2}),
    "best of v2": ("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS, "top_n": 9}),
    "cut": ("/score", {"text_1": QUERY, "text_2": DOCUMENTS, "truncate_prompt_tokens": 6}),
    "uneven": ("/score", {"text_1": [QUERY, QUERY], "text_2": DOCUMENTS}),
    "no documents": ("/v1/rerank", {"query": QUERY, "documents": []}),
    "no query": ("/v1/rerank", {"documents": DOCUMENTS}),
}
SECOND = ("documents", "items", "data_2", "text_2")


def both(model: str, task: str, requests: dict[str, tuple[str, dict[str, Any]]], padded: bool = False) -> list[str]:
    """What is not the same. padded: the server counts one token more for each pair."""
    config = {"model": model, "task": task, "engine_kwargs": {"max_model_len": 64}}
    rows = {name: (url, {"model": "demo", **body}) for name, (url, body) in requests.items()}
    problems, good = [], 0
    for name, ((status, body), (response, error)) in found_by(begun(BOTH, config, rows)).items():
        if (status == 200) != (error is None):
            problems.append(f"{name}: theirs {status} {str(body)[:300]}, ours {error}")
        elif status == 200:
            good += 1
            ours = json.loads(response)
            assert ours["id"].partition("-")[0] == body["id"].partition("-")[0]
            for one in (body, ours):
                one["id"], one["created"] = "", ""
                for item in one.get("data", ()):
                    if isinstance(vector := item.get("embedding"), str):
                        item["embedding"] = ["base64", *np.frombuffer(base64.b64decode(vector), "<f4").tolist()]
            texts = next((its for its in map(rows[name][1].get, SECOND) if its is not None), [])
            for key in ("prompt_tokens", "total_tokens") if padded else ():
                ours["usage"][key] += len(texts) if isinstance(texts, list) else 1
            problems += differences(body, ours, name)
    assert good > len(requests) // 2
    return problems


def test_embeddings_are_those_of_the_server(tmp_path: Path) -> None:
    model = Path(tiny_models.bert(tmp_path / "embed", "BertModel", matryoshka_dimensions=[16, 32]))
    tiny_models.sentence_transformer(model)
    assert both(str(model), "embed", {name: ("/v1/embeddings", body) for name, body in EMBEDDINGS.items()}) == []


def test_scores_are_those_of_the_server(tmp_path: Path) -> None:
    cross = tiny_models.bert(tmp_path / "cross", "BertForSequenceClassification", seed=1, num_labels=1)
    assert both(cross, "score", SCORES) == []


@pytest.mark.slow
def test_cosines_are_those_of_the_server(tmp_path: Path) -> None:
    model = Path(tiny_models.bert(tmp_path / "embed", "BertModel", seed=1))
    tiny_models.sentence_transformer(model)
    assert both(str(model), "score", SCORES, padded=True) == []
