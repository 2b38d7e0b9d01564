"""URIs of storages that pyarrow knows (s3://, gs://, hdfs://, file://), and how they may be shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow.fs

# What is in an error of pyarrow's or of the storage's, and what can be done then.
ADVICE = {
    r"EXPIRED|Expired|RequestTimeTooSkewed": "The credentials have expired, or this machine's clock is wrong: "
    "renew them.",
    r"NO_SUCH_BUCKET|NoSuchBucket|^Bucket '.*' not found|missing project id": "Make the bucket first, or mend "
    "its name.",
    r"HTTP status 30[17]|PermanentRedirect|AuthorizationHeaderMalformed|configured region": "The bucket is in another "
    "region: set AWS_DEFAULT_REGION, or append ?region=... to the URI.",
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID|HTTP status 40[013]": "The "
    "storage does not take these credentials (AWS_ACCESS_KEY_ID, a profile, a role): they are wrong, have expired, or "
    "have no right to this.",
    r"HTTP status 411|MissingContentLength|HTTP status 501": "The storage does not know checksums behind the content: "
    "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required.",
    r"PERMISSION_DENIED|UNAUTHENTICATED": "The storage does not take these credentials "
    "(GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`), or they have no right to this.",
    r"NETWORK_CONNECTION|Status\(UNAVAILABLE": "It cannot be reached: check the address, and that this machine may.",
    r"SLOW_DOWN|SlowDown|THROTTLING|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|HTTP status 5\d\d": "It has "
    "too much to do, or is broken: run the same again later.",
}

# Errors that pass by themselves. pyarrow has tried some thirty times, within six seconds.
PASSING = r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT|INTERNAL_FAILURE|SERVICE_UNAVAILABLE)"
PASSING += r"|HTTP status (429|5\d\d)|ExceptionName: SlowDown|Status\((UNAVAILABLE|RESOURCE_EXHAUSTED|INTERNAL)\b"
RETRY_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)  # waits, on a storage that is busy or out of reach: two minutes


def without_credentials(uri: str) -> str:
    """The URI as it may be printed: `s3://KEY:SECRET@bucket/answers` has neither, a path is left as it is."""
    uri = re.sub(r"^([A-Za-z][\w+.-]*://)[^/]*@", r"\1***@", uri)
    secret = r"(?i)([?&][^=&]*(?:key|secret|token|sig|password)[^=&]*=)[^&]*"  # an option of some storages
    return re.sub(secret, r"\1***", uri) if "://" in uri else uri


def text_without_credentials(text: str) -> str:
    """Of any URL in it, neither user nor password: such as a proxy's, which HTTP clients name in their errors."""
    return re.sub(r"(://)[^/\s]*@", r"\1***@", text)


def advice(error: object, otherwise: str = "") -> str:
    """What can be done about an error of a storage."""
    said = str(error)
    return next((mend for words, mend in ADVICE.items() if re.search(words, said)), otherwise)


def filesystem_of(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The storage and the path on it. Raises OSError where there is none; its text shows no credentials."""
    import pyarrow as pa
    import pyarrow.fs

    try:
        return pyarrow.fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise OSError(str(error).replace(uri, without_credentials(uri))) from None


def passes(error: object) -> bool:
    """Whether it is an error of a storage that is gone before long: busy, broken or out of reach."""
    return bool(re.search(PASSING, str(error)))
