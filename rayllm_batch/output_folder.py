"""`run(output_path=...)`: a folder of part files, a manifest that says which job it is, and the ids of finished rows.

    output_path/part-000001-1f3a9c20.parquet      answered rows
    output_path/failed-000002-1f3a9c20.parquet    rows with an error, apart, so that they can be run again
    output_path/_rayllm_batch/manifest.json       the job, its state and its progress
    output_path/_rayllm_batch/metrics.json        what the last run did, in numbers
    output_path/_rayllm_batch/rows/NAME.ids       for each part: its size, its schema, the id of each of its rows, and a digest
                                                  of what was asked for it
    output_path/_rayllm_batch/order.ids           of a run that keeps the order: all ids in the order of reading
    output_path/_rayllm_batch/set_aside/          what was cut short, and rows that were run again

A part counts when its ids are there and its size is what they say. Ids are written first, so whatever is killed at
whatever moment leaves a part that counts or one that does not, and rows that do not count are computed again.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.fs

from rayllm_batch.asked import DIGEST, UNKNOWN, Asked
from rayllm_batch.errors import OutputError, one_line
from rayllm_batch.fingerprint import Job, differences
from rayllm_batch.folder_lock import FolderLock
from rayllm_batch.part_file import some_rows, texts_of
from rayllm_batch.part_reader import Piece, in_order, one_after_the_other, read_pieces, schema_of
from rayllm_batch.row_id import ID_BYTES, RowCounts, as_pairs
from rayllm_batch.uri import filesystem_of, without_credentials

if TYPE_CHECKING:
    import ray.data

FORMATS = ("parquet", "jsonl")
MANIFEST_FORMAT = 2  # 1 had the whole job in one, and no digests of what was asked
INSIDE = "_rayllm_batch"
PART = re.compile(r"(part|failed)-(\d{6,})-[0-9a-f]{8}\.(parquet|jsonl)")
UNFINISHED = ".unfinished"

log = logging.getLogger("rayllm_batch")


@dataclass(frozen=True)
class Part:
    """One file of rows. size: in bytes. schema, as_text: see PartFile, the schema as Arrow serialises it."""

    name: str
    rows: int
    size: int = 0
    schema: bytes = b""
    as_text: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return self.name.startswith("failed")


@dataclass(frozen=True)
class Record:
    """What is written down of a part before it is written: `size` in bytes, `job` the job's fingerprint.

    asked: DIGEST a row, or nothing, where none was kept. replaces: the part that these rows are of, some of which were to be
    run again.
    """

    ids: bytes
    size: int
    job: str
    schema: bytes
    as_text: tuple[str, ...] = ()
    asked: bytes = b""
    replaces: Optional[str] = None

    def part(self, name: str) -> Part:
        return Part(name, len(self.ids) // ID_BYTES, self.size, self.schema, self.as_text)


class OutputFolder:
    """The folder of one job, locked for one driver while it is open (`with OutputFolder(...) as folder`).

    output_path: a local folder, or a URI that pyarrow knows (s3://, gs://, hdfs://); made if it is not there.
    job:         what `fingerprint.describe_job` gives. A folder of other settings is refused; where hints differ, `changed`
                 has them, until `accept` is called.

    Raises OutputError on entry.
    """

    def __init__(self, output_path: str | os.PathLike, job: Job, output_format: str) -> None:
        if output_format not in FORMATS:
            raise OutputError(f"output_format must be one of {', '.join(FORMATS)}, given {output_format!r}.")
        if not isinstance(output_path, (str, os.PathLike)) or not os.fspath(output_path):
            raise OutputError(f"output_path must be the path or URI of a folder, given {output_path!r}.")
        self.given = without_credentials(os.fspath(output_path))
        self.format, self._job = output_format, job
        self.fingerprint = job.fingerprint
        self.changed: list[str] = []  # differences of hints
        self.same_rows = False  # the data is, as far as can be known without reading it, that which was read
        self.kept = False  # of some answers it is known that something else was asked, and the user keeps them
        self._hints, self._data = job.hints, job.rows  # those of the answers in it
        self.fs, self.root, self.is_local = _filesystem(os.fspath(output_path))
        self.parts: dict[str, Part] = {}
        self._schema = b""
        self.complete = False
        self.set_aside: list[str] = []
        self._lock = FolderLock(self.fs, self.inside("lock"), self.is_local, self.given)
        self._manifest_at = 0.0

    def __enter__(self) -> OutputFolder:
        try:
            self._refuse_foreign()
            for folder in (self.inside("rows"), self.inside("set_aside")):
                self.fs.create_dir(folder, recursive=True)
            self._lock.acquire()
        except OSError as error:
            self._lock.release()
            raise OutputError(f"The output folder {self.given!r} cannot be written: {error}. Choose another output_path.") from None
        try:
            self._open()
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise OutputError(
                    f"The output folder {self.given!r} cannot be used: {error}. Make room, or mend the folder, and run the same again."
                ) from None
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.release()

    def inside(self, *names: str) -> str:
        return "/".join((self.root, INSIDE, *names))

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

    def finished(self) -> RowCounts:
        """The rows that need not be computed again."""
        known = self._read_ids()
        return RowCounts(as_pairs(b"".join(known[name].ids for name in self.parts)))

    def errors(self) -> Iterator[str]:
        """Of each failed row."""
        for name, part in self.parts.items():
            if part.failed:
                with self.fs.open_input_file(f"{self.root}/{name}") as file:
                    content = file.read()
                try:
                    yield from texts_of(content, self.format, "error")
                except (pa.ArrowException, ValueError, LookupError) as error:
                    raise OutputError(
                        f"{name} in the output folder {self.given!r} cannot be read: {one_line(error)}. It was changed after it was "
                        "written. Delete it, and run the same again: it continues, and its rows are run again."
                    ) from None

    def asked(self) -> Asked:
        """What was asked for each finished row."""
        known = self._read_ids()
        digests = [_digests(known[name], part.failed) for name, part in self.parts.items()]
        return Asked(as_pairs(b"".join(known[name].ids for name in self.parts)), np.concatenate(digests or [np.empty(0, DIGEST)]))

    def accept(self, kept: Optional[bool] = None) -> None:
        """From here on the answers count as those of this job's code and data too. kept: None where they were not compared."""
        self._hints, self._data, self.changed = self._job.hints, self._job.rows, []
        self.kept = self.kept if kept is None else kept

    def run_again(self, failed: bool = False, ids: bytes = b"") -> None:
        """Take rows out, which are then computed again: those with an error, and those with these ids."""
        out = {name for name, part in self.parts.items() if failed and part.failed}
        if out or ids:
            self.complete = False
            self.write_manifest("unfinished", self.rows, self.failed_rows)
        wanted = RowCounts(as_pairs(ids))
        for name, record in self._read_ids().items() if ids else ():
            if name not in self.parts or self.parts[name].failed:
                continue
            stay = wanted.find(as_pairs(record.ids)) < 0
            if not stay.all():
                if stay.any():
                    self._store_some(name, record, stay)
                out.add(name)
        for name in sorted(out):
            self._put_aside(name)
            del self.parts[name]

    def _store_some(self, name: str, record: Record, stay: np.ndarray) -> None:
        """A part of the same number with some of its rows; once it is there, the other does not count any more."""
        with self.fs.open_input_file(f"{self.root}/{name}") as file:
            content = some_rows(file.read(), self.format, stay)
        newer = f"{name[: name.rindex('-')]}-{uuid.uuid4().hex[:8]}.{self.format}"
        ids = as_pairs(record.ids)[stay].astype(">u8").tobytes()
        digests = np.frombuffer(record.asked, DIGEST)[stay].tobytes() if record.asked else b""
        self._store(newer, content, replace(record, ids=ids, asked=digests, size=len(content), job=self.fingerprint, replaces=name))

    def next_number(self) -> int:
        return 1 + max(map(_number, self.parts), default=0)

    def store(
        self, name: str, content: bytes | memoryview, ids: bytes, schema: pa.Schema, *, as_text: tuple[str, ...] = (), asked: bytes = b""
    ) -> None:
        """Add one part, all of it or nothing. Raises OSError, and OutputError when another driver has taken the folder."""
        self._schema = schema.remove_metadata().serialize().to_pybytes()
        self._store(name, content, Record(ids, len(content), self.fingerprint, self._schema, as_text, asked))

    def _store(self, name: str, content: bytes | memoryview, record: Record) -> None:
        self._lock.check()
        header = {
            "part": name, "rows": len(record.ids) // ID_BYTES, "bytes": len(content), "job": record.job,
            "schema": base64.b64encode(record.schema).decode(), "as_text": record.as_text, "asked": bool(record.asked),
            **({"replaces": record.replaces} if record.replaces else {}),
        }  # fmt: skip
        self._write(self.inside("rows", f"{name}.ids"), json.dumps(header).encode() + b"\n" + record.ids + record.asked)
        self._write(f"{self.root}/{name}", content)
        self.parts[name] = record.part(name)

    def write_manifest(self, state: str, rows: int, failed: int, every_s: float = 0.0) -> None:
        """state: "unfinished" or "complete". Nothing is written within `every_s` seconds of the last time."""
        if time.time() - self._manifest_at < every_s:
            return
        manifest = {
            "format": MANIFEST_FORMAT, "version": _version(), "state": state, "rows": rows, "failed": failed,
            "output_format": self.format, "fingerprint": self.fingerprint, "settings": self._job.settings, "hints": self._hints,
            "data": self._data, "kept": self.kept, "updated": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        }  # fmt: skip
        self._write(self.inside("manifest.json"), json.dumps(manifest, indent=1, ensure_ascii=False).encode())
        self._manifest_at = time.time()

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Of the last run that computed rows, in place of an earlier one's. The answers are as good without: a failure is a warning."""
        try:
            self._lock.check()
            self._write(self.inside("metrics.json"), json.dumps(metrics, indent=1, ensure_ascii=False).encode())
        except Exception as error:
            log.warning("The run's metrics cannot be written to %s: %s.", self.inside("metrics.json"), error)

    def write_order(self, ids: bytes) -> None:
        """The ids of all rows in the order in which they were read, which `dataset` then keeps."""
        self._write(self.inside("order.ids"), ids)

    def pieces(self) -> list[list[Piece]]:
        """What there is to read, as one task each reads it: in the order of reading where that is known, else answered rows first."""
        names = sorted(self.parts, key=lambda name: (self.parts[name].failed, name))
        parts = [Piece(f"{self.root}/{name}", part.schema, part.as_text, part.rows, part.size) for name in names if (part := self.parts[name])]
        order = self._read_order()
        if order:
            known = self._read_ids()
            tasks = in_order(parts, as_pairs(b"".join(known[name].ids for name in names)), as_pairs(order))
            if tasks is not None:
                return tasks
        return one_after_the_other(parts)

    def dataset(self) -> ray.data.Dataset:
        """All rows of the folder, each as it came: a column whose values are of several kinds has them as Python objects."""
        return read_pieces(self.pieces(), self.fs, self.format)

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
            with self.fs.open_input_stream(self.inside("order.ids")) as file:
                order = file.read()
        except FileNotFoundError:
            return b""
        return order if len(order) == self.rows * ID_BYTES else b""

    def _refuse_foreign(self) -> None:
        """Before anything is made in a folder that is somebody else's."""
        info = self.fs.get_file_info(self.root)
        if info.type == pyarrow.fs.FileType.File:
            raise OutputError(f"output_path {self.given!r} is a file. Give the path of a folder, new or empty.")
        names = [i.base_name for i in self.fs.get_file_info(pyarrow.fs.FileSelector(self.root, allow_not_found=True))]
        if INSIDE not in names and any(not _is_ignored(name) for name in names):
            raise self._foreign(names)

    def _foreign(self, names: list[str]) -> OutputError:
        shown = [name for name in sorted(names) if name != INSIDE and not _is_ignored(name)]
        return OutputError(
            f"The output folder {self.given!r} holds files that are not of a run of this library "
            f"({', '.join(shown[:3])}{', ...' if len(shown) > 3 else ''}). Give an empty or a new folder."
        )

    def _open(self) -> None:
        manifest = self._read_manifest()
        listing = self.fs.get_file_info(pyarrow.fs.FileSelector(self.root))
        sizes = {info.base_name: info.size for info in listing if info.is_file and PART.fullmatch(info.base_name)}
        known = self._read_ids()
        self._check_format(manifest)
        if not sizes and not known or "fingerprint" not in manifest:
            manifest = {}  # a job that wrote nothing, refused by a check perhaps, has no claim on the folder; nor has half a manifest
        if manifest:
            self._compare(manifest)
        else:
            self._compare_parts(sizes, known, [info.base_name for info in listing])
        self._remove_unfinished()
        for newer, record in list(known.items()):
            if record.replaces in sizes and sizes.get(newer) == record.size:  # a driver was killed between the two steps
                self._put_aside(record.replaces)
                del sizes[record.replaces]
                known.pop(record.replaces, None)
        for name in sorted({*sizes, *known}, key=_number):
            if name in known and sizes.get(name) == known[name].size:
                self.parts[name] = known[name].part(name)
            elif name in sizes:
                self._put_aside(name)
                self.set_aside.append(name)
            else:
                self.fs.delete_file(self.inside("rows", f"{name}.ids"))
        self._refuse_merged(known)
        self.complete = manifest.get("state") == "complete" and manifest.get("rows") == self.rows
        if self.parts:
            self.kept, self._data = manifest.get("kept") is True, manifest.get("data")
        self.same_rows = bool(self._job.rows) and self._data == self._job.rows
        if self.parts:
            self._schema = known[max(self.parts, key=_number)].schema
        if not self.complete:
            self.write_manifest("unfinished", self.rows, self.failed_rows)

    def _check_format(self, manifest: dict[str, Any]) -> None:
        if (number := manifest.get("format", 1)) not in range(1, MANIFEST_FORMAT + 1):
            raise OutputError(
                f"The output folder {self.given!r} was written by rayllm_batch {manifest.get('version')}, in a format (number {number}) "
                f"that this one, {_version()}, does not know. Install that version, or give another output_path."
            )

    def _compare(self, manifest: dict[str, Any]) -> None:
        earlier = _job_of(manifest)
        if differing := differences(earlier.settings, self._job.settings):
            raise OutputError(
                f"The output folder {self.given!r} holds another job: {'; '.join(differing)}. "
                "Run it as it was to continue it, or give this job another output_path."
            )
        self._hints, self.changed = earlier.hints, differences(earlier.hints, self._job.hints)
        if manifest.get("output_format") != self.format:
            raise self._other_format(manifest.get("output_format"))

    def _compare_parts(self, sizes: dict[str, int], known: dict[str, Record], names: list[str]) -> None:
        """Without a manifest, the parts say whose they are."""
        if known and {record.job for record in known.values()} != {self.fingerprint}:
            raise OutputError(
                f"The manifest of the output folder {self.given!r} cannot be read, and its rows are of another job. "
                "Give this run another output_path."
            )
        if known:  # what asked for them is not
            self._hints, self.changed = {}, differences({}, self._job.hints)
        if sizes and not known or any(name not in (INSIDE, *sizes) and not _is_ignored(name) for name in names):
            raise self._foreign(names)
        if formats := {PART.fullmatch(name)[3] for name in sizes} - {self.format}:
            raise self._other_format(formats.pop())

    def _refuse_merged(self, known: dict[str, Record]) -> None:
        # Of format 1, whose fingerprints were others, no part has digests.
        if foreign := [name for name in self.parts if known[name].asked and known[name].job != self.fingerprint]:
            raise OutputError(
                f"The output folder {self.given!r} is of this job, but some parts are of another one, as if folders had been merged: "
                f"{', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}. Move them away, or give another output_path."
            )

    def _other_format(self, begun_with: Any) -> OutputError:
        return OutputError(
            f"The output folder {self.given!r} was begun with output_format={begun_with!r}, not {self.format!r}. Keep the "
            "format, or give another output_path."
        )

    def _remove_unfinished(self) -> None:
        """What a killed driver was writing: up to the size of a part each."""
        for folder in (self.root, self.inside(), self.inside("rows")) if self.is_local else ():
            for info in self.fs.get_file_info(pyarrow.fs.FileSelector(folder)):
                if info.base_name.endswith(UNFINISHED) and (folder != self.root or _is_ignored(info.base_name)):
                    self.fs.delete_file(info.path)

    def _put_aside(self, name: str) -> None:
        # The rows first: ids without rows count for nothing.
        self.fs.move(f"{self.root}/{name}", self.inside("set_aside", name))
        ids = self.inside("rows", f"{name}.ids")
        if self.fs.get_file_info(ids).is_file:
            self.fs.delete_file(ids)

    def _read_manifest(self) -> dict[str, Any]:
        try:
            with self.fs.open_input_stream(self.inside("manifest.json")) as file:
                manifest = json.loads(file.read())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return manifest if isinstance(manifest, dict) else {}

    def _read_ids(self) -> dict[str, Record]:
        """What is recorded of each part, where that can be read."""
        found = {}
        for info in self.fs.get_file_info(pyarrow.fs.FileSelector(self.inside("rows"))):
            name = info.base_name.removesuffix(".ids")
            if not info.is_file or not PART.fullmatch(name):
                continue
            with self.fs.open_input_stream(info.path) as file:
                head, _, content = file.read().partition(b"\n")
            try:
                header = json.loads(head)
                schema, as_text = base64.b64decode(header["schema"]), tuple(header.get("as_text", ()))
                end = header["rows"] * ID_BYTES
                ids, asked = content[:end], content[end:]
                record = Record(ids, header["bytes"], header["job"], schema, as_text, asked, header.get("replaces"))
                texts = (record.job, record.replaces or "", *as_text)
                if header.get("part", name) != name or not all(isinstance(text, str) for text in texts):  # renamed, edited
                    continue
                if len(ids) + len(asked) == header["rows"] * (ID_BYTES + (DIGEST.itemsize if header.get("asked") else 0)):
                    found[name] = record
            except (ValueError, LookupError, TypeError, RecursionError):  # cut short
                continue
        return found

    def _write(self, path: str, content: bytes | memoryview) -> None:
        if not self.is_local:  # object storage shows a file when it is complete
            with self.fs.open_output_stream(path) as file:
                file.write(content)
            return
        unfinished = path + UNFINISHED
        try:
            with open(unfinished, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except OSError:
            if os.path.exists(unfinished):
                os.unlink(unfinished)
            raise


def failed_rows(output_path: str | os.PathLike) -> int:
    """The rows with an error in a complete folder, those of earlier runs included, as its manifest says. Raises OutputError."""
    fs, root, _ = _filesystem(os.fspath(output_path))
    try:
        with fs.open_input_stream(f"{root}/{INSIDE}/manifest.json") as file:
            return int(json.loads(file.read())["failed"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise OutputError(f"The manifest of the output folder {os.fspath(output_path)!r} cannot be read: {error}") from None


class FinishedRows:
    """The rows that were finished before this run, and which of them came again while the data was read."""

    def __init__(self, counts: RowCounts) -> None:
        self.counts = counts
        self._seen = np.zeros(len(counts), dtype=np.int64)

    def saw(self, ids: bytes) -> None:
        places = self.counts.find(as_pairs(ids))
        if (places < 0).any():
            raise ValueError("a row was left out as finished that is not")
        np.add.at(self._seen, places, 1)

    def owed(self) -> dict[bytes, int]:
        """Of rows that are in the data several times, how many more there are than were finished."""
        more = self._seen - self.counts.counts
        pairs = np.stack([self.counts.high, self.counts.low], axis=1).astype(">u8")
        return {pairs[i].tobytes(): int(more[i]) for i in np.flatnonzero(more > 0)}

    def missing(self) -> int:
        """Finished rows that are not in the data any more."""
        return int(self._gone().sum())

    def missing_ids(self) -> bytes:
        return np.repeat(self.counts.pairs(), self._gone(), axis=0).astype(">u8").tobytes()

    def _gone(self) -> np.ndarray:
        return np.maximum(self.counts.counts - self._seen, 0)


def _version() -> str:
    import rayllm_batch

    return rayllm_batch.__version__


def _job_of(manifest: dict[str, Any]) -> Job:
    if manifest.get("format", 1) == 1:
        parts = manifest.get("job")
        return Job.of_format_1(parts if isinstance(parts, dict) else {})
    found = [manifest.get(name) for name in ("settings", "hints")]
    return Job(*(part if isinstance(part, dict) else {} for part in found))


def _digests(record: Record, failed: bool) -> np.ndarray:
    rows = len(record.ids) // ID_BYTES
    known = bool(record.asked) and not failed  # a failed row has no answer to protect
    return np.frombuffer(record.asked, DIGEST) if known else np.full(rows, UNKNOWN, DIGEST)


def _number(name: str) -> int:
    return int(PART.fullmatch(name)[2])


def _is_ignored(name: str) -> bool:
    """.DS_Store, .ipynb_checkpoints and the like; and what a killed driver was writing."""
    return name.startswith(".") or name.endswith(UNFINISHED) and PART.fullmatch(name.removesuffix(UNFINISHED)) is not None


def _filesystem(given: str) -> tuple[pyarrow.fs.FileSystem, str, bool]:
    shown = without_credentials(given)
    if marks := [mark for mark in "*?[#" if mark in given]:  # else found out when all rows are there
        raise OutputError(f"output_path {shown!r} has a {marks[0]!r}, with which Ray Data cannot read it back. Leave it out.")
    if "://" not in given:
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(given)), True
    try:
        fs, path = filesystem_of(given)
    except OSError as error:
        raise OutputError(f"output_path {shown!r} cannot be opened: {error}") from None
    if not path.strip("/"):
        raise OutputError(f"output_path {shown!r} names no folder. Add one: {shown.rstrip('/')}/answers.")
    return fs, path.rstrip("/"), isinstance(fs, pyarrow.fs.LocalFileSystem)
