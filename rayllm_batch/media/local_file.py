"""A file below a workload's `media_folder`, and no other."""

from __future__ import annotations

import os
import re
import stat
from typing import Optional
from urllib.parse import unquote, urlsplit

from rayllm_batch.media.media_error import MediaError, NotAllowed
from rayllm_batch.media.rules import MediaRules

MOST_CHARACTERS = 4_096


def read_file(source: str, rules: MediaRules) -> bytes:
    """source: a path, absolute or below the folder, or a file: URL. Raises MediaError.

    Symbolic links are resolved first, and every step is then opened from the one before, following none: a link that is
    put there meanwhile leads nowhere. What is no plain file is not read: a device or a pipe may never end.
    """
    path = _path(source)
    said = shown_path(path)
    if rules.folder is None:
        raise NotAllowed(f"the file {said!r} is not read: set the workload's media_folder to a folder above it.")
    folder = os.path.realpath(rules.folder)
    if not os.path.isdir(folder):
        raise NotAllowed(f"media_folder {rules.folder!r} is no folder on this node: put it where every node has it.")
    try:
        real = os.path.realpath(os.path.join(folder, path))
    except (OSError, ValueError):
        raise MediaError(f"the file {said!r} cannot be read: expected the path of a file below media_folder.") from None
    if os.path.commonpath([folder, real]) != folder or real == folder:
        is_named_below = os.path.normpath(os.path.join(folder, path)).startswith(folder + os.sep)
        why = (
            "a link leads out of" if is_named_below else "it is not below"
        )  # as in the Hub's cache, whose files are links
        raise NotAllowed(f"the file {said!r} is not read: {why} media_folder {rules.folder!r}.")
    steps = os.path.relpath(real, folder).split(os.sep)
    at: Optional[int] = None
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for number, step in enumerate(steps, start=1):
            kind = os.O_NONBLOCK if number == len(steps) else os.O_DIRECTORY
            inner = os.open(step, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=at)
            os.close(at)
            at = inner
        there = os.fstat(at)
        if not stat.S_ISREG(there.st_mode):
            raise MediaError(f"the file {said!r} is no plain file: expected one.")
        if there.st_size > rules.max_bytes:
            raise MediaError(
                f"the file {said!r} has {there.st_size:,} bytes, of at most {rules.max_bytes:,} (max_media_bytes)."
            )
        with os.fdopen(at, "rb") as file:
            at = None
            data = file.read(rules.max_bytes + 1)  # one that grows meanwhile is seen below
    except OSError as error:
        raise MediaError(f"the file {said!r} cannot be read: {error.strerror or type(error).__name__}.") from None
    finally:
        if at is not None:
            os.close(at)
    if len(data) > rules.max_bytes:
        raise MediaError(f"the file {said!r} has more than {rules.max_bytes:,} bytes (max_media_bytes).")
    return data


def _path(source: str) -> str:
    if len(source) > MOST_CHARACTERS or ";base64," in source:
        raise MediaError(
            f"a text of {len(source):,} characters is no path: base64 needs data:image/png;base64, before it."
        )
    path = source
    if re.match("file:", source, re.IGNORECASE):
        try:
            parts = urlsplit(source)
        except ValueError:
            raise MediaError("the file: URL cannot be read: expected file:///path.") from None
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise MediaError("the file: URL names a host: expected file:///path.")
        path = unquote(parts.path)
    if not path or "\0" in path or path.startswith(("\\\\", "//")):
        raise MediaError(f"expected the path of a file below media_folder, but {shown_path(path)!r} was given.")
    return path


def shown_path(path: str) -> str:
    """Without what may be a URL's query: one that was given without its https:// is taken for a path."""
    name, query, _ = path.partition("?")
    return (name if len(name) <= 300 else name[:300] + "...") + (f"{query}..." if query else "")
