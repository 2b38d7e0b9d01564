"""Tables of a CSV file: all columns text as it stands there, but for those whose types are asked for."""

from __future__ import annotations

import csv
import functools
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import pyarrow as pa

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
        rows = _Rows(text, text.characters(stream))
        names = _header(rows, text)
        if names is None:
            return
        columns = _Columns(names, text)
        for number, cells, problem in rows:
            columns.add(number, cells, problem)
            if columns.size >= size:
                yield columns.taken()
        if columns.numbers:
            yield columns.taken()


class _Rows:
    """Each row's first line, its cells, and why they cannot be read. After such a row it goes on at the next line."""

    def __init__(self, text: FileText, lines: Iterator[str]) -> None:
        self._lines, self._number, self._tried = lines, 0, 0
        self._again: deque[str] = deque()
        self._row: list[str] = []  # the lines of the row at hand
        first = [line for _, line in zip(range(TRIED_ROWS), lines, strict=False)]
        named = _NAMED_SEPARATOR.fullmatch(first[0]) if first else None
        if named:
            first, self._number = first[1:], 1
        self._again.extend(first)
        self._separator = named[1] if named else _separator(first, text.path)

    def _line(self) -> Iterator[str]:
        while True:
            line = self._again.popleft() if self._again else next(self._lines, None)
            # In a quote, behind a row that failed further on: it would fail there too. Trying would take the square of
            # the lines.
            if line is None or self._row and self._number < self._tried:
                self._again.extendleft([line] if line is not None else [])
                return
            self._number += 1
            self._row.append(line)
            yield line

    def __iter__(self) -> Iterator[tuple[int, list[str], str]]:
        while True:
            reader = csv.reader(self._line(), delimiter=self._separator, strict=True)
            while True:
                self._row.clear()
                first = self._number + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    why = (
                        "a quote is opened and not closed"
                        if "unexpected end" in str(error) or "limit" in str(error)
                        else str(error)
                    )
                    self._again.extendleft(reversed(self._row[1:]))
                    self._number, self._tried = first, max(self._number, self._tried)
                    yield first, [], f"is not CSV ({why}): {shown(self._row[0])}."
                    break
                if cells:
                    yield first, cells, ""
                elif not self._row:
                    return


class _Columns:
    """The rows that are not yet in a table."""

    def __init__(self, names: list[str], text: FileText) -> None:
        self._names, self._text, self._options = names, text, text.options
        self._clear()

    def _clear(self) -> None:
        self.size = 0
        self.numbers: list[int] = []
        self._cells: list[Sequence[Optional[str]]] = []
        self._errors: list[Optional[str]] = []

    def _where(self, number: int) -> str:
        return f"Line {number} of {self._text.path!r}"

    def add(self, number: int, cells: list[str], problem: str) -> None:
        if not problem and len(cells) != len(self._names):
            problem = (
                f"has {len(cells)} cell(s) where the header has {len(self._names)}: {shown(','.join(cells))}. A cell "
                "with the separator, a quote or a line break in it must be quoted."
            )
        self.numbers.append(number)
        self._cells.append([None] * len(self._names) if problem else cells)
        self._errors.append(self._options.bad_row(f"{self._where(number)} {problem}")[BAD_LINE] if problem else None)
        self.size += sum(map(len, cells)) + 1

    def taken(self) -> pa.Table:
        """The table of them, which then are no longer here."""
        columns: dict[str, Any] = dict(zip(self._names, map(list, zip(*self._cells, strict=True)), strict=True))
        for name, values in columns.items():
            try:
                columns[name] = pa.array(values, pa.string())
            except UnicodeEncodeError:
                self._refuse(
                    values, lambda where, value: self._text.not_text(value, where) if _NOT_TEXT.search(value) else None
                )
                return self.taken()
        for name, kind in self._options.column_types.items():
            text = is_text(kind) or pa.types.is_string_view(kind)
            values = [None if value == "" and not text else value for value in columns[name].to_pylist()]
            try:
                columns[name] = pa.array(values, pa.string()).cast(kind)
            except (pa.ArrowException, ValueError) as error:
                if not self._refuse(values, functools.partial(_not_of_type, name=name, kind=kind)):
                    raise DatasetError(
                        f"The column {name!r} of {self._text.path!r} cannot be {kind}, as column_types says: {error}"
                    ) from None
                return self.taken()
        if self._options.keeps:
            columns[BAD_LINE] = pa.array(self._errors, pa.string())
        self._clear()
        return pa.table(columns)

    def _refuse(self, values: list[Optional[str]], why: Any) -> bool:
        """Makes bad lines of the rows whose value has a problem, if there are any."""
        found = False
        for i, value in enumerate(values):
            if value is not None and (problem := why(self._where(self.numbers[i]), value)):
                self._errors[i] = self._options.bad_row(problem)[BAD_LINE]
                self._cells[i] = [None] * len(self._names)
                found = True
        return found


def _not_of_type(where: str, value: str, name: str, kind: pa.DataType) -> Optional[str]:
    try:
        pa.array([value]).cast(kind)
    except (pa.ArrowException, ValueError):
        return f"{where}: column {name!r} is {shown(value)}, which is no {kind}."
    return None


def _header(rows: _Rows, text: FileText) -> Optional[list[str]]:
    """The columns' names, or None of a file without lines."""
    number, names, problem = next(iter(rows), (0, [], ""))
    if not number:
        return None
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
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise DatasetError(f"{path!r} has the column {', '.join(map(repr, twice))} more than once. Rename one of them.")
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
