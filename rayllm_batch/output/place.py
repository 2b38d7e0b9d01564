"""Where an output folder lies, on a disk or an object storage: its files are written whole or not at all."""

from __future__ import annotations

import os

import pyarrow.fs

from rayllm_batch.errors import OutputError
from rayllm_batch.uri import advice, filesystem_of, without_credentials

INSIDE = "_rayllm_batch"
UNFINISHED = ".unfinished"


class OutputPlace:
    """given: the path or URI, as it may be shown. root: the path on `fs`. OutputError for what names no folder."""

    def __init__(self, output_path: str | os.PathLike[str]) -> None:
        if not isinstance(output_path, (str, os.PathLike)) or not os.fspath(output_path):
            raise OutputError(f"output_path must be the path or URI of a folder, given {output_path!r}.")
        self.given = without_credentials(os.fspath(output_path))
        self.fs, self.root, self.is_local = _filesystem(os.fspath(output_path))

    def inside(self, *names: str) -> str:
        return "/".join((self.root, INSIDE, *names))

    def listed(self, folder: str) -> list[pyarrow.fs.FileInfo]:
        try:
            return self.fs.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
        except FileNotFoundError:  # it is removed just now
            return []

    def read(self, path: str) -> bytes:
        with self.fs.open_input_stream(path) as file:
            return file.read()

    def write(self, path: str, content: bytes | memoryview) -> None:
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


def _filesystem(given: str) -> tuple[pyarrow.fs.FileSystem, str, bool]:
    shown = without_credentials(given)
    # Of a URI what follows the ? are options of the storage, of which a disk has none.
    path = given.partition("?")[0] if "://" in given and not given.startswith("file:") else given
    if marks := [mark for mark in "*?[#" if mark in path]:  # else found out when all rows are there
        raise OutputError(
            f"output_path {shown!r} has a {marks[0]!r}, with which Ray Data cannot read it back. Leave it out."
        )
    if "://" not in given:
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(given)), True
    try:
        fs, path = filesystem_of(given)
    except OSError as error:
        why = f"{str(error).rstrip('.')}. {advice(error, 'Check the URI.')}"
        raise OutputError(f"output_path {shown!r} cannot be opened: {why}") from None
    if not path.strip("/"):
        raise OutputError(f"output_path {shown!r} names no folder. Add one: {shown.rstrip('/')}/answers.")
    return fs, path.rstrip("/"), isinstance(fs, pyarrow.fs.LocalFileSystem)
