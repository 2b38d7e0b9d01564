"""The manifest of an output folder: whose answers are in it, and how far it is. All formats so far can be read."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Optional

from rayllm_batch._version import __version__
from rayllm_batch.errors import OutputError
from rayllm_batch.output.fingerprint import Job, differences
from rayllm_batch.output.place import OutputPlace

FORMAT = 2  # 1 had the whole job in one, and no digests of what was asked


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
        parts = [found.get(name) for name in ("job", "settings", "hints", "data")]
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
            "kept": self.kept,
            "updated": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        }
        place.write(place.inside("manifest.json"), json.dumps(content, indent=1, ensure_ascii=False).encode())

    def check(self, job: Job, output_format: str, given: str) -> None:
        """Raise OutputError where the folder `given` cannot be continued as this job."""
        if differing := differences(self.job.settings, job.settings):
            raise OutputError(
                f"The output folder {given!r} holds another job: {'; '.join(differing)}. "
                "Run it as it was to continue it, or give this job another output_path."
            )
        if self.output_format != output_format:
            raise other_format(given, self.output_format, output_format)


def other_format(given: str, begun_with: Any, output_format: str) -> OutputError:
    return OutputError(
        f"The output folder {given!r} was begun with output_format={begun_with!r}, not {output_format!r}. Keep the "
        "format, or give another output_path."
    )
