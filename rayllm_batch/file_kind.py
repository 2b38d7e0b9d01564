"""What a file or a folder is, whatever its name: said when that is not what its name promises."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Optional

from rayllm_batch.errors import DatasetError

HEAD_BYTES = 4096
COMPRESSED = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "br": "brotli", "lz4": "lz4"}  # ending, Arrow's name
_MAGIC = {"gzip": b"\x1f\x8b", "bz2": b"BZh", "zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"}

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    *((magic, f"{name} data") for name, magic in _MAGIC.items()),
    (b"PAR1", "a parquet file; name it .parquet"),
    (b"ARROW1", "an Arrow (Feather) file; in load_dataset, ray.data.from_arrow(pyarrow.feather.read_table(path))"),
    (b"\xff\xff\xff\xff", "an Arrow stream; in load_dataset, ray.data.from_huggingface(Dataset.from_file(path))"),
    (b"ORC", "an ORC file; ray.data.read_orc(path) reads it in load_dataset"),
    (b"Obj\x01", "an Avro file; ray.data.read_avro(path) reads it in load_dataset"),
    (b"\xd0\xcf\x11\xe0", "an old Office file, such as .xls; save it as CSV UTF-8"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"Rar!\x1a", "a RAR archive; unpack it"),
    (b"%PDF-", "a PDF"),
    (b"SQLite format 3", "an SQLite database; ray.data.read_sql reads it in load_dataset"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file; ray.data.read_numpy(path) reads it in load_dataset"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GGUF", "a GGUF file"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
)
_OFFICE = {b"xl/": "an Excel workbook (.xlsx); save it as CSV UTF-8", b"word/": "a Word document (.docx)"}


def codec_of(path: str) -> Optional[str]:
    """Arrow's name of the compression that the name of a file tells."""
    return COMPRESSED.get(path.lower().rpartition(".")[2])


def check_kind(path: str, head: bytes, format: str) -> None:
    """Raise DatasetError when a file of that name ("json", "csv" or "parquet") cannot begin so. head: some KB of it."""
    codec = codec_of(path)
    packed = _MAGIC.get(codec or "")
    if packed and head.startswith(packed) or format == "parquet" and head.startswith(b"PAR1"):
        return
    kind = kind_of(head)
    if kind is None and packed and head:
        kind = f"not {codec}, as its name says"
    if kind is None and format == "parquet":
        kind = f"not parquet; it begins with {head[:20]!r}"
    if kind is None and format == "csv" and re.match(rb'\s*(\{\s*"[^"\n]*"\s*:|\[\s*\{\s*")', head):
        kind = "JSON; name it .jsonl or .json"
    if kind and kind.endswith(" data"):
        name = next(ending for ending, name in COMPRESSED.items() if kind.startswith(name))
        kind += f"; name it {os.path.basename(path)}.{name}"
    if kind:
        raise DatasetError(f"dataset_file {path!r} cannot be read as {format}: its content is {kind}.")


def kind_of(head: bytes) -> Optional[str]:  # noqa: PLR0911 (a line a kind)
    """In words, of a file that begins so; None for text."""
    for start, kind in _STARTS:
        is_text = start.isalnum() and not re.search(rb"[\x00-\x08]", head)  # a CSV may begin with ORC
        if head.startswith(start) and not is_text:
            return kind
    if head.startswith(b"PK\x03\x04"):
        inside = next((kind for name, kind in _OFFICE.items() if name in head), None)
        if inside is None and b"[Content_Types].xml" in head:
            inside = "an Office document; save it as CSV UTF-8"
        return inside or "a zip archive; unpack it"
    if head and not head.strip(b"\0"):
        return "nothing but zero bytes; its copy or download was cut short"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, such as a login or an error; download the file again"
    if text.startswith((b"<?xml", b"<error>")):
        title = re.search(rb"<message>([^<]{1,200})", head, re.IGNORECASE)
        return "XML, such as an error of a storage" + (f" ({title[1].decode('utf-8', 'replace')})" if title else "")
    return None


def check_folder(given: str, files: Sequence[str]) -> None:
    """Raise DatasetError for a folder that is more than its data files, which alone would be wrong rows. files: all."""
    names = {os.path.basename(file) for file in files}
    folders = {folder for file in files for folder in os.path.dirname(file).split("/")}
    has_tables = "dataset_info.json" in names or any(name.endswith(".arrow") for name in names)
    if has_tables and names & {"state.json", "dataset_dict.json"}:
        which = '["train"]' if "dataset_dict.json" in names else ""
        raise DatasetError(
            f"dataset_file {given!r} was made by save_to_disk of the datasets library. Read it in load_dataset: return "
            f"ray.data.from_huggingface(datasets.load_from_disk({given!r}){which})."
        )
    is_iceberg = any(re.search(r"(^|/)metadata/[^/]*\.metadata\.json$", file) for file in files)
    is_lance = "_versions" in folders and any(name.endswith((".lance", ".manifest")) for name in names)
    for is_one, kind, reader in (
        ("_delta_log" in folders, "a Delta table", "read_delta"),
        (is_iceberg, "an Iceberg table", "read_iceberg"),
        (".hoodie" in folders, "a Hudi table", "read_hudi"),
        (is_lance, "a Lance dataset", "read_lance"),
    ):
        if is_one:
            raise DatasetError(
                f"dataset_file {given!r} is {kind}, some of whose files may hold rows that were deleted or replaced. "
                f"Read it in load_dataset with ray.data.{reader}."
            )
