"""Answers, as an engine and the task would make them."""

from __future__ import annotations

from rayllm_batch.engine.base import Reply
from rayllm_batch.tasks.base import Answer


def an_answer(text: str = "An answer.", tokens_in: int = 100, tokens_out: int = 10, reason: str = "stop") -> Answer:
    answer = Answer(tokens_in)
    answer.replied(Reply(text, tokens_out, reason))
    return answer


def a_failure(error: str, tokens_in: int = 0) -> Answer:
    return Answer(tokens_in, error=error)
