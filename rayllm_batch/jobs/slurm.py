"""A run as a batch job of Slurm: a Ray cluster on the job's nodes, and the run on the first of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rayllm_batch.errors import OutputError
from rayllm_batch.jobs import option_values
from rayllm_batch.jobs.nodes import nodes_for
from rayllm_batch.jobs.run_command import RunCommand
from rayllm_batch.jobs.template import filled

ABOUT = "a script for sbatch"
GPUS = 8  # of a node, unless --gpus-per-node says otherwise
CPUS_PER_GPU = 8
OF_A_NODE = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # another node has another
END_S = 180  # before the time limit; a run ends in 20 s, and Slurm's signals may come a minute early
JOIN_S = 600  # until all nodes have joined
MOST_REQUEUES = 50  # of a run that gets nowhere within its time


def add_options(add: Callable[..., Any]) -> None:
    add("--nodes", type=option_values.whole, help="nodes (default: as few as hold the replicas)")
    add("--gpus-per-node", type=option_values.whole, help=f"GPUs of a node (default: up to {GPUS}, of the replicas)")
    add("--cpus", type=option_values.whole, help=f"CPUs of a node (default: {CPUS_PER_GPU} a GPU)")
    add("--memory", type=option_values.memory, help="memory of a node, such as 200G (default: the partition's)")
    add("--time", type=option_values.duration, help="limit, [DAYS-]HH:MM:SS; the job is queued again and continues")
    add("--partition", type=option_values.word, help="the partition")
    add("--account", type=option_values.word, help="the account that pays")
    add("--venv", metavar="DIR", help="the virtual environment with Ray, vLLM and this package, on a shared disk")
    add("--working-dir", metavar="DIR", help="where the run starts, on a shared disk (default: where sbatch is called)")


def text(name: str, run: RunCommand, given: argparse.Namespace) -> tuple[str, list[str]]:
    """The script, and what is to be said about it. Raises RayLLMBatchError."""
    for option, path in run.local_paths():
        if path.startswith(tuple(f"{folder}/" for folder in OF_A_NODE)) or path in OF_A_NODE:
            raise OutputError(
                f"{option} {path} is on a node's own disk, and the job may continue on another node. It must be on a "
                "disk that all nodes share, or a URI such as s3://bucket/answers."
            )
    count, gpus = given.nodes, given.gpus_per_node
    nodes = nodes_for(run.config, run.replicas, count=count, gpus=gpus, most_gpus=GPUS)
    cpus = given.cpus or CPUS_PER_GPU * max(nodes.gpus, 1)
    values = {
        **vars(given),
        "name": name,
        "nodes": nodes.count,
        "gpus": nodes.gpus,
        "cpus": cpus,
        "run_lines": run.lines,
        "end_s": END_S,
        "join_s": JOIN_S,
        "most_requeues": MOST_REQUEUES,
    }
    notes = [f"{nodes.idle} of the job's GPUs are idle: no replica takes them."] if nodes.idle else []
    return filled("slurm.sh.jinja", values), notes
