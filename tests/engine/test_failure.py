"""Whose fault a failure is: of statuses, codes and bodies as servers and gateways write them."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from typing import Any

import pytest

from rayllm_batch.engine.failure import of_exception, of_response, retry_after

QUOTA = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
GOOGLE = [{"error": {"code": 400, "message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}]}}]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "too long"}}, "refused"),
        (400, {"detail": "too long"}, "refused"),
        (413, "<html><body><h1>413 Request Entity Too Large</h1></body></html>", "refused"),
        (422, {"object": "error", "message": "bad", "code": 422}, "refused"),
        (401, {"error": "no"}, "unusable"),
        (400, GOOGLE, "unusable"),
        (402, {}, "unusable"),
        (403, {}, "unusable"),
        (404, {}, "unusable"),
        (307, "", "unusable"),
        (429, {}, "rate_limited"),
        (429, QUOTA, "unusable"),
        (503, {"error": {"type": "overloaded_error"}}, "rate_limited"),
        (529, {"error": {"type": "overloaded_error"}}, "rate_limited"),
        (503, "", "transient"),
        (408, "", "transient"),
        (500, {"error": None}, "transient"),
        (502, "<html>", "transient"),
        (200, {"error": {"message": "upstream", "code": 502}}, "transient"),
        (200, {"error": {"message": "slow down", "code": 429}}, "rate_limited"),
        (200, {"error": "no"}, "transient"),
        (200, {"error": {"code": 400}}, "refused"),
        (200, '{"choices": [', "transient"),
        (200, "[" * 100_000, "transient"),
        (500, b"\xff\xfe\x00", "transient"),
    ],
)
def test_kinds(status: int, body: Any, kind: str) -> None:
    content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    found = of_response(status, {}, content)
    assert found.kind == kind and found.text.startswith("HTTP ")


def test_what_it_says() -> None:
    assert of_response(400, {}, b'{"error": {"message": "too long", "code": null}}').text == "HTTP 400: too long"
    page = b"<html><style>p {}</style><body><h1>502</h1>\n<p>Bad gateway</p></body></html>"
    assert of_response(502, {}, page).text == "HTTP 502: a page in place of JSON: 502 Bad gateway"
    to = "https://me:password@other/v1?token=abc"
    assert "redirects to https://***@other/v1, which" in of_response(302, {"Location": to}, b"").text
    assert of_response(200, {}, b"data: [DONE]").text == "HTTP 200: data: [DONE]"
    assert of_exception(asyncio.TimeoutError(), 9.0).text == "no answer within 9 s (timeout_s)"
    assert of_exception(ConnectionResetError(), 9.0).text == "ConnectionResetError"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 99 Oct 9999999 07:28:00 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: Any) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date() -> None:
    seconds = retry_after({"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)})
    assert seconds is not None and 58 < seconds < 61
