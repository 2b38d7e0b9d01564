"""A run as a Ray Job, on a cluster that is there already: a script with `ray job submit`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from rayllm_batch.errors import ConfigError, OutputError
from rayllm_batch.jobs import option_values
from rayllm_batch.jobs.run_command import RunCommand
from rayllm_batch.jobs.template import filled

ABOUT = "a script with `ray job submit`, for a cluster that is there"
STOP_S = 60  # from a stop's SIGTERM to its SIGKILL; Ray's own 3 s are too short to write answers


def add_options(add: Callable[..., Any]) -> None:
    what = "the cluster's dashboard, such as http://head:8265 (default: RAY_API_SERVER_ADDRESS, else this machine's)"
    add("--address", type=option_values.matching(r"https?://[\w.:\[\]/-]+", "http://HOST:PORT"), help=what)
    add(
        "--working-dir",
        metavar="DIR",
        default=".",
        help="the folder that is sent along (default: where it is submitted)",
    )


def text(name: str, run: RunCommand, given: argparse.Namespace) -> tuple[str, list[str]]:
    """The script, and what is to be said about it. Raises RayLLMBatchError."""
    notes = []
    for option, path in run.local_paths():
        if not os.path.isabs(path.removeprefix("file://")):
            raise OutputError(
                f"{option} {path} would lie in the job's working directory, which Ray deletes. It must be a URI such "
                "as s3://bucket/answers, or the whole path of a disk that survives the cluster."
            )
        notes.append(f"{option} {path} is on the head node: it must be a disk that survives the cluster.")
    config, folder = os.path.realpath(run.given.config), os.path.realpath(given.working_dir)
    if not os.path.isabs(run.given.config) and os.path.commonpath([config, folder]) != folder:
        raise ConfigError(
            f"--config {run.given.config} is not in --working-dir {given.working_dir}, so the cluster would not "
            "have it."
        )
    values = {**vars(given), "name": name, "run_lines": run.lines, "stop_s": STOP_S}
    return filled("ray-job.sh.jinja", values), notes
