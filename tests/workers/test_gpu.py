"""How busy the visible GPUs are; NVML is made up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from rayllm_batch.workers import gpu

UUIDS = ["GPU-8932f937", "GPU-1111aaaa", "GPU-2222bbbb"]
BUSY = [100, 50, 0]  # per cent


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Three GPUs; a handle is the GPU's number."""
    made = SimpleNamespace(
        started=0,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=lambda index: range(3)[index],
        nvmlDeviceGetUUID=lambda handle: UUIDS[handle],
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=BUSY[handle], memory=1),
    )

    def start() -> None:
        made.started += 1

    made.nvmlInit = start
    monkeypatch.setitem(sys.modules, "pynvml", made)
    gpu._found.clear()
    yield made
    gpu._found.clear()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, 0.5),
        ("0,1,2", 0.5),
        ("0", 1.0),
        ("1, 0", 0.75),
        ("GPU-1111", 0.5),
        ("GPU-8932f937,GPU-2222bbbb", 0.5),
        ("", None),  # hides them all
        ("7", None),
        ("GPU-ffff", None),
        ("MIG-41b5", None),
    ],
)
def test_the_mean_over_the_visible_ones(
    nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: float | None
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu.utilization() == expected


def test_it_is_asked_anew_but_started_once(nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    first = gpu.utilization()
    monkeypatch.setattr(nvml, "nvmlDeviceGetUtilizationRates", lambda handle: SimpleNamespace(gpu=30))
    assert (first, gpu.utilization(), nvml.started) == (1.0, 0.3, 1)


def test_bytes_as_older_versions_give_them(nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "nvmlDeviceGetUUID", lambda handle: UUIDS[handle].encode())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1111aaaa")
    assert gpu.utilization() == 0.5


def test_no_package_and_no_driver_are_no_error(nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def no_driver() -> None:
        raise RuntimeError("NVML Shared Library Not Found")

    monkeypatch.setattr(nvml, "nvmlInit", no_driver)
    assert gpu.utilization() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    assert gpu.utilization() is None
