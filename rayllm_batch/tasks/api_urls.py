"""Which requests of the OpenAI API, and of vLLM's beside it, a task answers."""

from __future__ import annotations

from typing import Any

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
SCORES = ("/v1/score", "/score")
RERANKS = ("/v1/rerank", "/rerank", "/v2/rerank")
OF_TASKS = {"generate": (CHAT, COMPLETION), "embed": (EMBEDDINGS,), "score": (*SCORES, *RERANKS)}
URLS = tuple(url for urls in OF_TASKS.values() for url in urls)


def check_url(url: Any, task: str) -> None:
    """Raises TypeError, which becomes the row's error, for a request that is for another task."""
    if url not in OF_TASKS[task]:
        raise TypeError(f"url {url!r} is not supported by task {task}, which answers {' and '.join(OF_TASKS[task])}")
