"""Why an endpoint did not answer a request: whose fault it is, and whether, and when, to ask again."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Optional

from rayllm_batch.uri import without_credentials

# refused: this request, for what is in it; asking again would not help. transient: it may go well the next time.
# rate_limited: the server has too much to do, or this key has used up its share for now. unusable: no request will be
# answered: the key, the model or the account is wrong.
Kind = Literal["refused", "transient", "rate_limited", "unusable"]

NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated")
TOO_BUSY = ("rate_limit_exceeded", "rate_limit_error", "overloaded_error", "engine_overloaded")
ABOUT_THE_KEY = ("invalid_api_key", "authentication_error", "API_KEY_INVALID")


@dataclass(frozen=True)
class Failure:
    """text: for people, as the server gave it: it may hold a secret. retry_after_s: what the server asks for, if so."""

    kind: Kind
    text: str
    status: Optional[int] = None
    retry_after_s: Optional[float] = None


def of_response(status: int, headers: Mapping[str, str], body: bytes) -> Failure:  # noqa: PLR0911 (a line a kind)
    """Of an answer that is none: a status other than 200, or an error in place of an answer."""
    said, codes = _error_in(body)
    code_status = next((code for code in codes or () if isinstance(code, int) and 400 <= code < 600), None)
    if status == 200 and codes is not None:  # some servers and gateways write the status into the error alone
        status = code_status or 500
    text = f"HTTP {status}{': ' + said if said else ''}"
    named = {str(code) for code in codes or ()}
    wait_s = retry_after(headers)
    if 300 <= status < 400:
        to = without_credentials(headers.get("Location", "another address").partition("?")[0])
        return Failure(
            "unusable", f"HTTP {status}: the server redirects to {to}, which is not followed: set base_url", status
        )
    if named & set(NO_MONEY) or status == 402:
        return Failure("unusable", text, status)
    if status == 401 or named & set(ABOUT_THE_KEY):
        return Failure("unusable", text, 401)
    if status in (403, 404):  # of the whole endpoint, or of this request: see OpenAIEngine
        return Failure("unusable", text, status)
    if status == 429 or status in (503, 529) and (wait_s is not None or named & set(TOO_BUSY)):
        return Failure("rate_limited", text, status, wait_s)
    if status in (200, 408, 409, 425) or status >= 500:
        return Failure("transient", text, status, wait_s)
    return Failure("refused", text, status)


def of_exception(error: BaseException, timeout_s: float) -> Failure:
    """Of a request that came to nothing: no connection, one that was cut, no answer in time."""
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return Failure("transient", f"no answer within {timeout_s:g} s (timeout_s)")
    return Failure("transient", f"{type(error).__name__}: {error}".rstrip(": "))


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """Seconds: of retry-after-ms, or of Retry-After, a number of seconds or a date. None where neither is one."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        given = headers.get(name)
        if given is None:
            continue
        try:
            seconds = float(given) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(given).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _error_in(body: bytes) -> tuple[str, Optional[list[Any]]]:
    """What the body says, and the codes that it gives, of OpenAI's shape or of others'; None where it is no JSON."""
    text = body[:4000].decode("utf-8", "replace")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        is_page = text.lstrip().startswith("<")
        return (f"a page in place of JSON: {_without_tags(text)}" if is_page else text.strip()), None
    if isinstance(given, list) and given:  # Google's
        given = given[0]
    error = given.get("error", given) if isinstance(given, dict) else given
    if not isinstance(error, dict):
        return str(error), []
    details = error.get("details")
    reasons = [one.get("reason") for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    message = next((error[key] for key in ("message", "detail", "msg", "error") if error.get(key)), None)
    return str(message if message is not None else text), [error.get("code"), error.get("type"), *reasons]


def _without_tags(page: str) -> str:
    return " ".join(re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", " ", page).split())[:200]
