"""What is said of a gs:// folder, by a server on the loopback that has no bucket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rayllm_batch.errors import OutputError
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.folder import OutputFolder


class NoBuckets(BaseHTTPRequestHandler):
    status = 404

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), NoBuckets)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "words"), [(404, "Make the bucket first, or mend its name"), (403, "does not take these credentials")]
)
def test_a_folder_that_cannot_be_made(status: int, words: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoBuckets, "status", status)
    uri = f"gs://anonymous@bucket/answers?scheme=http&endpoint_override={address}&retry_limit_seconds=2"
    with pytest.raises(OutputError, match=words) as caught, OutputFolder(uri, Job({"model_id": "m"}), "parquet"):
        pass
    assert "error_info" not in str(caught.value) and "anonymous" not in str(caught.value)
