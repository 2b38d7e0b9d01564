"""How a data file is to be read, where its name and content do not say."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from rayllm_batch.errors import DatasetError, did_you_mean

# Why a line is bad, in the row that stands for it, else null; it becomes the `error` of the output's row.
BAD_LINE = "_rayllm_bad_line"
OF_FILE = "dataset_file"  # the stage that this error begins with there
RESERVED = "_rayllm_"  # names of columns that begin so are ours
RAISE, KEEP = "raise", "keep"
UTF8 = "utf-8"


@dataclass(frozen=True)
class ReadOptions:
    """See read_dataset_file. encoding: None for UTF-8, or what a byte order mark says."""

    bad_lines: str = RAISE
    encoding: Optional[str] = None
    column_types: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.bad_lines not in (RAISE, KEEP):
            near = did_you_mean(str(self.bad_lines), (RAISE, KEEP))
            raise DatasetError(
                f"bad_lines must be {RAISE!r} (the default) or {KEEP!r}, given {self.bad_lines!r}.{near}"
            )
        if self.encoding is not None:
            try:
                known = codecs.lookup(self.encoding)
                "".encode(self.encoding)  # not one of bytes, such as base64
            except (LookupError, TypeError):
                raise DatasetError(
                    "dataset_encoding must be an encoding that Python knows, such as 'cp1252', 'shift-jis' or "
                    f"'utf-16', given {self.encoding!r}."
                ) from None
            object.__setattr__(self, "encoding", None if known.name == UTF8 else known.name)
        if not isinstance(self.column_types, Mapping):
            given = type(self.column_types).__name__
            raise DatasetError(f"column_types must be a dict such as {{'age': 'int64'}}, given a {given}.")
        import pyarrow as pa

        types = {}
        for name, kind in self.column_types.items():
            try:
                types[name] = kind if isinstance(kind, pa.DataType) else pa.type_for_alias(kind)
                pa.array([], pa.string()).cast(types[name])
            except (ValueError, TypeError, AttributeError, pa.ArrowException):
                raise DatasetError(
                    f"column_types[{name!r}] must be an Arrow type that text can become, or its name, such as 'int64', "
                    f"'float64', 'bool' or 'string', given {kind!r}."
                ) from None
        object.__setattr__(self, "column_types", types)

    @property
    def keeps(self) -> bool:
        return self.bad_lines == KEEP

    def bad_row(self, why: str) -> dict[str, Any]:
        """What stands for a bad line. Raises DatasetError where bad lines end the reading."""
        if not self.keeps:
            keep = f"bad_lines={KEEP!r} (on the command line: -w bad_lines={KEEP})"
            raise DatasetError(f"{why} Mend or remove it, or set {keep}: then it is a failed row.")
        return {BAD_LINE: why}


def shown(line: str, most: int = 80) -> str:
    """A line as a message may quote it: as it stands in the file, without the line break at its end."""
    text = line[: most + 2].rstrip("\r\n").encode("utf-8", "replace").decode()
    return repr(text if len(text) <= most else text[:most] + "...")
