"""A run as a RayJob of KubeRay, on Kubernetes: a Ray cluster of its own, which goes when the run is done."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from importlib import metadata
from typing import Any

from rayllm_batch.errors import ConfigError, OutputError
from rayllm_batch.jobs import option_values
from rayllm_batch.jobs.nodes import nodes_for
from rayllm_batch.jobs.run_command import RunCommand
from rayllm_batch.jobs.template import filled

ABOUT = "a RayJob of KubeRay, for kubectl apply"
CPUS_PER_GPU, GIB_PER_GPU = 7, 48  # of a Pod, with some of the machine's 8 CPUs a GPU left to Kubernetes
END_S = 60  # from a Pod's end to its SIGKILL; a run ends in 20 s
RETRIES = 3  # of a run that failed, each on a new cluster; it continues
_VOLUME = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?:/[\w./-]+"


def add_options(add: Callable[..., Any]) -> None:
    add("--image", required=True, type=option_values.word, help="the image: Python, Ray, vLLM, and this package")
    add("--nodes", type=option_values.whole, help="Pods with GPUs (default: one a replica)")
    add("--gpus-per-node", type=option_values.whole, help="GPUs of a Pod (default: those of a replica)")
    add("--cpus", type=option_values.whole, help=f"CPUs of a Pod (default: {CPUS_PER_GPU} a GPU)")
    add("--memory", type=option_values.memory, help=f"memory of a Pod (default: {GIB_PER_GPU}G a GPU)")
    add("--time", type=option_values.duration, help="limit, [DAYS-]HH:MM:SS")
    add("--secret", type=option_values.name, help="a Secret whose keys are environment variables (default: --name)")
    what = "a PersistentVolumeClaim, and where all Pods have it; repeat it"
    volume = option_values.matching(_VOLUME, "CLAIM:/PATH")
    add("--volume", metavar="CLAIM:/PATH", action="append", default=[], type=volume, help=what)
    add("--working-dir", metavar="DIR", help="where the run starts, in the image (default: the image's)")


def text(name: str, run: RunCommand, given: argparse.Namespace) -> tuple[str, list[str]]:
    """The YAML, and what is to be said about it. Raises RayLLMBatchError."""
    volumes = dict(volume.split(":", 1) for volume in given.volume)
    if len(volumes) < len(given.volume):
        raise ConfigError("--volume: a claim is given twice. Give each once.")
    for option, path in run.local_paths():
        if not any(
            f"{path.removeprefix('file://')}/".startswith(f"{mount.rstrip('/')}/") for mount in volumes.values()
        ):
            raise OutputError(
                f"{option} {path} would be on the disk of a Pod, which goes with it. It must be a URI such as "
                "s3://bucket/answers, or lie in a --volume CLAIM:/PATH."
            )
    count, gpus = given.nodes, given.gpus_per_node
    nodes = nodes_for(run.config, run.replicas, count=count, gpus=gpus, most_gpus=None)
    values: dict[str, Any] = {
        "name": name,
        "entrypoint": shlex.join(["bash", "-c", _script(run, given.working_dir)]),
        "ray_version": metadata.version("ray"),
        "image": given.image,
        "secret": given.secret or name,
        "volumes": volumes,
        "nodes": nodes.count,
        "gpus": nodes.gpus,
        "cpus": str(given.cpus or CPUS_PER_GPU * max(nodes.gpus, 1)),
        "memory": f"{given.memory or f'{GIB_PER_GPU * max(nodes.gpus, 1)}G'}i",
        "deadline_s": option_values.seconds_of(given.time) if given.time else None,
        "end_s": END_S,
        "retries": RETRIES,
    }
    notes = [f"{nodes.idle} of the job's GPUs are idle: no replica takes them."] if nodes.idle else []
    return filled("kuberay.yaml.jinja", values), notes


def _script(run: RunCommand, working_dir: str | None) -> str:
    """Of a run that ended with 3, rows with errors, another try on another cluster would change nothing."""
    there = f"cd {shlex.quote(working_dir)} && " if working_dir else ""
    return f"{there}{shlex.join(run.words)}; code=$?; [ $code = 3 ] || exit $code"
