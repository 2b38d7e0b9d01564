"""Tables of a CSV file: all columns text as it stands there, but for those whose types are asked for."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Optional

import pyarrow as pa

from rayllm_batch.data.column_types import is_text
from rayllm_batch.data.columns import check_names as check_columns
from rayllm_batch.data.file_text import BLOCK_BYTES, LONE_SURROGATE, FileText, in_batches
from rayllm_batch.data.read_options import BAD_LINE, RESERVED, shown
from rayllm_batch.errors import DatasetError, did_you_mean

Row = tuple[int, list[str], str]  # its first line's number, its cells, and why they are no row: " is not CSV"
LONGEST_CELL = 1 << 28
TRIED_ROWS = 20  # to find the separator
SHOWN = 200  # characters of a bad line, in which the cell that breaks it is mostly seen
_NAMED_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)  # the first line of what Excel is to read


def csv_tables(text: FileText, size: int = BLOCK_BYTES) -> Iterator[pa.Table]:
    """Of about `size` bytes each. An empty cell is "" in a column of text, and null in one of another type."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    with text.opened() as stream:
        rows = _rows(text, text.characters(stream))
        names = _header(rows, text)
        # In lists of their own: of a tuple a row the garbage collector would make a third more time.
        numbers: list[int] = []
        problems: list[str] = []

        def sized() -> Iterator[tuple[list[str], int]]:
            for number, cells, problem in rows:
                numbers.append(number)
                problems.append(problem)
                yield cells, 1 + sum(map(len, cells))

        for batch in in_batches(sized(), size):
            yield _table(batch, numbers, problems, names, text)
            numbers.clear()
            problems.clear()


def _rows(text: FileText, lines: Iterator[str]) -> Iterator[Row]:
    """After a row that cannot be read it goes on at the next line. The first says how many cells each must have."""
    again = deque(islice(lines, TRIED_ROWS))
    number, tried, width = 0, 0, 0
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
                cells, problem = [], f" is not CSV ({why}): {shown(row[0], SHOWN)}."
                again.extendleft(reversed(row[1:]))
                number, tried = first, max(number, tried)
            width = width or len(cells)
            if cells and len(cells) != width:
                yield first, cells, _other_width(len(cells), width, separator, "".join(row))
            elif cells or problem:
                yield first, cells, problem
            elif not row:
                return


def _table(
    rows: list[list[str]], numbers: list[int], problems: list[str], names: list[str], text: FileText
) -> pa.Table:
    cells: list[Sequence[Optional[str]]] = []
    errors: list[Optional[str]] = []
    for row, number, problem in zip(rows, numbers, problems, strict=True):
        if not problem:
            errors.append(None)
            cells.append(row)
            continue
        errors.append(text.options.bad_row(f"Line {number} of {text.path!r}{problem}")[BAD_LINE])
        cells.append([None] * len(names))
    columns = {}
    for name, column in zip(names, zip(*cells, strict=True), strict=True):
        kind = text.options.column_types.get(name, pa.string())
        is_empty_null = not is_text(kind) and not pa.types.is_string_view(kind)
        values = [None if value == "" else value for value in column] if is_empty_null else list(column)
        try:
            columns[name] = pa.array(values, pa.string()).cast(kind)
        except (pa.ArrowException, ValueError) as error:
            found = [_problem(value, name, kind, text) if value else "" for value in values]
            if not any(found):
                why = f"cannot be {kind}, as column_types says: {error}"
                raise DatasetError(f"The column {name!r} of {text.path!r} {why}") from None
            known = [old or new for old, new in zip(problems, found, strict=True)]
            return _table(rows, numbers, known, names, text)
    if text.options.keeps:
        columns[BAD_LINE] = pa.array(errors, pa.string())
    return pa.table(columns)


def _other_width(found: int, wanted: int, separator: str, line: str) -> str:
    """Why a row with so many cells is none. line: as it stands in the file, of several lines where a cell has some."""
    if found > wanted:
        advice = f"A cell with {separator!r} in it must stand in quotes, and a quote in it must be doubled."
    else:
        advice = (
            "An empty cell needs its separator too; or a line break in a cell, which must then stand in quotes, has "
            "cut the row in two."
        )
    has = f" has {found} cell(s) where the header has {wanted}, with the separator {separator!r}"
    return f"{has}: {shown(line, SHOWN)}. {advice}"


def _problem(value: str, name: str, kind: pa.DataType, text: FileText) -> str:
    """Why a value cannot be of its column's type; "" where it can."""
    if LONE_SURROGATE.search(value):
        return text.not_text(value, "")
    try:
        pa.array([value]).cast(kind)
    except (pa.ArrowException, ValueError):
        return f": column {name!r} is {shown(value)}, which is no {kind}."
    return ""


def _header(rows: Iterator[Row], text: FileText) -> list[str]:
    """The columns' names; none of a file without lines."""
    number, names, problem = next(rows, (0, [], ""))
    if not number:
        return []
    where = f"Line {number} of {text.path!r}, the header,"
    if problem:
        raise DatasetError(f"{where}{problem}")
    if damaged := next((name for name in names if LONE_SURROGATE.search(name)), None):
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
    check_columns(names, repr(path))
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
