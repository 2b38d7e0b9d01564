"""The engines of one call, run or preview: watched while they work, ended afterwards, their failure explained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Optional

from rayllm_batch import errors
from rayllm_batch.cluster import connection, placement
from rayllm_batch.errors import EngineError, RayLLMBatchError, causes
from rayllm_batch.measures.snapshot import Snapshot
from rayllm_batch.run.options import RunOptions
from rayllm_batch.run.rows import explain_read
from rayllm_batch.run.warm import WarmEngines
from rayllm_batch.run.watch import watching
from rayllm_batch.run.watchdog import Watchdog
from rayllm_batch.show.progress import Progress
from rayllm_batch.workers.replica import ReplicaJob


@contextmanager
def watched(
    job: ReplicaJob,
    num_replicas: int,
    options: RunOptions,
    total: Optional[int],
    *observers: Callable[[Snapshot], None],
) -> Iterator[None]:
    """Shows the progress towards `total` rows, looks for stalls, and passes each of the monitor's snapshots on."""
    import ray

    def call(method: str, *arguments: Any) -> Any:
        return ray.get(getattr(job.monitor, method).remote(*arguments), timeout=10)

    def restart(key: str) -> None:
        ray.kill(call("actors")[key], no_restart=False)

    with Progress(num_replicas, total, job.prompt.with_row_ids, options.verbose) as progress:
        told = [progress.observe, *observers]
        with Watchdog(options.stall_timeout_s or 0.0, call, restart, progress.say) as watchdog:
            if options.stall_timeout_s is not None:
                told.append(watchdog.observe)
            with watching(job.monitor, told):
                yield


def end(job: ReplicaJob, engines: Optional[WarmEngines]) -> Optional[Snapshot]:
    """End every replica and its engine's processes; returns the monitor's last snapshot, if there is one.

    engines: those that were running before, or that outlive the call; None where Ray Data starts and ends them.
    """
    import ray

    try:
        snapshot = Snapshot.of(ray.get(job.monitor.snapshot.remote(), timeout=10))
        actors = ray.get(job.monitor.actors.remote(), timeout=10)
    except Exception:  # Ray is gone, or the monitor's node
        snapshot, actors = None, {}
        if connection.is_gone():  # and its actors with it
            return None
    # Some of the hosts wait for a GPU, and are not registered.
    for actor in (*actors.values(), *(engines.hosts if engines else ())):
        try:
            ray.kill(actor)
        except Exception:
            pass
    placement.release(job.groups)
    if snapshot:
        here = ray.util.get_node_ip_address()
        _wait_gone([replica.reaper_pid for replica in snapshot.replicas.values() if replica.node == here])
        ray.kill(job.monitor)
    return snapshot


def explained(error: BaseException, snapshot: Optional[Snapshot]) -> BaseException:
    """The error that the user should see in place of one from Ray's inside. snapshot: the monitor's last.

    Each failure by its own cause: one of our errors, in whatever it came wrapped; then what a replica or a task said of
    the failure that ends the run; and an engine's last death, from which a run mostly recovers, only for a lost actor.
    """
    import ray

    if not isinstance(error, Exception) or isinstance(error, RayLLMBatchError):
        return error
    snapshot = snapshot or Snapshot()
    if isinstance(explanation := explain_read(error), RayLLMBatchError):
        return explanation
    if snapshot.failure:
        kind, message = snapshot.failure
        return getattr(errors, kind)(message)
    lost = any(isinstance(cause, ray.exceptions.RayActorError) for cause in causes(error))
    return EngineError(snapshot.last_death) if lost and snapshot.last_death else error


def _wait_gone(pids: list[int], timeout_s: float = 20.0) -> None:
    """Wait until the reapers on this node are gone: each ends after the last engine process of its replica."""
    deadline = time.monotonic() + timeout_s
    while any(map(_is_there, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _is_there(pid: int) -> bool:
    import psutil

    try:  # in a container without an init process, what has ended stays as a zombie
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
