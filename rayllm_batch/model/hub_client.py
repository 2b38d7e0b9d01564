"""Questions to the Hugging Face Hub about one model, or one dataset: bounded in time, and its refusals in words."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rayllm_batch.errors import (
    GatedModelError,
    HubUnavailableError,
    InvalidTokenError,
    ModelAccessError,
    ModelNotFoundError,
    TokenRequiredError,
)
from rayllm_batch.secret import Secret
from rayllm_batch.uri import text_without_credentials, without_credentials

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
CHECK_SECONDS = 15.0  # no network, a silent server, server errors: said by then
RATE_LIMIT_SECONDS = 330.0  # waited in all; the Hub counts requests in windows of five minutes
# By hand: the Hub's client does not repeat these questions, and of tenacity the loop alone would be used: when to try
# again, how long to wait and until when depend on the answer, and its errors keep the client's, which hold the token.
SERVER_ERROR_RETRIES = 2  # a 502 between two good answers is common, and gone a second later
log = logging.getLogger("rayllm_batch")


def endpoint() -> str:
    """Address of the Hub in use: `HF_ENDPOINT`, also where it was set after huggingface_hub's import."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def site() -> str:
    """The same, for people."""
    return without_credentials(endpoint())


def tokens_page() -> str:
    return f"{site()}/settings/tokens"


def model_page(model_id: str, kind: str = "model") -> str:
    """Where a person reads about a model (or a dataset) and requests access to it."""
    return f"{site()}/{'datasets/' if kind == 'dataset' else ''}{model_id}"


@dataclass
class HubClient:
    """kind: "model", or "dataset", whose id `model_id` is then. source: where the token comes from, for messages."""

    model_id: str
    token: Secret | None
    source: str = "the token given"
    kind: str = "model"

    def ask(self, question: Callable[[HfApi], T], *, patiently: bool = False, seconds: float | None = None) -> T:
        """The answer to `question`, or a `ModelAccessError` that says why there is none.

        That error has no cause and no context: the client's exceptions hold the request, and with it the token.
        seconds: for the answer and its retries, a rate limit aside; None for CHECK_SECONDS. patiently: any number.
        """
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint(), token=self.token or False, library_name="rayllm_batch")
        deadline = math.inf if patiently else time.monotonic() + (seconds or CHECK_SECONDS)
        waited, retries = 0.0, 0
        while True:
            answer, error = call(lambda: question(api), deadline - time.monotonic())
            if error is None:
                return answer
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if status == 429 and waited + (pause := _retry_after(error)) <= RATE_LIMIT_SECONDS:
                log.warning("The Hugging Face Hub limits the rate of requests: trying again in %.0f s.", pause)
                waited += pause
                deadline += pause
            elif status >= 500 and retries < SERVER_ERROR_RETRIES and deadline - time.monotonic() > retries + 2:
                retries += 1
                pause = float(retries)
            else:
                break
            time.sleep(pause)
        refusal: BaseException = KeyboardInterrupt()
        if status in (401, 403, 404):
            # A 401 alone does not say whether the token or the model is the reason.
            refusal = self._closed(
                error, status, lambda: call(lambda: api.whoami(self.token), deadline - time.monotonic())[1] is None
            )
        elif status:
            refusal = self._refused(error, status)
        elif not isinstance(error, KeyboardInterrupt):
            refusal = self._no_answer(error, patiently)
        del error
        raise refusal

    def info(self, revision: str | None, **more: Any) -> Any:
        """The ModelInfo of huggingface_hub."""
        return self.ask(lambda api: api.model_info(self.model_id, revision=revision, timeout=CHECK_SECONDS, **more))

    def _refused(self, error: Exception, status: int) -> ModelAccessError:
        if status == 429:
            return HubUnavailableError(
                f"{site()} limits the rate of requests and asks to wait {_retry_after(error):.0f} s, longer than "
                f"the {RATE_LIMIT_SECONDS:.0f} s this waits in all.",
                "Run it again later; requests with a token have a higher limit.",
            )
        if status >= 500:
            return HubUnavailableError(
                f"{site()} answered a question about {self.model_id} with an error of its own ({status})."
                f"{self._server_says(error)}",
                "The token is not the reason. Run it again in a few minutes.",
            )
        return ModelAccessError(f"{site()} refused to open {self.model_id} ({status}).{self._server_says(error)}")

    def _closed(self, error: Exception, status: int, token_is_valid: Callable[[], bool]) -> ModelAccessError:
        """The Hub answered, and keeps the model closed: 401, 403 or 404."""
        from huggingface_hub.errors import DisabledRepoError, GatedRepoError

        model, page, kind = self.model_id, model_page(self.model_id, self.kind), self.kind
        gated = isinstance(error, GatedRepoError) or status == 403
        bad_credentials = "credentials" in (getattr(error, "server_message", None) or "")
        if isinstance(error, DisabledRepoError):
            return ModelAccessError(f"Access to {model} is disabled on the Hub, for every token.", f"See {page}.")
        if self.token is None and gated:
            return TokenRequiredError(
                f"{model} is gated: it opens only with a Hugging Face token, and none was found.",
                f"Request access at {page}, create a token at {tokens_page()}, and set HF_TOKEN to it.",
            )
        if self.token is None:
            return ModelNotFoundError(
                f"There is no public {kind} {model} on {site()}, and no token was found to look for a private one.",
                f"Check the spelling of the {kind} id. If it is private, set HF_TOKEN to a token that can read it.",
            )
        if status == 401 and (bad_credentials or not token_is_valid()):
            return InvalidTokenError(
                f"The Hugging Face Hub does not accept {self.source}, so {model} stays closed: it is mistyped, "
                f"expired or revoked.",
                f"Create a token at {tokens_page()}, and set HF_TOKEN to it.",
            )
        if gated:
            return GatedModelError(
                f"{self.source[:1].upper()}{self.source[1:]} is valid, but has no access to {model}."
                f"{self._server_says(error)}",
                f"Request access at {page}, and run this again once it is granted, or use another account's token.",
            )
        return ModelNotFoundError(
            f"There is no {kind} {model} on {site()}, or it is private and hidden from {self.source}.",
            f"Check the spelling of the {kind} id (owner/name), or use a token of an account that can read it.",
        )

    def _no_answer(self, error: Exception, downloading: bool) -> ModelAccessError:
        from huggingface_hub.utils import HFValidationError

        if isinstance(error, HFValidationError):
            return ModelNotFoundError(
                f"{self.model_id!r} is neither a folder on this machine nor a model id of the Hub (owner/name).",
                "Check the spelling.",
            )
        network = type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests", "urllib3")
        silent = isinstance(error, TimeoutError) or "Timeout" in type(error).__name__
        if silent and downloading:
            why = f"{site()} fell silent while {self.model_id} was being downloaded."
        elif silent:
            why = f"{site()} did not answer a question about {self.model_id} within {CHECK_SECONDS:.0f} s."
        elif network or isinstance(error, ConnectionError):
            why = f"Could not reach {site()} to ask about {self.model_id}: {self._clean(str(error))}."
        elif isinstance(error, OSError) and error.strerror:
            return ModelAccessError(
                f"The files of {self.model_id} could not be stored: {error.strerror} ({error.filename}).",
                "Free some space, or set HF_HOME to another disk.",
            )
        else:
            why = f"{site()} gave an answer that huggingface_hub cannot read ({type(error).__name__})."
        return HubUnavailableError(
            why,
            "Check the network, its proxy and HF_ENDPOINT. With HF_HUB_OFFLINE=1, a model that is already in the "
            "cache runs without the Hub.",
        )

    def _server_says(self, error: Exception) -> str:
        message = self._clean(getattr(error, "server_message", None) or "")
        return f" The Hub says: {message!r}." if message else ""

    def _clean(self, text: str) -> str:
        """Text from outside, fit for a terminal: one short line, no control characters, never the token."""
        if self.token:
            text = text.replace(self.token, "***")
        text = "".join(c if c.isprintable() else " " for c in text_without_credentials(text))
        return " ".join(text.split())[:300].rstrip(".")


def call(question: Callable[[], Any], seconds: float = CHECK_SECONDS) -> tuple[Any, Any]:
    """`(answer, None)` or `(None, error)`, after `seconds` at the latest.

    In a thread, because huggingface_hub's access check takes no timeout. A server that never answers keeps that
    thread; it is a daemon, and ends with the process.
    """
    answered: list[tuple[Any, Any]] = []

    def run() -> None:
        try:
            answered.append((question(), None))
        except (Exception, KeyboardInterrupt) as error:
            answered.append((None, error))

    if seconds == math.inf:
        run()
    elif seconds > 0:
        thread = threading.Thread(target=run, daemon=True, name="huggingface-hub")
        thread.start()
        thread.join(seconds)
    return answered[0] if answered else (None, TimeoutError())


def _retry_after(error: Any) -> float:
    """Seconds the Hub asks to wait, by either of the headers it sends."""
    headers = error.response.headers
    for name, pattern in (("Retry-After", r"\s*(\d+)\s*$"), ("RateLimit", r".*;\s*t=(\d+)")):
        if match := re.match(pattern, headers.get(name) or ""):
            return float(match.group(1)) + 1.0  # the header is rounded down
    return 10.0
