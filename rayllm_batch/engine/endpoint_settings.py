"""engine_kwargs of llm_engine: openai, checked on the driver."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, Field, StrictFloat, StrictInt, StrictStr

from rayllm_batch.engine.endpoint import LOOKS_LIKE_A_KEY, Endpoint
from rayllm_batch.engine.engine_args import Size
from rayllm_batch.errors import ConfigError
from rayllm_batch.secret import Secret
from rayllm_batch.shape import checked

_Seconds = Annotated[StrictFloat | None, Field(gt=0, description="seconds above 0", allow_inf_nan=False)]
_Usd = Annotated[StrictFloat | None, Field(ge=0, description="a price of at least 0", allow_inf_nan=False)]
_Budget = Annotated[StrictFloat | None, Field(gt=0, description="US dollars above 0", allow_inf_nan=False)]
_Retries = Annotated[StrictInt | None, Field(ge=1, le=100, description="a whole number from 1 to 100")]
_Name = Annotated[StrictStr | None, Field(min_length=1, description="the name of an environment variable")]
_Body = Annotated[
    dict[str, Any] | None,
    BeforeValidator(lambda value: value or None),
    Field(description="a mapping of names to values", examples=["{reasoning_effort: low}"]),
]
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110's token
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OUR_HEADERS = (
    "content-type",
    "content-length",
    "content-encoding",
    "host",
    "connection",
    "transfer-encoding",
    "expect",
)
OURS = ("model", "messages", "prompt", "tools", "stream", "n", "response_format")  # of a request's body


class EndpointSettings(BaseModel, extra="forbid"):
    """What each means is said in configs/openai-endpoint.yaml."""

    base_url: StrictStr = Field(description="an address", examples=["http://localhost:8000/v1"], repr=False)
    api_key_env: _Name = None
    default_headers_env: dict[Any, Any] | None = None  # not described, so that what is given is not shown
    max_concurrency: Size = None
    requests_per_minute: Size = None
    tokens_per_minute: Size = None
    timeout_s: _Seconds = None
    max_retries: _Retries = None
    give_up_after_s: _Seconds = None
    extra_body: _Body = None
    million_input_tokens_usd: _Usd = None
    million_output_tokens_usd: _Usd = None
    max_cost_usd: _Budget = None
    max_total_tokens: Size = None


def check(engine_kwargs: Mapping[str, Any], source: str) -> dict[str, Any]:
    """As given, an address that holds a secret as a Secret. Raises ConfigError."""
    if "model" in engine_kwargs:
        raise ConfigError(
            f"'model' does not go under engine_kwargs in {source}; set model_id at the top level of the config."
        )
    given = checked(EndpointSettings, engine_kwargs, f"engine_kwargs of {source}")
    settings = {name: value for name, value in engine_kwargs.items() if value is not None}
    settings["base_url"] = _base_url(Secret(given.base_url), source)
    _check_names(given, source)
    for key in OURS:
        if key in (given.extra_body or {}):
            raise ConfigError(
                f"extra_body in {source} has {key!r}, which comes from the config or the workload. Remove it."
            )
    try:
        json.dumps(given.extra_body, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"extra_body in {source} must be what JSON has: {problem}.") from None
    prices = given.million_input_tokens_usd, given.million_output_tokens_usd
    if given.max_cost_usd is not None and None in prices:
        raise ConfigError(
            f"max_cost_usd in {source} needs the prices: set million_input_tokens_usd and million_output_tokens_usd "
            "beside it. Or set max_total_tokens."
        )
    return settings


def _check_names(given: EndpointSettings, source: str) -> None:
    """Of environment variables. Where something else was given, it is perhaps what they should hold, and not shown."""
    headers = given.default_headers_env or {}
    names = {f"{header!s:.80} in default_headers_env": name for header, name in headers.items()}
    names |= {} if given.api_key_env is None else {"api_key_env": given.api_key_env}
    for key, name in names.items():
        if not (isinstance(name, str) and VARIABLE.fullmatch(name)):
            raise ConfigError(
                f"{key} in {source} must be the name of an environment variable, such as MY_KEY: what that holds "
                "stands in no file."
            )
    lower = [str(header).lower() for header in headers]
    for header in lower:
        why = ""
        if not HEADER.fullmatch(header):
            why = "which is no name of a header"
        elif header in OUR_HEADERS:
            why = "which is not to be set"
        elif lower.count(header) > 1:
            why = "which comes twice"
        elif header == "authorization" and given.api_key_env:
            why = "and there is api_key_env, which is sent in it: leave one of them out"
        if why:
            raise ConfigError(f"default_headers_env in {source} has {header[:80]!r}, {why}.")


def _base_url(given: str, source: str) -> str:
    wanted = f"'base_url' in engine_kwargs of {source} must be an address such as http://localhost:8000/v1"
    try:
        parts, endpoint = urlsplit(given.strip()), Endpoint(given.strip())
        port = parts.port
    except ValueError as problem:
        raise ConfigError(f"{wanted} ({'its port is none' if 'ort' in str(problem) else 'it is none'}).") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"{wanted}, given {endpoint.shown!r}.")
    if (
        path := next(
            (end for end in ("/chat/completions", "/completions") if parts.path.rstrip("/").endswith(end)), None
        )
    ) is not None:
        raise ConfigError(f"{wanted}: leave {path} away, given {endpoint.shown!r}.")
    is_secret = parts.username or parts.password or parts.query or LOOKS_LIKE_A_KEY.search(parts.path)
    return Secret(given.strip()) if is_secret else given.strip()
