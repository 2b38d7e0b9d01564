"""The Hub's refusals, and its silence, in words: what was asked for, what came, and what to do next."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayllm_batch.errors import (
    GatedModelError,
    HubUnavailableError,
    InvalidTokenError,
    ModelAccessError,
    ModelNotFoundError,
    TokenRequiredError,
)
from rayllm_batch.secret import Secret


def endpoint() -> str:
    """Address of the Hub in use: `HF_ENDPOINT`, also where it was set after huggingface_hub's import."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def tokens_page() -> str:
    """Where a person creates a token."""
    return f"{endpoint()}/settings/tokens"


def model_page(model_id: str, kind: str = "model") -> str:
    """Where a person reads about a model (or a dataset) and requests access to it."""
    return f"{endpoint()}/{'datasets/' if kind == 'dataset' else ''}{model_id}"


@dataclass
class Question:
    """What is asked of the Hub, and its refusal in words."""

    model_id: str
    token: Secret | None
    source: str  # where the token comes from, as the messages name it
    timeout: float | None  # seconds for one question and its retries, a rate limit aside; None: no limit
    rate_limit_wait: float  # seconds
    kind: str = "model"  # or "dataset"; `model_id` is its id then

    def refusal(self, error: Exception, token_is_valid: Callable[[], bool]) -> ModelAccessError:
        """The error to raise for huggingface_hub's `error`.

        token_is_valid: Asks for the token's account: a 401 alone does not say whether the token or the model is the
            reason.
        """
        status = status_of(error)
        if status in (401, 403, 404):
            return self._closed(error, status, token_is_valid)
        if status == 429:
            return HubUnavailableError(
                f"{endpoint()} limits the rate of requests and asks to wait {retry_after(error):.0f} s, longer than "
                f"the {self.rate_limit_wait:.0f} s this waits in all.",
                "Run it again later; requests with a token have a higher limit.",
            )
        if status >= 500:
            return HubUnavailableError(
                f"{endpoint()} answered a question about {self.model_id} with an error of its own ({status})."
                f"{self._server_says(error)}",
                "The token is not the reason. Run it again in a few minutes.",
            )
        if status:
            return ModelAccessError(
                f"{endpoint()} refused to open {self.model_id} ({status}).{self._server_says(error)}"
            )
        return self._no_answer(error)

    def _closed(self, error: Exception, status: int, token_is_valid: Callable[[], bool]) -> ModelAccessError:
        """The Hub answered, and keeps the model closed: 401, 403 or 404."""
        from huggingface_hub.errors import DisabledRepoError, GatedRepoError

        model, page, kind = self.model_id, model_page(self.model_id, self.kind), self.kind
        gated = isinstance(error, GatedRepoError)
        bad_credentials = "credentials" in (getattr(error, "server_message", None) or "")
        if isinstance(error, DisabledRepoError):
            return ModelAccessError(f"Access to {model} is disabled on the Hub, for every token.", f"See {page}.")
        if self.token is None and (gated or status == 403):
            return TokenRequiredError(
                f"{model} is gated: it opens only with a Hugging Face token, and none was found.",
                f"Request access at {page}, create a token at {tokens_page()}, and set HF_TOKEN to it.",
            )
        if self.token is None:
            return ModelNotFoundError(
                f"There is no public {kind} {model} on {endpoint()}, and no token was found to look for a private one.",
                f"Check the spelling of the {kind} id. If it is private, set HF_TOKEN to a token that can read it.",
            )
        if status == 401 and (bad_credentials or not token_is_valid()):
            return InvalidTokenError(
                f"The Hugging Face Hub does not accept {self.source}, so {model} stays closed: it is mistyped, "
                f"expired or revoked.",
                f"Create a token at {tokens_page()}, and set HF_TOKEN to it.",
            )
        if gated or status == 403:
            return GatedModelError(
                f"{_sentence(self.source)} is valid, but has no access to {model}.{self._server_says(error)}",
                f"Request access at {page}, and run this again once it is granted, or use another account's token.",
            )
        return ModelNotFoundError(
            f"There is no {kind} {model} on {endpoint()}, or it is private and hidden from {self.source}.",
            f"Check the spelling of the {kind} id (owner/name), or use a token of an account that can read it.",
        )

    def _no_answer(self, error: Exception) -> ModelAccessError:
        from huggingface_hub.utils import HFValidationError

        if isinstance(error, HFValidationError):
            return ModelNotFoundError(
                f"{self.model_id!r} is neither a folder on this machine nor a model id of the Hub (owner/name).",
                "Check the spelling.",
            )
        network = type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests", "urllib3")
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            why = f"{endpoint()} did not answer a question about {self.model_id} within {self.timeout or 0:.0f} s."
            if self.timeout is None:
                why = f"{endpoint()} fell silent while {self.model_id} was being downloaded."
        elif network or isinstance(error, ConnectionError):
            why = f"Could not reach {endpoint()} to ask about {self.model_id}: {self._clean(str(error))}."
        elif isinstance(error, OSError) and error.strerror:
            return ModelAccessError(
                f"The files of {self.model_id} could not be stored: {error.strerror} ({error.filename}).",
                "Free some space, or set HF_HOME to another disk.",
            )
        else:
            why = f"{endpoint()} gave an answer that huggingface_hub cannot read ({type(error).__name__})."
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
        text = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(text.split())[:300].rstrip(".")


def status_of(error: Any) -> int:
    """HTTP status of the Hub's answer, 0 without one."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def retry_after(error: Any) -> float:
    """Seconds the Hub asks to wait, by either of the headers it sends."""
    headers = error.response.headers
    for name, pattern in (("Retry-After", r"\s*(\d+)\s*$"), ("RateLimit", r".*;\s*t=(\d+)")):
        if match := re.match(pattern, headers.get(name) or ""):
            return float(match.group(1)) + 1.0  # the header is rounded down
    return 10.0


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
