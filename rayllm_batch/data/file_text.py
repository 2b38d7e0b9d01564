"""The text of a data file, or of a part of it: unpacked, as UTF-8, in blocks of whole lines whose numbers are known."""

from __future__ import annotations

import codecs
import io
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Optional, TypeVar

import numpy as np

from rayllm_batch.data.read_options import UTF8, ReadOptions, shown
from rayllm_batch.errors import DatasetError
from rayllm_batch.file_kind import HEAD_BYTES, check_kind, codec_of

if TYPE_CHECKING:
    import pyarrow.fs

Item = TypeVar("Item")
BLOCK_BYTES = 4 << 20
LONGEST_LINE = 1 << 30
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # what is no text in its encoding is read as these
CACHED_BYTES = 128 << 10  # what a comparison makes of so many stays in the processor's cache
# The longer ones first: that of UTF-16 begins that of UTF-32.
_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: UTF8,
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


@dataclass
class FileText:
    """format: "json" or "csv". start, stop: the lines that begin in these bytes; stop None: to the end.

    Where a file cannot be divided, the part that begins with it is all of it, and others are empty.
    """

    path: str
    fs: pyarrow.fs.FileSystem
    format: str
    options: ReadOptions = field(default_factory=ReadOptions)
    start: int = 0
    stop: Optional[int] = None
    # Known once it is opened: the encoding, the first KB (unpacked), and where the first line of this part begins.
    encoding: str = UTF8
    head: bytes = b""
    begin: int = 0

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The unpacked bytes behind a byte order mark. Raises DatasetError for what is no such file."""
        import pyarrow as pa

        codec, name = codec_of(self.path), f"dataset_file {self.path!r}"
        try:
            with self.fs.open_input_file(self.path) as raw:
                self.head = raw.read(HEAD_BYTES)
                check_kind(self.path, self.head, self.format)
                if codec:
                    raw.seek(0)
                    self.head = pa.CompressedInputStream(raw, codec).read(HEAD_BYTES)
            with self.fs.open_input_file(self.path) as raw:
                bom, named = next(((bom, name) for bom, name in _BOMS.items() if self.head.startswith(bom)), (b"", ""))
                self.head = self.head[len(bom) :]
                self.encoding = named or self.options.encoding or UTF8
                if self.encoding == UTF8 and self.head.count(0) > len(self.head) // 4:
                    raise DatasetError(self._misread(name, ": it is full of NUL bytes, as UTF-16 is", "utf-16-le"))
                stream = pa.CompressedInputStream(raw, codec) if codec else raw
                stream.read(len(bom))
                self.begin = len(bom)
                yield stream
        except FileNotFoundError:
            raise DatasetError(
                f"{name} does not exist on {socket.gethostname()}. A file of one machine cannot be "
                "read from others: put it where each node can read it."
            ) from None
        except UnicodeError as error:
            raise DatasetError(self._misread(name, f": {error}", "utf-16")) from None
        except (pa.ArrowException, OSError, EOFError) as error:
            raise DatasetError(f"{name} cannot be read as {self.format}: {error}") from None

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[Block]:
        """Of about `size` bytes each, and of more where a line is longer."""
        before = 0
        with self.opened() as stream:
            if self.is_array or self.start and not self.can_be_divided:
                return
            for content in self._whole_lines(stream, size):
                block = Block(content, self, before)
                yield block
                before += block.lines

    @property
    def is_array(self) -> bool:
        """Whether it is one JSON array instead of lines, in which case it has no blocks."""
        return self.format == "json" and self.head.decode(self.encoding, "ignore").lstrip()[:1] == "["

    @property
    def can_be_divided(self) -> bool:
        return self.format == "json" and self.encoding == UTF8 and not codec_of(self.path) and not self.is_array

    def _whole_lines(self, stream: IO[bytes], size: int) -> Iterator[bytes]:
        stop, read = self.stop if self.can_be_divided else None, self._reader(stream)
        if self.start:
            self.begin = self.start - 1  # a line begins at `start` if the one before ends there
            stream.seek(self.begin)
        at, skips, kept = self.begin, self.start > 0, []
        while piece := read(size):
            if skips:
                cut = piece.find(b"\n") + 1
                at += cut or len(piece)
                if stop is not None and at >= stop:
                    return
                if not cut:
                    continue
                piece, skips, self.begin = piece[cut:], False, at
            if is_last := stop is not None and at + len(piece) >= stop:
                cut = piece.find(b"\n", max(0, (stop or 0) - 1 - at)) + 1
            else:
                cut = piece.rfind(b"\n") + 1
            at += len(piece)
            if not cut:
                kept.append(piece)
                if sum(map(len, kept)) > LONGEST_LINE:
                    raise self.too_long("A line")
                continue
            view = memoryview(piece)
            yield b"".join((*kept, view[:cut]))
            if is_last:
                return
            kept = [bytes(view[cut:])]
        if rest := b"".join(kept):
            yield rest

    def _reader(self, stream: IO[bytes]) -> Callable[[int], bytes]:
        """Reads about so many bytes of UTF-8."""
        if self.encoding == UTF8:
            return stream.read
        text = self.characters(stream)
        return lambda size: text.read(size).encode(UTF8, self._errors)

    def characters(self, stream: IO[bytes]) -> io.TextIOWrapper:
        """What is no text in the encoding comes as lone surrogates, so that its line can be named."""
        return io.TextIOWrapper(stream, encoding=self.encoding, errors=self._errors, newline="")

    @property
    def _errors(self) -> str:
        return "surrogatepass" if self.encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"

    def lines_before(self) -> int:
        """The number of the file's lines before this part, which only an error's text needs: it is counted then."""
        count = 0
        with self.fs.open_input_file(self.path) as raw:
            while left := min(4 * BLOCK_BYTES, self.begin - raw.tell()):
                count += _line_breaks(raw.read(left))[0]
        return count

    def too_long(self, what: str) -> DatasetError:
        return DatasetError(f"{what} of {self.path!r} is longer than {LONGEST_LINE >> 30} GiB, which is no row.")

    def not_text(self, line: str, where: str) -> str:
        """Why a line with lone surrogates in it cannot be read. where: `Line 7 of 'rows.csv'`."""
        found = LONE_SURROGATE.findall(line)[0]
        what = "half of a surrogate pair" if self._errors == "surrogatepass" else f"byte 0x{ord(found) & 0xFF:02x}"
        return self._misread(where, f" ({what}): {shown(line)}", "cp1252")

    def _misread(self, what: str, why: str, example: str) -> str:
        return (
            f"{what} is not {self.encoding.upper()}{why}. Save it as UTF-8, or name its encoding in the workload, such "
            f"as dataset_encoding={example!r} (on the command line: -w dataset_encoding={example})."
        )


@dataclass
class Block:
    """Whole lines, in UTF-8 if the file is text; before: the lines before it in its part of the file.

    begin_as_objects: whether each line begins with a {, so that none is empty, or null.
    """

    content: bytes
    text: FileText
    before: int

    def __post_init__(self) -> None:
        breaks, objects = _line_breaks(self.content)
        self.lines = breaks + (not self.content.endswith(b"\n"))
        self.begin_as_objects = self.content.startswith(b"{") and objects == self.lines - 1

    def line(self, number: int) -> str:
        """`Line 7 of 'rows.jsonl'`, for the block's line `number`, counted from 0."""
        return f"Line {self.text.lines_before() + self.before + number + 1} of {self.text.path!r}"


def in_batches(items: Iterable[tuple[Item, int]], size: int) -> Iterator[list[Item]]:
    """Lists of the items that come with their sizes; all but the last are at least `size` large."""
    kept, taken = [], 0
    for item, item_size in items:
        kept.append(item)
        taken += item_size
        if taken >= size:
            yield kept
            kept, taken = [], 0
    if kept:
        yield kept


def _line_breaks(content: bytes) -> tuple[int, int]:
    """How many there are, and how many a { follows."""
    characters, step, breaks, objects = np.frombuffer(content, np.uint8), CACHED_BYTES, 0, 0
    for i in range(0, len(content), step):
        is_break, is_object = characters[i : i + step] == ord("\n"), characters[i + 1 : i + step + 1] == ord("{")
        breaks += int(np.count_nonzero(is_break))
        objects += int(np.count_nonzero(is_break[: len(is_object)] & is_object))
    return breaks, objects
