"""Connecting to Ray: the cluster that is named or runs here, else one of this process's own."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayllm_batch.display import let_all_print
from rayllm_batch.errors import ClusterError, one_line
from rayllm_batch.termination import kept

log = logging.getLogger("rayllm_batch")
_DID_NOT_START = "Ray did not start on this machine"
PATIENCE_S = 10.0  # with an address where nobody answers
LONGEST_SOCKET = 107  # bytes of a Unix socket's path
_FOLDERS = ("RAY_TMPDIR", "TMPDIR")  # names of variables
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_A_SOCKET = b"/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"

_verbose = False
_short = ""  # the folder in place of TMPDIR, where that is too long
_is_forked = False  # from a process that was connected to Ray: what it asks by that connection is never answered


def _note_fork() -> None:
    global _is_forked  # noqa: PLW0603 (a process has one connection to Ray)
    _is_forked = "ray" in sys.modules and sys.modules["ray"].is_initialized()


os.register_at_fork(after_in_child=_note_fork)


def connect(verbose: bool = False) -> None:
    """Use the Ray that this process is connected to, else RAY_ADDRESS, else start one on this machine.

    verbose: what Ray Data and the workers print comes to the screen too; the workers' only if this call connects.
    Raises ClusterError.
    """
    import ray

    global _verbose  # noqa: PLW0603 (a process has one screen, and one connection to Ray)
    _verbose = verbose
    let_all_print()
    if _is_forked:
        raise ClusterError(
            "This process was forked from one that is connected to Ray, and cannot use that connection. Run it in that "
            'process, or in one that multiprocessing.get_context("spawn") starts.'
        )
    if ray.is_initialized():
        return
    # The default of Ray 2.60; older releases print a warning about it until it is set.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # The engine's log goes to files of its own; what else workers print is not for the driver's screen.
    how = {"logging_level": logging.INFO if verbose else logging.ERROR, "log_to_driver": verbose}
    address = os.environ.get("RAY_ADDRESS", "").strip()
    with kept():
        if address not in ("", "auto", "local"):
            _check_answers(address)
        elif address != "local" and (running := running_here()):
            address = running
        elif address == "auto":
            raise ClusterError("RAY_ADDRESS='auto' is a Ray on this machine, and none answers. Start one, or unset it.")
        else:
            address = ""
        _join(address, how) if address else _start_here(how)
    if not verbose:
        _have_it_said_unseen()
    import ray.data

    set_output(ray.data.DataContext.get_current())  # a Ray that somebody else started keeps their settings


def _join(address: str, how: dict[str, Any]) -> None:
    import ray

    said: list[str] = []
    try:
        with _native_stderr(said):
            ray.init(address, **how)
    except Exception as error:
        ray.shutdown()
        # Of a process without a token Ray's error only says that it failed to connect; why is in what it printed.
        if "authenticat" in f"{type(error).__name__} {error} {' '.join(said)}".lower():
            mode = os.environ.get("RAY_AUTH_MODE", "")
            has = "another" if any(map(os.environ.get, _TOKENS)) else "none, or not the cluster's"
            if mode.lower() not in ("", "token"):
                has = f"RAY_AUTH_MODE={mode}"
            raise ClusterError(
                f"The Ray cluster at {address!r} asks for a token, and this process has {has}. Give it the cluster's: "
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (`ray get-auth-token` prints it on the head node), or "
                "RAY_AUTH_TOKEN_PATH."
            ) from None
        mend = "Start it again"
        if "version mismatch" in str(error).lower():
            mend = "Use the cluster's Python and Ray here, to the last digit"
        raise ClusterError(
            f"The Ray cluster at {address!r} cannot be used: {one_line(error)}. {mend}, or unset RAY_ADDRESS to run on "
            "this machine."
        ) from None
    sys.stderr.write("".join(said))


def _have_it_said_unseen() -> None:
    """Ray's C++ says once a process that an actor's arguments may be lost; Ray Data keeps those of all its actors.

    It is said of this one, which no node has a place for, and which is given up at once.
    """
    import ray

    class Nobody:
        def __init__(self, argument: Any) -> None:
            """Never runs."""

    said: list[str] = []
    with _native_stderr(said):
        actor = ray.remote(num_cpus=0, max_restarts=1, resources={"rayllm_batch": 1})(Nobody).remote(ray.put(None))
        del actor
    lines = "".join(said).splitlines(keepends=True)
    sys.stderr.write("".join(line for line in lines if "has constructor arguments in the object store" not in line))


@contextmanager
def _native_stderr(said: list[str]) -> Iterator[None]:
    """What is written to stderr, by C++ too, comes into `said` instead."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        screen = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))


def _check_answers(address: str) -> None:
    """Raise ClusterError where nobody answers at RAY_ADDRESS: Ray takes 40 s for it, and then ends the process."""
    scheme, _, rest = address.rpartition("://")
    if scheme not in ("", "ray", "http", "https"):  # of a plug-in
        return
    place = rest.partition("/")[0]
    host, _, port = place.rpartition(":")
    if scheme.startswith("http") or not host or not port.isdecimal():
        but = " but a dashboard" if scheme.startswith("http") else ""
        raise ClusterError(
            f"RAY_ADDRESS={address!r} is not a cluster's address{but}. It is HOST:PORT, such as 10.0.0.1:6379 (`ray "
            "start` prints it), or auto for the Ray on this machine. Unset it to start one here."
        )
    if why := _silent(place):
        said = f"No Ray cluster answers at RAY_ADDRESS={address!r}: {why}."
        raise ClusterError(f"{said} Start one there, or unset it to run here.")


def _silent(address: str) -> str:
    """Why nobody who speaks gRPC answers at HOST:PORT; "" where somebody does. ValueError where there is no port."""
    host, _, port = address.rpartition(":")
    there = host.strip("[]"), int(port)
    try:
        with socket.create_connection(there, timeout=PATIENCE_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return ""
            # HTTP/2 begins so, and a server's first frame is its settings.
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            head = connection.recv(9)
    except TimeoutError:
        return f"no word within {PATIENCE_S:g} s"
    except (OSError, OverflowError, ValueError) as error:
        return one_line(error, named=False)
    return "" if head[3:4] == b"\4" else "what listens there is not Ray"


def is_gone() -> bool:
    """Whether the cluster that this process is connected to has ended: calls of Ray would wait for a minute."""
    import ray

    try:
        return bool(_silent(ray.get_runtime_context().gcs_address))
    except Exception:  # not known of a connection through ray://
        return False


def _start_here(how: dict[str, Any]) -> None:
    """Start a cluster of this process's own."""
    import ray

    # One CPU would do for an engine or for tokenising, not for both; it is a number for Ray, not a use of cores.
    if (os.cpu_count() or 1) < 2:
        how = {**how, "num_cpus": 2}
    with _short_paths():
        _have_a_token()
        for again in (False, True):
            try:
                ray.init("local", **how)
                return
            except Exception as error:
                ray.shutdown()
                # Ray gives its node 30 s to start, which a small, busy machine exceeds; the dashboard is most of that.
                if again or "timed out during startup" not in str(error):
                    busy = " Is the machine busy or short of memory?" if again else "."
                    named = f" ({name})" if (name := _named_folder()[0]) else ""
                    where = f"Its folder is {_folder()!r}{named}, its logs: {logs_folder()}"
                    raise ClusterError(f"{_DID_NOT_START}: {one_line(error)}{busy} {where}") from None
            log.warning("%s within 30 s; trying once more, without its dashboard.", _DID_NOT_START)
            how = {**how, "include_dashboard": False}


@contextmanager
def _short_paths() -> Iterator[None]:
    """Where TMPDIR is too long a path for the sockets that Ray and the engines make in it, they get a short one."""
    name, folder = _named_folder()
    if len(os.fsencode(folder) + _A_SOCKET) <= LONGEST_SOCKET:
        yield
        return
    short = next((folder for folder in ("/tmp", "/var/tmp") if os.access(folder, os.W_OK | os.X_OK)), None)
    if short is None:
        raise ClusterError(
            f"{name}={folder!r} is too long: the path of a socket that Ray makes in it has at most {LONGEST_SOCKET} "
            f"bytes, so {name} may have {LONGEST_SOCKET - len(_A_SOCKET)}. Set RAY_TMPDIR to a shorter folder."
        )
    global _short  # noqa: PLW0603 (a process starts one Ray)
    _short = short
    log.info("%s is too long a path for Ray's sockets: its files are in %s/ray.", name, short)
    given = {name: value for name in _FOLDERS if (value := os.environ.get(name)) is not None}
    os.environ.update(dict.fromkeys(_FOLDERS, short))  # of Ray's processes, and of the engines, their children
    try:
        yield
    finally:
        for name in _FOLDERS:
            os.environ.pop(name, None)
        os.environ.update(given)


def _have_a_token() -> None:
    """Ray protects a cluster with a token, which it writes into the home; where it cannot, the environment has it."""
    if any(map(os.environ.get, _TOKENS)) or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    try:
        file = Path.home() / ".ray" / "auth_token"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=file.parent).close()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def running_here() -> str:
    """The address of a cluster that `ray start` made on this machine, if it lives, else "".

    Ray looks in one folder only, and does not ask: for a cluster that was killed it waits 40 s, and ends the process.
    """
    for folder in dict.fromkeys(filter(None, (*map(os.environ.get, _FOLDERS), "/tmp"))):
        try:
            address = (Path(folder) / "ray" / "ray_current_cluster").read_text().strip()
            if not _silent(address):
                return address
        except (OSError, ValueError):
            pass
    return ""


def _named_folder() -> tuple[str, str]:
    """Where Ray keeps its files as the environment has it, and the variable that says so, "" for none."""
    return next(((name, folder) for name in _FOLDERS if (folder := os.environ.get(name))), ("", "/tmp"))


def _folder() -> str:
    return os.path.join(_short or _named_folder()[1], "ray")


def logs_folder() -> str:
    """Of the Ray that started last on this machine."""
    return os.path.join(_folder(), "session_latest", "logs")


def set_output(context: Any) -> None:
    """Our progress line for Ray Data's bars and notices, which its log files have all the same; verbose: both."""
    context.enable_progress_bars = _verbose
    context.print_on_execution_start = _verbose
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler):
            # its errors are raised, and explained, by run()
            handler.setLevel(logging.INFO if _verbose else logging.CRITICAL)
