"""The command line: `python -m rayllm_batch run|check|preview|estimate`, for schedulers and shells."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Optional

import yaml

from rayllm_batch.batch import RayLLMBatch
from rayllm_batch.config import init_engine_from_config
from rayllm_batch.errors import EngineError, RayLLMBatchError, WorkloadError, did_you_mean
from rayllm_batch.output_folder import failed_rows

DONE, FAILED, WRONG_INPUT, ROWS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = f"""exit codes:
  {DONE}    every row has an answer
  {FAILED}    the run failed (an engine that does not start or keeps dying, a disk that is full): the same command continues it
  {WRONG_INPUT}    what was given cannot run: the message says what to change, nothing was started
  {ROWS_FAILED}    every row is done, and some have an error (--retry-failed runs those again)
  {INTERRUPTED}  interrupted with Ctrl-C: the same command continues it

example:
  python -m rayllm_batch run --config configs/llama-3.1-8b-a10g.yaml --workload rayllm_batch:CNNDailySummary \\
      -w dataset_file=articles.jsonl -w 'sampling_params={{max_tokens: 100, temperature: 0}}' --output summaries/
"""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(arguments)
    try:
        batch = RayLLMBatch(
            init_engine_from_config(args.config), workload(args.workload, args.w), batch_size=args.batch_size,
            num_replicas=replicas(args.num_replicas), verbose=args.verbose,
        )  # fmt: skip
        return COMMANDS[args.command](batch, args)
    except KeyboardInterrupt:
        print(f"Interrupted.{' The same command continues it.' if args.command == 'run' else ''}", file=sys.stderr)
        return INTERRUPTED
    except RayLLMBatchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        started = isinstance(error, EngineError) or "it continues" in str(error)
        return FAILED if started else WRONG_INPUT


def _run(batch: RayLLMBatch, args: argparse.Namespace) -> int:
    try:
        batch.run(args.output, output_format=args.output_format, id_column=args.id_column, retry_failed=args.retry_failed)
    finally:
        if args.report and batch.metrics is not None:  # of a run that failed or was interrupted too, unless it never began
            batch.report(args.report)
    return ROWS_FAILED if failed_rows(args.output) else DONE


def _check(batch: RayLLMBatch, args: argparse.Namespace) -> int:
    batch.check(args.output, output_format=args.output_format, id_column=args.id_column)
    return DONE


def _preview(batch: RayLLMBatch, args: argparse.Namespace) -> int:
    batch.preview(n=args.n)
    return DONE


def _estimate(batch: RayLLMBatch, args: argparse.Namespace) -> int:
    print(batch.estimate(sample_rows=args.sample_rows, gpu_hour_usd=args.gpu_hour_usd))
    return DONE


COMMANDS = {"run": _run, "check": _check, "preview": _preview, "estimate": _estimate}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m rayllm_batch", description="Offline LLM inference over a table of prompts.",
        epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", required=True, help="the engine's YAML file, such as configs/llama-3.1-8b-a10g.yaml")
    common.add_argument("--workload", required=True, metavar="MODULE:CLASS", help="a class of this folder or an installed one")
    common.add_argument("-w", action="append", default=[], metavar="KEY=VALUE", help="a field of the workload, as YAML; repeat it")
    common.add_argument("--num-replicas", default="1", metavar="N|MIN-MAX", help="copies of the model side by side (default 1)")
    common.add_argument("--batch-size", type=int, help="rows a block (default: chosen)")
    common.add_argument("--verbose", action="store_true", help="show what Ray Data and the engines log (default: it is in files)")
    how = {"parents": [common], "epilog": EXIT_CODES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    run = commands.add_parser("run", help="answer every row, into a folder; the same command continues it", **how)
    check = commands.add_parser("check", help="look for all that can be known to be wrong, and start nothing", **how)
    for command in (run, check):
        command.add_argument("--output", required=command is run, help="folder or URI (s3://, gs://) for the answers")
        command.add_argument("--output-format", default="parquet", choices=["parquet", "jsonl"])
        command.add_argument("--id-column", help="a column with unique values, to tell rows apart (default: all their content)")
    run.add_argument("--retry-failed", action="store_true", help="run the rows again that have an error")
    run.add_argument("--report", metavar="FILE", help="write a report of the run, also of one that fails: one HTML file")
    preview = commands.add_parser("preview", help="answer the first rows, and show prompts and answers", **how)
    preview.add_argument("-n", type=int, default=8, help="how many rows (default 8)")
    estimate = commands.add_parser("estimate", help="answer a sample, and say how long all rows take and what they cost", **how)
    estimate.add_argument("--sample-rows", type=int, default=64, help="rows of the sample (default 64)")
    estimate.add_argument("--gpu-hour-usd", type=float, help="price of one GPU for an hour, in US dollars, for the cost")
    return top


def workload(spec: str, fields: Sequence[str]) -> Any:
    """The instance that MODULE:CLASS and the KEY=VALUE texts describe. Raises WorkloadError."""
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise WorkloadError(f"--workload must be MODULE:CLASS, such as rayllm_batch:CNNDailySummary, given {spec!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.split(".")[0] != error.name.split(".")[0]:
            raise WorkloadError(f"--workload {spec}: {module_name} needs the module {error.name!r}, which is not installed.") from None
        raise WorkloadError(f"--workload {spec}: there is no module {module_name!r} (looked from {os.getcwd()}).") from None
    cls = getattr(module, name, None)
    if not isinstance(cls, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise WorkloadError(f"--workload {spec}: {module_name} has no class {name!r}.{did_you_mean(name, classes)}")
    given = dict(_field(text) for text in fields)
    try:
        return cls(**given)
    except TypeError as error:
        known = getattr(cls, "__dataclass_fields__", {})
        wrong = [key for key in given if key not in known]
        hint = f" Its fields: {', '.join(known)}.{did_you_mean(wrong[0], known)}" if known and wrong else ""
        raise WorkloadError(f"-w: {name} cannot be made with {', '.join(given) or 'nothing'}: {error}.{hint}") from None


def replicas(text: str) -> int | tuple[int, int]:
    """`4`, or `2-8`: at least two, at most eight."""
    least, dash, most = text.partition("-")
    try:
        return (int(least), int(most)) if dash else int(least)
    except ValueError:
        raise WorkloadError(f"--num-replicas must be a number such as 4, or a range such as 2-8, given {text!r}.") from None


def _field(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise WorkloadError(f"-w must be KEY=VALUE, such as -w dataset_file=rows.jsonl, given {text!r}.")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise WorkloadError(f"-w {key}: the value is not valid YAML: {value!r}.") from None
