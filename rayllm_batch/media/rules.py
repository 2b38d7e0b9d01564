"""What a workload allows of its rows' media."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Optional

from rayllm_batch.errors import WorkloadError, shown
from rayllm_batch.media.host_rule import HostRule

MOST_PIXELS = 178_956_970  # Pillow refuses more by itself


@dataclass(frozen=True)
class MediaRules:
    """Plain values: they travel to Ray's tasks. Raises WorkloadError where one is not usable, by the name of the
    workload's field: media_hosts, media_folder, max_media_bytes, max_media_pixels, max_media_seconds, media_timeout_s.

    hosts: of http and https URLs: "images.example.org" (ports 80 and 443), "images.example.org:8443", "*.example.org"
    (not the domain itself), "*" (any); none: no URL is fetched. What they lead to must have a public address, unless
    the address is named too: "10.0.0.5:8000" or "10.0.0.0/8". Metadata services of clouds and link-local addresses are
    never reached. folder: local paths and file: URLs, only below it, symbolic links resolved; None: no file is opened.
    max_bytes: of one medium. max_pixels: of an image, or of a video's frame. max_seconds: of audio or video. timeout_s:
    of one fetch, with look-up, redirects and repetitions.
    """

    hosts: tuple[str, ...] = ()
    folder: Optional[str] = None
    max_bytes: int = 64 << 20
    max_pixels: int = 64_000_000
    max_seconds: float = 600.0
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.hosts, (tuple, list)) or not all(isinstance(one, str) for one in self.hosts):
            raise WorkloadError(
                f"media_hosts must be a list of hosts, such as ['images.example.org'], but is {shown(self.hosts)}."
            )
        object.__setattr__(self, "hosts", tuple(self.hosts))
        for entry in self.hosts:
            try:
                HostRule.of(entry)
            except ValueError as error:
                raise WorkloadError(
                    f"media_hosts has {_entry(entry)}, but {error}. Give 'images.example.org', '*.example.org', "
                    "'10.0.0.5:8000' or '10.0.0.0/8'."
                ) from None
        if self.folder is not None:
            object.__setattr__(self, "folder", _folder(self.folder))
        for name, most in (
            ("max_bytes", 2 << 30),
            ("max_pixels", MOST_PIXELS),
            ("max_seconds", 86_400),
            ("timeout_s", 3_600),
        ):
            _check_number(name, getattr(self, name), most)


def _folder(given: Any) -> str:
    """Absolute, since workers have another working directory."""
    path = os.path.abspath(os.path.expanduser(given)) if isinstance(given, (str, os.PathLike)) else ""
    if not given or not isinstance(path, str) or "\0" in path or "://" in str(given) or not path.strip("/"):
        raise WorkloadError(
            "media_folder must be the path of a local folder that has nothing else below it than what rows may read, "
            f"but is {shown(given)}."
        )
    return path


def _check_number(name: str, value: Any, most: int) -> None:
    whole = name in ("max_bytes", "max_pixels")
    field = name.replace("max_", "max_media_") if "max_" in name else f"media_{name}"
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 < value <= most:
        kind = "a whole number" if whole else "a number"
        raise WorkloadError(f"{field} must be {kind} above 0 and at most {most:,}, but is {shown(value)}.")


def _entry(entry: str) -> str:
    """As it may be shown: a URL may hold a password."""
    return "a URL where a host's name belongs" if "//" in entry or "@" in entry else repr(entry[:200])
