"""An output folder as it is now, for who only reads: nothing is changed, no lock is taken, a run may be writing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Optional

import pyarrow as pa

from rayllm_batch.errors import OutputError, one_line
from rayllm_batch.output.part_file import columns_of
from rayllm_batch.output.place import INSIDE, OutputPlace
from rayllm_batch.output.records import NAME, Manifest, PartRecord, read_records, replaced


class FolderView:
    """manifest: None where it cannot be read. parts: those that count, by their names. updated: when, as text.

    Raises OutputError for what is no output folder.
    """

    def __init__(self, output_path: str | os.PathLike[str]) -> None:
        self._place = OutputPlace(output_path)
        self.given = self._place.given
        try:
            listing = self._place.listed(self._place.root)
            if INSIDE not in [info.base_name for info in listing]:
                there = "nothing there" if not listing else f"no {INSIDE} in it"
                raise OutputError(
                    f"{self.given!r} is no output folder of a run: there is {there}. Give the folder that "
                    "run(output_path) or --output wrote."
                )
            self.manifest = Manifest.read(self._place)
            known = read_records(self._place)
        except OutputError:
            raise
        except Exception as error:  # a storage's are of many kinds: those of the Hub are its HTTP client's own
            why = one_line(error, named=False)
            raise OutputError(f"The output folder {self.given!r} cannot be read: {why}.") from None
        sizes = {info.base_name: info.size for info in listing if info.is_file and NAME.fullmatch(info.base_name)}
        gone = replaced(known, sizes)
        self.parts: dict[str, PartRecord] = {
            name: part for name, part in known.items() if sizes.get(name) == part.size and name not in gone
        }

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts.values())

    @property
    def failed_rows(self) -> int:
        return sum(part.rows for part in self.parts.values() if part.failed)

    @property
    def state(self) -> str:
        """ "complete", or "unfinished"."""
        return "complete" if self.manifest and self.manifest.state == "complete" else "unfinished"

    @property
    def updated(self) -> str:
        try:
            return str(json.loads(self.beside("manifest.json") or b"{}").get("updated", ""))
        except (ValueError, AttributeError):
            return ""

    def beside(self, name: str) -> Optional[bytes]:
        """A file about the folder, or its last run; None where it is not there."""
        try:
            return self._place.read(self._place.inside(name))
        except OSError:
            return None

    def columns(self, names: Sequence[str]) -> Iterator[dict[str, pa.ChunkedArray | pa.Array]]:
        """Of each part, those of the columns that it has. Raises OutputError for a part that cannot be read."""
        for name, part in sorted(self.parts.items()):
            try:
                content = self._place.read(f"{self._place.root}/{name}")
                yield columns_of(content, name.rpartition(".")[2], names)
            except FileNotFoundError:  # a run that goes on has put it aside
                continue
            except (OSError, pa.ArrowException, ValueError, LookupError, TypeError) as error:
                raise OutputError(
                    f"{name} in {self.given!r}, of {part.rows:,} rows, is damaged: {one_line(error)}."
                ) from None
