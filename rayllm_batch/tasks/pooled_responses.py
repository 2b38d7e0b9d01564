"""What vLLM's server answers to requests for embeddings, scores and rankings, as a row's column, in JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Optional

import numpy as np
import pyarrow as pa

from rayllm_batch.engine.base import Reply, Request
from rayllm_batch.engine.pooling import TRUNCATE
from rayllm_batch.errors import ConfigError, WorkloadError
from rayllm_batch.tasks.api_urls import RERANKS, check_url
from rayllm_batch.tasks.base import Answer, ParseRow
from rayllm_batch.tasks.chat import checked_ids
from rayllm_batch.tasks.embed import Embed
from rayllm_batch.tasks.model_head import check_dimensions, embedding_size
from rayllm_batch.tasks.pooled import PROMPTS, Pooled, checked_text
from rayllm_batch.tasks.score import Score, cosines

OWN = ("response", "cache_salt")  # keys that parse_row returns beside the task's


@dataclasses.dataclass(frozen=True)
class PooledRequest(Request):
    """response: what decides the form of its response: url, model, and what read_reply reads of it."""

    response: dict[str, Any] = dataclasses.field(default_factory=dict)


class Responses(Pooled):
    """Mixed into a task; its requests have what they ask for as they like, since no column is of it."""

    answer_column = "response"
    rows_may_all_fail = True
    schema = pa.schema([("response", pa.string()), ("num_input_tokens", pa.int64()), ("error", pa.string())])
    of_model_files: ClassVar[tuple[str, ...]] = ("matryoshka_dimensions", "is_matryoshka")
    longest: Any = None  # max_model_len, where the config sets it
    whole_size: Optional[int] = None  # of an embedding that is not cut

    def learn(self, config: Mapping[str, Any], folder: Optional[Path], engine_kwargs: Mapping[str, Any]) -> None:
        super().learn(config, folder, engine_kwargs)
        self.longest = engine_kwargs.get("max_model_len")
        self.known = {key: config[key] for key in self.of_model_files if key in config}
        self.whole_size = embedding_size(config, folder) if self.convert == "embed" else None

    def parse(self, parse_row: ParseRow, row: dict[str, Any]) -> dict[str, Any]:
        given = dict(parse_row(row))
        own = {key: given.pop(key) for key in OWN if key in given}
        check_url(own["response"]["url"], self.name)
        settings = given.get("pooling_params") or {}
        if settings.get(TRUNCATE) == -1 and isinstance(self.longest, int):
            given["pooling_params"] = {**settings, TRUNCATE: self.longest}
        return {**super().parse(lambda row: given, row), **own}

    def _check_own(self, own: Mapping[str, Any]) -> None:
        if own.get(TRUNCATE) == -1:
            raise WorkloadError(f"{TRUNCATE} must be a number of tokens: the config has no max_model_len for -1")
        if (asked := own.get("dimensions")) is not None and self.whole_size is not None:
            try:
                check_dimensions(asked, self.known, self.whole_size)
            except ConfigError as error:
                raise WorkloadError(str(error).partition(" Remove it")[0]) from None

    def own_text(self, parsed: Mapping[str, Any]) -> str:
        own = json.loads(super().own_text(parsed) or "{}")
        return json.dumps({**own, **{key: parsed[key] for key in OWN if key in parsed}}, sort_keys=True)

    def request(self, prompt_token_ids: list[int], own_text: Optional[str]) -> Request:
        request, own = super().request(prompt_token_ids, own_text), json.loads(own_text or "{}")
        given = {spec.name: getattr(request, spec.name) for spec in dataclasses.fields(Request)}
        size = request.settings.get("dimensions") or (self.size if self.whole_size is None else self.whole_size)
        pooling = dataclasses.replace(request.pooling, size=size)  # type: ignore[type-var]
        return PooledRequest(**{**given, "pooling": pooling, **{key: own[key] for key in OWN if key in own}})

    def read_reply(self, request: Request, reply: Reply) -> dict[str, Any]:
        assert isinstance(request, PooledRequest)
        body = self.body(request, reply)
        return {"response": json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))}

    def body(self, request: PooledRequest, reply: Reply) -> dict[str, Any]:
        raise NotImplementedError

    def columns(self, answer: Answer) -> dict[str, Any]:
        return {"response": None if answer.error is not None else answer.values.get("response")}

    def for_people(self, row: dict[str, Any]) -> dict[str, Any]:
        return row

    def notes(self, rows: list[dict[str, Any]]) -> list[str]:
        return []


class Embeddings(Responses, Embed):
    """texts, id_lists: those of one request, each of which gets its vector."""

    keys = (*PROMPTS, "texts", "id_lists")

    def parse(self, parse_row: ParseRow, row: dict[str, Any]) -> dict[str, Any]:
        parsed = super().parse(parse_row, row)
        if (lists := parsed.pop("id_lists", None)) is not None:  # cut here: the CPU stage takes them for one prompt
            own = parsed.get("pooling_params") or {}
            cut = [ids[: {**self.settings, **own}.get(TRUNCATE)] for ids in lists]
            parsed |= {"prompt_token_ids": np.concatenate(cut), "lengths": [len(ids) for ids in cut]}
            parsed["pooling_params"] = {**own, TRUNCATE: None}
        return parsed

    def parse_texts(self, given: dict[str, Any]) -> dict[str, Any]:
        if "texts" in given:
            return {"texts": [checked_text(text, "input") for text in given["texts"]]}
        if "id_lists" in given:
            return {"id_lists": [checked_ids(ids) for ids in given["id_lists"]]}
        return super().parse_texts(given)

    def body(self, request: PooledRequest, reply: Reply) -> dict[str, Any]:
        coded = _as_base64 if request.response.get("encoding_format") == "base64" else np.ndarray.tolist
        data = [
            {"index": index, "object": "embedding", "embedding": coded(vector)}
            for index, vector in enumerate(reply.vectors)
        ]
        return _list_of(data, "embd", request, len(request.prompt_token_ids))


class Scores(Responses, Score):
    """queries: one, or as many as documents. A response's count of tokens is that of all pairs, in each of which the
    query counts; vLLM's server adds one a pair for an embedding model, which is not counted here.
    """

    keys: ClassVar[tuple[str, ...]] = ("queries", "documents")

    def parse_texts(self, given: dict[str, Any]) -> dict[str, Any]:
        queries, documents = ([checked_text(text, key) for text in given[key]] for key in self.keys)
        if not documents or len(queries) not in (1, len(documents)):
            raise TypeError(
                f"one query, or as many as documents, are scored, but there are {len(queries)} and {len(documents)}"
            )
        return {"queries": queries, "documents": documents}

    def body(self, request: PooledRequest, reply: Reply) -> dict[str, Any]:
        assert request.pooling is not None
        asked, vectors, lengths = request.response, reply.vectors, request.pooling.lengths
        if self.is_cross:
            scores, tokens = [float(vector[0]) for vector in vectors], sum(lengths)
        else:
            number = asked["queries"]
            queries, documents = vectors[:number], vectors[number:]
            times = len(documents) // number
            tokens = sum(lengths[:number]) * times + sum(lengths[number:])
            pairs = zip(queries * times, documents, strict=True)
            scores = [cosines(query, [document])[0] for query, document in pairs]
        if asked["url"] not in RERANKS:
            data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]
            return _list_of(data, "score", request, tokens)
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: asked.get("top_n") or None]
        return {
            "id": f"score-{uuid.uuid4().hex}",
            "model": asked["model"],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": [
                {
                    "index": index,
                    "document": {"text": asked["documents"][index], "multi_modal": None},
                    "relevance_score": scores[index],
                }
                for index in order
            ],
        }


def responses_of(task: Pooled, where: str) -> Pooled:
    """The task, with responses for its columns. Raises WorkloadError."""
    for kind in (Embeddings, Scores):
        if kind.name == task.name:
            return kind(task.settings)
    raise WorkloadError(f"{where} has no requests for task: {task.name}; batch files have them for embed and score.")


def _list_of(data: list[dict[str, Any]], prefix: str, request: PooledRequest, tokens: int) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": request.response["model"],
        "data": data,
        "usage": {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        },
    }


def _as_base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
