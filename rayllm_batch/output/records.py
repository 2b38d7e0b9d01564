"""What is written down beside the rows: the manifest, and for each part a record, rows/NAME.ids.

The manifest says whose answers are in the folder, and how far it is; all its formats so far can be read. A part's
record is written before the part.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

import numpy as np

from rayllm_batch._version import __version__
from rayllm_batch.data.row_id import ID_BYTES
from rayllm_batch.errors import OutputError
from rayllm_batch.output.fingerprint import Job, differences
from rayllm_batch.output.finished_rows import DIGEST, UNKNOWN
from rayllm_batch.output.place import OutputPlace

FORMAT = 2  # 1 had the whole job in one, and no digests of what was asked
NAME = re.compile(r"(part|failed)-(\d{6,})-[0-9a-f]{8}\.(parquet|jsonl)")


@dataclass(frozen=True)
class Manifest:
    """job: of the answers. state: "unfinished" or "complete". kept: see OutputFolder."""

    job: Job
    output_format: Any
    state: Any
    rows: Any
    kept: Any
    failed: Any

    @classmethod
    def read(cls, place: OutputPlace) -> Optional[Manifest]:
        """None where there is none, or not one that can be read. Raises OutputError for one of an unknown format."""
        try:
            found = json.loads(place.read(place.inside("manifest.json")))
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        if (number := found.get("format", 1)) not in range(1, FORMAT + 1):
            raise OutputError(
                f"The output folder {place.given!r} was written by rayllm_batch {found.get('version')}, in a format "
                f"(number {number}) that this one, {__version__}, does not know. Install that version, or give another "
                "output_path."
            )
        if "fingerprint" not in found:
            return None
        parts = [found.get(name) for name in ("job", "settings", "hints", "data", "adapters")]
        whole, *apart = (part if isinstance(part, dict) else {} for part in parts)
        known = {name: found.get(name) for name in ("output_format", "state", "rows", "kept", "failed")}
        return cls(Job.of_format_1(whole) if number == 1 else Job(*apart), **known)

    def write(self, place: OutputPlace) -> None:
        content = {
            "format": FORMAT,
            "version": __version__,
            "state": self.state,
            "rows": self.rows,
            "failed": self.failed,
            "output_format": self.output_format,
            "fingerprint": self.job.fingerprint,
            "settings": self.job.settings,
            "hints": self.job.hints,
            "data": self.job.rows,
            "adapters": self.job.adapters,
            "kept": self.kept,
            "updated": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        }
        place.write(place.inside("manifest.json"), json.dumps(content, indent=1, ensure_ascii=False).encode())

    def check(self, job: Job, output_format: str, given: str) -> None:
        """Raise OutputError where the folder `given` cannot be continued as this job."""
        if differing := differences(self.job.settings, job.settings):
            raise OutputError(
                f"The output folder {given!r} holds another job: {'; '.join(differing)}. "
                f"Run it as it was to continue it, or give this job another output_path.{_for_some(differing)}"
            )
        both = self.job.adapters.keys() & job.adapters
        if others := [name for name in sorted(both) if self.job.adapters[name] != job.adapters[name]]:
            raise OutputError(
                f"The output folder {given!r} has answers of LoRA adapters whose files were others: "
                f"{', '.join(map(repr, others[:3]))}{', ...' if len(others) > 3 else ''}. Put the new ones under names "
                "of their own, or give another output_path."
            )
        if self.output_format != output_format:
            raise other_format(given, self.output_format, output_format)


def _for_some(differing: list[str]) -> str:
    """How the rows that failed, alone, are asked with other settings."""
    if not all(line.startswith("workload.sampling_params ") for line in differing):
        return ""
    return (
        " For its failed rows alone, return these settings from parse_row, as 'sampling_params', with "
        "retry_failed=True and changed='keep'."
    )


def other_format(given: str, begun_with: Any, output_format: str) -> OutputError:
    return OutputError(
        f"The output folder {given!r} was begun with output_format={begun_with!r}, not {output_format!r}. Keep the "
        "format, or give another output_path."
    )


@dataclass(frozen=True)
class PartRecord:
    """One file of rows: `size` in bytes, `job` the job's fingerprint. schema (serialised), as_text: see PartFile.

    ids: of each row. asked: DIGEST a row, or nothing, where none was kept. replaces: the parts that these rows are of,
    some of which were to be run again, or the small ones that these rows were in.
    """

    name: str
    ids: bytes
    size: int
    job: str
    schema: bytes
    as_text: tuple[str, ...] = ()
    asked: bytes = b""
    replaces: tuple[str, ...] = ()

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
        return replace(self, name=name, ids=ids, asked=asked, size=size, job=job, replaces=(self.name,))

    @classmethod
    def of_all(cls, parts: Sequence[PartRecord], name: str, size: int) -> PartRecord:
        """Of a part with the rows of these, one after the other; they are alike."""
        ids, asked = b"".join(part.ids for part in parts), b"".join(part.asked for part in parts)
        return replace(parts[-1], name=name, ids=ids, asked=asked, size=size, replaces=tuple(p.name for p in parts))

    def content(self) -> bytes:
        header = {
            "part": self.name,
            "rows": self.rows,
            "bytes": self.size,
            "job": self.job,
            "schema": base64.b64encode(self.schema).decode(),
            "as_text": self.as_text,
            "asked": bool(self.asked),
            # Of one the name itself, as earlier versions read it; to them, a part with several does not count.
            **({"replaces": self.replaces if self.replaces[1:] else self.replaces[0]} if self.replaces else {}),
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
            replaces = header.get("replaces", [])
            replaces = [replaces] if isinstance(replaces, str) else replaces
            found = cls(name, ids, header["bytes"], header["job"], schema, as_text, asked, tuple(replaces))
            texts = (found.job, *replaces, *as_text)
            is_its = (
                header.get("part", name) == name
                and isinstance(replaces, list)
                and all(isinstance(text, str) for text in texts)
            )
            whole = rows * (ID_BYTES + (DIGEST.itemsize if header.get("asked") else 0))
            return found if is_its and len(content) == whole else None
        except (ValueError, LookupError, TypeError, RecursionError):
            return None


def read_records(place: OutputPlace) -> dict[str, PartRecord]:
    """Those that can be read, by the name of their part."""
    found = {}
    for info in place.listed(place.inside("rows")):
        name = info.base_name.removesuffix(".ids")
        if info.is_file and NAME.fullmatch(name) and (part := PartRecord.of(name, place.read(info.path))):
            found[name] = part
    return found


def replaced(known: dict[str, PartRecord], sizes: dict[str, int]) -> set[str]:
    """Parts whose rows are in a newer one that is whole: a driver was killed between the two steps."""
    whole = (part for name, part in known.items() if sizes.get(name) == part.size)
    return {older for part in whole for older in part.replaces}


def number_of(name: str) -> int:
    """Of a part's name."""
    return int(name.split("-")[1])
