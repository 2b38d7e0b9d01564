"""What a file is that is not what its name says: by its first bytes."""

from __future__ import annotations

from typing import Optional

HEAD_BYTES = 512
_BEGINNINGS = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, in place of the file (git lfs pull fetches it)"),
    (b"PAR1", "a parquet file"),
    (b"ARROW1", "an Arrow IPC file"),
    (b"\xff\xff\xff\xff", "an Arrow IPC stream"),
    (b"\x1f\x8b", "gzip-compressed (its name must end in .gz)"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed (its name must end in .zst)"),
    (b"BZh", "bzip2-compressed (its name must end in .bz2)"),
    (b"\xfd7zXZ", "xz-compressed, which is not read: unpack it"),
    (b"PK\x03\x04", "a zip archive, as Excel files (.xlsx) are: export it as CSV, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file: export it as CSV"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"GIF8", "a picture (GIF)"),
    (b"SQLite format 3", "an SQLite database"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy file"),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def kind_of(head: bytes) -> Optional[str]:
    """In words, from a file's first HEAD_BYTES; None where they say nothing. Text, JSON and CSV begin like nothing."""
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PAGES):
        return "a web page (HTML or XML), such as a login or an error page saved in place of the file"
    if head and not head.strip(b"\0"):
        return "nothing but zero bytes: its copy or download was cut short"
    return None
