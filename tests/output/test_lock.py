"""One driver at a time on a folder, also where the storage has no locks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
import pytest

from rayllm_batch.errors import OutputError
from rayllm_batch.output import lock as folder_lock
from rayllm_batch.output.lock import FolderLock
from rayllm_batch.output.place import OutputPlace

ROOT = str(Path(__file__).parents[2])
HOLD = """
import os, sys, time, pyarrow.fs
from rayllm_batch.output.lock import FolderLock
from rayllm_batch.output.place import OutputPlace
lock = FolderLock(OutputPlace("out"), sys.argv[1])
lock.acquire()
reading, writing = os.pipe()
child = os.fork() if "with a child" in sys.argv else None
if child == 0:
    os.close(1)
    os.write(writing, b"x")
    time.sleep(20)  # longer than the test takes
    os._exit(0)
if child:
    os.read(reading, 1)
print(child or "held", flush=True)
time.sleep(60)
"""


def local(path: Path) -> FolderLock:
    return FolderLock(OutputPlace("out"), str(path))


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ROOT},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_driver_is_told_who_the_first_is(tmp_path: Path, holder: subprocess.Popen) -> None:
    with pytest.raises(OutputError, match=f"'out'.*process {holder.pid} on {socket.gethostname()}.*output_path"):
        local(tmp_path / "lock").acquire()


def test_a_killed_driver_holds_nothing(tmp_path: Path, holder: subprocess.Popen) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = local(tmp_path / "lock")
    lock.acquire()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock.release()


def test_a_child_that_outlives_a_killed_driver_does_not_hold_the_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock"), "with a child"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ROOT})
    child = int(process.stdout.readline())
    try:
        with pytest.raises(OutputError, match=f"process {process.pid} on"):
            local(tmp_path / "lock").acquire()
        process.kill()
        process.wait()
        lock = local(tmp_path / "lock")
        lock.acquire()
        lock.release()
        os.kill(child, 0)  # it is still there
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)


def test_a_lock_is_free_after_its_release_and_not_before(tmp_path: Path) -> None:
    one, two = local(tmp_path / "lock"), local(tmp_path / "lock")
    one.acquire()
    with pytest.raises(OutputError, match=f"process {os.getpid()} on"):
        two.acquire()
    two.release()  # of what it does not hold
    with pytest.raises(OutputError):
        two.acquire()
    one.release()
    two.acquire()
    two.release()
    two.release()


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1', "[]", "null", "7", '{"host": "x"}', "\x00\xff"])
def test_a_lock_file_that_says_nothing_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content, encoding="latin-1")
    lock = local(tmp_path / "lock")
    lock.acquire()
    (tmp_path / "lock").write_text(content, encoding="latin-1")
    with pytest.raises(OutputError, match="Another run is writing"):
        local(tmp_path / "lock").acquire()
    lock.release()


# On storage without locks.


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(folder_lock, "LEASE_S", 0.5)
    monkeypatch.setattr(folder_lock, "SETTLE_S", 0.1)
    monkeypatch.setattr(folder_lock, "LOOK_EVERY_S", 0.05)


def on_storage(fs: pyarrow.fs.FileSystem, path: str, given: str) -> FolderLock:
    place = OutputPlace("out")
    place.fs, place.is_local, place.given = fs, False, given
    return FolderLock(place, path)


def remote(path: Path) -> FolderLock:
    return on_storage(pyarrow.fs.SubTreeFileSystem(str(path), pyarrow.fs.LocalFileSystem()), "lock", "s3://out")


def in_memory(folder: str) -> FolderLock:
    fs = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fsspec.filesystem("memory")))
    fs.create_dir(folder)
    return on_storage(fs, f"{folder}/lock", "memory://out")


@pytest.mark.usefixtures("short")
def test_a_living_lease_is_respected_and_a_released_one_is_free_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = remote(tmp_path)
    one.acquire()
    with pytest.raises(OutputError, match=f"s3://out.*process {os.getpid()} on"):
        remote(tmp_path).acquire()
    one.check()
    one.release()
    two = remote(tmp_path)
    monkeypatch.setattr(folder_lock, "LEASE_S", 3600.0)
    two.acquire()
    two.release()
    assert json.loads((tmp_path / "lock").read_text())["beat"] == 0
    assert not any(t.name == "folder-lease" for t in threading.enumerate())


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("half", ["", '{"host": "a", "pid"'])
def test_a_lease_that_is_read_while_it_is_written_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    monkeypatch.setattr(folder_lock, "LEASE_S", 10.0)  # a machine that stalls signs late
    one, two, read, seen = remote(tmp_path), remote(tmp_path), OutputPlace.read, []
    one.acquire()

    def torn(self: OutputPlace, path: str) -> bytes:
        seen.append(path)
        return half.encode() if len(seen) % 2 else read(self, path)

    monkeypatch.setattr(OutputPlace, "read", torn)
    with pytest.raises(OutputError, match=f"s3://out.*process {os.getpid()} on"):
        two.acquire()
    one.check()
    one.release()


@pytest.mark.usefixtures("short")
def test_a_lease_that_is_written_late_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy storage: between the look of one and its write, another takes the folder and settles."""
    monkeypatch.setattr(folder_lock, "HEARTBEAT_S", 1.0)  # longer than SETTLE_S, as it is
    monkeypatch.setattr(folder_lock, "LEASE_S", 3.0)
    one, two = remote(tmp_path), remote(tmp_path)
    write = two._write

    def late(content: dict[str, Any]) -> None:
        monkeypatch.setattr(two, "_write", write)
        one.acquire()
        one.check()
        write(content)

    monkeypatch.setattr(two, "_write", late)
    holders = []
    try:
        two.acquire()
        holders.append(two)
    except OutputError:  # the first has signed over it
        pass
    try:
        one.check()
        holders.append(one)
    except OutputError:
        pass
    assert len(holders) == 1
    one.release()
    two.release()


@pytest.mark.usefixtures("short")
def test_a_lease_in_memory_storage() -> None:
    one = in_memory("alone")
    one.acquire()
    with pytest.raises(OutputError, match="memory://out"):
        in_memory("alone").acquire()
    one.release()
    two = in_memory("alone")
    two.acquire()
    two.release()


def _lease_and_die(path: Path) -> None:
    remote(path).acquire()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("short")
def test_the_lease_of_a_killed_driver_runs_out(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_lease_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and json.loads((tmp_path / "lock").read_text())["beat"]
    lock = remote(tmp_path)
    lock.acquire()
    lock.release()


@pytest.mark.usefixtures("short")
def test_of_several_that_come_at_once_one_gets_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "SETTLE_S", 2.0)  # a machine that stalls for longer may let two have it, or none
    all_have_looked, looked, held = threading.Barrier(4), set(), []
    # As object storage is, and neither a file that two write at once nor fsspec's memory with its one position for all.
    read, write, one_at_a_time = FolderLock._read, FolderLock._write, threading.Lock()

    def write_whole(self: FolderLock, content: dict[str, Any]) -> None:
        with one_at_a_time:
            write(self, content)

    def read_together(self: FolderLock) -> dict[str, Any]:
        with one_at_a_time:
            content = read(self)
        if self not in looked:
            looked.add(self)
            all_have_looked.wait(30)
        return content

    monkeypatch.setattr(FolderLock, "_read", read_together)
    monkeypatch.setattr(FolderLock, "_write", write_whole)
    locks = [in_memory("together") for _ in range(4)]
    for number, lock in enumerate(locks):
        lock._me["pid"] = 1000 + number  # as if on several machines

    def acquire(lock: FolderLock) -> None:
        try:
            lock.acquire()
            held.append(lock)
        except OutputError:
            pass

    threads = [threading.Thread(target=acquire, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    held[0].release()


@pytest.mark.usefixtures("short")
def test_a_driver_whose_lease_was_overwritten_stops_at_the_next_heartbeat(tmp_path: Path) -> None:
    lock, other = remote(tmp_path), remote(tmp_path)
    lock.acquire()
    other._me["pid"] = 4242
    other._write({**other._me, "beat": 1})
    lock._thread.join(5)
    with pytest.raises(OutputError, match="process 4242"):
        lock.check()
    lock.release()


@pytest.mark.usefixtures("short")
def test_a_driver_that_slept_longer_than_its_lease_finds_out_before_it_writes(tmp_path: Path) -> None:
    """A laptop was closed, a virtual machine suspended; meanwhile another driver took the folder."""
    slept = remote(tmp_path)
    slept.acquire()
    slept._stop.set()  # it signs no more
    slept._thread.join()
    other = remote(tmp_path)
    other._me["pid"] = 4242
    other.acquire()
    with pytest.raises(OutputError, match="process 4242"):
        slept.check()
    slept.release()
    assert json.loads((tmp_path / "lock").read_text())["beat"], "its release took the other's lease away"
    other.check()
    other.release()


@pytest.mark.usefixtures("short")
def test_a_storage_that_cannot_be_read_just_now_is_not_taken_for_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: FolderLock) -> dict[str, Any]:
        raise OSError("connection reset")

    lock = remote(tmp_path)
    (tmp_path / "lock").mkdir()  # something that is there and cannot be read
    with pytest.raises(OSError):
        lock.acquire()
    (tmp_path / "lock").rmdir()
    lock.acquire()
    monkeypatch.setattr(FolderLock, "_read", unreachable)
    time.sleep(0.4)  # several heartbeats fail
    assert lock._thread.is_alive()
    lock.release()
