"""The dataset beside a folder of answers, without an engine: which rows are new, which are asked something else now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rayllm_batch.data.row_id import ID_BYTES, as_pairs, row_ids
from rayllm_batch.output import run_columns
from rayllm_batch.output.finished_rows import UNKNOWN, Asked, FinishedRows
from rayllm_batch.workers.prompts import OF_MEDIA, PromptJob, digest_of, prompt_tables

if TYPE_CHECKING:
    import ray.data

SAY_EVERY_S = 10.0
BATCH_ROWS, MEDIA_BATCH_ROWS = 4096, 64  # those with media may have megabytes each
FOUND_SCHEMA = pa.schema(
    [
        ("known", pa.binary()),
        ("changed", pa.binary()),
        ("compared", pa.int64()),
        ("new", pa.int64()),
        ("unread", pa.int64()),
        ("why", pa.string()),
    ]
)


@dataclass
class Survey:
    """known: the finished rows, and which of them were read. order: their ids as they were read, if asked for.

    changed: the ids of those that are asked something else now, of the `compared`. new: rows that are not finished,
    also those that are there more often than they are finished. unread: finished rows whose media cannot be read now,
    as behind an address that has expired, so that they cannot be compared; why: the error of one.
    """

    known: FinishedRows
    order: bytearray = field(default_factory=bytearray)
    changed: bytearray = field(default_factory=bytearray)
    compared: int = 0
    new: int = 0
    unread: int = 0
    why: str = ""


def survey(
    rows: ray.data.Dataset,
    asked: Asked,
    job: PromptJob,
    *,
    parse: bool,
    keep_order: bool = False,
    with_media: bool = False,
) -> Survey:
    """Reads every row once, in Ray tasks on CPUs; with `parse`, finds out what is asked for the finished ones too."""
    import ray

    began = said = time.monotonic()
    found, read = Survey(FinishedRows(asked.rows)), 0
    arguments = {"job": job, "asked": ray.put(asked), "parse": parse}
    some = MEDIA_BATCH_ROWS if with_media else BATCH_ROWS
    for row in rows.map_batches(look, fn_kwargs=arguments, batch_format="pyarrow", batch_size=some).iter_rows():
        found.known.saw(row["known"])
        read += len(row["known"]) // ID_BYTES + row["new"]
        if keep_order:
            found.order += row["known"]
        found.changed += row["changed"]
        found.compared += row["compared"]
        found.new += row["new"]
        found.unread, found.why = found.unread + row["unread"], found.why or row["why"]
        if time.monotonic() - said >= SAY_EVERY_S:
            said = time.monotonic()
            print(f"comparing the data with the folder ... {read:,} rows, {said - began:.0f} s", flush=True)
    found.new += sum(found.known.owed().values())
    return found


def are_asked_the_same(tables: Sequence[pa.Table], asked: Asked, job: PromptJob) -> bool:
    """Whether the finished ones of these rows are, found out in this process.

    The user's code may do otherwise here than in a task: where it is not so, a task has to say it.
    """
    # In a thread: on the main one, an interrupt is an error of a row, and one that lasts ends the process.
    pool = ThreadPoolExecutor(1)
    try:
        found = (pool.submit(compared, table, job, asked, True).result().to_pylist()[0] for table in tables)
        return not any(one["changed"] or one["unread"] for one in found)
    except Exception:  # what reads prompts may not be on this machine
        return False
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def look(table: pa.Table, job: PromptJob, asked: Any, parse: bool) -> pa.Table:
    """One row, of FOUND_SCHEMA, for a batch. asked: an object of the Ray store, Asked."""
    import ray

    return compared(table, job, ray.get(asked), parse)


def compared(table: pa.Table, job: PromptJob, before: Asked, parse: bool) -> pa.Table:
    ids = row_ids(table, job.id_column)
    places = before.rows.find(as_pairs(b"".join(ids)))
    known = np.flatnonzero(places >= 0)
    changed: list[bytes] = []
    unread: list[str] = []
    witnessed = known[before.digests[places[known]] != UNKNOWN] if parse else known[:0]
    if len(witnessed):
        now = prompt_tables(table.take(pa.array(witnessed)), replace(job, with_row_ids=False, sort=False))
        rows = (row for part in now for row in run_columns.stage_rows(part))  # a part after the other
        for i, row in zip(witnessed, rows, strict=True):
            error = row[run_columns.STAGE_ERROR] or ""
            if error.startswith(OF_MEDIA):
                unread.append(error)
            elif digest_of(row, job) != before.digests[places[i]]:
                changed.append(ids[i])
    counts = (len(witnessed) - len(unread), len(ids) - len(known), len(unread), next(iter(unread), ""))
    values = (b"".join(ids[i] for i in known), b"".join(changed), *counts)
    return pa.table([[value] for value in values], schema=FOUND_SCHEMA)
