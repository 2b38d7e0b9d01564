"""The Ray Data pipeline of a run: rows, prompts, answers."""

from __future__ import annotations

import inspect
import math
import random
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Optional

import pyarrow as pa

from rayllm_batch.cluster import placement, resources
from rayllm_batch.cluster.shipping import ship_package
from rayllm_batch.data import columns
from rayllm_batch.data.row_id import row_id
from rayllm_batch.installed import is_installed
from rayllm_batch.load_workload import beside
from rayllm_batch.run.plan import Plan
from rayllm_batch.run.warm import Relay
from rayllm_batch.workers.parse_answer import parse_answers
from rayllm_batch.workers.prompts import prompt_tables
from rayllm_batch.workers.replica import Replica, ReplicaJob

if TYPE_CHECKING:
    import ray.data

WINDOW_ROWS, MEDIA_WINDOW_ROWS = 4096, 64
SPREAD_OVER = 20_000  # rows that an estimate's sample comes from: some 100 MB to read
PARSE_CPUS = 0.25  # it must find room beside the other stages where there are two CPUs


def answers(
    rows: ray.data.Dataset, job: ReplicaJob, plan: Plan, total: Optional[int], *, warm: bool
) -> ray.data.Dataset:
    """The rows with their answers, lazily: nothing runs before the result is read.

    total: the number of rows where it is known. warm: whether the engines run already, in actors of their own.
    """
    batch_size = plan.rows_a_block(total)
    # Rows that begin alike come together within one batch of this stage, so a long job gets large ones.
    window = max(batch_size, WINDOW_ROWS if job.prompt.sort and (total is None or total >= 8 * WINDOW_ROWS) else 128)
    if plan.with_media:  # a task holds the media's rows, and reads those of some at once
        window = max(batch_size, MEDIA_WINDOW_ROWS)
    # One fused CPU stage: read, prompts, and a repartition that bounds the blocks.
    prompts = rows.map_batches(
        prompt_tables, fn_kwargs={"job": job.prompt}, batch_format="pyarrow", batch_size=window
    ).repartition(target_num_rows_per_block=batch_size)
    share: dict[str, Any] = (
        {"num_cpus": resources.RELAY_CPUS} if warm else resources.replica_resources(job.config, plan.engines[1])
    )
    if job.groups and not warm:
        share["ray_remote_args_fn"] = placement.in_turn(job.groups)
    answered = prompts.map_batches(
        Relay if warm else Replica,
        fn_constructor_kwargs={"job": job},
        batch_format="pyarrow",
        batch_size=batch_size,
        **_pool(plan.engines, plan.blocks_in_flight(total), plan.blocks_queued(total), share),
    )
    if job.parse_answer is None:
        return answered
    return answered.map_batches(
        parse_answers,
        fn_kwargs={"parse": job.parse_answer, "task": job.prompt.task, "monitor": job.monitor},
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=PARSE_CPUS,
    )


def pick(rows: ray.data.Dataset, wanted: dict[bytes, int]) -> ray.data.Dataset:
    """Of each row whose id is in `wanted`, so many as it says; rows with one id are equal, so it matters not which."""
    import ray.data

    left, tables = Counter(wanted), []
    found = rows.map_batches(keep_rows, fn_kwargs={"ids": set(wanted)}, batch_format="pyarrow")
    for table in found.iter_batches(batch_size=None, batch_format="pyarrow"):
        mask = []
        for row in columns.rows(table):
            key = row_id(row)
            mask.append(left[key] > 0)
            left[key] -= 1
        tables.append(table.filter(pa.array(mask, type=pa.bool_())))
    return ray.data.from_arrow([table for table in tables if table.num_rows])


def sample(rows: ray.data.Dataset, total: int, wanted: int) -> pa.Table:
    """Up to `wanted` rows, from all over the first SPREAD_OVER of them: a dataset is often sorted by something."""
    within = min(total, SPREAD_OVER)
    if within > wanted:
        rows = rows.limit(within).random_sample(min(1.0, (1.3 * wanted + 10) / within), seed=0)
    table = rows.take_batch(2 * wanted, batch_format="pyarrow")
    chosen = sorted(random.Random(0).sample(range(table.num_rows), min(wanted, table.num_rows)))
    return table.take(pa.array(chosen, type=pa.int64()))


def keep_rows(table: pa.Table, ids: set[bytes]) -> pa.Table:
    return table.filter(pa.array([row_id(row) in ids for row in columns.rows(table)], type=pa.bool_()))


def ship_by_value(*users: Any) -> None:
    """Send this package's code, and that of `users`, along with the job: worker nodes need Ray and vLLM, no more.

    users: a workload, and what else may be of the user's own making: an engine, a task.

    Classes of a notebook or script travel by value anyway; those of a module beside it would be imported by name, which
    a worker elsewhere cannot. What is installed (site-packages) is taken to be installed on the workers too.
    """
    from ray import cloudpickle

    ship_package()
    for cls in {cls for user in users for cls in type(user).__mro__}:
        module = sys.modules.get(cls.__module__)
        file = getattr(module, "__file__", None)
        if file and cls.__module__ != "__main__" and not is_installed(file):
            cloudpickle.register_pickle_by_value(module)
    for module in beside():
        cloudpickle.register_pickle_by_value(module)


def _pool(engines: tuple[int, int], in_flight: int, queued: int, share: dict[str, Any]) -> dict[str, Any]:
    """What map_batches needs to give every engine its resources and its concurrent blocks, and those that wait."""
    import ray.data

    least, most = engines
    # A fixed size: its actors start together. A range grows one after the other, from the least.
    pool: dict[str, Any] = {"size": most} if least == most else {"min_size": least, "max_size": most}
    if least != most:  # Ray Data adds an actor only where so many are with each, over those that it takes at once
        full = ray.data.DataContext.get_current().autoscaling_config.actor_pool_util_upscaling_threshold
        queued = max(queued, math.ceil((full - 1) * in_flight))
    pool["max_tasks_in_flight_per_actor"] = in_flight + queued
    pool["enable_true_multi_threading"] = True
    if "max_concurrent_calls_per_actor" in inspect.signature(ray.data.ActorPoolStrategy.__init__).parameters:
        pool["max_concurrent_calls_per_actor"] = in_flight
    else:  # before Ray 2.60
        share = {**share, "max_concurrency": in_flight}
    return {"compute": ray.data.ActorPoolStrategy(**pool), **share}
