"""The options of `job`: those of every kind of job, and each kind's own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from rayllm_batch.jobs import kuberay, option_values, ray_job, slurm

KINDS = {"kuberay": kuberay, "ray": ray_job, "slurm": slurm}
HOW_TO = """example:
  rayllm-batch job slurm --nodes 2 --gpus-per-node 8 --time 12:00:00 --partition gpu --venv /shared/venv -o job.sh \\
      -- run --config configs/llama-3.1-8b-h100-fp8.yaml --workload jobs/tickets.py:Triage --num-replicas 16 \\
      --input /shared/tickets.parquet --output /shared/answers/
"""


def add_to(parser: argparse.ArgumentParser, form: Mapping[str, Any]) -> dict[str, argparse.ArgumentParser]:
    """Each kind's parser."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="|".join(KINDS))
    for name, kind in KINDS.items():
        usage = f"{parser.prog} {name} [options] -- run --config ... (and the rest of the command that it runs)"
        add = kinds.add_parser(
            name, help=kind.ABOUT, description=f"Writes {kind.ABOUT}.", usage=usage, **form
        ).add_argument
        add("-o", metavar="FILE", help="where to write it (default: the screen)")
        what = "the job's name (default rayllm-batch)"
        add("--name", type=option_values.name, default="rayllm-batch", help=what)
        kind.add_options(add)
    return dict(kinds.choices)
