"""What a row names, as media."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional, Union

from rayllm_batch.media.data_url import read_data_url
from rayllm_batch.media.fetch import Fetcher, Resolve
from rayllm_batch.media.image import check_image
from rayllm_batch.media.local_file import read_file
from rayllm_batch.media.media_error import MediaError
from rayllm_batch.media.medium import Medium
from rayllm_batch.media.raw import image_as_png, sound_as_wav
from rayllm_batch.media.rules import MediaRules
from rayllm_batch.media.sound import check_sound
from rayllm_batch.media.video import check_video

KINDS = ("image", "audio", "video")
AT_ONCE = 8
MOST_TOGETHER = 2 << 30  # bytes of what one read_all gives
EXPECTED = "bytes, a data: or http(s) URL, a path below media_folder, or {'bytes': ..., 'path': ...}"


class MediaReader:
    """Made where it is used, since it holds a lock: 8 media are fetched at once, and one is decoded, since a task has
    one CPU.
    """

    def __init__(self, rules: MediaRules, resolve: Optional[Resolve] = None) -> None:
        self.rules = rules
        self._fetcher = Fetcher(rules, resolve)
        self._decoding = threading.Lock()

    def read(self, kind: str, source: Any) -> Medium:
        """kind: "image", "audio" or "video". source: what `EXPECTED` says; an image may be a PIL image or an array
        (height, width, 3) of uint8, audio also (samples, rate) or {"array": ..., "sampling_rate": ...}.

        Raises MediaError, whatever is given.
        """
        return self._read(kind, source, {})

    def read_all(self, sources: Iterable[tuple[str, Any]]) -> list[Union[Medium, MediaError]]:
        """One a source, in their order; what repeats is fetched and decoded once, and is the same Medium.

        What comes after 2 GiB in all is a MediaError: a row of any number of media must not use up a node's memory.
        """
        wanted = list(sources)
        seen: dict[tuple[str, str], Medium] = {}
        keys = [(kind, one if type(one) in (str, bytes) else id(one)) for kind, one in wanted]
        first = {key: number for number, key in reversed(list(enumerate(keys)))}

        def read(number: int) -> Union[Medium, MediaError]:
            try:
                return self._read(*wanted[number], seen)
            except MediaError as error:
                return error

        if len(first) < 2:
            found = {key: read(number) for key, number in first.items()}
        else:
            with ThreadPoolExecutor(min(AT_ONCE, len(first))) as pool:
                found = dict(zip(first, pool.map(read, first.values()), strict=True))
        return [found[key] for key in keys]

    def _read(self, kind: str, source: Any, seen: dict[tuple[str, str], Medium]) -> Medium:
        try:
            if kind not in KINDS:
                raise MediaError(
                    f"expected a medium of the kind image, audio or video, but {str(kind)[:50]!r} was given."
                )
            data, digest = self._bytes(kind, source)
            with self._decoding:
                if (kind, digest) not in seen:
                    if sum(len(one.data) for one in seen.values()) + len(data) > MOST_TOGETHER:
                        raise MediaError(
                            f"the media read at once have more than {MOST_TOGETHER >> 30} GiB: give fewer, or smaller "
                            "ones."
                        )
                    seen[kind, digest] = self._checked(kind, data, digest)
                return seen[kind, digest]
        except MediaError:
            raise
        except Exception as error:  # a user's own class, or a decoder that trips: it is that row's error
            raise MediaError(f"the {kind} cannot be read ({type(error).__name__}): expected {EXPECTED}.") from None

    def _bytes(self, kind: str, source: Any) -> tuple[bytes, str]:
        """The encoded medium and its digest."""
        if isinstance(source, Mapping) and source.get("bytes") is not None:
            source = source["bytes"]
        elif isinstance(source, Mapping) and source.get("path") is not None:
            source = source["path"]
        if isinstance(source, os.PathLike):
            source = os.fspath(source)
        if isinstance(source, str):
            data = self._named(source)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            if memoryview(source).nbytes > self.rules.max_bytes:
                raise MediaError(
                    f"{memoryview(source).nbytes:,} bytes were given, of at most {self.rules.max_bytes:,} "
                    "(max_media_bytes)."
                )
            data = bytes(source)
        else:
            decoded = {"image": image_as_png, "audio": sound_as_wav}.get(kind, lambda *_: None)(source, self.rules)
            if decoded is None:
                raise MediaError(f"expected {EXPECTED}, but a {type(source).__name__} was given.")
            return decoded
        return data, hashlib.sha256(data).hexdigest()

    def _named(self, source: str) -> bytes:
        scheme = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*):", source)
        name = scheme[1].lower() if scheme else ""
        if name in ("http", "https"):
            return self._fetcher.fetch(source)
        if name == "data":
            return read_data_url(source, self.rules.max_bytes)
        if name in ("", "file"):
            return read_file(source, self.rules)
        raise MediaError(f"a source of the kind {name[:30]!r} is not read: expected {EXPECTED}.")

    def _checked(self, kind: str, data: bytes, digest: str) -> Medium:
        if kind == "image":
            width, height = check_image(data, self.rules)
            return Medium(kind, data, digest, width, height)
        if kind == "audio":
            return Medium(kind, data, digest, seconds=check_sound(data, self.rules))
        width, height, frames, seconds = check_video(data, self.rules)
        return Medium(kind, data, digest, width, height, frames, seconds)
