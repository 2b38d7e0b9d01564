"""The GPUs that this process sees: how busy they are, what memory they have, and whose turn it is to start on one."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from typing import IO, Any, Optional


def utilization() -> Optional[float]:
    """From 0 to 1, the mean over the GPUs of CUDA_VISIBLE_DEVICES; None where that cannot be known.

    NVML's own figure: the share of the last moment in which a kernel ran on the GPU, which says nothing of how well it
    filled it. Needs `pynvml` (nvidia-ml-py), which comes with vLLM's GPU build. A share of a GPU (MIG) has no figure.
    """
    try:
        import pynvml

        busy = [pynvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in _handles()]
        return sum(busy) / len(busy) / 100
    except Exception:  # no package, no driver, no right to ask: a run does not need to know
        return None


def memory() -> str:
    """`one NVIDIA A10G has 22.5 GiB, of which 21.9 are free now`, of the first one; or that it cannot be known."""
    try:
        import pynvml

        handle = _handles()[0]
        name, found = _text(pynvml.nvmlDeviceGetName(handle)), pynvml.nvmlDeviceGetMemoryInfo(handle)
        return f"one {name} has {found.total / 2**30:.1f} GiB, of which {found.free / 2**30:.1f} are free now"
    except Exception:
        return "how much the GPU has cannot be asked"


def gpu_to_itself() -> IO[str]:
    """Waits until no other engine of this user starts on this process's GPU; to be closed when this one has started.

    vLLM measures how much memory is free while it starts, and another engine's start would be in that. The lock is of
    this node (a file of its temporary folder) and ends with its process, however that ends.
    """
    gpus = re.sub(r"\W", "-", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    path = os.path.join(tempfile.gettempdir(), f"rayllm_batch-{os.getuid()}-gpu-{gpus}.lock")
    lock = open(path, "a", encoding="utf-8")  # noqa: SIM115 (the caller's to close)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _handles() -> list[Any]:
    import pynvml

    pynvml.nvmlInit()  # again each time: NVML counts, and a handle costs microseconds
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return [_handle(name.strip()) for name in visible.split(",") if name.strip()]


def _handle(name: str) -> Any:
    """name: an index, or a UUID such as `GPU-8932f937-d72c-4106-c12f-20bd9faed9f6`, of which the beginning will do."""
    import pynvml

    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        if _text(pynvml.nvmlDeviceGetUUID(handle)).startswith(name):
            return handle
    raise LookupError(name)


def _text(given: Any) -> str:
    """pynvml's older versions give bytes."""
    return given.decode() if isinstance(given, bytes) else given
