"""What is written down of each part of an output folder before it is written: rows/NAME.ids."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from rayllm_batch.data.row_id import ID_BYTES
from rayllm_batch.output.finished_rows import DIGEST, UNKNOWN

NAME = re.compile(r"(part|failed)-(\d{6,})-[0-9a-f]{8}\.(parquet|jsonl)")


@dataclass(frozen=True)
class PartRecord:
    """One file of rows: `size` in bytes, `job` the job's fingerprint. schema (serialised), as_text: see PartFile.

    ids: of each row. asked: DIGEST a row, or nothing, where none was kept. replaces: the part that these rows are of,
    some of which were to be run again.
    """

    name: str
    ids: bytes
    size: int
    job: str
    schema: bytes
    as_text: tuple[str, ...] = ()
    asked: bytes = b""
    replaces: Optional[str] = None

    @property
    def rows(self) -> int:
        return len(self.ids) // ID_BYTES

    @property
    def failed(self) -> bool:
        return self.name.startswith("failed")

    @property
    def digests(self) -> np.ndarray:
        """What was asked for each row, shape (rows,). A failed row has no answer to protect."""
        known = bool(self.asked) and not self.failed
        return np.frombuffer(self.asked, DIGEST) if known else np.full(self.rows, UNKNOWN, DIGEST)

    def some(self, stay: np.ndarray, name: str, size: int, job: str) -> PartRecord:
        """Of a part that takes this one's place, with some of its rows. stay: shape (rows,) of bool."""
        ids = np.frombuffer(self.ids, f"V{ID_BYTES}")[stay].tobytes()
        asked = np.frombuffer(self.asked, DIGEST)[stay].tobytes() if self.asked else b""
        return replace(self, name=name, ids=ids, asked=asked, size=size, job=job, replaces=self.name)

    def content(self) -> bytes:
        header = {
            "part": self.name,
            "rows": self.rows,
            "bytes": self.size,
            "job": self.job,
            "schema": base64.b64encode(self.schema).decode(),
            "as_text": self.as_text,
            "asked": bool(self.asked),
            **({"replaces": self.replaces} if self.replaces else {}),
        }
        return json.dumps(header).encode() + b"\n" + self.ids + self.asked

    @classmethod
    def of(cls, name: str, content: bytes) -> Optional[PartRecord]:
        """None where it is cut short, of another name, or was edited."""
        head, _, content = content.partition(b"\n")
        try:
            header = json.loads(head)
            rows, schema, as_text = header["rows"], base64.b64decode(header["schema"]), tuple(header.get("as_text", ()))
            ids, asked = content[: rows * ID_BYTES], content[rows * ID_BYTES :]
            found = cls(name, ids, header["bytes"], header["job"], schema, as_text, asked, header.get("replaces"))
            texts = (found.job, found.replaces or "", *as_text)
            is_its = header.get("part", name) == name and all(isinstance(text, str) for text in texts)
            whole = rows * (ID_BYTES + (DIGEST.itemsize if header.get("asked") else 0))
            return found if is_its and len(content) == whole else None
        except (ValueError, LookupError, TypeError, RecursionError):
            return None


def number_of(name: str) -> int:
    """Of a part's name."""
    return int(name.split("-")[1])
