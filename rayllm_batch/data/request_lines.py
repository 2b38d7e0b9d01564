"""The lines of a file as they are, each with the `custom_id` that it names: nothing in them ends the reading."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Optional

import pyarrow as pa

from rayllm_batch.data.file_part import FilePart, Reader
from rayllm_batch.data.file_text import BLOCK_BYTES, FileText, in_batches
from rayllm_batch.data.read_options import UTF8
from rayllm_batch.errors import DatasetError

SCHEMA = pa.schema([("custom_id", pa.string()), ("request", pa.binary())])
_FIRST_KEY = re.compile(rb'\s*\{\s*"custom_id"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL)
HEAD = 1 << 10


@dataclass(frozen=True)
class LineReader(Reader):
    """Tables with SCHEMA. custom_id: null where the line has none that is text. request: the line's bytes, null where
    they are more than `longest`, of which no more than these are ever in memory.
    """

    longest: int = 16 << 20

    def tables(self, part: FilePart, size: int = BLOCK_BYTES, each: Callable = map) -> Iterator[pa.Table]:
        text = FileText(part.path, self.fs, self.format, self.options, part.start, part.stop)
        yield from each(_table, in_batches(self._lines(text, size), size))

    def _lines(self, text: FileText, size: int) -> Iterator[tuple[tuple[bytes, bool], int]]:
        """Each line that begins in this part and is not empty, whether it was too long and is cut, and its length."""
        with text.opened() as stream:
            if text.encoding != UTF8:
                raise DatasetError(
                    f"{text.path!r} is {text.encoding.upper()}, but a file of requests is UTF-8. Save it so."
                )
            if not text.start or text.can_be_divided:
                for line, is_cut in self._pieces(text, stream, size):
                    if is_cut or line.strip():
                        yield (line, is_cut), len(line)

    def _pieces(self, text: FileText, stream: IO[bytes], size: int) -> Iterator[tuple[bytes, bool]]:
        at, skips = text.begin, text.start > 0
        stop = text.stop if text.can_be_divided else None
        if skips:
            at = text.start - 1  # a line begins at `start` if the one before ends there
            stream.seek(at)
        line, is_cut = b"", False
        while piece := stream.read(size):
            *ended, rest = piece.split(b"\n")
            for more in ended:
                line, is_cut = self._longer(line, is_cut, more)
                if not skips:
                    yield line, is_cut
                at += len(more) + 1
                if stop is not None and at >= stop:
                    return
                line, is_cut, skips = b"", False, False
            line, is_cut = self._longer(line, is_cut, rest)
            at += len(rest)
        if not skips:
            yield line, is_cut

    def _longer(self, line: bytes, is_cut: bool, more: bytes) -> tuple[bytes, bool]:
        line, is_cut = line + more, is_cut or len(line) + len(more) > self.longest
        return line[:HEAD] if is_cut else line, is_cut


def _table(lines: list[tuple[bytes, bool]]) -> pa.Table:
    ids = [_custom_id_of_head(line) if is_cut else custom_id(line) for line, is_cut in lines]
    requests = [None if is_cut else line for line, is_cut in lines]
    return pa.table({"custom_id": ids, "request": requests}, schema=SCHEMA)


def custom_id(line: bytes) -> Optional[str]:
    """Of a JSON object on a line, where it has one that is text; None else."""
    try:
        found = json.loads(line.decode())
        return _text(found.get("custom_id")) if isinstance(found, dict) else None
    except (ValueError, RecursionError):
        return None


def _custom_id_of_head(head: bytes) -> Optional[str]:
    """Of the beginning of a line that is too long to be read."""
    found = _FIRST_KEY.match(head)
    try:
        return _text(json.loads(found[1].decode())) if found else None
    except ValueError:
        return None


def _text(value: Any) -> Optional[str]:
    """A text that is not empty and can be stored: not half of a surrogate pair."""
    try:
        return value if isinstance(value, str) and value and value.encode() else None
    except UnicodeEncodeError:
        return None
