"""`run(output_path=...)`: a folder of part files, a manifest that says which job it is, and the ids of finished rows.

    output_path/part-000001-1f3a9c20.parquet      answered rows
    output_path/failed-000002-1f3a9c20.parquet    rows with an error, apart, so that they can be run again
    output_path/_rayllm_batch/manifest.json       the job, its state and its progress
    output_path/_rayllm_batch/metrics.json        what the last run did, in numbers
    output_path/_rayllm_batch/report.json         the same over time, with settings: what its report is made of
    output_path/_rayllm_batch/rows/NAME.ids       for each part: its size, its schema, the id of each of its rows, and a
                                                  digest of what was asked for it
    output_path/_rayllm_batch/order.ids           of a run that keeps the order: all ids in the order of reading
    output_path/_rayllm_batch/set_aside/          what was cut short, and rows that were run again

A part counts when its ids are there and its size is what they say. Ids are written first, so whatever is killed at
whatever moment leaves a part that counts or one that does not, and rows that do not count are computed again.

Where nothing was computed, nothing of this is left: a folder that was not there is not there again.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.fs

from rayllm_batch.data.row_id import ID_BYTES, RowCounts, as_pairs
from rayllm_batch.errors import OutputError, one_line
from rayllm_batch.output.fingerprint import Job, differences
from rayllm_batch.output.finished_rows import DIGEST, Asked
from rayllm_batch.output.lock import FolderLock
from rayllm_batch.output.part_file import PartFile, joined, some_rows, texts_of
from rayllm_batch.output.part_reader import Piece, in_order, one_after_the_other, read_pieces, schema_of
from rayllm_batch.output.place import INSIDE, UNFINISHED, OutputPlace
from rayllm_batch.output.records import NAME, Manifest, PartRecord, number_of, other_format, read_records, replaced
from rayllm_batch.uri import RETRY_S, advice, passes

if TYPE_CHECKING:
    import ray.data

FORMATS = ("parquet", "jsonl")
SCAFFOLD = ("rows", "set_aside")  # folders in INSIDE
MERGED_BYTES, FEW_PARTS = 64 << 20, 16  # of files; so many small ones are no trouble

log = logging.getLogger("rayllm_batch")


class OutputFolder:
    """The folder of one job, locked for one driver while it is open (`with OutputFolder(...) as folder`).

    output_path: a local folder, or a URI that pyarrow knows (s3://, gs://, hdfs://); made if it is not there.
    job:         what `fingerprint.describe_job` gives. A folder of other settings is refused; where hints differ,
                 `changed` has them, until `accept` is called.

    Raises OutputError on entry.
    """

    def __init__(self, output_path: str | os.PathLike[str], job: Job, output_format: str) -> None:
        if output_format not in FORMATS:
            raise OutputError(f"output_format must be one of {', '.join(FORMATS)}, given {output_format!r}.")
        self.place = OutputPlace(output_path)
        self.given = self.place.given
        self.format, self._job, self._fingerprint = output_format, job, job.fingerprint
        self.changed: list[str] = []  # differences of hints
        self.same_rows = False  # the data is, as far as can be known without reading it, that which was read
        self.kept = False  # of some answers it is known that something else was asked, and the user keeps them
        self._answered = job  # with the hints and the rows of the answers in it
        self.parts: dict[str, PartRecord] = {}
        self._schema = b""
        self.complete = False
        self.set_aside: list[str] = []
        self._lock = FolderLock(self.place, self.place.inside("lock"))
        self._made: list[str] = []  # folders that were not there, the innermost first; on a disk
        self._is_ours = False  # what stands in INSIDE is of this class, and of a format that it knows
        self._manifest_at = 0.0

    def __enter__(self) -> OutputFolder:
        cannot_be, mend = "written", "Choose another output_path."
        try:
            self._refuse_foreign()
            self._made = _missing(self.place.root) if self.place.is_local else []
            if not self.place.is_local:
                self.place.fs.create_dir(self.place.inside(), recursive=True)
            self._lock.acquire()
            # Only now: who held the lock before may have removed what was empty.
            for name in SCAFFOLD:
                self.place.fs.create_dir(self.place.inside(name), recursive=True)
            cannot_be, mend = "used", "Make room, or mend the folder, and run the same again."
            self._open()
            self._is_ours = True
        except BaseException as error:
            self._release()
            if isinstance(error, (OSError, pa.ArrowInvalid)):  # the latter for gs:// where there is no such bucket
                said = str(error).partition(" error_info=")[0]
                why = f"{said.rstrip('.')}. {advice(error, mend)}"
                raise OutputError(f"The output folder {self.given!r} cannot be {cannot_be}: {why}") from None
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._release()

    def _release(self) -> None:
        self._lock.release(self._clear)
        for folder in self._made:  # only what is empty; another driver may have begun there
            try:
                os.rmdir(folder)
            except OSError:
                break

    def _clear(self) -> bool:
        """While the lock is held: remove what was written about a job that has no rows. Returns whether that was so.

        On object storage the empty folder may stay, as a name: to remove it is to remove what comes into it meanwhile.
        """
        if not self._is_ours:
            return False
        place, inside = self.place, self.place.inside()
        listed = [info.base_name for info in place.listed(inside)]
        if {*listed} - {*SCAFFOLD, "lock", "manifest.json"} or any(
            place.listed(place.inside(name)) for name in SCAFFOLD
        ):
            return False
        if any(NAME.fullmatch(info.base_name) for info in place.listed(place.root)):
            return False
        if not place.is_local:
            place.fs.delete_dir(inside)
            return True
        for name in SCAFFOLD:
            if name in listed:
                os.rmdir(place.inside(name))
        for name in ("manifest.json", "lock"):  # the lock last: what comes behind it may be another driver's
            if name in listed:
                os.unlink(place.inside(name))
        os.rmdir(inside)
        return True

    @property
    def job(self) -> Job:
        return self._job

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts.values())

    @property
    def failed_rows(self) -> int:
        return sum(part.rows for part in self.parts.values() if part.failed)

    @property
    def schema(self) -> Optional[pa.Schema]:
        """Of the newest part, without the row ids. It only grows from part to part, also when a run is continued."""
        return schema_of(self._schema) if self._schema else None

    def errors(self) -> Iterator[str]:
        """Of each failed row."""
        for name, part in self.parts.items():
            if part.failed:
                content = self.place.read(self._path(name))
                try:
                    yield from texts_of(content, self.format, "error")
                except (pa.ArrowException, ValueError, LookupError) as error:
                    raise OutputError(
                        f"{name} in the output folder {self.given!r} cannot be read: {one_line(error)}. It was changed "
                        "after it was written. Delete it, and run the same again: its rows are run again."
                    ) from None

    def asked(self) -> Asked:
        """The rows that need not be computed again, and what was asked for each."""
        digests = [part.digests for part in self.parts.values()]
        return Asked(_ids_of(self.parts.values()), np.concatenate(digests or [np.empty(0, DIGEST)]))

    def accept(self, kept: Optional[bool] = None) -> None:
        """From here on the answers count as those of this job's code and data. kept: None where not compared."""
        self._answered, self.changed = replace(self._job, adapters=self._answered.adapters), []
        self.kept = self.kept if kept is None else kept

    def run_again(self, failed: bool = False, ids: bytes = b"") -> None:
        """Take rows out, which are then computed again: those with an error, and those with these ids."""
        out = {name for name, part in self.parts.items() if failed and part.failed}
        if out or ids:
            self.complete = False
            self.write_manifest("unfinished")
        wanted = RowCounts(as_pairs(ids))
        for part in [part for part in self.parts.values() if ids and not part.failed]:
            stay = wanted.find(as_pairs(part.ids)) < 0
            if stay.all():
                continue
            out.add(part.name)
            self._store_some(part, stay)
        for name in sorted(out):
            self._put_aside(name)
            del self.parts[name]

    def forget_failed(self, take_out: Callable[[bytes], np.ndarray]) -> int:
        """Put those failed rows aside that it says of, given ids, as FinishedRows.take_out; returns how many."""
        found = {part.name: take_out(part.ids) for part in self.parts.values() if part.failed}
        out = {name: gone for name, gone in found.items() if gone.any()}
        if out:
            self.complete = False
            self.write_manifest("unfinished")
        for name, gone in out.items():
            self._store_some(self.parts[name], ~gone)
            self._put_aside(name)
            del self.parts[name]
        return sum(int(gone.sum()) for gone in out.values())

    def _store_some(self, part: PartRecord, stay: np.ndarray) -> None:
        """These of its rows, if any, in a part of the same number: once that is there, this one does not count."""
        if stay.any():
            content = some_rows(self.place.read(self._path(part.name)), self.format, stay)
            newer = f"{part.name[: part.name.rindex('-')]}-{uuid.uuid4().hex[:8]}.{self.format}"
            self._store(content, part.some(stay, newer, len(content), self._fingerprint))

    def next_number(self) -> int:
        return 1 + max(map(number_of, self.parts), default=0)

    def store(self, name: str, file: PartFile, ids: bytes, asked: bytes = b"") -> None:
        """Add one part, all of it or nothing. Raises OSError, and OutputError where another driver took the folder.

        ids, asked: see PartRecord.
        """
        self._schema = file.schema.remove_metadata().serialize().to_pybytes()
        size, job = len(file.content), self._fingerprint
        self._store(file.content, PartRecord(name, ids, size, job, self._schema, file.as_text, asked))

    def _store(self, content: bytes | memoryview, part: PartRecord) -> None:
        for wait_s in (*RETRY_S, None):
            try:
                self._lock.check()  # each time: meanwhile the lease may have run out
                self.place.write(self._ids_path(part.name), part.content())
                self.place.write(self._path(part.name), content)
                break
            except OSError as error:
                if self.place.is_local or wait_s is None or not passes(error):
                    raise
                log.warning("%s cannot be written just now, again in %g s: %s", self.given, wait_s, one_line(error))
                time.sleep(wait_s)
        self.parts[part.name] = part

    def write_manifest(self, state: str, every_s: float = 0.0) -> None:
        """state: "unfinished" or "complete". Nothing is written within `every_s` seconds of the last time."""
        if time.time() - self._manifest_at < every_s:
            return
        Manifest(self._answered, self.format, state, self.rows, self.kept, self.failed_rows).write(self.place)
        self._manifest_at = time.time()

    def merge_small(self) -> None:
        """Small parts become parts of MERGED_BYTES, of a run that took hours. The answers are good without: it only
        warns.
        """
        small = [part for part in self.parts.values() if part.size < MERGED_BYTES // 2]
        if len(small) <= FEW_PARTS:
            return
        groups: dict[Any, list[list[PartRecord]]] = {}
        for part in sorted(small, key=lambda part: number_of(part.name)):
            alike = groups.setdefault((part.failed, part.schema, part.as_text, part.job, bool(part.asked)), [[]])
            if sum(one.size for one in alike[-1]) >= MERGED_BYTES:
                alike.append([])
            alike[-1].append(part)
        try:
            for parts in [parts for alike in groups.values() for parts in alike if parts[1:]]:
                self._merge(parts)
        except (OSError, ValueError, pa.ArrowException) as error:
            log.warning("The small files in %s stay as they are: %s", self.given, one_line(error))

    def _merge(self, parts: list[PartRecord]) -> None:
        content = joined(map(self._whole, parts), self.format)
        last = parts[-1].name  # its number stays: the newest part says the schema
        name = f"{last[: last.rindex('-')]}-{uuid.uuid4().hex[:8]}.{self.format}"
        self._store(content, PartRecord.of_all(parts, name, len(content)))
        for part in parts:
            del self.parts[part.name]
        for part in parts:  # killed in between, the new one says which count no more
            self.place.fs.delete_file(self._path(part.name))
            self.place.fs.delete_file(self._ids_path(part.name))

    def _whole(self, part: PartRecord) -> bytes:
        content = self.place.read(self._path(part.name))
        if len(content) != part.size:  # of lines that are missing nothing else would tell
            raise OSError(f"of {part.name} {len(content):,} bytes of {part.size:,} could be read")
        return content

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Of the last run that computed rows, in place of earlier ones. The answers are good without: it only warns."""
        self.write_beside("metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False).encode("utf-8", "replace"))

    def write_beside(self, name: str, content: bytes) -> None:
        """Something about the last run that computed rows; it only warns too."""
        path = self.place.inside(name)
        try:
            self._lock.check()
            self.place.write(path, content)
        except Exception as error:
            log.warning("The run's %s cannot be written to %s: %s.", name.partition(".")[0], path, error)

    def write_order(self, ids: bytes | memoryview) -> None:
        """The ids of all rows in the order of reading, which `dataset` then keeps."""
        self.place.write(self.place.inside("order.ids"), ids)

    def pieces(self) -> list[list[Piece]]:
        """What there is to read, a list a task: in the order of reading if that is known, else answered rows first."""
        parts = sorted(self.parts.values(), key=lambda part: (part.failed, part.name))
        pieces = [Piece(self._path(part.name), part.schema, part.as_text, part.rows, part.size) for part in parts]
        order = self._read_order()
        tasks = in_order(pieces, _ids_of(parts), as_pairs(order)) if order else None
        return tasks or one_after_the_other(pieces)

    def dataset(self) -> ray.data.Dataset:
        """All rows of the folder, each as it came: a column whose values are of several kinds has Python objects."""
        return read_pieces(self.pieces(), self.place.fs, self.format)

    @property
    def as_text(self) -> list[str]:
        """The columns that are JSON text in the files."""
        return sorted({name for part in self.parts.values() for name in part.as_text})

    @property
    def alike(self) -> bool:
        """Whether all parts have one schema."""
        return len({part.schema for part in self.parts.values()}) <= 1

    def has_as_is(self, column: Optional[str]) -> Optional[str]:
        """The column, where its values stand in the files as they came; else None."""
        if column is None or column in self.as_text or self.schema is None:
            return None
        kind = self.schema.field(column).type
        of_json = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
        return column if self.format == "parquet" or any(test(kind) for test in of_json) else None

    @property
    def has_order(self) -> bool:
        return bool(self._read_order())

    def _read_order(self) -> bytes:
        try:
            order = self.place.read(self.place.inside("order.ids"))
        except FileNotFoundError:
            return b""
        return order if len(order) == self.rows * ID_BYTES else b""

    def _refuse_foreign(self) -> None:
        """Before anything is made in a folder that is somebody else's."""
        if self.place.fs.get_file_info(self.place.root).type == pyarrow.fs.FileType.File:
            raise OutputError(f"output_path {self.given!r} is a file. Give the path of a folder, new or empty.")
        names = [info.base_name for info in self.place.listed(self.place.root)]
        if INSIDE not in names and not all(map(_is_ignored, names)):
            raise self._foreign(names)
        self._is_ours = INSIDE not in names

    def _foreign(self, names: list[str]) -> OutputError:
        shown = [name for name in sorted(names) if name != INSIDE and not _is_ignored(name)]
        return OutputError(
            f"The output folder {self.given!r} holds files that are not of a run of this library "
            f"({_first(shown)}). Give an empty or a new folder."
        )

    def _open(self) -> None:
        manifest = Manifest.read(self.place)
        listing = self.place.listed(self.place.root)
        sizes = {info.base_name: info.size for info in listing if info.is_file and NAME.fullmatch(info.base_name)}
        known = read_records(self.place)
        if not sizes and not known:
            manifest = None  # a job that wrote nothing, refused by a check perhaps, has no claim on the folder
        if manifest:
            manifest.check(self._job, self.format, self.given)
            before = manifest.job
            adapters = {**before.adapters, **self._job.adapters}
            self._answered = replace(self._job, hints=before.hints, rows=before.rows, adapters=adapters)
        else:
            self._compare_parts(sizes, known, [info.base_name for info in listing])
        self.changed = differences(self._answered.hints, self._job.hints)
        self._remove_unfinished()
        self._drop_replaced(sizes, known)
        for name in sorted({*sizes, *known}, key=number_of):
            if name in known and sizes.get(name) == known[name].size:
                self.parts[name] = known[name]
            elif name in sizes:
                self._put_aside(name)
                self.set_aside.append(name)
            else:
                self.place.fs.delete_file(self._ids_path(name))
        self._refuse_other_jobs()
        if manifest:  # the folder goes on from where it says that it was
            self._answered = self._answered if self.parts else self._job
            self.complete = manifest.state == "complete" and manifest.rows == self.rows
            self.kept = bool(self.parts) and manifest.kept is True
            self.same_rows = bool(self._job.rows) and self._answered.rows == self._job.rows
        if self.parts:
            self._schema = known[max(self.parts, key=number_of)].schema
        if not self.complete:
            self.write_manifest("unfinished")

    def _drop_replaced(self, sizes: dict[str, int], known: dict[str, PartRecord]) -> None:
        for older in replaced(known, sizes):
            if sizes.pop(older, None) is not None:
                self._put_aside(older)
                known.pop(older, None)

    def _refuse_other_jobs(self) -> None:
        # Of format 1, whose fingerprints were others, no part has digests.
        if foreign := [name for name, part in self.parts.items() if part.asked and part.job != self._fingerprint]:
            raise OutputError(
                f"The output folder {self.given!r} is of this job, but some parts are of another one, as if folders "
                f"had been merged: {_first(foreign)}. Move them away, or give another output_path."
            )

    def _compare_parts(self, sizes: dict[str, int], known: dict[str, PartRecord], names: list[str]) -> None:
        """Without a manifest, the parts say whose they are."""
        if known and {part.job for part in known.values()} != {self._fingerprint}:
            raise OutputError(
                f"The manifest of the output folder {self.given!r} cannot be read, and its rows are of another job. "
                "Give this run another output_path."
            )
        if known:  # what asked for them is not
            self._answered = replace(self._job, hints={})
        if sizes and not known or any(name not in (INSIDE, *sizes) and not _is_ignored(name) for name in names):
            raise self._foreign(names)
        if formats := {name.rpartition(".")[2] for name in sizes} - {self.format}:
            raise other_format(self.given, formats.pop(), self.format)

    def _remove_unfinished(self) -> None:
        """What a killed driver was writing: up to the size of a part each."""
        root, inside = self.place.root, self.place.inside
        for folder in (root, inside(), inside("rows")) if self.place.is_local else ():
            for info in self.place.listed(folder):
                if info.base_name.endswith(UNFINISHED) and (folder != root or _is_ignored(info.base_name)):
                    self.place.fs.delete_file(info.path)

    def _put_aside(self, name: str) -> None:
        # The rows first: ids without rows count for nothing.
        self.place.fs.move(self._path(name), self.place.inside("set_aside", name))
        ids = self._ids_path(name)
        if self.place.fs.get_file_info(ids).is_file:
            self.place.fs.delete_file(ids)

    def _path(self, name: str) -> str:
        return f"{self.place.root}/{name}"

    def _ids_path(self, name: str) -> str:
        return self.place.inside("rows", f"{name}.ids")


def _missing(folder: str) -> list[str]:
    """Of a folder and those that it is in, those that are not there, it first."""
    found = []
    while not os.path.lexists(folder):
        found.append(folder)
        folder = os.path.dirname(folder)
    return found


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _ids_of(parts: Iterable[PartRecord]) -> np.ndarray:
    return as_pairs(b"".join(part.ids for part in parts))


def _is_ignored(name: str) -> bool:
    """.DS_Store, .ipynb_checkpoints and the like; and what a killed driver was writing."""
    unfinished = name.endswith(UNFINISHED) and NAME.fullmatch(name.removesuffix(UNFINISHED)) is not None
    return name.startswith(".") or unfinished
