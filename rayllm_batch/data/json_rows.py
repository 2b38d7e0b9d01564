"""Tables of a JSON file: an object a line, or one array of objects. Every value is what Python's json gives.

Arrow's reader is several times as fast. By itself it guesses dates, rounds large whole numbers, mixes up lists with
nulls in them and takes minutes for deep nesting; told the columns and their types it does none of that, and refuses
what is not so. So Python reads the first rows, and each block that Arrow refuses.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayllm_batch.data.column_types import common_type
from rayllm_batch.data.column_values import column_of
from rayllm_batch.data.file_text import BLOCK_BYTES, LONE_SURROGATE, LONGEST_LINE, Block, FileText, in_batches
from rayllm_batch.data.read_options import BAD_LINE, RESERVED, UTF8, ReadOptions, shown
from rayllm_batch.errors import DatasetError, is_deep

LEARNT_FROM = 64 << 10
DEEP = 100  # brackets in brackets: on the way to a file each takes two of the 1,000 calls in calls that Python makes
TOO_DEEP = "too many brackets in brackets"
NOT_JSON = " is not JSON"
PRETTY = " It looks like one pretty-printed object: write each on one line, or all as one JSON array."
_SPACE = re.compile(r"[ \t\n\r]+")
types = pa.types


def json_tables(text: FileText, size: int = BLOCK_BYTES, each: Callable = map) -> Iterator[pa.Table]:
    """Of about `size` bytes each. each: map, or that of an executor whose threads parse side by side."""
    yield from each(LineParser(text.options).table, text.blocks(size))
    if text.is_array and not text.start:
        for rows in in_batches(_array_rows(text, size), size):
            yield _with_bad_lines(table_of_rows(rows), text.options)


class LineParser:
    """Of the blocks of one file. It knows the types of the columns that came so far."""

    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self._known: Optional[dict[str, pa.DataType]] = {}  # None where no Arrow type holds a column

    def table(self, block: Block) -> pa.Table:
        if self._known == {}:
            self._learn(block.content[: block.content.rfind(b"\n", 0, LEARNT_FROM) + 1])
        table = self._by_arrow(block)
        if table is None:
            table = self._by_python(block)
            self._add(table.schema)
        return _with_bad_lines(table, self.options)

    def _learn(self, content: bytes) -> None:
        rows = []
        for line in content.decode(UTF8, "surrogateescape").split("\n"):
            with contextlib.suppress(_BadLineError):  # or an empty one
                rows.append(_row(line))
        self._add(table_of_rows(rows).schema)

    def _add(self, schema: pa.Schema) -> None:
        known = None if self._known is None else dict(self._known)
        for field in schema:
            if known is None or field.name == BAD_LINE:  # a line of its own that has it is a bad one
                continue
            before = known.get(field.name, pa.null())
            if not isinstance(field.type, pa.BaseExtensionType):
                kind = common_type(before, field.type)
                known[field.name] = field.type if kind is None else kind
            elif types.is_null(before):
                known = None
        self._known = known  # at once: threads share it

    def _by_arrow(self, block: Block) -> Optional[pa.Table]:
        """None where its table might not be what is there."""
        import pyarrow.json

        content = block.content
        if not self._known or any(map(_has_null_items, self._known.values())):
            return None
        if not block.begin_as_objects or not _is_utf8(content):  # a line that is null would end Arrow's process
            return None
        known = pyarrow.json.ParseOptions(explicit_schema=pa.schema(self._known), unexpected_field_behavior="error")
        read = pyarrow.json.ReadOptions(block_size=max(len(content), 1 << 10), use_threads=False)
        try:
            table = pyarrow.json.read_json(pa.BufferReader(content), read_options=read, parse_options=known)
        except pa.ArrowException:
            return None
        if table.num_rows != block.lines:
            return None
        return table if all(_is_exact(chunk) for column in table.columns for chunk in column.chunks) else None

    def _by_python(self, block: Block) -> pa.Table:
        lines, rows = block.content.decode(UTF8, "surrogateescape").split("\n"), []
        for number, line in enumerate(lines):
            if line and not line.isspace():
                try:
                    rows.append(_row(line))
                except _BadLineError as error:
                    problem = str(error) or block.text.not_text(line, "")
                    if problem.startswith(NOT_JSON) and _begins_an_object(lines[number : number + 2]):
                        problem += PRETTY
                    rows.append(self.options.bad_row(block.line(number) + problem))
        return table_of_rows(rows)


def _begins_an_object(lines: list[str]) -> bool:
    """Whether the first of these is only the start of one."""
    return lines[0].strip() == "{" or lines[0].strip().startswith("{") and lines[-1].startswith((" ", "\t"))


class _BadLineError(Exception):
    """args: what is to be said behind its place; "" where it is not text."""


def _row(line: str) -> dict[str, Any]:
    if not line.isascii() and LONE_SURROGATE.search(line):
        raise _BadLineError("")
    try:
        row = json.loads(line)
    except (RecursionError, ValueError) as error:
        why = TOO_DEEP if isinstance(error, RecursionError) else error
        raise _BadLineError(f"{NOT_JSON} ({why}): {shown(line)}. Each line must be one JSON object.") from None
    if type(row) is not dict:
        raise _BadLineError(f' must be a JSON object such as {{"article": "..."}}, given {shown(line)}.')
    if unfit := _unfit(row, line.count("{") + line.count("[")):
        raise _BadLineError(f": {unfit}: {shown(line)}.")
    return row


def _unfit(row: dict[str, Any], brackets: int) -> str:
    """Why the object cannot be a row of a table. It has so many brackets, or fewer."""
    if brackets > DEEP and is_deep(row, DEEP):
        return TOO_DEEP
    for key in row:
        if key.startswith(RESERVED):
            return f"the key {key!r} has a name that a run uses; rename it"
        if not key.isascii() and LONE_SURROGATE.search(key):
            return f"the key {ascii(key)} holds half of a surrogate pair, which is no text"
    return ""


def _array_rows(text: FileText, size: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Each, and the length of its text."""
    number, wanted = 0, f"dataset_file {text.path!r} must hold an array of JSON objects"
    for number, (item, length) in enumerate(_Array(text, size).items(), start=1):
        if type(item) is not dict:
            yield text.options.bad_row(f"{wanted}, but item {number} is {shown(json.dumps(item))}."), length
        elif unfit := _unfit(item, length // 2):
            yield text.options.bad_row(f"Item {number} of {text.path!r}: {unfit}."), length
        else:
            yield item, length
    if not number:
        raise DatasetError(f"{wanted}, at least one.")


class _Array:
    """One JSON array, of which no more is in memory than some MB and the item at hand."""

    def __init__(self, text: FileText, size: int) -> None:
        self._text, self._size, self._buffer, self._at, self._lines = text, size, "", 0, 0
        self._decoder = json.JSONDecoder()

    def items(self) -> Iterator[tuple[Any, int]]:
        """Each, and the length of its text."""
        with self._text.opened() as stream:
            characters = self._text.characters(stream)

            def more() -> bool:
                self._lines += self._buffer.count("\n", 0, self._at)
                left = self._buffer[self._at :]
                if len(left) > LONGEST_LINE:
                    raise self._text.too_long("An item")
                piece = characters.read(max(self._size, len(left)))
                self._buffer, self._at = left + piece, 0
                if found := LONE_SURROGATE.search(self._buffer, len(left)):
                    start, end = self._buffer.rfind("\n", 0, found.start()) + 1, found.start() + 20
                    raise DatasetError(self._text.not_text(self._buffer[start:end], self._where(found.start())))
                return bool(piece)

            def next_character() -> str:
                while True:
                    if space := _SPACE.match(self._buffer, self._at):
                        self._at = space.end()
                    if self._at < len(self._buffer) or not more():
                        return self._buffer[self._at : self._at + 1]

            def taken() -> str:
                character = next_character()
                self._at += 1
                return character

            taken()  # [
            mark = taken() if next_character() == "]" else ","
            while mark == ",":
                next_character()
                yield self._item(more)
                mark = taken()
                if mark not in (",", "]"):
                    raise self._error("expecting ',' or ']'", self._at - 1)
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
                raise self._error(TOO_DEEP, self._at) from None
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


def _with_bad_lines(table: pa.Table, options: ReadOptions) -> pa.Table:
    if not options.keeps or BAD_LINE in table.column_names:
        return table
    return table.append_column(BAD_LINE, pa.nulls(table.num_rows, pa.string()))


def table_of_rows(rows: list[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(chain.from_iterable(rows))
    if not names:  # they are rows still
        return pa.Table.from_struct_array(pa.array(rows, pa.struct([])))
    return pa.table({name: column_of([row.get(name) for row in rows]) for name in names})


def _is_utf8(content: bytes) -> bool:
    if not content.isascii():
        offsets = pa.py_buffer(np.array([0, len(content)], np.int32))  # not decoded, which takes longer
        try:
            pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(content)]).cast(pa.string())
        except pa.ArrowInvalid:
            return False
    return True


def _has_null_items(kind: pa.DataType) -> bool:
    """Whether it is one of lists that were all empty or had nulls only, which Arrow's reader mixes up."""
    if types.is_struct(kind):
        return any(_has_null_items(field.type) for field in kind)
    return types.is_list(kind) and (types.is_null(kind.value_type) or _has_null_items(kind.value_type))


def _is_exact(array: pa.Array) -> bool:
    """Whether no float in it may have been a whole number, such as 1, and no null of an object a key that it lacks."""
    kind = array.type
    if types.is_struct(kind):
        return all(field.null_count == array.null_count and _is_exact(field) for field in array.flatten())
    if types.is_list(kind):
        return _is_exact(array.flatten())
    return not types.is_floating(kind) or not pc.any(pc.equal(pc.floor(array), array)).as_py()
