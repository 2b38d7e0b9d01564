"""Tables of a CSV file: all columns text as it stands there, but for those whose types are asked for."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Optional

import pyarrow as pa

from rayllm_batch.data import columns
from rayllm_batch.data.column_types import is_text
from rayllm_batch.data.file_text import BLOCK_BYTES, FileText
from rayllm_batch.data.read_options import BAD_LINE, RESERVED, shown
from rayllm_batch.errors import DatasetError, did_you_mean

LONGEST_CELL = 1 << 28
TRIED_ROWS = 20  # to find the separator
_NAMED_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)  # the first line of what Excel is to read
_NOT_TEXT = re.compile("[\ud800-\udfff]")


def csv_tables(text: FileText, size: int = BLOCK_BYTES) -> Iterator[pa.Table]:
    """Of about `size` bytes each. An empty cell is "" in a column of text, and null in one of another type."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    with text.opened() as stream:
        rows = _rows(text, text.characters(stream))
        names = _header(rows, text)
        table = _Table(names, text)
        for number, cells, problem in rows:
            table.add(number, cells, problem)
            if table.size >= size:
                yield table.made()
                table = _Table(names, text)
        if table.numbers:
            yield table.made()


def _rows(text: FileText, lines: Iterator[str]) -> Iterator[tuple[int, list[str], str]]:
    """Each row's first line, its cells, and why they cannot be read. After such a row it goes on at the next line."""
    again = deque(islice(lines, TRIED_ROWS))
    number, tried = 0, 0
    row: list[str] = []  # the lines of the row at hand
    if named := _NAMED_SEPARATOR.fullmatch(again[0]) if again else None:
        again.popleft()
        number = 1
    separator = named[1] if named else _separator(list(again), text.path)

    def read() -> Iterator[str]:
        nonlocal number
        while (line := again.popleft() if again else next(lines, None)) is not None:
            # In a quote, behind a row that failed further on: it would fail there too. Trying would take the square of
            # the lines.
            if row and number < tried:
                again.appendleft(line)
                return
            number += 1
            row.append(line)
            yield line

    while True:
        reader, problem = csv.reader(read(), delimiter=separator, strict=True), ""
        while not problem:
            row.clear()
            first = number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                is_open = "unexpected end" in str(error) or "limit" in str(error)
                why = "a quote is opened and not closed" if is_open else str(error)
                cells, problem = [], f"is not CSV ({why}): {shown(row[0])}."
                again.extendleft(reversed(row[1:]))
                number, tried = first, max(number, tried)
            if cells or problem:
                yield first, cells, problem
            elif not row:
                return


class _Table:
    """The rows of one table."""

    def __init__(self, names: list[str], text: FileText) -> None:
        self._names, self._text, self._options = names, text, text.options
        self.size = 0
        self.numbers: list[int] = []
        self._cells: list[Sequence[Optional[str]]] = []
        self._errors: list[Optional[str]] = []

    def add(self, number: int, cells: list[str], problem: str) -> None:
        if not problem and len(cells) != len(self._names):
            problem = (
                f"has {len(cells)} cell(s) where the header has {len(self._names)}: {shown(','.join(cells))}. A cell "
                "with the separator, a quote or a line break in it must be quoted."
            )
        self.numbers.append(number)
        self._cells.append(cells)
        self._errors.append(None)
        self.size += sum(map(len, cells)) + 1
        if problem:
            self._refuse(-1, f"{self._where(-1)} {problem}")

    def made(self) -> pa.Table:
        made = {}
        for name, cells in zip(self._names, zip(*self._cells, strict=True), strict=True):
            kind = self._options.column_types.get(name, pa.string())
            text = is_text(kind) or pa.types.is_string_view(kind)
            values = [None if value == "" and not text else value for value in cells]
            try:
                made[name] = pa.array(values, pa.string()).cast(kind)
            except (pa.ArrowException, ValueError) as error:
                bad = [(i, why) for i, value in enumerate(values) if value and (why := self._why(i, name, value, kind))]
                if not bad:
                    raise DatasetError(
                        f"The column {name!r} of {self._text.path!r} cannot be {kind}, as column_types says: {error}"
                    ) from None
                for i, why in bad:
                    self._refuse(i, why)
                return self.made()
        if self._options.keeps:
            made[BAD_LINE] = pa.array(self._errors, pa.string())
        return pa.table(made)

    def _why(self, i: int, name: str, value: str, kind: pa.DataType) -> str:
        """Why a value cannot be of its column's type; "" where it can."""
        if _NOT_TEXT.search(value):
            return self._text.not_text(value, self._where(i))
        try:
            pa.array([value]).cast(kind)
        except (pa.ArrowException, ValueError):
            return f"{self._where(i)}: column {name!r} is {shown(value)}, which is no {kind}."
        return ""

    def _where(self, i: int) -> str:
        return f"Line {self.numbers[i]} of {self._text.path!r}"

    def _refuse(self, i: int, why: str) -> None:
        self._errors[i] = self._options.bad_row(why)[BAD_LINE]
        self._cells[i] = [None] * len(self._names)


def _header(rows: Iterator[tuple[int, list[str], str]], text: FileText) -> list[str]:
    """The columns' names; none of a file without lines."""
    number, names, problem = next(rows, (0, [], ""))
    if not number:
        return []
    where = f"Line {number} of {text.path!r}, the header,"
    if problem:
        raise DatasetError(f"{where} {problem}")
    if damaged := next((name for name in names if _NOT_TEXT.search(name)), None):
        raise DatasetError(text.not_text(damaged, where))
    if unnamed := [str(i) for i, name in enumerate(names, start=1) if not name.strip()]:
        index = " pandas writes such a column unless it is told to_csv(index=False)." if unnamed == ["1"] else ""
        raise DatasetError(f"{where} has no name for column {', '.join(unnamed)} of {len(names)}. Give it one.{index}")
    check_names(names, text.path)
    for name in text.options.column_types:
        if name not in names:
            raise DatasetError(
                f"column_types names {name!r}, which is not in {text.path!r}.{did_you_mean(name, names)}"
            )
    return names


def check_names(names: list[str], path: str) -> None:
    """Raise DatasetError when two columns have one name, or one has a name of ours."""
    columns.check_names(names, repr(path))
    if ours := [name for name in names if name.startswith(RESERVED)]:
        raise DatasetError(f"{path!r} has the column {', '.join(map(repr, ours))}, which a run uses. Rename it.")


def _separator(lines: list[str], path: str) -> str:
    """The one that divides the header; of several, the one with which most of the next rows have as many cells as it.

    Of those, not one that a space follows, as a comma in words, and then the one that divides most.
    """

    def fitness(separator: str) -> tuple[float, ...]:
        try:
            header = next(filter(None, csv.reader(lines, delimiter=separator, strict=True)), [])
            widths = [len(cells) for cells in csv.reader(lines, delimiter=separator) if cells]
        except csv.Error:  # a quote ends where this separator does not come
            return (0,)
        if len(header) < 2 or any('"' in name for name in header):
            return (0,)
        widths = widths[:-1] or widths  # the last may be cut
        is_prose = any(name.startswith(" ") for name in header)
        return 1, widths.count(len(header)) / len(widths), not is_prose, len(header)

    return max("\t,;|" if ".tsv" in path.lower() else ",\t;|", key=fitness)
