"""URIs as they are shown, and what is said of a storage's errors; the texts are pyarrow's, of Ceph's S3 server."""

from __future__ import annotations

import pytest

from rayllm_batch.uri import advice, passes, without_credentials


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://KEY:SECRET@bucket/a", "s3://***@bucket/a"),
        ("s3://bucket/a?region=eu-north-1", "s3://bucket/a?region=eu-north-1"),
        (
            "abfs://c@account/a?client_secret=abc&x=1&sas_token=d",
            "abfs://***@account/a?client_secret=***&x=1&sas_token=***",
        ),
        ("/home/me/a?token=b", "/home/me/a?token=b"),
    ],
)
def test_no_secret_is_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


HEAD = "When getting information for key 'x' in bucket 'data': AWS Error"


@pytest.mark.parametrize(
    ("error", "says", "gone"),
    [
        ("Bucket 'a' not found. To create buckets, enable the allow_bucket_creation option.", "Make the bucket", False),
        (f"{HEAD} ACCESS_DENIED during HeadObject operation: No response body.", "does not take these", False),
        (f"{HEAD} UNKNOWN (HTTP status 400) during HeadObject operation: No response body.", "have expired", False),
        (f"{HEAD} UNKNOWN (HTTP status 400): Unable to parse ExceptionName: ExpiredToken Message: x", "renew", False),
        (f"{HEAD} UNKNOWN (HTTP status 301) during HeadObject operation: No response body.", "another region", False),
        (f"{HEAD} UNKNOWN (HTTP status 411) during UploadPart operation", "CHECKSUM_CALCULATION", False),
        (f"{HEAD} NETWORK_CONNECTION during HeadObject operation: curlCode: 7", "cannot be reached", True),
        (f"{HEAD} UNKNOWN (HTTP status 503) during HeadObject operation", "too much to do", True),
        (f"{HEAD} INTERNAL_FAILURE during PutObject operation: of the test.", "too much to do", True),
        ("google::cloud::Status(INVALID_ARGUMENT: missing project id", "Make the bucket", False),
        ("google::cloud::Status(PERMISSION_DENIED: x", "GOOGLE_APPLICATION_CREDENTIALS", False),
        ("google::cloud::Status(UNAVAILABLE: Retry policy exhausted", "cannot be reached", True),
        ("google::cloud::Status(RESOURCE_EXHAUSTED: Retry policy exhausted", "otherwise", True),
        ("[Errno 28] No space left on device", "otherwise", False),
    ],
)
def test_what_can_be_done(error: str, says: str, gone: bool) -> None:
    assert says in advice(OSError(error), "otherwise") and passes(OSError(error)) is gone
