"""The log of one replica: what its process says, and the engine that it starts."""

from __future__ import annotations

import os
import sys
from typing import Optional

from rayllm_batch.show.engine_logs import RAYS_OWN_MARKS

LAST_WORDS_LINES = 25


class ReplicaLog:
    """path: None where this process's output is not a file's, and there is nothing to read."""

    def __init__(self, path: Optional[str]) -> None:
        self.path = path

    @classmethod
    def begin(cls, run_id: str, key: str) -> ReplicaLog:
        """Send the output of this process, and so its engine's, to a file of its own beside Ray's logs.

        Ray echoes each worker's output to the driver, which for vLLM is hundreds of lines a replica.
        """
        worker_log = os.path.realpath("/proc/self/fd/1")  # Ray has sent it to a file in the session's logs
        if not os.path.isfile(worker_log):
            return cls(None)
        path = os.path.join(os.path.dirname(worker_log), f"rayllm_batch-{run_id}-{key}.log")
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(target)
        return cls(path)

    @property
    def size(self) -> int:
        """Bytes."""
        try:
            return os.path.getsize(self.path) if self.path else 0
        except OSError:
            return 0

    def since(self, begin: int) -> str:
        """begin: an earlier `size`."""
        if not self.path:
            return ""
        sys.stdout.flush()
        with open(self.path, "rb") as file:
            file.seek(begin)
            return file.read().decode("utf-8", "replace")

    def with_last_words(self, text: str) -> str:
        """The text, then the log's end, or its errors alone if there are any: what the engine said before it failed."""
        if not self.path or not os.path.exists(self.path):
            return text.rstrip()
        sys.stdout.flush()
        with open(self.path, encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip() for line in file.readlines()[-400:]]
        lines = [line for line in lines if not line.startswith(RAYS_OWN_MARKS)]
        causes = [line for line in lines if "ERROR" in line or "Error" in line]
        return "\n".join([text, *(causes or lines)[-LAST_WORDS_LINES:]]).rstrip()
