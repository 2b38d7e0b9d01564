"""The answers of a batch file's requests, written as files of results and of errors."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
import pyarrow.fs

from rayllm_batch.data.data_files import find_files
from rayllm_batch.data.file_part import whole
from rayllm_batch.data.row_id import RowCounts, UniqueIds, as_pairs
from rayllm_batch.errors import OutputError, one_line
from rayllm_batch.uri import filesystem_of, without_credentials
from rayllm_batch.workload.invalid_request import InvalidRequest
from rayllm_batch.workload.openai_batch import OpenAIBatchFile, line_reader
from rayllm_batch.workload.openai_request import read_line, read_request

if TYPE_CHECKING:
    import ray.data

Path = Union[str, os.PathLike]
UNFINISHED = ".unfinished"
_STAGE = re.compile(r"^(parse_row: \w+|sampling_params|pooling_params): ")
IN_OTHER_WORDS = {
    "parse_row's ": "",
    "this row's sampling_params": "the request",
    "this row's pooling_params": "the request",
}
KINDS = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
# Of the engine, what is not the request's fault.
_OWN_FAULT = re.compile(
    r"engine: (?!ValueError|VLLMValidationError)(\w+(Error|Exception|Died)\b|this row makes|the engine)"
)


@dataclass(frozen=True)
class Written:
    """Lines: results with a response, and errors."""

    results: int
    errors: int

    def __str__(self) -> str:
        return f"{self.results:,} results and {self.errors:,} errors"


def write(workload: OpenAIBatchFile, answers: ray.data.Dataset, output: Path, errors: Optional[Path]) -> Written:
    """See OpenAIBatchFile.write_results."""
    dataset_file, names = workload.dataset_file or "", workload.names
    check_outputs(dataset_file, output, errors)
    lines = _Lines(dataset_file, answers.count(), workload.dataset_fraction == 1)
    counts = Counter[bool]()
    try:
        with ExitStack() as files:
            results = files.enter_context(_File(output))
            apart = results if errors is None else files.enter_context(_File(errors))
            for row, is_later in _rows(answers, lines):
                problem = None
                if is_later:
                    what = (
                        f"the custom_id {row['custom_id']!r} is that of an earlier line too; this one is not answered"
                    )
                    problem = api_error(InvalidRequest(what, "custom_id"))
                elif row["error"] is not None:
                    problem = _problem(row, names, workload.adapters)
                counts[problem is None] += 1
                (results if problem is None else apart).write(_line(row, problem))
            if apart is not results:
                apart.commit()
            results.commit()  # the last: where it is, all is
    except OSError as error:
        raise OutputError(
            f"The results cannot be written: {error}. Nothing is lost: the answers are where they were. Make room, or "
            "give another path, and run the same again: it continues."
        ) from None
    return Written(counts[True], counts[False])


def _rows(answers: ray.data.Dataset, lines: _Lines) -> Iterator[tuple[dict[str, Any], bool]]:
    """Those of the file's lines, and whether each has the custom_id of an earlier one."""
    for table in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in table.select(["custom_id", "request", "response", "error"]).to_pylist():
            line = row["custom_id"], row["request"]
            if lines.has(*line):
                yield row, lines.is_later(*line)


def check_outputs(dataset_file: Optional[Path], output: Path, errors: Optional[Path]) -> None:
    """Raises OutputError for what cannot be written, or would be written over."""
    if errors is not None and os.path.abspath(errors) == os.path.abspath(output):
        shown = without_credentials(os.fspath(output))
        raise OutputError(f"output and errors are both {shown!r}: leave errors out, and the error lines are in output.")
    for name, given in (("output", output), ("errors", errors)):
        if given is None:
            continue
        path = os.path.expanduser(os.fspath(given))
        shown = without_credentials(path)
        if dataset_file is not None and _is_read(path, os.path.expanduser(os.fspath(dataset_file))):
            raise OutputError(f"{name} {shown!r} is one of the files of requests, or would be. Give another path.")
        if "://" in path:
            try:
                filesystem_of(path)
            except OSError as error:
                raise OutputError(f"{name} {shown!r} cannot be opened: {error}") from None
        elif os.path.isdir(path) or not os.path.basename(path):
            example = f"{shown.rstrip('/')}/{name}.jsonl"
            raise OutputError(f"{name} {shown!r} is a folder. Give the path of a file, such as {example}.")
        else:
            _try(path, name)


def _is_read(path: str, dataset_file: str) -> bool:
    """Whether such a file would be among those of dataset_file: a file, folder or glob."""
    if "://" in path or "://" in dataset_file:
        return path == dataset_file
    path, dataset_file = os.path.realpath(path), os.path.realpath(dataset_file)
    return path == dataset_file or path.startswith(dataset_file + os.sep) or fnmatch.fnmatch(path, dataset_file)


def _try(path: str, name: str) -> None:
    """Whether there can be such a file, known before hours of work are to be put in it."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{name} {path!r} cannot be written: {error}. Give another path.") from None


class _Lines:
    """Of the file of requests as it is now, which of the answers are to its lines.

    all_answered: each line has an answer; where there are no more answers than lines, none of them is to another line,
    and 24 bytes a line tell which custom_id comes again. Else it takes as many again.
    """

    def __init__(self, dataset_file: Path, num_answers: int, all_answered: bool) -> None:
        self._later = Counter[bytes]()  # lines whose custom_id an earlier one has
        known, lines = UniqueIds(), 0
        for ids, requests in _read(dataset_file):
            lines += len(ids)
            named = {i: _digest(its) for i, its in enumerate(ids) if its is not None}
            once = list(dict.fromkeys(named.values()))
            came = known.add(as_pairs(b"".join(once)))
            before = {once[i] for i in np.flatnonzero(came)}
            if before or len(once) < len(named):
                for i, its in named.items():
                    if its in before:
                        self._later[_key(ids[i], requests[i])] += 1
                    before.add(its)
        self._left: Optional[_Left] = None
        if num_answers > lines or not all_answered:
            self._left = _Left(
                b"".join(_key(*line) for block in _read(dataset_file) for line in zip(*block, strict=True))
            )

    def has(self, custom_id: Optional[str], request: Optional[bytes]) -> bool:
        """Whether there is such a line, as often as it is asked."""
        return self._left is None or self._left.take(_key(custom_id, request))

    def is_later(self, custom_id: Optional[str], request: Optional[bytes]) -> bool:
        """Whether an earlier line has the custom_id of this one; of equal lines as often as that is so."""
        if not self._later or not self._later[key := _key(custom_id, request)]:
            return False
        self._later[key] -= 1
        return True


class _Left:
    """Lines that no answer was found for so far. keys: of all, one after the other."""

    def __init__(self, keys: bytes) -> None:
        self._lines = RowCounts(as_pairs(keys))

    def take(self, key: bytes) -> bool:
        place = self._lines.find(as_pairs(key))[0]
        self._lines.counts[place] -= place >= 0
        return place >= 0 and self._lines.counts[place] >= 0


def _read(dataset_file: Path) -> Iterator[tuple[list[Optional[str]], list[Optional[bytes]]]]:
    """custom_ids and lines, some MB at a time."""
    files = find_files(dataset_file)
    reader = line_reader(files)
    for path in files.paths:
        for table in reader.tables(whole(files, path)):
            yield table.column("custom_id").to_pylist(), table.column("request").to_pylist()


def _key(custom_id: Optional[str], request: Optional[bytes]) -> bytes:
    return _digest(custom_id or "", request or b"")


def _digest(text: str, content: bytes = b"") -> bytes:
    """As ids of rows are made."""
    return hashlib.blake2b(text.encode() + b"\0" + content, digest_size=16).digest()


class _File:
    """Written beside its place, or for an object storage on the local disk, and there all at once, by `commit`."""

    def __init__(self, path: Path) -> None:
        self._path, self._is_local = os.fspath(path), "://" not in os.fspath(path)
        self._at = f"{os.path.expanduser(self._path)}{UNFINISHED}"

    def __enter__(self) -> _File:
        if not self._is_local:
            handle, self._at = tempfile.mkstemp(suffix=".jsonl")
            os.close(handle)
        self._file = open(self._at, "wb")  # noqa: SIM115 (closed on exit)
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()
        with suppress(FileNotFoundError):  # it was committed
            os.unlink(self._at)

    def write(self, line: str) -> None:
        self._file.write(line.encode())

    def commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._is_local:
            os.replace(self._at, os.path.expanduser(self._path))
            return
        fs, path = filesystem_of(self._path)
        pyarrow.fs.copy_files(self._at, path, source_filesystem=pyarrow.fs.LocalFileSystem(), destination_filesystem=fs)


def _line(row: dict[str, Any], problem: Optional[dict[str, Any]]) -> str:
    """One of a file of results. The body is JSON already."""
    number = uuid.uuid4().hex
    custom_id, error = json.dumps(row["custom_id"] or "", ensure_ascii=False), "null"
    status, body = 200, row["response"]
    if problem is not None:
        status, body = problem["code"], "null"
        error = json.dumps({"error": problem}, ensure_ascii=False)
    response = f'{{"status_code":{status},"request_id":"req_{number}","body":{body}}}'
    return f'{{"id":"batch_req_{number}","custom_id":{custom_id},"response":{response},"error":{error}}}\n'


def _problem(row: dict[str, Any], served: Sequence[str], adapters: bool) -> dict[str, Any]:
    """Of a request that was refused, said once more, with what it names: the row's `error` is a text alone."""
    try:
        read_request(row["request"], served, adapters)
    except InvalidRequest as refusal:
        return api_error(refusal)
    except Exception:  # which is what the row's error tells; one line must not keep the results of all others
        return api_error(row["error"])
    error = api_error(row["error"])
    first = error["message"].partition(" ")[0]
    line = read_line(row["request"])
    return {**error, "param": first} if first in line["body"] or first == "url" else error


def api_error(error: Union[InvalidRequest, str]) -> dict[str, Any]:
    """The API's error object, its `code` HTTP's status, as vLLM's server has it. error: or a row's `error`."""
    if isinstance(error, InvalidRequest):
        status, text, param = error.status, one_line(error, 2000, named=False), error.param
    else:
        text, param = _STAGE.sub("", error, count=1), None
        for ours, theirs in IN_OTHER_WORDS.items():
            text = text.replace(ours, theirs)
        status = 500 if _OWN_FAULT.match(error) else 404 if "no LoRA adapter" in error else 400
    return {"message": text, "type": KINDS[status], "param": param, "code": status}
