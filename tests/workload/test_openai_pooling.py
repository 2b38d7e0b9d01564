"""Requests for embeddings, scores and rankings: what is asked by each, and what a server would refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rayllm_batch.tasks import TASKS
from rayllm_batch.tasks.api_urls import EMBEDDINGS, RERANKS, SCORES
from rayllm_batch.workload.invalid_request import InvalidRequest
from rayllm_batch.workload.openai_batch import OpenAIBatchFile
from rayllm_batch.workload.openai_results import _problem


def line(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = {"custom_id": "1", "method": "POST", "url": url, "body": {"model": "m", **body}}
    return {"custom_id": "1", "request": json.dumps(request).encode()}


def read(url: str, **body: Any) -> dict[str, Any]:
    return OpenAIBatchFile("x", served_model_name="m").parse_row(line(url, body))


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        ({"input": "a"}, {"texts": ["a"]}),
        ({"input": ["a", "b"], "user": "u", "add_special_tokens": True}, {"texts": ["a", "b"]}),
        ({"input": [5, 6]}, {"id_lists": [[5, 6]]}),
        ({"input": [[5], [6, 7]]}, {"id_lists": [[5], [6, 7]]}),
        ({"input": [{"role": "user", "content": "a"}]}, None),
        (
            {
                "input": "a",
                "dimensions": 8,
                "truncate_prompt_tokens": 4,
                "use_activation": False,
                "encoding_format": "float",
            },
            {"texts": ["a"], "pooling_params": {"dimensions": 8, "truncate_prompt_tokens": 4, "use_activation": False}},
        ),
        ({"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_what_is_embedded(body: dict[str, Any], parsed: Any) -> None:
    if parsed is None:
        with pytest.raises(InvalidRequest):
            read(EMBEDDINGS, **body)
    else:
        assert read(EMBEDDINGS, **body) == {**parsed, "response": {"url": EMBEDDINGS, "model": "m"}}


def test_what_is_scored() -> None:
    for first, second in (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")):
        for url in SCORES:
            found = read(url, **{first: "q", second: ["a", "b"]})
            response = {"url": url, "model": "m", "queries": 1}
            assert found == {"queries": ["q"], "documents": ["a", "b"], "response": response}
    assert read(SCORES[0], queries=["p", "q"], documents=["a", "b"])["response"]["queries"] == 2
    for url in RERANKS:
        found = read(url, query="q", documents="a", top_n=2, use_activation=False)
        assert found["response"] == {"url": url, "model": "m", "queries": 1, "top_n": 2, "documents": ["a"]}
        assert found["pooling_params"] == {"use_activation": False}


@pytest.mark.parametrize(
    ("url", "body", "param"),
    [
        (EMBEDDINGS, {"input": ""}, None),  # said by the task, which reads texts
        (EMBEDDINGS, {"input": []}, "input"),
        (EMBEDDINGS, {"input": [[]]}, "input"),
        (EMBEDDINGS, {"input": [1, "a"]}, "input"),
        (EMBEDDINGS, {"input": [True]}, "input"),
        (EMBEDDINGS, {"input": 5}, "input"),
        (EMBEDDINGS, {"input": {"a": 1}}, "input"),
        (EMBEDDINGS, {"input": "a", "messages": []}, "input"),
        (EMBEDDINGS, {"input": "a", "encoding_format": "bytes"}, "encoding_format"),
        (EMBEDDINGS, {"input": "a", "encoding_format": ["float"]}, "encoding_format"),
        (EMBEDDINGS, {"input": "a", "embed_dtype": "fp8_e4m3"}, "embed_dtype"),
        (EMBEDDINGS, {"input": "a", "add_special_tokens": False}, "add_special_tokens"),
        (EMBEDDINGS, {"input": "a", "normalize": True}, "normalize"),
        (EMBEDDINGS, {"input": "a", "temperature": 0}, "temperature"),
        (SCORES[0], {"queries": "a"}, "body"),
        (SCORES[0], {"queries": ["a", "b"], "documents": ["c"]}, "queries"),
        (SCORES[0], {"text_1": "a", "text_2": [""]}, "text_2"),
        (SCORES[0], {"text_1": "a", "text_2": "b", "dimensions": 5}, "dimensions"),
        (SCORES[0], {"text_1": "a", "text_2": "b", "encoding_format": "float"}, "encoding_format"),
        (SCORES[0], {"text_1": "a", "text_2": "b", "top_n": 1}, "top_n"),
        (RERANKS[0], {"query": ["a"], "documents": ["b"]}, "query"),
        (RERANKS[0], {"query": "a", "documents": []}, "documents"),
        (RERANKS[0], {"query": "a", "documents": [{"text": "b"}]}, "documents"),
        (RERANKS[0], {"query": "a", "documents": ["b"], "top_n": -1}, "top_n"),
        (RERANKS[0], {"query": "a", "documents": ["b"], "max_tokens_per_doc": 5}, "max_tokens_per_doc"),
    ],
)
def test_what_is_refused(url: str, body: dict[str, Any], param: Any) -> None:
    if param is None:
        task = TASKS.get("embed").of(OpenAIBatchFile("x"), {})
        with pytest.raises(TypeError, match=r"\"input\" must be a text that is not empty"):
            task.parse(lambda row: read(url, **body), {})
        return
    with pytest.raises(InvalidRequest) as raised:
        read(url, **body)
    assert raised.value.param == param


def test_requests_for_another_task_are_error_lines() -> None:
    for task, url, body in (
        ("embed", "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("embed", "/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("score", "/v1/embeddings", {"input": "a"}),
        ("generate", "/v1/embeddings", {"input": "a"}),
    ):
        row = line(url, body)
        workload = OpenAIBatchFile("x", served_model_name="m")
        with pytest.raises(TypeError) as raised:
            TASKS.get(task).of(workload, {}).parse(workload.parse_row, row)
        assert f"url '{url}' is not supported by task {task}, which answers " in str(raised.value)
        problem = _problem({**row, "error": f"parse_row: TypeError: {raised.value}"}, ["m"], False)
        assert problem["code"] == 400 and problem["param"] == "url"
