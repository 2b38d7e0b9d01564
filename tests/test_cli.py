"""The command line: what it makes of its arguments, what it says, and with which code it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayllm_batch import CNNDailySummary, OpenAIBatchFile, RayLLMBatch, cli
from rayllm_batch.errors import EngineError, HubUnavailableError, OutputError, PreflightError, WorkloadError
from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.output.run_columns import tell_failed
from rayllm_batch.termination import Terminated
from rayllm_batch.workload.openai_results import Written
from rayllm_batch.workload.prompt_template import PromptTemplate

CONFIG = "configs/demo-cpu.yaml"
GIVEN = ["--config", CONFIG, "--workload", "rayllm_batch:CNNDailySummary"]


def result(failed: int) -> Any:
    return tell_failed(SimpleNamespace(), failed)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (0, cli.DONE),
        (1, cli.ROWS_FAILED),
        (EngineError("The engine died."), cli.FAILED),
        (OutputError("Make room, and run the same again: it continues."), cli.FAILED),
        (OutputError("The output folder holds another job."), cli.WRONG_INPUT),
        (WorkloadError("parse_row"), cli.WRONG_INPUT),
        (KeyboardInterrupt(), cli.INTERRUPTED),
        (Terminated(), cli.TERMINATED),
        (HubUnavailableError("The Hub does not answer."), cli.FAILED),
        (ZeroDivisionError("of load_dataset"), cli.WRONG_INPUT),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    outcome: int | BaseException,
    code: int,
) -> None:
    """outcome: what `run` raises, or how many rows have an error in the folder, of this run or an earlier one."""
    called: dict[str, Any] = {}

    def run(batch: RayLLMBatch, output: str, **options: object) -> Any:
        called.update(options, output=output, batch=batch)
        if isinstance(outcome, BaseException):
            raise outcome
        return result(outcome)

    monkeypatch.setattr(RayLLMBatch, "run", run)
    monkeypatch.setattr("rayllm_batch.termination._is_rays", lambda _: True)  # whatever tests before have left there
    out = str(tmp_path / "out")
    assert cli.main(["run", *GIVEN, "--output", out, "--id-column", "id", "--num-replicas", "2-3", "--verbose"]) == code
    assert called["output"] == out and called["id_column"] == "id" and not called["retry_failed"]
    batch = called["batch"]
    assert isinstance(batch.workload, CNNDailySummary)
    assert batch.options.num_replicas == (2, 3) and batch.options.verbose
    said = capsys.readouterr().err
    if isinstance(outcome, Exception):
        assert str(outcome) in said
        assert said.splitlines()[-1].endswith("(workload rayllm_batch:CNNDailySummary)")
        assert ("Traceback" in said) == isinstance(outcome, ZeroDivisionError), "with --verbose, of what is not ours"
    if isinstance(outcome, Terminated):
        assert said == "Terminated; the same command continues it.\n"
    if isinstance(outcome, KeyboardInterrupt):
        assert said == "Interrupted. The same command continues it.\n"


@pytest.mark.parametrize(
    ("begins", "error", "code"),
    [
        (True, None, cli.ROWS_FAILED),
        (True, EngineError("The engine died."), cli.FAILED),
        (True, KeyboardInterrupt(), cli.INTERRUPTED),
        (True, Terminated(), cli.TERMINATED),
        (True, RuntimeError("of Ray"), cli.FAILED),
        (False, OutputError("The output folder holds another job."), cli.WRONG_INPUT),
    ],
)
def test_a_report_is_written_of_every_run_that_began(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, begins: bool, error: BaseException | None, code: int
) -> None:
    written: list[str] = []

    def run(batch: RayLLMBatch, output: str, **_: object) -> Any:
        if begins:
            batch._execution.metrics = RunMetrics(rows=9, failed=2)
        if error:
            raise error
        return result(2)

    monkeypatch.setattr(RayLLMBatch, "run", run)
    monkeypatch.setattr(RayLLMBatch, "report", lambda batch, path: written.append(path))
    assert cli.main(["run", *GIVEN, "--output", str(tmp_path / "out"), "--report", "mine.html"]) == code
    assert written == (["mine.html"] if begins else [])


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, cli.ROWS_FAILED), (EngineError("The engine died."), cli.FAILED), (KeyboardInterrupt(), cli.INTERRUPTED)],
)
def test_a_report_that_cannot_be_written_hides_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: BaseException | None,
    code: int,
) -> None:
    def run(batch: RayLLMBatch, output: str, **_: object) -> Any:
        batch._execution.metrics = RunMetrics(rows=9, failed=2)
        if error:
            raise error
        return result(2)

    monkeypatch.setattr(RayLLMBatch, "run", run)
    (tmp_path / "file").touch()
    report = str(tmp_path / "file" / "report.html")
    assert cli.main(["run", *GIVEN, "--output", str(tmp_path / "out"), "--report", report]) == code
    said = capsys.readouterr().err
    assert "The report cannot be written to" in said and (
        not isinstance(error, EngineError) or "The engine died" in said.splitlines()[-1]
    )
    assert cli.main(["run", *GIVEN, "--output", str(tmp_path / "out"), "--report", str(tmp_path)]) == cli.WRONG_INPUT
    rows = str(tmp_path / "rows.jsonl")
    into = ["--output", str(tmp_path / "out"), "--input", rows]
    for read in (rows, CONFIG):
        assert cli.main(["run", *GIVEN, *into, "--report", f"./{os.path.relpath(read)}"]) == cli.WRONG_INPUT
        assert "would be written over a file that is read" in capsys.readouterr().err


@pytest.mark.parametrize("price", ["-1", "nan", "inf", "-inf"])
def test_a_price_that_is_none(capsys: pytest.CaptureFixture[str], price: str) -> None:
    assert cli.main(["estimate", *GIVEN, f"--gpu-hour-usd={price}"]) == cli.WRONG_INPUT
    assert "a price of at least 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "called", "printed"),
    [
        (["check"], {"output": None, "output_format": "parquet", "id_column": None}, ""),
        (
            ["check", "--output", "out", "--id-column", "id"],
            {"output": "out", "output_format": "parquet", "id_column": "id"},
            "",
        ),
        (["preview"], {"n": 8}, ""),
        (["preview", "-n", "3"], {"n": 3}, ""),
        (["estimate"], {"sample_rows": 64, "gpu_hour_usd": None}, "two hours\n"),
        (
            ["estimate", "--sample-rows", "10", "--gpu-hour-usd", "2.5"],
            {"sample_rows": 10, "gpu_hour_usd": 2.5},
            "two hours\n",
        ),
    ],
)
def test_check_preview_and_estimate(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    called: dict[str, Any],
    printed: str,
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(RayLLMBatch, "check", lambda batch, output, **given: seen.append({"output": output, **given}))
    monkeypatch.setattr(RayLLMBatch, "preview", lambda batch, **given: seen.append(given))
    monkeypatch.setattr(RayLLMBatch, "estimate", lambda batch, **given: seen.append(given) or "two hours")
    assert cli.main([*arguments, *GIVEN]) == cli.DONE
    assert seen == [called] and capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "Did you mean 'run'"),
        (["estimte", "--config", "x"], "Did you mean 'estimate'"),
        (["--config", "x", "check"], "the command comes first: python -m rayllm_batch check --config"),
        (["run", *GIVEN, "--output", "out", "--reprot", "r.html"], "Did you mean '--report'"),
        (["run", *GIVEN, "--output", "out", "--reprot=r.html"], "Did you mean '--report'"),
        (["run", *GIVEN, "--output", "out", "-report", "r.html"], "Did you mean '--report'"),
        (["check", *GIVEN, "--num_replicas", "2"], "Did you mean '--num-replicas'"),
        (["check", "--conf", CONFIG, *GIVEN[2:]], "Did you mean '--config'"),
        (["check", *GIVEN[:2], "--work", GIVEN[3]], "Did you mean '--workload'"),
        (["run", *GIVEN, "--out", "x"], "Did you mean '--output'"),
        (["check", *GIVEN, "--zzz"], "no option --zzz"),
        (["check", *GIVEN, "--num-replicas", "some"], "a number such as 4, or a range such as 2-8, given 'some'"),
        (["check", "--config", CONFIG], "one of --workload FILE.py:CLASS and --prompt"),
        (["check", *GIVEN, "--prompt", "{a}"], "not both"),
        (["check", "--config", CONFIG, "--prompt", "{a}"], "--prompt needs --input"),
        (["check", *GIVEN, "--input", "a", "-w", "dataset_file=b"], "two names of one thing"),
        (["check", *GIVEN, "--input", "a.jsonl", "--input=b.jsonl"], "--input is given twice"),
        (["check", *GIVEN, "--input", ""], "--input has no value (a variable of the shell that is empty, perhaps)"),
        (["check", *GIVEN, "--output="], "--output has no value"),
        (["check", *GIVEN, "--input", "a.jsonl", "b.jsonl", "c.jsonl"], "beside them are 'b.jsonl', 'c.jsonl'. A glob"),
        (["check", *GIVEN, "-s", "seed=1", "temperature=0"], "beside them are 'temperature=0'"),
        (["check", *GIVEN, "-x"], "there is no option -x"),
        (["check", *GIVEN[:2], "--prompt", "{a}", "--input", "a", "-w", "prompt={b}"], "two names of one thing"),
    ],
)
def test_a_mistyped_option_names_the_nearest(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == cli.WRONG_INPUT and said in capsys.readouterr().err.split("error:")[-1]


def test_input_prompt_and_settings_make_the_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(RayLLMBatch, "check", lambda batch, *_, **__: seen.append(batch.workload))
    assert cli.main(["check", *GIVEN, "--input", "a.csv", "-s", "max_tokens=7", "-s", "stop=[x]"]) == cli.DONE
    assert (
        cli.main(["check", *GIVEN[:2], "--input", "a.csv", "--prompt", "Say {a}", "-w", "dataset_fraction=3"])
        == cli.DONE
    )
    article, prompt = seen
    assert article.dataset_file == "a.csv" and article.sampling_params == {
        "max_tokens": 7,
        "temperature": 0.0,
        "stop": ["x"],
    }
    assert isinstance(prompt, PromptTemplate) and (prompt.dataset_file, prompt.prompt, prompt.dataset_fraction) == (
        "a.csv",
        "Say {a}",
        3,
    )


def test_of_a_task_that_generates_nothing_prompt_and_settings_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(RayLLMBatch, "check", lambda batch, *_, **__: seen.append(batch.workload))
    asked = ["--config", "configs/demo-embed-cpu.yaml", "--input", "a.csv", "--prompt", "query: {a}"]
    assert cli.main(["check", *asked, "-s", "truncate_prompt_tokens=9"]) == cli.DONE
    assert seen[0].pooling_params == {"truncate_prompt_tokens": 9}
    assert seen[0].parse_row({"a": "Where?"}) == {"prompt": "query: Where?"}


def test_an_error_of_many_lines_ends_with_what_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(*_: Any, **__: Any) -> None:
        raise PreflightError([WorkloadError("no parse_row"), FileNotFoundError("tickets of may")])

    monkeypatch.setattr(RayLLMBatch, "check", check)
    assert cli.main(["check", *GIVEN]) == cli.WRONG_INPUT
    *above, last = capsys.readouterr().err.splitlines()
    assert len(above) == 3 and above[0].startswith("PreflightError: 2 things")
    assert [line[:5] for line in above[1:]] == ["  1. ", "  2. "] and "FileNotFoundError: tickets of may" in above[2]
    whose = "(workload rayllm_batch:CNNDailySummary)"
    assert last == f"PreflightError: 2 things are to be mended, see above {whose}", "and nothing is said twice"


def test_an_engine_s_log_is_followed_by_what_it_says_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(*_: Any, **__: Any) -> None:
        raise EngineError("It does not start. Its last words:\nINFO loading\nno such kernel")

    monkeypatch.setattr(RayLLMBatch, "check", check)
    assert cli.main(["check", *GIVEN]) == cli.FAILED
    *above, last = capsys.readouterr().err.splitlines()
    assert above[-1] == "no such kernel" and last.startswith("EngineError: It does not start") and "no such" in last


def test_a_wrong_config_is_one_line_and_no_traceback() -> None:
    command = [
        sys.executable,
        "-m",
        "rayllm_batch",
        "check",
        "--config",
        "configs/none.yaml",
        "--workload",
        "rayllm_batch:CNNDailySummary",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == cli.WRONG_INPUT and run.stderr.startswith(
        "ConfigError: Config file 'configs/none.yaml' does not exist"
    )
    assert "Traceback" not in run.stderr


def test_help_has_the_exit_codes_and_an_example() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "rayllm_batch", "run", "--help"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0
    for words in (
        "exit codes:",
        "130",
        "143",
        "examples:",
        "--prompt",
        "--input",
        "--retry-failed",
        "--report",
        "--verbose",
        "MODULE:CLASS",
        "KEY=VALUE",
    ):
        assert words in run.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_output_that_is_closed(tmp_path: Path, closed: str) -> None:
    """As some schedulers leave it: whatever prints, or asks whether it is a terminal, goes on."""
    code = (
        "import sys; from rayllm_batch import RayLLMBatch, cli\nfrom rayllm_batch.show import status_view\n"
        "def check(*_, **__): print('x'); print('x', file=sys.stderr); sys.stdout.isatty(), sys.stderr.isatty()\n"
        f"RayLLMBatch.check = check\nsys.exit(cli.main(['check', *{GIVEN!r}]))"
    )
    (tmp_path / "closed.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = f"{sys.executable} {tmp_path}/closed.py {closed}"
    run = subprocess.run(command, shell=True, env=env, check=False)  # noqa: S602 (this is the shell's)
    assert run.returncode == cli.DONE


@pytest.mark.parametrize("pipe", ["| head -1", "| true", "2>&1 | head -c 1", "2> >(true)"])
def test_a_reader_that_goes_does_not_end_a_run(tmp_path: Path, pipe: str) -> None:
    code = (
        "import os, sys, time; from rayllm_batch import RayLLMBatch, cli\n"
        "def check(*_, **__):\n"
        "    for _ in range(40):\n"
        "        print('x' * 9000); print('y' * 9000, file=sys.stderr); os.system('echo z'); time.sleep(0.01)\n"
        "    open(sys.argv[1], 'w').close()\n"
        f"RayLLMBatch.check = check\nsys.exit(cli.main(['check', *{GIVEN!r}]))"
    )
    (tmp_path / "piped.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = ["bash", "-c", f"set -o pipefail; {sys.executable} {tmp_path}/piped.py {tmp_path}/done {pipe}"]
    run = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert run.returncode == cli.DONE and (tmp_path / "done").exists()
    assert "Error" not in run.stderr and len(run.stdout if pipe.startswith("|") else "") < 5 * 9000


def test_requests_make_a_workload_of_the_configs_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And the folder, the places of the results, and the code that says whether all have one."""
    called: list[Any] = []
    written = Written(3, 0)

    def run(batch: RayLLMBatch, folder: str, **options: Any) -> Any:
        called.append((batch.workload, folder, options))
        return "answers"

    def write(workload: OpenAIBatchFile, answers: Any, output: str, errors: str | None) -> Written:
        called.append((answers, output, errors))
        return written

    monkeypatch.setattr(RayLLMBatch, "run", run)
    monkeypatch.setattr(OpenAIBatchFile, "write_results", write)
    monkeypatch.setattr("rayllm_batch.termination._is_rays", lambda _: True)
    out, errors = str(tmp_path / "results.jsonl"), str(tmp_path / "errors.jsonl")
    base = ["openai-batch", "--config", CONFIG, "-i", "requests.jsonl", "-o", out]
    assert cli.main([*base, "--errors", errors, "-s", "max_tokens=9", "--retry-failed"]) == cli.DONE
    (workload, folder, options), wrote = called
    assert (workload.dataset_file, workload.sampling_params) == ("requests.jsonl", {"max_tokens": 9})
    assert workload.names == [str(Path("assets/demo-model").resolve())] and not workload.adapters
    assert folder == f"{out}.parts" and options["retry_failed"] and options["id_column"] is None
    assert wrote == ("answers", out, errors)
    assert capsys.readouterr().out == f"3 results and 0 errors are in {out} and {errors}.\n"

    called.clear()
    written = Written(2, 1)
    assert (
        cli.main([*base, "--work-folder", "w", "--served-model-name", "a", "--served-model-name", "b"])
        == cli.ROWS_FAILED
    )
    assert called[0][0].names == ["a", "b"] and called[0][1] == "w"
    called.clear()
    assert cli.main([*base, "--any-model"]) == cli.ROWS_FAILED
    assert called[0][0].names == []

    called.clear()
    assert cli.main([*base[:-1], str(tmp_path)]) == cli.WRONG_INPUT
    said = capsys.readouterr().err
    assert "is a folder" in said and said.endswith("(requests of requests.jsonl)\n") and not called


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["-o", "x"], "-i/--input"),
        (["-i", "x"], "-o/--output"),
        (["-i", "x", "-o", "y", "--error", "z"], "Did you mean '--errors'?"),
        (["-i", "x", "-o", "y", "--workload", "a:B"], "there is no option --workload"),
    ],
)
def test_wrong_options_of_requests(capsys: pytest.CaptureFixture[str], given: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["openai-batch", "--config", CONFIG, *given])
    assert end.value.code == cli.WRONG_INPUT and said in capsys.readouterr().err


def test_settings_of_a_batch_file_are_those_of_the_configs_task() -> None:
    from rayllm_batch import init_engine_from_config
    from rayllm_batch.arguments import parse

    for name, key in (("demo-cpu", "sampling_params"), ("demo-embed-cpu", "pooling_params")):
        command = ["openai-batch", "--config", f"configs/{name}.yaml", "-i", "in.jsonl", "-o", "out.jsonl", "-s", "a=1"]
        args = parse(command)
        workload = cli._requests(args, init_engine_from_config(args.config))
        others = {"sampling_params", "pooling_params"} - {key}
        assert getattr(workload, key) == {"a": 1} and not any(getattr(workload, other) for other in others)
