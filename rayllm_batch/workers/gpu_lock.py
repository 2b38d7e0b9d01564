"""Engines that share a GPU start on it one after the other."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from typing import IO


def gpu_to_itself() -> IO[str]:
    """Waits until no other engine of this user starts on this process's GPU; to be closed when this one has started.

    vLLM measures how much memory is free while it starts, and another engine's start would be in that. The lock is of this
    node (a file of its temporary folder) and ends with its process, however that ends.
    """
    gpus = re.sub(r"\W", "-", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    path = os.path.join(tempfile.gettempdir(), f"rayllm_batch-{os.getuid()}-gpu-{gpus}.lock")
    lock = open(path, "a", encoding="utf-8")  # noqa: SIM115 (the caller's to close)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock
