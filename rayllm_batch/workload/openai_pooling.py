"""The body of a request for embeddings, scores or a ranking, in this library's terms, as vLLM's server reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from rayllm_batch.errors import did_you_mean, shown
from rayllm_batch.tasks.api_urls import EMBEDDINGS, RERANKS
from rayllm_batch.workload.invalid_request import InvalidRequest

SETTINGS = ("dimensions", "use_activation", "truncate_prompt_tokens")
PAIRS = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))
OF_NO_EFFECT = ("model", "user", "priority", "request_id", "cache_salt")  # what is read elsewhere is among it
# What is not done, with the values that ask for nothing else than what is.
NOT_DONE: dict[str, tuple[tuple[Any, ...], str]] = {
    "encoding_format": (("float", "base64"), "it is float or base64"),
    "embed_dtype": (("float32",), "numbers are float32"),
    "endianness": (("native", "little"), "numbers are little-endian"),
    "padding": (("do_not_pad",), "texts are not padded"),
    "truncation_side": ((), "texts are cut where the model's tokenizer cuts them"),
    "mm_processor_kwargs": (({},), "only text is taken"),
    "media_io_kwargs": (({},), "only text is taken"),
    "chat_template": ((), "it is the config's"),
    "chat_template_kwargs": (({},), "they are the config's"),
    "instruction": ((), "it is in chat_template_kwargs of the config"),
    "max_tokens_per_query": ((0,), "set truncate_prompt_tokens"),
    "max_tokens_per_doc": ((0,), "set truncate_prompt_tokens"),
    "add_generation_prompt": ((False,), "no answer follows"),
    "continue_final_message": ((False,), "no answer follows"),
}
OF_EMBEDDINGS = (
    "encoding_format",
    "embed_dtype",
    "endianness",
    "add_special_tokens",
    "input",
    "messages",
    "dimensions",
)


def read_body(body: Mapping[str, Any], url: str) -> dict[str, Any]:
    """What `parse_row` returns for Embeddings or Scores (tasks/pooled_responses.py). Raises InvalidRequest."""
    is_embedding = url == EMBEDDINGS
    pair = ("input", "messages") if is_embedding else _pair_of(body, url)
    settings = SETTINGS if is_embedding else SETTINGS[1:]
    known = (
        *pair,
        *settings,
        *OF_NO_EFFECT,
        *NOT_DONE,
        *(("top_n",) if url in RERANKS else ()),
        *(OF_EMBEDDINGS if is_embedding else ()),
    )
    for key, value in body.items():
        if key not in known or not is_embedding and key in OF_EMBEDDINGS:
            raise InvalidRequest(f"the key {key!r} would have no effect.{did_you_mean(key, known)}", key)
        if key in NOT_DONE and value not in NOT_DONE[key][0]:
            raise InvalidRequest(f"{key} {shown(value, 80)} is not supported in a batch: {NOT_DONE[key][1]}", key)
    parsed = _embeddings(body) if is_embedding else _scores(body, url, pair)
    given = {key: body[key] for key in settings if key in body}
    return {**parsed, **({"pooling_params": given} if given else {})}


def _embeddings(body: Mapping[str, Any]) -> dict[str, Any]:
    form = {"response": {"encoding_format": "base64"} if body.get("encoding_format") == "base64" else {}}
    given = body.get("input")
    if "messages" in body:
        if given is not None:
            raise InvalidRequest("input and messages exclude each other", "input")
        if body.get("add_special_tokens"):
            raise InvalidRequest("add_special_tokens: a chat has those of its template", "add_special_tokens")
        return {"messages": body["messages"], **form}
    if body.get("add_special_tokens", True) is not True:
        raise InvalidRequest("add_special_tokens must be true: texts have those of the tokenizer", "add_special_tokens")
    several = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    if several and all(isinstance(one, str) for one in several):
        return {"texts": several, **form}
    if several and all(_is_id(one) for one in several):
        return {"id_lists": [several], **form}
    if several and all(isinstance(one, list) and one and all(map(_is_id, one)) for one in several):
        return {"id_lists": several, **form}
    raise InvalidRequest(
        f"input must be a text, a list of texts, token ids, or a list of such lists, but is {shown(given)}", "input"
    )


def _scores(body: Mapping[str, Any], url: str, keys: tuple[str, str]) -> dict[str, Any]:
    queries, documents = (_texts(body, key) for key in keys)
    response: dict[str, Any] = {"queries": len(queries)}
    if url in RERANKS:
        top = body.get("top_n", 0)
        if isinstance(top, bool) or not isinstance(top, int) or top < 0:
            raise InvalidRequest(f"top_n must be a whole number from 0, but is {shown(top, 80)}", "top_n")
        if not isinstance(body["query"], str):
            raise InvalidRequest(f"query must be a text, but is {shown(body['query'], 80)}", "query")
        response |= {"top_n": top, "documents": documents}
    elif len(queries) not in (1, len(documents)):
        raise InvalidRequest(
            f"{keys[0]} must be one text, or as many as {keys[1]}: they are {len(queries)} and {len(documents)}",
            keys[0],
        )
    return {"queries": queries, "documents": documents, "response": response}


def _texts(body: Mapping[str, Any], key: str) -> list[str]:
    given = body.get(key)
    several: list[Any] = given if isinstance(given, list) else [given]
    if not several or not all(isinstance(one, str) and one for one in several):
        raise InvalidRequest(
            f"{key} must be a text, or a list of texts, that are not empty, but is {shown(given)}", key
        )
    return several


def _pair_of(body: Mapping[str, Any], url: str) -> tuple[str, str]:
    pairs = (("query", "documents"),) if url in RERANKS else PAIRS
    found: Optional[tuple[str, str]] = next((pair for pair in pairs if set(pair) <= body.keys()), None)
    if found is None:
        wanted = ", or ".join(f"{first} and {second}" for first, second in pairs)
        raise InvalidRequest(
            f"the request must have {wanted}, but has {', '.join(map(repr, body)) or 'nothing'}", "body"
        )
    return found


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
