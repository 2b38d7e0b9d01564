"""URIs of storages that pyarrow knows (s3://, gs://, hdfs://, file://), and how they may be shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow.fs


def without_credentials(uri: str) -> str:
    """The URI as it may be printed: `s3://KEY:SECRET@bucket/answers` has neither, a path is left as it is."""
    return re.sub(r"^([A-Za-z][\w+.-]*://)[^/]*@", r"\1***@", uri)


def filesystem_of(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The storage and the path on it. Raises OSError where there is none; its text shows no credentials."""
    import pyarrow as pa
    import pyarrow.fs

    try:
        return pyarrow.fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise OSError(str(error).replace(uri, without_credentials(uri))) from None
