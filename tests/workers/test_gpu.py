"""How busy the visible GPUs are (NVML is made up); engines that share a GPU start one after the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from rayllm_batch.workers import gpu
from rayllm_batch.workers.gpu import gpu_to_itself

UUIDS = ["GPU-8932f937", "GPU-1111aaaa", "GPU-2222bbbb"]
BUSY = [100, 50, 0]  # per cent


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Three GPUs; a handle is the GPU's number."""
    made = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=lambda index: range(3)[index],
        nvmlDeviceGetUUID=lambda handle: UUIDS[handle],
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=BUSY[handle], memory=1),
    )
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


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


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937-d72c")


@pytest.mark.usefixtures("own_folder")
def test_the_second_waits_for_the_first() -> None:
    first = gpu_to_itself()
    has_it = threading.Event()

    def start() -> None:
        with gpu_to_itself():
            has_it.set()

    second = threading.Thread(target=start, daemon=True)
    second.start()
    assert not has_it.wait(0.5)
    first.close()
    assert has_it.wait(10)
    second.join()


@pytest.mark.usefixtures("own_folder")
def test_another_gpu_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu_to_itself():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
        gpu_to_itself().close()


@pytest.mark.usefixtures("own_folder")
def test_an_engine_that_was_killed_while_it_started_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "from rayllm_batch.workers.gpu import gpu_to_itself; "
        "lock = gpu_to_itself(); print('has it', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout.readline() == "has it\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    gpu_to_itself().close()
