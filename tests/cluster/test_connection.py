"""Connecting to Ray, without starting one: who listens at an address is made up, and what ray.init does."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from rayllm_batch.cluster import connection
from rayllm_batch.errors import ClusterError


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """The address of a server that answers so to whoever connects. That of Ray begins with a frame of HTTP/2."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.recv(100)
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


RAY = b"\0\0\0\4\0\0\0\0\0"


@pytest.fixture
def inits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The addresses that ray.init is given, in a machine where nothing runs."""
    given: list[Any] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: given.append(address))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "a"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "b"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(connection, "_short", "")
    monkeypatch.setattr(connection, "_have_it_said_unseen", lambda: None)  # by an actor
    return given


@pytest.mark.parametrize("variable", ["a", "b"])
def test_a_cluster_that_died_and_left_its_address_is_not_waited_for(
    variable: str, tmp_path: Path, inits: list[Any]
) -> None:
    connection.connect()
    (tmp_path / variable / "ray").mkdir(parents=True)
    with listening(RAY) as address:
        (tmp_path / variable / "ray" / "ray_current_cluster").write_text(address)
        connection.connect()
    connection.connect()  # nobody listens there any more
    assert inits == ["local", address, "local"]


def test_an_address_where_ray_listens_is_used(inits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(RAY) as address:
        for given in (address, f" {address} ", f"ray://{address}"):
            monkeypatch.setenv("RAY_ADDRESS", given)
            connection.connect()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    connection.connect()
    assert inits == [address, address, f"ray://{address}", "local"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("foo", "is not a cluster's address. It is HOST:PORT"),
        ("10.0.0.1", "is not a cluster's address"),
        ("http://127.0.0.1:8265", "but a dashboard"),
        ("ray://", "is not a cluster's address"),
        ("127.0.0.1:1", "No Ray cluster answers at RAY_ADDRESS='127.0.0.1:1': .*refused"),
        ("ray://127.0.0.1:1", "No Ray cluster answers"),
        ("127.0.0.1:99999", "No Ray cluster answers"),
        ("a host.invalid:6379", "No Ray cluster answers"),
        ("auto", "and none answers"),
    ],
)
def test_an_address_where_ray_does_not_listen(
    given: str, said: str, inits: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(ClusterError, match=said):
        connection.connect()
    assert not inits


@pytest.mark.parametrize(("answer", "said"), [(b"HTTP/1.1 400 Bad Request\r\n", "is not Ray"), (b"", "is not Ray")])
def test_something_else_listens_there(
    answer: bytes, said: str, inits: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(answer) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=said):
            connection.connect()


@pytest.mark.parametrize(
    ("printed", "error", "said"),
    [
        (
            "GCS: Unauthenticated: RPC error: InvalidAuthToken",
            ConnectionError("Failed to connect"),
            "asks for a token.*RAY_AUTH_MODE=token",
        ),
        ("", ray.exceptions.AuthenticationError("no token"), "asks for a token"),
        (
            "",
            RuntimeError("Version mismatch: the cluster has 2.9"),
            "Version mismatch.*Use the cluster's Python and Ray",
        ),
        ("", RuntimeError("the GCS is gone"), "cannot be used: RuntimeError: the GCS is gone. Start it again"),
    ],
)
def test_a_cluster_that_lets_nobody_in(  # noqa: PLR0917
    printed: str,
    error: Exception,
    said: str,
    inits: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def init(*_: Any, **__: Any) -> None:
        os.write(2, printed.encode())
        raise error

    monkeypatch.setattr(ray, "init", init)
    with listening(RAY) as address, pytest.raises(ClusterError, match=said):
        monkeypatch.setenv("RAY_ADDRESS", address)
        connection.connect()
    assert capfd.readouterr().err == ""


def test_a_long_tmpdir_is_not_rays(inits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: seen.append((os.environ.get("RAY_TMPDIR"), os.environ["TMPDIR"])))
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", long := "/tmp/" + "x" * 60)
    connection.connect()
    assert seen == [("/tmp", "/tmp")] and os.environ["TMPDIR"] == long and "RAY_TMPDIR" not in os.environ
    assert connection.logs_folder().startswith("/tmp/ray/")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ClusterError, match="TMPDIR=.* is too long.*Set RAY_TMPDIR"):
        connection.connect()


def test_a_folder_that_ray_cannot_use_is_named(inits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: Any, **__: Any) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(
        ClusterError, match="Ray did not start on this machine: PermissionError: Permission denied.*RAY_TMPDIR"
    ):
        connection.connect()


@pytest.mark.parametrize(
    ("home", "mode", "has"),
    [("/proc/none", "token", True), ("/proc/none", "disabled", False), ("/tmp", "token", False)],
)
def test_without_a_home_the_token_is_in_the_environment(
    home: str, mode: str, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path) if home == "/tmp" else home)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    connection._have_a_token()
    assert bool(os.environ["RAY_AUTH_TOKEN"]) == has


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_forked_process_has_no_use_of_a_connection(
    is_connected: bool, inits: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would wait for ever for what it asks there."""
    monkeypatch.setattr(ray, "is_initialized", lambda: is_connected)
    reads, writes = os.pipe()
    if not (child := os.fork()):
        try:
            connection.connect()
            said = f"connected {inits}"
        except BaseException as error:  # or else this process would go on with the tests
            said = f"{type(error).__name__}: {error}"
        os.write(writes, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reads, 10_000).decode()
    assert ("was forked from one that is connected to Ray" in said) is is_connected
    assert is_connected or said.startswith("connected ")
    connection.connect()  # in this process all is as it was
