"""Tables of a JSON file: an object a line, or one array of objects. Every value is what Python's json gives.

Arrow's reader is several times as fast, but it guesses dates, rounds large whole numbers, takes one line for two rows and two
lines for one, mixes up lists with nulls in them, and dies of a line that is `null`. So its table is taken only where none of that
can be; a block with a line that it does not take is parsed by Python.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayllm_batch.column_values import EXACT, column_of
from rayllm_batch.errors import DatasetError
from rayllm_batch.file_text import BLOCK_BYTES, LONGEST_LINE, Block, FileText
from rayllm_batch.read_options import BAD_LINE, UTF8, ReadOptions, shown

LEARNT_FROM = 64 << 10
DEEP = 200  # brackets in brackets: Python's json takes some hundreds, and Arrow's time grows with more than the square
_SPACE = re.compile(r"[ \t\n\r]*")
_NOT_TEXT = re.compile("[\ud800-\udfff]")
_NULL_FIRST, _NULL_ROW = re.compile(rb"\s*null"), re.compile(rb"}\s*null")
_NULL_ITEM = re.compile(rb"llun\s*[\[,]")  # of the content backwards: what begins with letters is found several times as fast
types = pa.types


def json_tables(text: FileText, size: int = BLOCK_BYTES, each: Callable = map) -> Iterator[pa.Table]:
    """Of about `size` bytes each. each: map, or that of an executor whose threads parse side by side."""
    yield from each(LineParser(text.options).table, text.blocks(size))
    if text.is_array and not text.start:
        yield from _array_tables(text, size)


class LineParser:
    """Of the blocks of one file. It remembers which columns Arrow takes for dates."""

    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self._dates: Optional[dict[str, pa.DataType]] = None  # the types that keep them text

    def table(self, block: Block) -> pa.Table:
        table = self._by_arrow(block)
        return self._by_python(block) if table is None else _with_bad_lines(table, self.options)

    def _by_arrow(self, block: Block) -> Optional[pa.Table]:
        content = block.content
        if _NULL_FIRST.match(content) or not _is_utf8(content) or _is_deep(content):
            return None
        if self._dates is None:
            self._dates = {}
            head = content[: content.rfind(b"\n", 0, LEARNT_FROM) + 1]
            if head and len(head) < len(content):
                self._parsed(head)
        table = self._parsed(content)
        if table is None or table.num_rows != block.lines or not all(map(_is_exact, _arrays(table))):
            return None
        if all(column.null_count for column in table.columns) and _NULL_ROW.search(content):
            return None
        return None if any(map(_has_list, table.schema.types)) and _has_null_item(content) else table

    def _parsed(self, content: bytes) -> Optional[pa.Table]:
        import pyarrow.json

        for _ in range(2):
            known = pyarrow.json.ParseOptions(explicit_schema=pa.schema(self._dates) if self._dates else None)
            read = pyarrow.json.ReadOptions(block_size=max(len(content), 1 << 10), use_threads=False)
            try:
                table = pyarrow.json.read_json(pa.BufferReader(content), read_options=read, parse_options=known)
            except pa.ArrowException:
                return None
            dates = {field.name: kind for field in table.schema if (kind := _dates_as_text(field.type)) != field.type}
            if not dates:
                return table
            self._dates = {**self._dates, **dates}
        return None

    def _by_python(self, block: Block) -> pa.Table:
        lines, rows = block.content.decode(UTF8, "surrogateescape").split("\n"), []
        for number, line in enumerate(lines):
            if line and not line.isspace():
                try:
                    rows.append(_row(line))
                except _BadLineError as problem:
                    rows.append(self.options.bad_row(_why(problem, number, lines, block)))
        return table_of_rows(rows, self.options)


class _BadLineError(Exception):
    """args: what is wrong; "" for a value that is no object, "text" for bytes that are no text."""


def _row(line: str) -> dict[str, Any]:
    if not line.isascii() and _NOT_TEXT.search(line):
        raise _BadLineError("text")
    try:
        row = json.loads(line)
    except RecursionError:
        raise _BadLineError("too many brackets in brackets") from None
    except ValueError as error:
        raise _BadLineError(str(error)) from None
    if type(row) is not dict:
        raise _BadLineError("")
    return row


def _why(problem: _BadLineError, number: int, lines: list[str], block: Block) -> str:
    (what,), line, where = problem.args, lines[number], block.line(number)
    if what == "text":
        return block.text.not_text(line, where)
    if not what:
        return f'{where} must be a JSON object such as {{"article": "..."}}, given {shown(line)}.'
    hint = ""
    if line.strip() == "{" or line.strip().startswith("{") and number + 1 < len(lines) and lines[number + 1].startswith((" ", "\t")):
        hint = " It looks like one object over several lines (pretty-printed): write each on one line, or all as one JSON array."
    return f"{where} is not JSON ({what}): {shown(line)}. Each line must be one JSON object.{hint}"


def _array_tables(text: FileText, size: int) -> Iterator[pa.Table]:
    rows, taken, number = [], 0, 0
    for item, length in _Array(text, size).items():
        number += 1
        if type(item) is not dict:
            why = f"dataset_file {text.path!r} must hold an array of JSON objects, but item {number} is {shown(json.dumps(item))}."
        rows.append(item if type(item) is dict else text.options.bad_row(why))
        taken += length
        if taken >= size:
            yield table_of_rows(rows, text.options)
            rows, taken = [], 0
    if not number:
        raise DatasetError(f"dataset_file {text.path!r} must hold an array of JSON objects, at least one.")
    if rows:
        yield table_of_rows(rows, text.options)


class _Array:
    """One JSON array, of which no more is in memory than some MB and the item at hand."""

    def __init__(self, text: FileText, size: int) -> None:
        self._text, self._size, self._buffer, self._at, self._lines = text, size, "", 0, 0
        self._decoder = json.JSONDecoder()

    def items(self) -> Iterator[tuple[Any, int]]:
        """Each, and the length of its text."""
        decoder = codecs.getincrementaldecoder(UTF8)("surrogateescape")
        with self._text.opened() as stream:
            read = self._text.reader(stream)

            def more() -> bool:
                self._lines += self._buffer.count("\n", 0, self._at)
                left = self._buffer[self._at :]
                if len(left) > LONGEST_LINE:
                    raise DatasetError(f"An item of {self._text.path!r} is longer than {LONGEST_LINE >> 30} GiB, which is no row.")
                piece = read(max(self._size, len(left)))
                self._buffer, self._at = left + decoder.decode(piece, final=not piece), 0
                if found := _NOT_TEXT.search(self._buffer, len(left)):
                    start, end = self._buffer.rfind("\n", 0, found.start()) + 1, found.start() + 20
                    raise DatasetError(self._text.not_text(self._buffer[start:end], self._where(found.start())))
                return bool(piece)

            def next_character() -> str:
                while True:
                    self._at = _SPACE.match(self._buffer, self._at).end()
                    if self._at < len(self._buffer) or not more():
                        return self._buffer[self._at : self._at + 1]

            next_character()
            self._at += 1
            if next_character() == "]":
                self._at += 1
            else:
                while True:
                    next_character()
                    yield self._item(more)
                    if next_character() not in (",", "]"):
                        raise self._error("expecting ',' or ']'", self._at)
                    self._at += 1
                    if self._buffer[self._at - 1] == "]":
                        break
            if next_character():
                raise self._error("there is more behind the array", self._at)

    def _item(self, more: Callable[[], bool]) -> tuple[Any, int]:
        while True:
            try:
                item, end = self._decoder.raw_decode(self._buffer, self._at)
                if end < len(self._buffer) or not more():  # else a number may go on
                    length, self._at = end - self._at, end
                    return item, length
            except RecursionError:
                raise self._error("too many brackets in brackets", self._at) from None
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self._buffer) - 16
                if not is_cut or not more():
                    raise self._error(error.msg, error.pos) from None
            except ValueError as error:  # a whole number with thousands of digits
                raise self._error(str(error), self._at) from None

    def _error(self, why: str, at: int) -> DatasetError:
        line = self._buffer[self._buffer.rfind("\n", 0, at) + 1 : at + 80].partition("\n")[0]
        return DatasetError(f"{self._where(at)} is not valid JSON ({why}): {shown(line[-80:])}.")

    def _where(self, at: int) -> str:
        return f"Line {self._lines + self._buffer.count(chr(10), 0, at) + 1} of {self._text.path!r}"


def table_of_rows(rows: list[dict[str, Any]], options: ReadOptions) -> pa.Table:
    names = dict.fromkeys(chain.from_iterable(rows))
    if names:
        table = pa.table({name: column_of([row.get(name) for row in rows]) for name in names})
    else:  # rows without a column are rows
        table = pa.Table.from_batches([pa.RecordBatch.from_struct_array(pa.array(rows, pa.struct([])))])
    return _with_bad_lines(table, options)


def _with_bad_lines(table: pa.Table, options: ReadOptions) -> pa.Table:
    if not options.keeps:
        return table
    if BAD_LINE in table.column_names:
        return table
    return table.append_column(BAD_LINE, pa.nulls(table.num_rows, pa.string()))


def _is_utf8(content: bytes) -> bool:
    if content.isascii():
        return True
    offsets = pa.py_buffer(np.array([0, len(content)], np.int32))
    try:
        pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(content)]).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _has_null_item(content: bytes) -> bool:
    """Or a text with something like it."""
    nulls = content.count(b"null")
    return nulls > content.count(b": null") + content.count(b":null") and _NULL_ITEM.search(content[::-1]) is not None


def _is_deep(content: bytes) -> bool:
    """Whether a line may have so many brackets within each other; those in its texts count as well."""
    characters = np.frombuffer(content, np.uint8)
    folded = characters & 0xDF  # [ and { become one, so do ] and }
    opening, ends = folded == ord("["), characters == ord("\n")
    at_ends = np.searchsorted(np.flatnonzero(opening), np.flatnonzero(ends))
    if np.diff(at_ends, prepend=0, append=np.count_nonzero(opening)).max() < DEEP:
        return False
    marks = opening | (folded == ord("]")) | ends
    ends = ends[marks]
    depth = np.cumsum(np.where(ends, 0, np.where(opening[marks], 1, -1)))
    line_began = np.maximum.accumulate(np.where(ends, np.arange(len(ends)), 0))
    return bool((depth - depth[line_began]).max() >= DEEP - 1)


def _arrays(table: pa.Table) -> Iterator[pa.Array]:
    return chain.from_iterable(column.chunks for column in table.columns)


def _is_exact(array: pa.Array) -> bool:
    kind = array.type
    if types.is_struct(kind):
        return all(map(_is_exact, array.flatten()))
    if types.is_list(kind):
        return _is_exact(array.flatten())
    if types.is_floating(kind):  # which Arrow also makes of whole numbers beyond 64 bits, or beside fractions
        least, most = pc.min_max(array).as_py().values()
        return least is None or least > -EXACT and most < EXACT and pc.all(pc.is_finite(array)).as_py()
    return types.is_string(kind) or types.is_int64(kind) or types.is_boolean(kind) or types.is_null(kind)


def _has_list(kind: pa.DataType) -> bool:
    return types.is_list(kind) or types.is_struct(kind) and any(_has_list(field.type) for field in kind)


def _dates_as_text(kind: pa.DataType) -> pa.DataType:
    if types.is_struct(kind):
        return pa.struct([(field.name, _dates_as_text(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(_dates_as_text(kind.value_type))
    return pa.string() if types.is_temporal(kind) else kind
