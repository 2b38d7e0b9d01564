"""Questions to the Hugging Face Hub about one model, or one dataset, bounded in time."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rayllm_batch.model.hub_refusal import Question, endpoint, retry_after, status_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
# By hand: the Hub's client does not repeat these questions, and of tenacity the loop alone would be used: when to try
# again, how long to wait and until when depend on the answer, and its errors keep the client's, which hold the token.
SERVER_ERROR_RETRIES = 2  # a 502 between two good answers is common, and gone a second later
log = logging.getLogger("rayllm_batch")


class HubClient(Question):
    def ask(self, question: Callable[[HfApi], T]) -> T:
        """The answer to `question`, or a `ModelAccessError` that says why there is none.

        That error has no cause and no context: the client's exceptions hold the request, and with it the token.
        """
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint(), token=self.token or False, library_name="rayllm_batch")
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        waited, retries = 0.0, 0
        while True:
            answer, error = call(lambda: question(api), _left(deadline))
            if error is None:
                return answer
            status = status_of(error)
            if status == 429 and waited + (pause := retry_after(error)) <= self.rate_limit_wait:
                log.warning("The Hugging Face Hub limits the rate of requests: trying again in %.0f s.", pause)
                waited += pause
                deadline = deadline and deadline + pause
            elif status >= 500 and retries < SERVER_ERROR_RETRIES and (_left(deadline) or 60) > retries + 2:
                retries += 1
                pause = float(retries)
            else:
                break
            time.sleep(pause)
        if isinstance(error, KeyboardInterrupt):
            refusal: BaseException = KeyboardInterrupt()
        else:
            refusal = self.refusal(error, lambda: call(lambda: api.whoami(self.token), _left(deadline))[1] is None)
        del error
        raise refusal


def call(question: Callable[[], Any], seconds: float | None) -> tuple[Any, Any]:
    """`(answer, None)` or `(None, error)`, after `seconds` at the latest.

    In a thread, because huggingface_hub's access check takes no timeout. A server that never answers keeps that
    thread; it is a daemon, and ends with the process.
    """
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((question(), None))
        except (Exception, KeyboardInterrupt) as error:
            answers.put((None, error))

    if seconds is None:
        run()
    elif seconds > 0:
        threading.Thread(target=run, daemon=True, name="huggingface-hub").start()
    try:
        return answers.get(timeout=max(seconds or 0.0, 0.0))
    except queue.Empty:
        return None, TimeoutError()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()
