"""The Ray cluster: connected to or started, and asked before the run whether it can hold the job."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayllm_batch.config import EngineConfig
from rayllm_batch.display import let_all_print
from rayllm_batch.errors import ClusterError, did_you_mean, one_line
from rayllm_batch.termination import kept

log = logging.getLogger("rayllm_batch")
_DID_NOT_START = "Ray did not start on this machine"
ACCELERATOR = "accelerator_type:"
MOST_CPUS = {"GPU": 1.0, "CPU": 0.5}  # Ray CPUs for one replica
ANY_GPU = "GPU"  # accelerator_type for a GPU whose kind Ray does not know, or where any kind will do
PATIENCE_S = 10.0  # with an address where nobody answers
LONGEST_SOCKET = 107  # bytes of a Unix socket's path
_A_SOCKET = b"/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"

_verbose = False
_short = ""  # the folder in place of TMPDIR, where that is too long


def connect(verbose: bool = False) -> None:
    """Use the Ray that this process is connected to, else RAY_ADDRESS, else start one on this machine.

    verbose: what Ray Data and the workers print comes to the screen too; the workers' only if the connection is made here.
    Raises ClusterError.
    """
    import ray

    global _verbose  # noqa: PLW0603 (a process has one screen, and one connection to Ray)
    _verbose = verbose
    let_all_print()
    if ray.is_initialized():
        return
    # The default of Ray 2.60; older releases print a warning about it until it is set.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # The engine's log goes to files of its own; what else workers print is not for the driver's screen.
    how = {"logging_level": logging.INFO if verbose else logging.ERROR, "log_to_driver": verbose}
    address = os.environ.get("RAY_ADDRESS", "").strip()
    with kept():
        if address in ("", "auto", "local"):
            running = "" if address == "local" else running_here()
            if address == "auto" and not running:
                raise ClusterError("RAY_ADDRESS='auto' is the Ray on this machine, and none answers. Start one, or unset it.")
            _join(running, how) if running else _start_here(how)
        else:
            _check_answers(address)
            _join(address, how)
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
            raise ClusterError(
                f"The Ray cluster at {address!r} asks for a token, and this process has {_token()}. Give it the cluster's: "
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (`ray get-auth-token` prints it on the head node), or "
                "RAY_AUTH_TOKEN_PATH."
            ) from None
        raise ClusterError(
            f"The Ray cluster at {address!r} cannot be used: {one_line(error)}. Start it again, or unset RAY_ADDRESS to run "
            "on this machine."
        ) from None
    sys.stderr.write("".join(said))


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


def _token() -> str:
    if (mode := os.environ.get("RAY_AUTH_MODE", "")).lower() not in ("", "token"):
        return f"RAY_AUTH_MODE={mode}"
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return "another" if given else "none, or not the cluster's"


def _check_answers(address: str) -> None:
    """Raise ClusterError where nobody answers at RAY_ADDRESS: Ray takes 40 s for it, and then ends the process."""
    scheme, _, rest = address.rpartition("://")
    if scheme not in ("", "ray", "http", "https"):  # of a plug-in
        return
    host, _, port = rest.partition("/")[0].rpartition(":")
    if scheme.startswith("http") or not host or not port.isdecimal():
        raise ClusterError(
            f"RAY_ADDRESS={address!r} is not a cluster's address{' but a dashboard' if scheme.startswith('http') else ''}. It "
            "is HOST:PORT, such as 10.0.0.1:6379 (`ray start` prints it), or auto for the Ray on this machine. Unset it to "
            "start one here."
        )
    if why := _silent(host.strip("[]"), int(port)):
        raise ClusterError(
            f"No Ray cluster answers at RAY_ADDRESS={address!r}: {why}. Start one there, or unset it to run here."
        )


def _silent(host: str, port: int) -> str:
    """Why nobody who speaks gRPC answers there; "" where somebody does."""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE_S) as connection:
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
    """Whether the cluster that this process is connected to has ended. Then each call of Ray would wait for a minute."""
    import ray

    try:
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        return bool(_silent(host.strip("[]"), int(port)))
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
        try:
            ray.init("local", **how)
            return
        except Exception as error:
            ray.shutdown()
            # Ray gives its node 30 s to start, which a small, busy machine exceeds; the dashboard is most of that work.
            if "timed out during startup" not in str(error):
                raise ClusterError(f"{_DID_NOT_START}: {one_line(error)}. {_where_it_was()}") from None
        log.warning("%s within 30 s; trying once more, without its dashboard.", _DID_NOT_START)
        try:
            ray.init("local", include_dashboard=False, **how)
        except Exception as error:
            ray.shutdown()
            raise ClusterError(
                f"{_DID_NOT_START}: {one_line(error)} Is the machine busy or short of memory? {_where_it_was()}"
            ) from None


def _where_it_was() -> str:
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    return f"Its folder is {_folder()!r}{f' ({name})' if name else ''}, its logs: {logs_folder()}"


@contextmanager
def _short_paths() -> Iterator[None]:
    """Where TMPDIR is too long a path for the sockets that Ray and the engines make in it, they get a short one."""
    given = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")}
    name = next((name for name in given if given[name]), "")
    if not name or len(os.fsencode(given[name]) + _A_SOCKET) <= LONGEST_SOCKET:
        yield
        return
    short = next((folder for folder in ("/tmp", "/var/tmp") if os.access(folder, os.W_OK | os.X_OK)), None)
    if short is None:
        raise ClusterError(
            f"{name}={given[name]!r} is too long: the path of a socket that Ray makes in it has at most {LONGEST_SOCKET} bytes, "
            f"so {name} may have {LONGEST_SOCKET - len(_A_SOCKET)}. Set RAY_TMPDIR to a shorter folder."
        )
    global _short  # noqa: PLW0603 (a process starts one Ray)
    _short = short
    log.info("%s is too long a path for Ray's sockets: its files are in %s/ray.", name, short)
    os.environ.update({name: short for name in given})  # of Ray's processes, and of the engines, their children
    try:
        yield
    finally:
        for name, value in given.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _have_a_token() -> None:
    """Ray protects a cluster with a token, which it writes into the home; where it cannot, the environment has it."""
    if any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
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
    for folder in dict.fromkeys(filter(None, (os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"))):
        try:
            address = (Path(folder) / "ray" / "ray_current_cluster").read_text().strip()
            host, _, port = address.rpartition(":")
            if not _silent(host.strip("[]"), int(port)):
                return address
        except (OSError, ValueError):
            pass
    return ""


def _folder() -> str:
    return os.path.join(_short or os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")


def logs_folder() -> str:
    """Of the Ray that started last on this machine."""
    return os.path.join(_folder(), "session_latest", "logs")


def set_output(context: Any) -> None:
    """Our progress line instead of Ray Data's bars and notices, which all reach its log files as before; or, verbose, both."""
    context.enable_progress_bars = _verbose
    context.print_on_execution_start = _verbose
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler):
            # its errors are raised, and explained, by run()
            handler.setLevel(logging.INFO if _verbose else logging.CRITICAL)


def check(config: EngineConfig, engines: int) -> None:
    """Raise ClusterError, naming what the cluster has, when the job cannot be placed on it. engines: num_replicas x engines_per_gpu."""
    per_gpu = config.engines_per_replica
    nodes = [node["Resources"] for node in alive_nodes()]
    needed = config.gpus_per_replica
    _check_known(config.accelerator_type, nodes)
    if not _leaves_a_cpu(nodes, engines, needed):
        raise ClusterError(
            f"Beside {engines} engine(s), reading and tokenising need one whole CPU on some node, but the cluster has "
            f"{_inventory(nodes)}. Start Ray with more CPUs (num_cpus=2 will do, whatever the machine has), or fewer replicas."
        )
    if not needed:
        return
    kinds = {key.removeprefix(ACCELERATOR) for node in nodes for key in node if key.startswith(ACCELERATOR)}
    wanted = config.accelerator_type
    if not any(node.get("GPU", 0) for node in nodes):
        raise ClusterError(
            f"accelerator_type is {wanted}, but the cluster has {_inventory(nodes)}. "
            "Run on a machine with one, or use a CPU config such as configs/demo-cpu.yaml."
        )
    fitting = [node for node in nodes if has_accelerator(node, wanted)]
    if not fitting:
        raise ClusterError(
            f"No node has the accelerator {wanted}; the cluster has {_inventory(nodes)}."
            f"{did_you_mean(wanted, kinds)} Set accelerator_type to what is there"
            f"{' (' + ', '.join(sorted(kinds)) + ')' if kinds else ''}, or add such a node."
        )
    largest = max(int(node["GPU"]) for node in fitting)
    if needed > largest and config.engine_kwargs.get("distributed_executor_backend") != "ray":
        raise ClusterError(
            f"One replica needs {needed:g} {wanted} GPUs on one node (tensor_parallel_size x pipeline_parallel_size), but "
            f"the largest node has {largest}; the cluster has {_inventory(nodes)}. Lower tensor_parallel_size, or use a "
            "quantized or smaller model."
        )
    room = sum(_room(node, needed) for node in fitting)
    if engines > room:
        replicas, fit, each = (engines // per_gpu, room // per_gpu, needed * per_gpu) if per_gpu > 1 else (engines, room, needed)
        raise ClusterError(
            f"num_replicas={replicas} needs {replicas} x {each:.0f} {wanted} GPUs, but the cluster has room for "
            f"{fit} replica(s): {_inventory(nodes)}. Set num_replicas={max(fit, 1)}, or add nodes."
        )


def _check_known(wanted: str, nodes: list[dict[str, Any]]) -> None:
    """Raise ClusterError for an accelerator_type that neither Ray nor the cluster knows, whatever the engine needs."""
    from ray.util.accelerators import accelerators

    known = {str(value) for name, value in vars(accelerators).items() if name.isupper() and isinstance(value, str)}
    known |= {key.removeprefix(ACCELERATOR) for node in nodes for key in node if key.startswith(ACCELERATOR)} | {ANY_GPU, "CPU"}
    if wanted.upper() not in map(str.upper, known):
        near = did_you_mean(wanted, known) or " Known: A10G, L4, L40S, A100, H100, H200, ..., GPU for any, or CPU."
        raise ClusterError(f"accelerator_type {wanted!r} is none that Ray or the cluster knows.{near}")


def alive_nodes() -> list[dict[str, Any]]:
    """Of `ray.nodes()`, those that live: NodeID, Resources, NodeManagerAddress, ..."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def has_accelerator(resources: dict[str, float], kind: str) -> bool:
    """Whether a node with these resources has GPUs of that kind, an accelerator_type of a config."""
    return bool(resources.get("GPU")) and (kind == ANY_GPU or bool(resources.get(ACCELERATOR + kind)))


def can_read() -> bool:
    """Whether some node has the one CPU that reading takes."""
    return any(node["Resources"].get("CPU", 0) >= 1 for node in alive_nodes())


def free() -> str:
    """`The cluster has 2 x A10G, 16 CPUs on 2 nodes; free: 0 GPUs, 3 CPUs.`"""
    import ray

    now = ray.available_resources()
    nodes = [node["Resources"] for node in alive_nodes()]
    gpus = f"{now.get('GPU', 0):g} GPUs, " if any(node.get("GPU") for node in nodes) else ""
    return f"The cluster has {_inventory(nodes)}; free: {gpus}{now.get('CPU', 0):g} CPUs."


def replica_resources(config: EngineConfig, num_replicas: int) -> dict[str, Any]:
    """What one replica asks of Ray: num_cpus, and with a GPU num_gpus and accelerator_type."""
    gpus = config.gpus_per_replica
    asked: dict[str, Any] = {"num_cpus": cpus_per_replica(num_replicas, gpus)}
    if gpus:
        asked["num_gpus"] = gpus
        if config.accelerator_type != ANY_GPU:
            asked["accelerator_type"] = config.accelerator_type
    return asked


def cpus_per_replica(num_replicas: int, gpus_per_replica: float) -> float:
    """Ray CPUs that one replica asks for: one beside a GPU where the cluster has plenty, else a share.

    The stage before the engine needs CPUs at the same time: if the replicas held all of them, the run would wait for
    ever. The share differs from that stage's one CPU on purpose. Ray Data fuses neighbours that ask for the same, and
    then tokenising would run inside the engine's actors: it would wait for the engine, and then compete with it.
    """
    import ray

    most = MOST_CPUS["GPU" if gpus_per_replica else "CPU"]
    # rounded down, to Ray's own precision: rounded up, six replicas on two CPUs would leave less than one
    return min(most, int(10_000 * ray.cluster_resources().get("CPU", 1) / (2 * num_replicas)) / 10_000)


def _leaves_a_cpu(nodes: list[dict[str, Any]], num_replicas: int, gpus_per_replica: float) -> bool:
    """Whether some node has one whole CPU left, however the replicas come to lie. Without it, the run would hang."""
    share = min(MOST_CPUS["GPU" if gpus_per_replica else "CPU"], sum(node.get("CPU", 0) for node in nodes) / (2 * num_replicas))
    to_fill = 0  # replicas that it takes to leave no node a whole CPU
    for node in nodes:
        if node.get("CPU", 0) >= 1:
            room = _room(node, gpus_per_replica) if gpus_per_replica else num_replicas
            fill = math.floor(round((node["CPU"] - 1) / share, 6)) + 1
            to_fill += fill if fill <= room else num_replicas + 1
    return to_fill > num_replicas


def _room(resources: dict[str, float], gpus_per_replica: float) -> int:
    """Replicas whose GPUs a node with these resources has; one that takes a part of a GPU has it on a single one."""
    gpus = int(resources.get("GPU", 0))
    return gpus // int(gpus_per_replica) if gpus_per_replica >= 1 else gpus * int(1 / gpus_per_replica)


def _inventory(nodes: list[dict[str, Any]]) -> str:
    """`2 x A10G, 16 CPUs on 2 nodes`."""
    gpus: Counter[str] = Counter()
    for node in nodes:
        if count := int(node.get("GPU", 0)):
            names = [key.removeprefix(ACCELERATOR) for key in node if key.startswith(ACCELERATOR)]
            gpus[min(names, key=len) if names else "GPU of unknown type"] += count
    cpus = sum(node.get("CPU", 0) for node in nodes)
    parts = [f"{count} x {name}" for name, count in sorted(gpus.items())] or ["no GPU"]
    return f"{', '.join(parts)}, {cpus:g} CPUs on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"
