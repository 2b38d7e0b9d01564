"""Answered rows become part files, as they come and before long."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from contextlib import nullcontext, suppress
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch.data import columns
from rayllm_batch.data.row_id import UniqueIds, as_pairs
from rayllm_batch.errors import DatasetError, OutputError
from rayllm_batch.output import run_columns
from rayllm_batch.output.finished_rows import DIGEST, UNKNOWN
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_file import encoded
from rayllm_batch.uri import advice

PART_BYTES = 64 << 20
# Seconds that an answer may wait in memory: what a killed driver computes again at most, besides the rows in the
# engines. It grows with the run, so that a day's work is some thousands of files: a fiftieth of the time so far.
WAIT_S = (2.0, 30.0)
MANIFEST_EVERY_S = 5.0


class PartWriter:
    """Use as a context manager; leaving it writes what is there, also after an error or an interrupt.

    unique: ids come from a column whose values the user says are unique; DatasetError when one comes twice.
    """

    def __init__(self, folder: OutputFolder, unique_column: Optional[str] = None) -> None:
        self._folder, self._unique_column = folder, unique_column
        self._run_id, self._numbers = uuid.uuid4().hex[:8], itertools.count(folder.next_number())
        self._began = time.time()
        # Rows as they came, and, with their names, parts that are being written.
        self._waiting: dict[str, list[tuple[str, pa.Table]]] = {"part": [], "failed": []}
        self._waiting_bytes, self._oldest = 0, 0.0
        self._ids = UniqueIds()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._error: Optional[BaseException] = None
        self._schema = folder.schema  # of the newest part: it only grows from part to part
        self._thread = threading.Thread(target=self._keep_flushing, name="part-writer", daemon=True)

    def __enter__(self) -> PartWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._flush(last=True)
        if self._error is not None and kind is None:  # else it would hide the one that ends the run
            raise self._error

    def add(self, table: pa.Table) -> None:
        """Rows with their ids. Raises OutputError when they, or earlier ones, cannot be written."""
        with self._lock:
            self._check_unique(table)
            is_error = pa.compute.is_valid(table.column("error"))
            for kind, mask in (("part", pa.compute.invert(is_error)), ("failed", is_error)):
                rows = table.filter(mask)
                if rows.num_rows:
                    self._waiting[kind].append(("", rows))
            self._oldest = self._oldest or time.time()
            self._waiting_bytes += table.nbytes
            if self._waiting_bytes >= PART_BYTES:
                self._flush()
            if self._error is not None:
                raise self._error

    def _keep_flushing(self) -> None:
        while not self._stop.wait(0.5):
            longest = min(max(WAIT_S[0], (time.time() - self._began) / 50), WAIT_S[1])
            with self._lock:
                if self._oldest and time.time() - self._oldest >= longest:
                    self._flush()

    def _flush(self, last: bool = False) -> None:
        """Writes what waits. What goes wrong is kept for the main thread to raise; after it, nothing is written."""
        if self._error is not None:
            return
        folder = self._folder
        try:
            for kind, waiting in self._waiting.items():
                self._store_all(kind, waiting)
            self._waiting_bytes, self._oldest = 0, 0.0
            # While the run goes on, the parts are what counts.
            with nullcontext() if last else suppress(OSError):
                folder.write_manifest("unfinished", 0.0 if last else MANIFEST_EVERY_S)
        except OSError as error:
            self._error = OutputError(
                f"The output folder {folder.given!r} cannot be written: {str(error).rstrip('.')}. The "
                f"{folder.rows:,} rows written so far are safe. {advice(error, 'Make room, or mend the folder.')} Then "
                "run the same again: it continues."
            )
        except Exception as error:
            self._error = error

    def _store_all(self, kind: str, waiting: list[tuple[str, pa.Table]]) -> None:
        # A part keeps its name until it is out of the list: Ctrl-C may come between any two steps, and what was
        # stored just then is stored once more on leaving, over itself.
        if tables := [table for name, table in waiting if not name]:
            name = f"{kind}-{next(self._numbers):06d}-{self._run_id}.{self._folder.format}"
            waiting[:] = [*(part for part in waiting if part[0]), (name, self._one_table(tables))]
        while waiting:
            name, table = waiting[0]
            asked = table.column(run_columns.ASKED).fill_null(UNKNOWN).to_numpy().astype(DIGEST).tobytes()
            file = encoded(table.drop_columns([run_columns.ROW_ID, run_columns.ASKED]), self._folder.format)
            self._folder.store(name, file, _ids_of(table), asked)
            waiting.pop(0)

    def _one_table(self, tables: list[pa.Table]) -> pa.Table:
        """All parts of a job have one schema, as far as it goes: a column that was all null takes its type later."""
        tables = [columns.carried(table, tables[0].schema) for table in tables]
        table = columns.merged(pa.concat_tables(tables, promote_options="default"), self._schema)
        self._schema = table.drop_columns([run_columns.ROW_ID, run_columns.ASKED]).schema
        return table.combine_chunks()

    def _check_unique(self, table: pa.Table) -> None:
        if self._unique_column is None:
            return
        twice = self._ids.add(as_pairs(_ids_of(table)))
        if twice.any():
            value = columns.rows(table.slice(int(twice.argmax()), 1))[0][self._unique_column]
            raise DatasetError(
                f"id_column={self._unique_column!r} is not unique: {value!r} comes more than once. Name a column whose "
                "values are, or leave id_column out: then a row's content tells it from others."
            )


def _ids_of(table: pa.Table) -> bytes:
    return b"".join(table.column(run_columns.ROW_ID).to_pylist())
