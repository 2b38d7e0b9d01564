"""Responses of the tasks that pool: an engine's vectors as the bodies that vLLM's server writes."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from test_pooled import ENCODER

from rayllm_batch.engine.base import Reply
from rayllm_batch.errors import WorkloadError
from rayllm_batch.tasks import TASKS
from rayllm_batch.tasks.base import Answer
from rayllm_batch.workload.openai_batch import OpenAIBatchFile

CROSS = {"architectures": ["BertForSequenceClassification"], "num_labels": 1, "hidden_size": 64}


def task_of(name: str, model: Any = ENCODER, **fields: Any) -> Any:
    return TASKS.get(name).of(OpenAIBatchFile("x", **fields), {}).of_model(model, None, {"max_model_len": 32})


def asked(task: Any, url: str, **body: Any) -> dict[str, Any]:
    request = {"custom_id": "1", "url": url, "body": {"model": "m", **body}}
    return task.parse(OpenAIBatchFile("x").parse_row, {"request": json.dumps(request).encode()})


def answered(task: Any, parsed: dict[str, Any], *vectors: Any, lengths: Any = None) -> dict[str, Any]:
    """As the CPU stage and an engine would leave it."""
    text = task.own_text({**parsed, **({"lengths": lengths} if lengths else {})})
    request = task.request(list(range(sum(lengths or [3]))), text)
    reply = Reply("", 0, "stop", vectors=tuple(np.array(one, np.float32) for one in vectors))
    values = task.read_reply(request, reply)
    columns = task.columns(Answer(reply=reply, values=values, own_text=text))
    assert set(columns) == set(task.schema.names) - {"num_input_tokens", "error"}
    return json.loads(columns["response"])


def test_embeddings() -> None:
    task = task_of("embed")
    assert task.schema.names == ["response", "num_input_tokens", "error"] and task.columns(Answer(error="x")) == {
        "response": None
    }
    body = answered(task, asked(task, "/v1/embeddings", input=["a", "b"]), [0.5, 0.25], [1, 0], lengths=[3, 4])
    assert body.pop("id").startswith("embd-") and body.pop("created")
    usage = {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0}
    assert body == {
        "object": "list",
        "model": "m",
        "data": [
            {"index": 0, "object": "embedding", "embedding": [0.5, 0.25]},
            {"index": 1, "object": "embedding", "embedding": [1.0, 0.0]},
        ],
        "usage": {**usage, "prompt_tokens_details": None, "completion_tokens_details": None},
    }
    coded = answered(task, asked(task, "/v1/embeddings", input="a", encoding_format="base64"), [0.1, -2])
    assert np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4").tolist() == [np.float32(0.1), -2]
    with pytest.raises(ValueError, match="JSON"):
        answered(task, asked(task, "/v1/embeddings", input="a"), [float("nan")])


def test_each_request_has_its_own_dimensions() -> None:
    task = task_of("embed", {**ENCODER, "matryoshka_dimensions": [16, 32]}, pooling_params={"dimensions": 32})
    for body, size in (({}, 32), ({"dimensions": 16}, 16)):
        parsed = asked(task, "/v1/embeddings", input="a", **body)
        assert task.request([1], task.own_text(parsed)).pooling.size == size
    with pytest.raises(WorkloadError, match="must be one of 16, 32 for this model, given 24"):
        asked(task, "/v1/embeddings", input="a", dimensions=24)
    with pytest.raises(WorkloadError, match="dimensions=16 cuts embeddings"):
        asked(task_of("embed"), "/v1/embeddings", input="a", dimensions=16)
    whole = task_of("embed")
    assert whole.request([1], whole.own_text(asked(whole, "/v1/embeddings", input="a"))).pooling.size == 64


def test_token_ids_are_cut_one_by_one() -> None:
    task = task_of("embed")
    parsed = asked(task, "/v1/embeddings", input=[[1, 2, 3], [4], [5, 6]], truncate_prompt_tokens=2)
    assert parsed["prompt_token_ids"].tolist() == [1, 2, 4, 5, 6] and parsed["lengths"] == [2, 1, 2]
    request = task.request([1, 2, 4, 5, 6], task.own_text(parsed))
    assert request.pooling.lengths == (2, 1, 2) and request.settings == {}
    assert asked(task, "/v1/embeddings", input="a", truncate_prompt_tokens=-1)["pooling_params"] == {
        "truncate_prompt_tokens": 32
    }
    for ids in ([-1], [2**40]):
        with pytest.raises(TypeError):
            asked(task, "/v1/embeddings", input=ids)


def test_scores_of_an_embedding_model() -> None:
    task = task_of("score")
    parsed = asked(task, "/v1/score", queries="q", documents=["a", "b"])
    body = answered(task, parsed, [1, 0], [1, 0], [0, 1], lengths=[2, 3, 4])
    assert [one["score"] for one in body["data"]] == [1.0, 0.0] and body["usage"]["prompt_tokens"] == 2 * 2 + 3 + 4
    parsed = asked(task, "/score", text_1=["p", "q"], text_2=["a", "b"])
    body = answered(task, parsed, [1, 0], [0, 1], [1, 0], [1, 0], lengths=[2, 3, 4, 5])
    assert [one["score"] for one in body["data"]] == [1.0, 0.0] and body["usage"]["prompt_tokens"] == 14
    assert body["id"].startswith("score-") and body["data"][1] == {"index": 1, "object": "score", "score": 0.0}


def test_a_ranking_of_a_cross_encoder() -> None:
    task = task_of("score", CROSS)
    parsed = asked(task, "/v1/rerank", query="q", documents=["a", "b", "c"], top_n=2)
    body = answered(task, parsed, [0.25], [0.75], [0.5], lengths=[3, 3, 4])
    assert body.pop("id").startswith("score-")
    assert body == {
        "model": "m",
        "usage": {"prompt_tokens": 10, "total_tokens": 10},
        "results": [
            {"index": 1, "document": {"text": "b", "multi_modal": None}, "relevance_score": 0.75},
            {"index": 2, "document": {"text": "c", "multi_modal": None}, "relevance_score": 0.5},
        ],
    }
    assert (
        len(answered(task, {**parsed, "response": {**parsed["response"], "top_n": 0}}, [1], [2], [3])["results"]) == 3
    )


def test_classes_have_no_requests() -> None:
    with pytest.raises(WorkloadError, match="has no requests for task: classify"):
        task_of("classify", CROSS)
