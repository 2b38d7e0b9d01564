"""The files that a `dataset_file` stands for: one, a folder or a glob; local or remote."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import os
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from rayllm_batch.errors import DatasetError
from rayllm_batch.file_kind import COMPRESSED, check_folder, codec_of
from rayllm_batch.uri import advice, filesystem_of, without_credentials

if TYPE_CHECKING:
    import pyarrow.fs

FORMATS = {"jsonl": "json", "ndjson": "json", "json": "json", "csv": "csv", "tsv": "csv", "parquet": "parquet"}
# What describes the data beside it, of the Hub's, Kaggle's, Frictionless' and Croissant's making.
DESCRIPTIONS = {
    "dataset_info.json",
    "dataset_infos.json",
    "dataset-metadata.json",
    "datapackage.json",
    "croissant.json",
}
# In names of files and folders, as the Hub's datasets have them.
SPLITS = re.compile(r"(?:^|[/._ -])(train|training|validation|valid|val|dev|test|testing|eval)(?=[/._ -]|$)")
WILDCARD = re.compile(r"[*?[]")
OF_OUTPUT = "/_rayllm_batch/"  # a folder in each output folder
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class DatasetFiles:
    """What `dataset_file` resolved to: sorted paths of one format on one filesystem; on the local disk absolute.

    folder: of a folder, its path: names such as lang=de below it are columns.
    """

    given: str
    format: str
    paths: list[str]
    fs: pyarrow.fs.FileSystem
    is_local: bool
    folder: Optional[str] = None

    def partition(self, path: str) -> dict[str, Optional[str]]:
        """The columns that the names of a file's folders hold, as text: {"lang": "de"} of corpus/lang=de/part.parquet.

        Of the folders below the given one, and of those just above the file, without a gap.
        """
        names = os.path.dirname(path).split("/")
        below = len(self.folder.split("/")) if self.folder is not None else len(names)
        first = len(names)
        while first and "=" in names[first - 1]:
            first -= 1
        found = [name.split("=", 1) for name in names[min(first, below) :] if "=" in name]
        return {key: None if value == NO_VALUE else urllib.parse.unquote(value) for key, value in found if key}


def find_files(dataset_file: str | os.PathLike, beside: Optional[str] = None) -> DatasetFiles:
    """Resolve a path, a folder, a glob or a URI to the data files it stands for.

    beside: a file. A relative path of which nothing is in the working folder is looked for in this file's folder too.
    """
    if not isinstance(dataset_file, (str, os.PathLike)):
        kind = type(dataset_file).__name__
        raise DatasetError(f"dataset_file must be the path or URI of a file, a folder or a glob, given a {kind}.")
    given = os.fspath(dataset_file)
    if not isinstance(given, str):
        raise DatasetError(f"dataset_file must be text, given {given!r}.")
    beside = None if beside is None or _starts_somewhere(given) else os.path.abspath(beside)
    fs, path, is_local = _filesystem(_looked_for(given, beside))
    given = without_credentials(given)
    wildcard = bool(WILDCARD.search(path)) and not (is_local and os.path.exists(path))
    import pyarrow.fs

    folder = None
    try:
        if wildcard:
            root = WILDCARD.split(path, maxsplit=1)[0].rpartition("/")[0] or ("/" if is_local else ".")
            pattern = os.path.normpath(path).split("/")
            listed = _listing(fs, root) if not is_local or os.path.isdir(root) else []
            found, folder = [p for p in _visible(listed, root) if _matches(p.split("/"), pattern)], root
            found = _without_answers(found, listed)
        else:
            info = fs.get_file_info(path)
            if info.type == pyarrow.fs.FileType.NotFound:
                raise DatasetError(_missing(given, path, is_local, beside))
            found = [path]
            if not info.is_file:
                listed, folder = _listing(fs, path), os.path.normpath(path)
                check_folder(given, [os.path.relpath(p, path) for p in listed])
                found = _without_answers(_visible(listed, path), listed)
    except (OSError, ValueError, NotImplementedError) as error:  # the latter two of the Hub's client, for its paths
        how = advice(error) if isinstance(error, OSError) else ""
        why = f"{str(error).rstrip('.')}. {how}".rstrip()
        raise DatasetError(f"dataset_file {given!r} cannot be read: {why}") from None
    data = sorted(p for p in found if format_of(p)) if wildcard or len(found) != 1 else found
    if folder is not None:
        data = [p for p in data if os.path.basename(p) not in DESCRIPTIONS]
        _check_splits(given, [os.path.relpath(p, folder) for p in data])
    kinds = sorted({format_of(p) or os.path.basename(p) for p in data})
    if not data:
        places = f" ({_places(beside)})" if beside and wildcard else ""
        raise DatasetError(f"dataset_file {given!r} matches no {', '.join(FORMATS)} file{places}. Check the path.")
    endings = {_ending(p) for p in data}
    if not wildcard and kinds == ["json"] and "json" in endings:  # beside rows, one row, or none: settings, statistics
        kinds = sorted(endings)
    if len(kinds) > 1:
        name = os.path.basename(next(p for p in reversed(data) if kinds[-1] in (format_of(p), _ending(p))))
        above = WILDCARD.split(given, maxsplit=1)[0].rpartition("/")[0] if wildcard else given.rstrip("/")
        raise DatasetError(
            f"dataset_file {given!r} holds files of different formats ({', '.join(kinds)}). Narrow it with a glob, "
            f"such as {above}/**/*{name[name.lower().rindex(f'.{_ending(name)}') :]}."
        )
    if kinds[0] not in FORMATS.values():
        raise DatasetError(
            f"dataset_file {given!r} has an unknown ending. Known: {', '.join('.' + e for e in FORMATS)}, "
            f"also with {', '.join('.' + c for c in COMPRESSED)} behind it."
        )
    return DatasetFiles(given, kinds[0], data, fs, is_local, folder)


def _check_splits(given: str, files: Sequence[str]) -> None:
    """Raise DatasetError for a dataset of the Hub of which all splits would be read as one table. A glob says which."""
    if not given.startswith("hf://") or "*" in given:
        return
    found = {match[1]: file for file in files if (match := SPLITS.search(file))}
    if len(found) > 1:
        split, file = max(found.items())
        end = next(match.end() for match in SPLITS.finditer(file) if match[1] == split)
        *folders, name = file.split("/")
        glob = (
            "/".join([*folders, re.sub(r"-\d{5}-of-\d{5}.*?(?=\.)", "-*", name)])
            if end > file.rfind("/")
            else file[:end]
        )
        raise DatasetError(
            f"dataset_file {given!r} has several splits ({', '.join(sorted(found))}). Give the files of one: "
            f"{given.rstrip('/')}/{glob}."
        )


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """As in a shell: a file, or a folder that it is in, has this name; `*` stays within a name, `**` is any folders."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(path[skipped:], pattern[1:]) for skipped in range(len(path)))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _filesystem(given: str) -> tuple[pyarrow.fs.FileSystem, str, bool]:
    """The filesystem of a path or a URI, the path on it, and whether it was a path: this is absolute from now on."""
    import pyarrow.fs

    if "://" not in given:
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(given)), True
    try:
        return *filesystem_of(given), False
    except OSError as error:
        why = f"{str(error).rstrip('.')}. {advice(error, 'Check the URI.')}"
        raise DatasetError(f"dataset_file {without_credentials(given)!r} cannot be opened: {why}") from None


def _starts_somewhere(given: str) -> bool:
    """Whether it is a URI or an absolute path: the working folder does not matter then."""
    return "://" in given or os.path.isabs(os.path.expanduser(given))


def _looked_for(given: str, beside: Optional[str]) -> str:
    """It, or where nothing is there, the path in the folder of `beside`, if something is there."""
    other = os.path.join(os.path.dirname(beside), given) if beside else given
    return other if beside and not _is_there(given) and _is_there(other) else given


def _is_there(path: str) -> bool:
    pattern = WILDCARD.search(path)
    return os.path.exists(path) or bool(pattern and next(glob.iglob(path, recursive=True), None))


def _places(beside: Optional[str]) -> str:
    return f"looked from {os.getcwd()}" + (f", and beside {beside}" if beside else "")


def _listing(fs: pyarrow.fs.FileSystem, folder: str) -> list[str]:
    import pyarrow.fs

    infos = fs.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True))
    return [os.path.normpath(info.path) for info in infos if info.is_file]


def _visible(files: list[str], folder: str) -> list[str]:
    """Not what tools keep beside the data: .ipynb_checkpoints/rows-checkpoint.jsonl, _delta_log/0.json, _SUCCESS."""
    return [path for path in files if not re.search(r"(^|/)[._]", os.path.relpath(path, folder))]


def _without_answers(found: list[str], listed: list[str]) -> list[str]:
    """Without the files of a run's output folder, beside others: a run into a folder of its input is continued."""
    outputs = tuple(path.partition(OF_OUTPUT)[0] + "/" for path in listed if OF_OUTPUT in path)
    return [path for path in found if not path.startswith(outputs)] or found


def _ending(path: str) -> str:
    """Of its name, without that of a compression; "" where it has none."""
    name = os.path.basename(path).lower()
    unpacked = name.rpartition(".")[0] if codec_of(name) else name
    return unpacked.rpartition(".")[2] if "." in unpacked else ""


def format_of(path: str) -> Optional[str]:
    """json, csv or parquet, by the file's name; None of others."""
    return FORMATS.get(_ending(path))


def _missing(given: str, path: str, is_local: bool, beside: Optional[str]) -> str:
    text = f"dataset_file {given!r} does not exist"
    if not is_local:
        return text + ". Check the URI and the credentials."
    name = os.path.basename(path)
    paths = [path, os.path.join(os.path.dirname(beside), given)] if beside else [path]
    names = [found for folder in map(os.path.dirname, paths) if os.path.isdir(folder) for found in os.listdir(folder)]
    near = difflib.get_close_matches(name, names, n=1)
    advice = f"Did you mean {os.path.join(os.path.dirname(given), near[0])!r}?" if near else "Check the path."
    return f"{text} ({_places(beside)}). {advice}"
