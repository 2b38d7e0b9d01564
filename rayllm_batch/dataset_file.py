"""`dataset_file`: one file, a folder or a glob of jsonl, json, csv or parquet, local or remote, as a Ray Dataset."""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from rayllm_batch.errors import DatasetError
from rayllm_batch.uri import filesystem_of, without_credentials

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset
    import pyarrow.fs
    import ray.data

FORMATS = {"jsonl": "json", "ndjson": "json", "json": "json", "csv": "csv", "parquet": "parquet"}
COMPRESSED = ("gz", "bz2", "zst", "br", "lz4")
CHECKED_LINES = 1000  # of the first file, before the run; a bad line further on is named when the read meets it
CHECKED_BYTES = 8 << 20
IN_MEMORY_BYTES = 64 << 20  # local files up to this size together are read by the driver
ROWS_A_BLOCK = 128
READ_BYTES = 1 << 20
OPENED_FILES = 8  # parquet files for the first rows, one after the other; where they have not enough, Ray reads side by side
COUNTED_FILES = 200  # parquet files whose footers are read for the number of rows: seconds on object storage
_FILES = "_rayllm_batch_files"  # an attribute of a Dataset
BOM = b"\xef\xbb\xbf"  # some editors write it before UTF-8


@dataclass
class DatasetFiles:
    """What `dataset_file` resolved to: sorted paths of one format on one filesystem (None: the local disk)."""

    given: str
    format: str
    paths: list[str]
    filesystem: Optional[pyarrow.fs.FileSystem]


def read_dataset_file(dataset_file: str | os.PathLike) -> ray.data.Dataset:
    """The rows of `dataset_file`. A large job reads best from parquet: a JSON file is loaded whole by one task.

    Raises DatasetError when nothing is there, when it is empty, or when its first lines are not what its name says.
    """
    import pyarrow.csv
    import ray.data

    files = find_files(dataset_file)
    check_first_rows(files)
    if files.filesystem is None and sum(os.path.getsize(path) for path in files.paths) <= IN_MEMORY_BYTES:
        return in_blocks(_read_local(files))
    if files.format == "json":
        return ray.data.read_json(files.paths, filesystem=files.filesystem, file_extensions=None)
    if files.format == "csv":
        options = pyarrow.csv.ParseOptions(newlines_in_values=True)
        return ray.data.read_csv(files.paths, filesystem=files.filesystem, file_extensions=None, parse_options=options)
    dataset = ray.data.read_parquet(files.paths, filesystem=files.filesystem, file_extensions=None)
    setattr(dataset, _FILES, files)  # whatever is made of it is another Dataset, and does not have this
    return dataset


def known_rows(dataset: ray.data.Dataset) -> Optional[int]:
    """The number of rows of a Dataset that read_dataset_file has made, where it costs no reading of them; None else.

    From the footers of parquet files, if these are not many.
    """
    files = getattr(dataset, _FILES, None)
    if files is None or len(files.paths) > COUNTED_FILES:
        return None
    import pyarrow.dataset

    try:
        return pyarrow.dataset.dataset(files.paths, filesystem=files.filesystem, format="parquet").count_rows()
    except Exception:  # the read itself will say what is wrong
        return None


def first_rows(dataset: ray.data.Dataset, most: int) -> Optional[list[dict[str, Any]]]:
    """Of the same Datasets, without Ray, whose tasks would cost seconds; None where that is not possible."""
    files = getattr(dataset, _FILES, None)
    if files is None or any("=" in os.path.dirname(path) for path in files.paths):  # Ray makes a column of year=2024/
        return None
    rows: list[dict[str, Any]] = []
    columns: Optional[list[str]] = None
    try:
        for path in files.paths[:OPENED_FILES]:
            names, found = first_of_file(path, files.filesystem, most - len(rows))
            if columns not in (None, names):
                return None  # Ray brings them into line
            columns = names
            rows += found
            if len(rows) == most:
                return rows
    except Exception:  # likewise
        return None
    return rows if len(files.paths) <= OPENED_FILES else None


def first_of_file(path: str, filesystem: Optional[pyarrow.fs.FileSystem], most: int) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns of a parquet file, and its first rows, up to `most` (at least 1)."""
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    # Buffered: else a whole row group comes into memory. Of four files with one of 400 MB each, a pyarrow Dataset's head()
    # took 3.2 GB, this takes 46 MB.
    with pyarrow.parquet.ParquetFile(path, filesystem=filesystem, pre_buffer=False, buffer_size=READ_BYTES) as file:
        for batch in file.iter_batches(batch_size=most):
            rows += batch.slice(0, most - len(rows)).to_pylist()
            if len(rows) == most:
                break
        return file.schema_arrow.names, rows


def in_blocks(table: pa.Table) -> ray.data.Dataset:
    """A table as a Dataset of several blocks, so that the tasks before the engine share the work."""
    import ray.data

    return ray.data.from_arrow(table, override_num_blocks=max(1, min(200, table.num_rows // ROWS_A_BLOCK)))


def _read_local(files: DatasetFiles) -> pa.Table:
    # A small local file needs no read tasks, which cost seconds of worker start-up and another look for the row count;
    # and it is then readable wherever the tasks run, on whichever node.
    import pyarrow as pa
    import pyarrow.parquet

    tables, content = [], b""
    for path in files.paths:
        try:
            if files.format == "parquet":
                tables.append(pyarrow.parquet.read_table(path))
                continue
            with pa.input_stream(path, compression="detect") as source:
                content = source.read().removeprefix(BOM)
            if content.strip():
                tables.append(_table_of_csv(content) if files.format == "csv" else _table_of_json(content))
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            if files.format == "json":
                _check_json(content, True, path, None)
            raise DatasetError(f"dataset_file {path!r} cannot be read as {files.format}: {error}") from None
    if not tables:
        raise DatasetError(f"dataset_file {files.given!r} has no rows.")
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DatasetError(f"The files of dataset_file {files.given!r} do not go together: {error}") from None


def _table_of_csv(content: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv

    # One block, and quoted line breaks: texts hold them, and may be longer than Arrow's block of 1 MiB.
    return pyarrow.csv.read_csv(
        pa.BufferReader(content),
        read_options=pyarrow.csv.ReadOptions(block_size=_block_size(content)),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
    )


def _table_of_json(content: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.json

    if content.lstrip()[:1] != b"[":
        options = pyarrow.json.ReadOptions(block_size=_block_size(content))
        return pyarrow.json.read_json(pa.BufferReader(content), read_options=options)
    rows = json.loads(content)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("its array must hold JSON objects only")
    names = dict.fromkeys(name for row in rows for name in row)  # from_pylist would take those of the first row alone
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _block_size(content: bytes) -> int:
    return min(max(len(content), 1 << 20), (1 << 31) - 1)


def find_files(dataset_file: str | os.PathLike) -> DatasetFiles:
    """Resolve a path, a folder, a glob or a URI to the data files it stands for."""
    if not isinstance(dataset_file, (str, os.PathLike)):
        raise DatasetError(
            f"dataset_file must be the path or URI of a file, a folder or a glob, given a {type(dataset_file).__name__}."
        )
    given = os.fspath(dataset_file)
    filesystem, path = _filesystem(given)
    given = without_credentials(given)
    wildcard = any(mark in path for mark in "*?[") and not (filesystem is None and os.path.exists(path))
    import pyarrow.fs

    fs = filesystem or pyarrow.fs.LocalFileSystem()
    try:
        if wildcard:
            root = path[: min(path.index(mark) for mark in "*?[" if mark in path)].rpartition("/")[0] or "."
            pattern = os.path.normpath(path).split("/")
            found = [p for p in _listing(fs, root) if _matches(p.split("/"), pattern)]
        else:
            info = fs.get_file_info(path)
            if info.type == pyarrow.fs.FileType.NotFound:
                raise DatasetError(_missing(given, path, filesystem))
            found = [path] if info.is_file else _listing(fs, path)
    except OSError as error:
        raise DatasetError(f"dataset_file {given!r} cannot be read: {error}") from None
    data = sorted(p for p in found if _format_of(p)) if wildcard or len(found) != 1 else found
    kinds = sorted({_format_of(p) or os.path.basename(p) for p in data})
    if not data:
        raise DatasetError(f"dataset_file {given!r} matches no {', '.join(FORMATS)} file. Check the path.")
    if len(kinds) > 1:
        raise DatasetError(
            f"dataset_file {given!r} holds files of different formats ({', '.join(kinds)}). Narrow it with a glob, "
            f"such as {given.rstrip('/')}/*.{kinds[0]!s}."
        )
    if kinds[0] not in ("json", "csv", "parquet"):
        raise DatasetError(
            f"dataset_file {given!r} has an unknown ending. Known: {', '.join('.' + e for e in FORMATS)}, "
            f"also with {', '.join('.' + c for c in COMPRESSED)} behind it."
        )
    return DatasetFiles(given, kinds[0], data, filesystem)


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """As in a shell: a file, or a folder that it is in, has this name; `*` stays within one name, `**` is any number of folders."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(path[skipped:], pattern[1:]) for skipped in range(len(path)))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def check_first_rows(files: DatasetFiles) -> None:
    """Raise DatasetError when every file is empty, or the first lines of the first are not what its name says."""
    import pyarrow as pa
    import pyarrow.fs

    fs, path = files.filesystem or pyarrow.fs.LocalFileSystem(), files.paths[0]
    try:
        sizes = [info.size for info in fs.get_file_info(files.paths)]
        if all(size == 0 for size in sizes):
            raise DatasetError(f"dataset_file {files.given!r} is empty (0 bytes).")
        path = next(path for path, size in zip(files.paths, sizes, strict=True) if size != 0)  # writers leave empty parts
        if files.format == "parquet":
            import pyarrow.parquet

            with fs.open_input_file(path) as source:
                metadata = pyarrow.parquet.ParquetFile(source).metadata
            if metadata.num_rows == 0 and len(files.paths) == 1:
                raise DatasetError(f"dataset_file {files.given!r} has no rows.")
            return
        with fs.open_input_stream(path, compression="detect") as source:
            head = source.read(CHECKED_BYTES).removeprefix(BOM)
            complete = not source.read(1)
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"dataset_file {path!r} cannot be read as {files.format}: {error}") from None
    if files.format == "csv":
        lines = [line for line in head.splitlines() if line.strip()]
        if complete and len(lines) < 2 and len(files.paths) == 1:
            raise DatasetError(f"dataset_file {files.given!r} has no rows below its header line.")
    elif head.strip() or len(files.paths) == 1:
        _check_json(head, complete, path, CHECKED_LINES)


def find_bad_line(dataset_file: str | os.PathLike) -> str | None:
    """After a failed read: the first line that is not a JSON object, named, or None when that is not the reason."""
    import pyarrow.fs

    try:
        files = find_files(dataset_file)
    except DatasetError:
        return None
    fs = files.filesystem or pyarrow.fs.LocalFileSystem()
    for path in files.paths if files.format == "json" else ():
        with fs.open_input_stream(path, compression="detect") as source:
            try:
                _check_json(source.read().removeprefix(BOM), True, path, None)
            except DatasetError as error:
                return str(error)
    return None


def _check_json(head: bytes, complete: bool, path: str, most: Optional[int]) -> None:
    if not head.strip():
        raise DatasetError(f"dataset_file {path!r} has no rows.")
    if head.lstrip()[:1] == b"[":  # one JSON array of objects, which is read whole
        if complete:
            try:
                rows = json.loads(head)
            except ValueError as error:
                raise DatasetError(f"dataset_file {path!r} is not valid JSON: {error}") from None
            if not rows or not all(isinstance(row, dict) for row in rows):
                raise DatasetError(f"dataset_file {path!r} must hold an array of JSON objects, at least one.")
        return
    lines = head.split(b"\n")
    if not complete:
        lines.pop()  # cut in the middle
    for number, line in enumerate(lines[:most], start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise DatasetError(
                f"Line {number} of {path!r} is not JSON ({error}): {_shown(line)}. "
                "Each line must be one JSON object; mend or remove this one."
            ) from None
        if not isinstance(row, dict):
            raise DatasetError(
                f"Line {number} of {path!r} must be a JSON object such as {{\"article\": \"...\"}}, given {_shown(line)}."
            )


def _shown(line: bytes, most: int = 80) -> str:
    text = line.decode("utf-8", "replace").strip()
    return repr(text if len(text) <= most else text[:most] + "...")


def _filesystem(given: str) -> tuple[Optional[pyarrow.fs.FileSystem], str]:
    """The filesystem of a URI and the path on it; None stands for the local disk."""
    if given.startswith("hf://"):
        import pyarrow.fs
        from huggingface_hub import HfFileSystem

        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(HfFileSystem())), given[len("hf://"):]
    if "://" not in given:
        return None, os.path.expanduser(given)
    try:
        return filesystem_of(given)
    except OSError as error:
        raise DatasetError(f"dataset_file {without_credentials(given)!r} cannot be opened: {error}") from None


def _listing(fs: pyarrow.fs.FileSystem, folder: str) -> list[str]:
    import pyarrow.fs

    infos = fs.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True))
    found = [os.path.normpath(info.path) for info in infos if info.is_file]
    # Not what tools keep beside the data: .ipynb_checkpoints/rows-checkpoint.jsonl, _delta_log/0.json, _SUCCESS.
    return [path for path in found if not any(p.startswith((".", "_")) for p in os.path.relpath(path, folder).split("/"))]


def _format_of(path: str) -> Optional[str]:
    parts = os.path.basename(path).lower().split(".")
    if len(parts) > 1 and parts[-1] in COMPRESSED:
        parts.pop()
    return FORMATS.get(parts[-1]) if len(parts) > 1 else None


def _missing(given: str, path: str, filesystem: Any) -> str:
    text = f"dataset_file {given!r} does not exist"
    if filesystem is not None:
        return text + ". Check the URI and the credentials."
    text += f" (looked from {os.getcwd()})."
    folder, name = os.path.split(path)
    names = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = difflib.get_close_matches(name, names, n=1)
    return text + (f" Did you mean {os.path.join(folder, near[0])!r}?" if near else " Check the path.")
