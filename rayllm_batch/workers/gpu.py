"""How busy the GPUs are that this process sees, and what memory they have."""

from __future__ import annotations

import os
from typing import Any, Optional

_found: dict[Optional[str], tuple[Any, ...]] = {}


def utilization() -> Optional[float]:
    """From 0 to 1, the mean over the GPUs of CUDA_VISIBLE_DEVICES; None where that cannot be known.

    NVML's own figure: the share of the last moment in which a kernel ran on the GPU, which says nothing of how well it
    filled it. Needs `pynvml` (nvidia-ml-py), which comes with vLLM's GPU build. A share of a GPU (MIG) has no figure.
    """
    try:
        handles = _handles(os.environ.get("CUDA_VISIBLE_DEVICES"))
        if not handles:
            return None
        import pynvml

        return sum(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles) / len(handles) / 100
    except Exception:  # no package, no driver, no right to ask: a run does not need to know
        return None


def memory() -> str:
    """`one NVIDIA A10G has 22.5 GiB, of which 21.9 are free now`, of the first one; or that it cannot be known."""
    try:
        import pynvml

        handle = _handles(os.environ.get("CUDA_VISIBLE_DEVICES"))[0]
        name, found = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = name.decode() if isinstance(name, bytes) else name
        return f"one {name} has {found.total / 2**30:.1f} GiB, of which {found.free / 2**30:.1f} are free now"
    except Exception:
        return "how much the GPU has cannot be asked"


def _handles(visible: Optional[str]) -> tuple[Any, ...]:
    """Asked for once. Not with functools.cache: what that wraps cannot be sent to a node without this package."""
    import pynvml

    if visible not in _found:
        pynvml.nvmlInit()
        if visible is None:
            _found[visible] = tuple(
                pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
            )
        else:
            _found[visible] = tuple(_handle(pynvml, name.strip()) for name in visible.split(",") if name.strip())
    return _found[visible]


def _handle(pynvml: Any, name: str) -> Any:
    """name: an index, or a UUID such as `GPU-8932f937-d72c-4106-c12f-20bd9faed9f6`, of which the beginning will do."""
    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        if (uuid.decode() if isinstance(uuid, bytes) else uuid).startswith(name):
            return handle
    raise LookupError(name)
