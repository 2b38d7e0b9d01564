"""Whether the answers of a run will fit on the disk of its output folder, as far as the first rows tell."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rayllm_batch.data.column_json import foreign
from rayllm_batch.data.row_id import ID_BYTES
from rayllm_batch.errors import OutputError
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_file import encoded
from rayllm_batch.run.rows import Rows

GIB = 1 << 30
BYTES_PER_TOKEN = 4  # of English text, which tokenizers cut into pieces of about four letters; other scripts take more
# Of a logprob with its token, id and rank: 9 and 85 of random words of sample articles (128 tokens, k from 0 to 20).
LOGPROB_BYTES = {"parquet": 9, "jsonl": 85}
NUMBER_BYTES = {"parquet": 5, "jsonl": 21}  # of a vector's, of float32: 512 random ones of 1,024
COUNTS_BYTES = 32  # a row's two token counts, its finish reason and error, besides its id
# Of the input columns' size by the first rows. Later rows may be shorter, and a part of 64 MiB compresses better than a
# few rows. Only what does not fit even so is refused, since a run that would have fitted must not be.
SURE = 0.25

log = logging.getLogger("rayllm_batch")


def check_output_room(folder: OutputFolder, rows: Rows, workload: Any) -> None:
    """Raise OutputError when the rows still to be written surely do not fit, and warn when they may not.

    Left alone are a folder that is not on this machine's disks, and data whose number of rows is not known.
    Refused too are Python objects of kinds that a file cannot hold.
    """
    for row in rows.sample:
        for name, value in row.items():
            if kind := foreign(value):
                raise OutputError(
                    f"A file cannot hold the column {name!r}: it has Python objects of type {kind.__qualname__}. "
                    "Convert them in load_dataset, to a dict, a list or text, or drop the column; or run without "
                    "output_path."
                )
    if not folder.place.is_local or rows.total is None:
        return
    row_bytes = _row_bytes(rows.sample, folder.format)
    left = max(rows.total - folder.rows, 0)
    free = shutil.disk_usage(folder.place.root).free
    task, settings = rows.task, getattr(workload, rows.task.settings_key, None) or {}
    tokens = task.most_generated_tokens(settings) or 0
    columns = task.schema.names
    # The text again, typed; and the first of several answers stands twice.
    written = tokens * (1 + ("parsed" in columns)) + tokens // task.seats * ("generated_texts" in columns)
    logprobs = task.most_logprobs(settings, _prompt_tokens(rows.chats))
    answer_bytes = written * BYTES_PER_TOKEN + logprobs * LOGPROB_BYTES[folder.format]
    answer_bytes += task.numbers * NUMBER_BYTES[folder.format]
    least = 0 if rows.total_is_a_limit else int(left * (row_bytes * SURE + ID_BYTES))
    most = int(left * (row_bytes + ID_BYTES + COUNTS_BYTES + answer_bytes))
    mend = (
        f"but the disk of {folder.given!r} has {free / GIB:,.1f} GiB free. Make room, or give an output_path on a "
        "larger disk, or a URI (s3://, gs://)."
    )
    if least > free:
        raise OutputError(
            f"The output does not fit: {left:,} rows with input columns of about {row_bytes:,.0f} bytes each as "
            f"{folder.format} need {least / GIB:,.1f} GiB at the very least, {mend}"
        )
    if most > free:
        need = f"{left:,} rows need up to {most / GIB:,.1f} GiB"
        each = f" with {logprobs:,} logprobs" if logprobs else ""
        by = f"by the size of the first rows and {tokens:,} tokens a row{each}"
        log.warning("The output may not fit: %s, %s, %s", need, by, mend)


def _prompt_tokens(chats: Sequence[dict[str, Any]]) -> int:
    """Of a row, nearly; 0 where no row is known."""
    lengths = [
        len(chat["prompt_token_ids"])
        if "prompt_token_ids" in chat
        else len(str(chat.get("messages") or chat.get("prompt"))) // BYTES_PER_TOKEN
        for chat in chats
    ]
    return sum(lengths) // max(1, len(lengths))


def _row_bytes(sample: list[dict[str, Any]], output_format: str) -> float:
    """The size of the input columns of one row as they will be written; 0 where it is not known."""
    try:
        table = pa.Table.from_pylist(sample)
        once = len(encoded(table.slice(0, 0), output_format).content)  # what a file has once, such as its schema
        return max(0, len(encoded(table, output_format).content) - once) / len(sample)
    except Exception:  # images and the like, to which Ray Data gives types of its own: no reason to end a run
        return 0.0
