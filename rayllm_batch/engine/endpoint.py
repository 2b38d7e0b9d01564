"""An OpenAI-compatible endpoint: where it is, the key that it takes, and what must not be said of either."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Optional
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from rayllm_batch.errors import ConfigError
from rayllm_batch.secret import Secret
from rayllm_batch.uri import text_without_credentials

API_KEY_ENV, HEADERS_ENV = "OPENAI_API_KEY", "default_headers_env"
# Keys as providers write them, also the starred ones in their complaints ("Incorrect API key provided: sk-ab***yz").
LOOKS_LIKE_A_KEY = re.compile(r"\b(?:sk|gsk|pk|rk|hf|nvapi|xai|AIza)[-_][\w*.-]{6,}|(?<=Bearer )\S{6,}", re.IGNORECASE)
HIDDEN = "***"
NO_HEADERS: Mapping[str, str] = {}


class Endpoint:
    """base_url: as in engine_kwargs. api_key: "" where none is sent. more: further headers. Printed, it shows neither
    key nor password, nor what these hold.
    """

    def __init__(self, base_url: str, api_key: str = "", more: Mapping[str, str] = NO_HEADERS) -> None:
        parts = urlsplit(base_url)
        netloc = parts.netloc.rpartition("@")[2]
        self.user, self.password = unquote(parts.username or ""), Secret(unquote(parts.password or ""))
        self.api_key, self.host, self.scheme = Secret(api_key), parts.hostname or "", parts.scheme
        path, self._query = parts.path.rstrip("/"), Secret(parts.query)
        self._base = Secret(urlunsplit((parts.scheme, netloc, path, "", "")))
        self._shown = urlunsplit((parts.scheme, netloc, LOOKS_LIKE_A_KEY.sub(HIDDEN, path), "", ""))
        values = (value for _, value in parse_qsl(parts.query))
        self._more = {name: Secret(value) for name, value in more.items()}
        secrets = (self.api_key, self.password, parts.password, *values, *self._more.values())
        self._secrets = [one for one in secrets if one and len(one) > 3]

    def __repr__(self) -> str:
        return f"Endpoint({self.shown})"

    @property
    def shown(self) -> str:
        """Its address, for people."""
        return self._shown

    def url(self, path: str) -> str:
        return f"{self._base}{path}{'?' + self._query if self._query else ''}"

    @property
    def headers(self) -> dict[str, str]:
        own = any(name.lower() == "authorization" for name in self._more)
        return {**({"Authorization": f"Bearer {self.api_key}"} if self.api_key and not own else {}), **self._more}

    @property
    def proxy(self) -> Optional[str]:
        """As the environment has it, for all but this machine itself. (aiohttp's own look into it reads .netrc too.)"""
        from urllib.request import getproxies, proxy_bypass

        is_here = self.host in ("localhost", "::1") or self.host.startswith("127.")
        found = None if is_here or proxy_bypass(self.host) else getproxies().get(self.scheme)
        return found if not found or "://" in found else f"http://{found}"  # as others read it

    def redacted(self, text: str, most: int = 400) -> str:
        """What a server or a library says, on one line and without secrets; servers echo the key that they refuse."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        text = text_without_credentials(LOOKS_LIKE_A_KEY.sub(HIDDEN, text))
        text = "".join(one if one.isprintable() else " " for one in text)
        text = " ".join(text.split())
        return text if len(text) <= most else text[:most] + "..."


def of(engine_kwargs: Mapping[str, Any], env_vars: Mapping[str, str]) -> Endpoint:
    """Raises ConfigError where what is named is not in the environment, or is none. env_vars: the config's."""
    headers = {}
    for header, name in (engine_kwargs.get(HEADERS_ENV) or {}).items():
        headers[header] = value = _of_environment(name, env_vars)
        if not value:
            raise ConfigError(
                f"{HEADERS_ENV} names {name} for the header {header}, but there is no such environment variable. Set "
                "it where this runs."
            )
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(
                f"The environment variable {name} holds what is no header: it has line breaks or other characters."
            )
    return Endpoint(engine_kwargs["base_url"], api_key(engine_kwargs, env_vars), headers)


def secrets(engine_kwargs: Mapping[str, Any], env_vars: Mapping[str, str]) -> dict[str, str]:
    """What `of` finds in the environment, by name."""
    key, names = api_key(engine_kwargs, env_vars), (engine_kwargs.get(HEADERS_ENV) or {}).values()
    return {
        **({engine_kwargs.get("api_key_env") or API_KEY_ENV: key} if key else {}),
        **{name: _of_environment(name, env_vars) for name in names},
    }


def _of_environment(name: str, env_vars: Mapping[str, str]) -> Secret:
    """The config's own comes first, whose names are in upper case; then this process's. "" where there is none."""
    return Secret((env_vars.get(name.upper()) or os.environ.get(name) or os.environ.get(name.upper()) or "").strip())


def api_key(engine_kwargs: Mapping[str, Any], env_vars: Mapping[str, str]) -> Secret:
    named = engine_kwargs.get("api_key_env")
    name = named or API_KEY_ENV
    key = _of_environment(name, env_vars)
    if named and not key:
        raise ConfigError(
            f"api_key_env is {name}, but there is no such environment variable. Set it where this runs, or leave "
            "api_key_env out for a server that takes no key."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"The environment variable {name} holds what is no API key: it has spaces or other characters."
        )
    return key
