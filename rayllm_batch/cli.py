"""The command, `rayllm-batch run|check|preview|estimate|job|report|...`, for schedulers and shells."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

from rayllm_batch.arguments import (
    CONTINUED,
    DONE,
    FAILED,
    INIT,
    INTERRUPTED,
    OTHERS,
    REPORT,
    ROWS_FAILED,
    WRONG_INPUT,
    parse,
)
from rayllm_batch.batch import RayLLMBatch
from rayllm_batch.config import EngineConfig, init_engine_from_config
from rayllm_batch.display import let_all_print
from rayllm_batch.errors import (
    EngineError,
    HubUnavailableError,
    PreflightError,
    RayLLMBatchError,
    WorkloadError,
    causes,
    one_line,
)
from rayllm_batch.load_workload import load_workload, made, pairs, raised_at
from rayllm_batch.output.hub_folder import HubPlace, is_hub
from rayllm_batch.output.run_columns import failed_of
from rayllm_batch.tasks.base import Task
from rayllm_batch.termination import SAID, TERMINATED, Terminated, heeded
from rayllm_batch.uri import without_credentials
from rayllm_batch.workload.openai_batch import OpenAIBatchFile
from rayllm_batch.workload.openai_results import check_outputs
from rayllm_batch.workload.prompt_template import PromptTemplate, TextTemplate


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code."""
    let_all_print()
    args = parse(arguments)
    if args.command in OTHERS:
        return _write(args)
    batch = None
    try:
        with heeded(lambda: SAID if args.command in CONTINUED else "Terminated."), _without_rays_last_words():
            config = init_engine_from_config(args.config)
            is_file_of_requests = args.command == "openai-batch"
            batch = RayLLMBatch(
                config,
                _requests(args, config) if is_file_of_requests else _workload(args, config.task_kind),
                batch_size=args.batch_size,
                num_replicas=args.num_replicas,
                verbose=args.verbose,
            )
            return _do(batch, args)
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        print(f"Interrupted.{' The same command continues it.' if args.command in CONTINUED else ''}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # of the user's own code too: what their load_dataset raises, say
        return _failed(error, args, began=batch is not None and batch.metrics is not None)


def _write(args: argparse.Namespace) -> int:
    """A file, or a folder of files; nothing is run."""
    try:
        if args.command == REPORT:
            from rayllm_batch.output.folder_view import FolderView
            from rayllm_batch.report.folder_page import folder_page
            from rayllm_batch.report.html_file import save

            save(folder_page(FolderView(args.folder)), args.output, "report")
        elif args.command == INIT:
            from rayllm_batch.jobs import job_folder

            job_folder.write(args.folder, args.task, args.model)
        else:
            from rayllm_batch.jobs import job_file

            job_file.write(args)
    except RayLLMBatchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return WRONG_INPUT
    return DONE


@contextmanager
def _without_rays_last_words() -> Iterator[None]:
    """Ray prints what it has kept back when it shuts down, which must come before our last line, not after it."""
    ray = sys.modules.get("ray")
    connected = ray is not None and ray.is_initialized()
    try:
        yield
    finally:
        ray = sys.modules.get("ray")
        if ray is not None and not connected:
            ray.shutdown()
            sys.stdout.flush()  # in a file, it would follow what is said on stderr


def _failed(error: BaseException, args: argparse.Namespace, began: bool) -> int:
    """Say what is wrong. FAILED where the same command may go on, WRONG_INPUT where something must be mended first."""
    # The last line names the error and the workload; of one with many lines, these come before it.
    whose = f"(requests of {args.input})"
    if args.command != "openai-batch":
        whose = f"(workload {args.workload or '--prompt ' + repr(args.prompt)})"
    if isinstance(error, RayLLMBatchError):
        last = f"{type(error).__name__}: {error}".strip()
        began = isinstance(error, (EngineError, HubUnavailableError)) or "it continues" in str(error)
        if "\n" in last:
            print(last, file=sys.stderr)
            last = f"{one_line(error)}{raised_at(error)}"
        if isinstance(error, PreflightError):  # a list, which needs no second saying as the words in an engine's log do
            last = f"{type(error).__name__}: {len(error.problems)} things are to be mended, see above"
    else:
        if args.verbose:
            traceback.print_exception(error, file=sys.stderr)
        inner = list(causes(error))[-1]  # inside Ray's layers is what happened
        last = f"{one_line(inner)}{raised_at(inner)}"
    print(f"{last} {whose}", file=sys.stderr)
    return FAILED if began else WRONG_INPUT


def _workload(args: argparse.Namespace, task: Task) -> Any:
    given = {} if args.input is None else {"dataset_file": args.input}
    if args.prompt is not None:
        workload = made(
            TextTemplate if task.pools else PromptTemplate, {**pairs(args.w, "-w"), **given, "prompt": args.prompt}
        )
    else:
        workload = load_workload(args.workload, args.w, **given)
    if args.s:
        key = task.settings_key
        own = getattr(workload, key, None) or {}
        if not isinstance(own, dict):
            raise WorkloadError(f"-s goes over {key}, which must be a dict, given {own!r}.")
        setattr(workload, key, {**own, **pairs(args.s, "-s")})
    return workload


def _requests(args: argparse.Namespace, config: EngineConfig) -> OpenAIBatchFile:
    names = args.served_model_name or config.engine_kwargs.get("served_model_name") or config.model_id
    settings: dict[str, Any] = {config.task_kind.settings_key: pairs(args.s, "-s")}
    return OpenAIBatchFile(
        args.input,
        **settings,
        served_model_name=None if args.any_model else names,
        adapters=config.dynamic_lora_loading_path is not None,
    )


def _do(batch: RayLLMBatch, args: argparse.Namespace) -> int:
    if args.command == "check":
        batch.check(args.output, output_format=args.output_format, id_column=args.id_column, **_work_folder(args))
        return DONE
    if args.command == "preview":
        batch.preview(n=args.n)
        return DONE
    if args.command == "estimate":
        print(batch.estimate(sample_rows=args.sample_rows, gpu_hour_usd=args.gpu_hour_usd))
        return DONE
    if args.report and os.path.isdir(args.report):  # known now, and not after hours
        raise WorkloadError(f"--report must be a file, such as report.html, given the folder {args.report!r}.")
    code = (vars(args).get("workload") or "").rpartition(":")[0]
    read = [one for one in (args.config, code, getattr(batch.workload, "dataset_file", None)) if one]
    if args.report and os.path.realpath(args.report) in map(os.path.realpath, read):
        raise WorkloadError(f"--report {args.report!r} would be written over a file that is read. Give another path.")
    if isinstance(batch.workload, OpenAIBatchFile) and args.command == "openai-batch":
        check_outputs(args.input, args.output, args.errors)
        folder = f"{args.output}.parts"
        folder = str(HubPlace.of(folder).work_folder()) if is_hub(folder) else folder
        answers = _run(batch, args, args.work_folder or folder)
        written = batch.workload.write_results(answers, args.output, args.errors)
        places = [without_credentials(path) for path in (args.output, args.errors) if path]
        print(f"{written} are in {' and '.join(places)}.")
        return ROWS_FAILED if written.errors else DONE
    return ROWS_FAILED if failed_of(_run(batch, args, args.output)) else DONE


def _work_folder(args: argparse.Namespace) -> dict[str, str]:
    return {"work_folder": args.work_folder} if args.work_folder else {}


def _run(batch: RayLLMBatch, args: argparse.Namespace, folder: str) -> Any:
    try:
        return batch.run(
            folder,
            output_format=args.output_format,
            id_column=args.id_column,
            retry_failed=args.retry_failed,
            changed=args.changed,
            **({} if args.command == "openai-batch" else _work_folder(args)),
        )
    finally:  # of a run that failed or was interrupted too, unless it never began
        if args.report and batch.metrics is not None:
            try:
                batch.report(args.report)
            except RayLLMBatchError as error:  # the answers are as good without it
                print(error, file=sys.stderr)
