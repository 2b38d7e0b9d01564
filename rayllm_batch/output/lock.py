"""One driver at a time on an output folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import IO, Any, Optional

from rayllm_batch.errors import OutputError
from rayllm_batch.output.place import OutputPlace

HEARTBEAT_S = 10.0  # on storage that has no locks, a driver signs this often; one that has not for LEASE_S is dead
LEASE_S = 30.0
READ_TRIES = 3
OPEN_TRIES = 20  # each fails where another driver has removed the file in the last microseconds
LOOK_EVERY_S = 1.0  # at the lease of another, until it is signed again or has run out
SETTLE_S = 2.0  # of two that came at once, and wrote within half of it, the second to write holds it

# The system's lock lasts until every process that has the file open is gone: a child that outlives a killed driver
# must not have it.
_held: set[IO[str]] = set()
os.register_at_fork(after_in_child=lambda: [file.close() for file in _held])


class FolderLock:
    """Held from `acquire` to `release`; the end of the process releases it, however it ends. Locally the folder of
    its file is made too: who held the lock last may have removed both.

    On a local (or NFS) folder it is the operating system's lock on a file. On object storage, which has none, it is
    a file that its holder signs every HEARTBEAT_S seconds.
    """

    # By hand. Locally, filelock would be a dozen lines less from 4.1 on; with earlier ones, which others may bring,
    # a child that outlives its parent keeps the lock. Remotely, conditional writes would need no SETTLE_S: pyarrow has
    # none, s3fs only those that create, and obstore, which has all, is a second client with credentials of its own, for
    # S3, GCS and Azure alone: what is below would stay, for HDFS and fsspec.

    def __init__(self, place: OutputPlace, path: str) -> None:
        self._place, self._path = place, path
        self._file: Optional[IO[str]] = None
        self._stop = threading.Event()
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "start": time.time()}
        self._thread: Optional[threading.Thread] = None
        self._signed = 0.0
        self._lost_to: dict[str, Any] = {}

    def acquire(self) -> None:
        """Raises OutputError when another driver holds it. May wait LEASE_S to see whether that one is alive."""
        if self._place.is_local:
            self._acquire_local()
        else:
            self._acquire_lease()

    def check(self) -> None:
        """Raises OutputError when a driver that was stopped for longer than its lease finds another in its place."""
        if self._thread is not None and not self._lost_to and time.time() - self._signed > LEASE_S / 2:
            now = self._read()
            self._lost_to = now if self._is_other(now) else {}
        if self._lost_to:
            raise self._held(self._lost_to)

    def release(self, clear: Callable[[], bool] = lambda: False) -> None:
        """clear: called while nobody else can hold it; True where it has removed the lock's file too. Its OSError is
        no error.
        """
        if self._file is not None:
            try:
                _done(clear)
            finally:
                _held.discard(self._file)
                self._file.close()
                self._file = None
        elif self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            try:
                if not self._is_other(self._read()) and (self._lost_to or not _done(clear)):
                    self._write({**self._me, "beat": 0})
            except OSError:  # the lease runs out by itself
                pass

    def _acquire_local(self) -> None:
        failed: Optional[OSError] = None
        for _ in range(OPEN_TRIES):
            try:
                os.makedirs(os.path.dirname(self._path), exist_ok=True)
                file = open(self._path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 (open while held)
            except (FileNotFoundError, FileExistsError) as error:  # the folder was removed in between
                failed = error
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    file.seek(0)
                    raise self._held(_loads(file.read())) from None
            except OSError as error:  # a file system without locks
                file.close()
                text = f"The output folder {self._place.given!r} cannot be locked: {error}. Use a local folder."
                raise OutputError(text) from None
            if _is_at(file, self._path):
                break
            file.close()  # removed between the two steps: another driver may lock the file that is there now
        else:
            raise failed or self._held({})
        _held.add(file)
        self._file = file
        file.truncate(0)
        file.write(json.dumps(self._me))
        file.flush()

    def _acquire_lease(self) -> None:
        deadline = time.time() + LEASE_S
        looked = time.monotonic()
        now = before = self._read()
        while now.get("beat") and time.time() < deadline:
            time.sleep(LOOK_EVERY_S)
            looked = time.monotonic()
            now = self._read()
            if now.get("beat") and now["beat"] != before["beat"]:
                raise self._held(now)
        self._write({**self._me, "beat": time.time()})
        # On a busy storage a write may come long after the look, when another has settled. That one finds it when it
        # signs next, and stops: what it has written until then is seen after this wait.
        is_late = time.monotonic() - looked > SETTLE_S / 2
        time.sleep(LEASE_S if is_late else SETTLE_S)
        if {**(now := self._read()), "beat": 0} != {**self._me, "beat": 0}:
            raise self._held(now)
        self._signed = time.time()
        self._thread = threading.Thread(target=self._keep_signing, name="folder-lease", daemon=True)
        self._thread.start()

    def _keep_signing(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if self._is_other(now := self._read()):
                    self._lost_to = now  # `check` says so
                    return
                self._write({**self._me, "beat": time.time()})
                self._signed = time.time()
            except OSError:  # the next write of rows fails too, and says so
                pass

    def _held(self, holder: dict[str, Any]) -> OutputError:
        who = f" (process {holder['pid']} on {holder.get('host')})" if "pid" in holder else ""
        return OutputError(
            f"Another run is writing to the output folder {self._place.given!r}{who}. Wait for it, stop it, or give "
            "this run another output_path."
        )

    def _is_other(self, content: dict[str, Any]) -> bool:
        return "start" in content and any(content.get(key) != value for key, value in self._me.items())

    def _read(self) -> dict[str, Any]:
        # Only a missing file is no lease: a storage that cannot be read just now may hold one, and where a file that is
        # being written can be read (fsspec's, a mounted folder), half of one is read again.
        for _ in range(READ_TRIES):
            try:
                if content := _loads(self._place.read(self._path).decode("utf-8", "replace")):
                    return content
            except FileNotFoundError:
                return {}
            time.sleep(LOOK_EVERY_S)
        return {}

    def _write(self, content: dict[str, Any]) -> None:
        self._place.write(self._path, json.dumps(content).encode())


def _done(clear: Callable[[], bool]) -> bool:
    try:
        return clear()
    except OSError:
        return False


def _is_at(file: IO[str], path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _loads(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
