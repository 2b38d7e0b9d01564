"""The report of an output folder, from the folder alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from run_samples import NASTY, SampleRun
from test_page import Page, finished

from rayllm_batch import cli
from rayllm_batch.data.row_id import ID_BYTES
from rayllm_batch.errors import OutputError
from rayllm_batch.measures.history import History
from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.folder_view import FolderView
from rayllm_batch.output.part_file import encoded
from rayllm_batch.output.place import OutputPlace
from rayllm_batch.report.folder_page import folder_page
from rayllm_batch.report.page import page
from rayllm_batch.report.run_report import RunReport

JOB = Job({"model_id": "some/model", "llm_engine": "vllm", "engine_kwargs.hf_token": "(0123456789ab)"})
ANSWERS = {
    "generated_text": ["a", "b", "c"],
    "num_input_tokens": [100, 200, 300],
    "num_generated_tokens": [10, 20, 30],
    "finish_reason": ["stop", "stop", "length"],
    "error": pa.nulls(3, pa.string()),
}
FAILURES = {
    "generated_text": pa.nulls(2, pa.string()),
    "num_input_tokens": [0, 400],
    "num_generated_tokens": [0, 0],
    "finish_reason": ["error", "error"],
    "error": ["parse_row: KeyError: 'text'", f"engine: {NASTY}"],
}
VECTORS = {
    "embedding": pa.array([[0.5, 0.5]] * 3, pa.list_(pa.float32(), 2)),
    "num_input_tokens": [5, 6, 7],
    "error": pa.nulls(3, pa.string()),
}


def wrote(path: Path, output_format: str = "parquet", *, answers: Any = None, failed: Any = None) -> Path:
    with OutputFolder(path, JOB, output_format) as folder:
        for number, (kind, columns) in enumerate((("part", answers or ANSWERS), ("failed", failed)), 1):
            if columns:
                table = pa.table(columns)
                ids = b"".join(bytes([number, row]) + bytes(ID_BYTES - 2) for row in range(table.num_rows))
                folder.store(f"{kind}-00000{number}-0123abcd.{output_format}", encoded(table, output_format), ids)
        folder.write_manifest("complete")
    return path


def kept(run: SampleRun) -> bytes:
    return RunReport(**{"at_once": "max_num_seqs", **run.report()}).to_json()


def impossible() -> bytes:
    values = json.loads(kept(SampleRun(seconds=30)))
    values["history"]["began"] = 1e300
    return json.dumps(values).encode()


def test_what_is_kept_of_a_run_gives_the_same_page() -> None:
    run = SampleRun(seconds=60, tail_s=20).fail("parse_row: KeyError: 'text'", f"engine: {NASTY}")
    run.history.end(ValueError(NASTY))
    run.replicas["a"].delivered.slowest[0] = (99.0, 1, 2, "stop", "cut between surrogates \ud83d")
    content = kept(run)
    again = RunReport.from_json(content)
    assert len(content) < 300_000
    assert asdict(again.metrics) | {"replicas": 0} == asdict(run.metrics) | {"replicas": 0}
    made, told = Page(page(**run.report())), Page(page(**vars(again)))
    assert {name: text for name, text in told.sections.items() if name != "Slowest rows"} == {
        name: text for name, text in made.sections.items() if name != "Slowest rows"
    }
    assert "cut between surrogates ?" in told.under("Slowest rows")


def test_a_long_runs_history_is_kept_in_short() -> None:
    assert len(kept(SampleRun(seconds=2500, feed=0.02, waiting=0))) < 300_000


def test_a_run_that_answered_all_rows_has_its_own_page(tmp_path: Path) -> None:
    run = SampleRun(seconds=30)
    inside = wrote(tmp_path / "out") / "_rayllm_batch"
    stats = run.replicas["a"].delivered
    stats.counts.rows, stats.counts.failed = 3, 0
    (inside / "report.json").write_bytes(kept(run))
    content = folder_page(FolderView(tmp_path / "out"))
    shown = Page(content)
    assert "The GPUs were full" in shown.under("") and "3 rows, 0 of them with an error" in shown.under("")
    assert "complete, last written 20" in shown.under("") and "Output tokens/s" in shown.under("Over time")
    assert "The last run" not in content and len(content) < 1_000_000


def test_a_folder_of_several_runs_says_what_is_whose(tmp_path: Path) -> None:
    folder = wrote(tmp_path / "out", failed=FAILURES)
    (folder / "_rayllm_batch" / "report.json").write_bytes(kept(SampleRun(seconds=30)))
    shown = Page(folder_page(FolderView(folder)))
    assert "rows 5 in the folder failed 2 of these input tokens 1,000 of all rows output tokens 60" in shown.under("")
    assert "stop 2 40.0%" in shown.under("Finish reasons") and "length 1 20.0%" in shown.under("Finish reasons")
    assert shown.under("Failures").startswith("parse_row: 1 row parse_row: KeyError: 'text'")
    assert NASTY in shown.under("Failures") and not {"script", "img"} & {tag for tag, _ in shown.tags}
    ((heading, last),) = [one for one in shown.sections.items() if one[0].startswith("The last run")]
    assert heading.endswith("of the 5 rows") and "The GPUs were full" in last


def reported(folder: Path, run: SampleRun | None, ended: BaseException | None = None) -> Page:
    """The page that a batch makes after a run into this folder. run: None for one that had nothing to compute."""
    batch = finished()
    of = batch._execution
    batch._written, of.history = folder, History(began=0.0) if run is None else run.history
    of.replicas, of.metrics = ({}, RunMetrics()) if run is None else (run.replicas, run.metrics)
    if ended:
        of.history.end(ended)
    return Page(Path(batch.report(folder.parent / "report.html")).read_text(encoding="utf-8"))


def first_run(folder: Path, rows: int, failed: int) -> Path:
    """What it kept."""
    run = SampleRun(seconds=30).fail(*FAILURES["error"][:failed])
    run.replicas["a"].delivered.counts.rows = rows - failed
    (folder / "_rayllm_batch" / "report.json").write_bytes(kept(run))
    return folder


def small(rows: int, *errors: str) -> SampleRun:
    run = SampleRun(seconds=30).fail(*errors)
    run.replicas["a"].delivered.counts.rows = rows - len(errors)
    return run


def test_a_run_with_nothing_to_compute_reports_on_the_folder(tmp_path: Path) -> None:
    folder = first_run(wrote(tmp_path / "out", failed=FAILURES), 5, 2)
    shown = reported(folder, None)
    assert shown.under("").startswith(Page(folder_page(FolderView(folder))).under("").partition(" The GPUs")[0])
    assert "This run computed nothing: all rows were in the folder before it. 2 row(s) failed in" in shown.under("")
    assert (
        "rows 5 " in shown.under("")
        and "failed 2 " in shown.under("")
        and "Output tokens/s" in shown.under("Over time")
    )
    assert "parse_row: 1 row" in shown.under("Failures") and "No row failed" not in shown.under("Failures")


@pytest.mark.parametrize("content", [None, b"{", b"[]"])
def test_so_it_does_where_nothing_is_known_of_the_run_before(tmp_path: Path, content: bytes | None) -> None:
    folder = wrote(tmp_path / "out", failed=FAILURES)
    if content is not None:
        (folder / "_rayllm_batch" / "report.json").write_bytes(content)
    shown = reported(folder, None)
    text = " ".join(" ".join(shown.sections.values()).split())
    assert "rows 5 in the folder failed 2 of these" in shown.under("") and "engine: 1 row" in shown.under("Failures")
    assert "Not in this folder, and so not here:" in text and "too short" not in text and "Nothing was" not in text


def test_a_run_that_failed_before_a_row_hides_nothing_of_the_folder(tmp_path: Path) -> None:
    folder = first_run(wrote(tmp_path / "out"), 3, 0)
    shown = reported(folder, None, ended=ValueError(NASTY))
    assert f"This run computed nothing: it did not finish (ValueError: {NASTY})." in shown.under("")
    assert "rows 3 " in shown.under("") and "retry_failed" not in shown.under("")


@pytest.mark.parametrize(
    ("rows", "errors", "said"),
    [
        (1, (), "This run computed 1 of the 5 rows in the folder, and 0 of these failed. 2 row(s) failed in earlier"),
        (4, (f"engine: {NASTY}",), "This run computed 4 of the 5 rows in the folder, and 1 of these failed. 1 row(s)"),
        (3, tuple(FAILURES["error"]), "This run computed 3 of the 5 rows in the folder, and 2 of these failed. Batch"),
    ],
)
def test_failures_are_the_folder_s_and_it_is_said_which_are_this_run_s(
    tmp_path: Path, rows: int, errors: tuple[str, ...], said: str
) -> None:
    folder = first_run(wrote(tmp_path / "out", failed=FAILURES), 4, 2)
    shown = reported(folder, small(rows, *errors))
    assert said.removesuffix(" Batch") in shown.under("") and ("earlier runs" in shown.under("")) == (len(errors) < 2)
    assert "rows 5 in the folder failed 2 of these" in shown.under("")
    assert shown.under("Failures").count(": 1 row ") == 2
    ((heading, last),) = [one for one in shown.sections.items() if one[0].startswith("This run: ")]
    assert heading == f"This run: {rows} of the 5 rows" and f"failed {len(errors)} " in " ".join(last.split())


def test_a_run_that_answered_all_rows_or_was_cut_short_reports_on_itself(tmp_path: Path) -> None:
    folder = wrote(tmp_path / "out")
    for run, ended in ((small(3), None), (small(40), KeyboardInterrupt())):
        shown = reported(folder, run, ended)
        assert "This run" not in " ".join([*shown.sections, shown.under("")]) and "3 rows, 0 of them" in shown.under("")
        assert f"rows {run.metrics.rows} " in shown.under("")


def test_without_rows_in_the_folder_the_report_is_the_run_s(tmp_path: Path) -> None:
    assert "did not finish (ValueError: no GPU)" in reported(tmp_path / "out", None, ValueError("no GPU")).under("")
    with pytest.raises(OutputError, match="nothing there"):  # it was said that all rows are there
        reported(tmp_path / "out", None)


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
@pytest.mark.parametrize("metrics", [True, False])
def test_a_folder_by_a_version_that_kept_less(tmp_path: Path, output_format: str, metrics: bool) -> None:
    folder = wrote(tmp_path / "out", output_format, failed=FAILURES)
    if metrics:
        (folder / "_rayllm_batch" / "metrics.json").write_text(json.dumps(SampleRun(seconds=30).metrics.to_dict()))
    shown = Page(folder_page(FolderView(folder)))
    text = " ".join(" ".join(shown.sections.values()).split())
    assert "some/model" in text and "Not in this folder, and so not here:" in text and "1970" not in text
    assert "too short" not in text and "Nothing was computed" not in text and "Over time" not in shown.sections
    assert ("38.5 s" in text) == metrics == ("when and how fast" not in text)
    assert "hf_token (not shown" in shown.under("Job") and "Prompt length" in shown.under("Lengths")


@pytest.mark.parametrize("content", ["null", "7", "[]", '{"rows": "many"}', "{"])
def test_metrics_that_are_none_are_left_out(tmp_path: Path, content: str) -> None:
    folder = wrote(tmp_path / "out", failed=FAILURES)
    (folder / "_rayllm_batch" / "metrics.json").write_text(content)
    shown = Page(folder_page(FolderView(folder)))
    assert "when and how fast" in " ".join(" ".join(shown.sections.values()).split())


def test_vectors_have_no_finish_reasons_nor_answers(tmp_path: Path) -> None:
    shown = Page(folder_page(FolderView(wrote(tmp_path / "out", answers=VECTORS))))
    assert "Finish reasons" not in shown.sections and "output tokens" not in shown.under("")
    assert "No row failed" in shown.under("Failures") and "Answer length" not in shown.under("Lengths")


def test_the_folder_stays_as_it_is_and_a_running_one_can_be_read(tmp_path: Path) -> None:
    folder = wrote(tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with OutputFolder(folder, JOB, "parquet"):
        assert FolderView(folder).rows == 3
    (folder / "part-000009-0123abcd.parquet").write_bytes(b"being written")
    assert FolderView(folder).rows == 3
    (folder / "part-000009-0123abcd.parquet").unlink()
    assert cli.main(["report", str(folder), "-o", str(tmp_path / "r.html")]) == cli.DONE
    assert {path for path in folder.rglob("*") if path.is_file()} <= before.keys() and (tmp_path / "r.html").exists()


def test_a_storage_with_errors_of_its_own_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class ConnectError(Exception):
        """As that of the Hub's HTTP client, which is no OSError."""

    def fails(*_: object) -> None:
        raise ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(OutputPlace, "listed", fails)
    assert cli.main(["report", "somewhere"]) == cli.WRONG_INPUT
    assert "The output folder 'somewhere' cannot be read: [Errno -2] Name or" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (shutil.rmtree, "no output folder of a run: there is nothing there"),
        (lambda folder: shutil.rmtree(folder / "_rayllm_batch"), "no _rayllm_batch in it"),
        (lambda folder: shutil.rmtree(folder / "_rayllm_batch" / "rows"), "no answers in .* yet"),
        (
            lambda folder: (folder / "_rayllm_batch" / "report.json").write_text("[[" * 10**5),
            "report.json in .* cannot",
        ),
        (lambda folder: (folder / "_rayllm_batch" / "report.json").write_text('{"history": 3}'), "report.json in .*"),
        (lambda folder: (folder / "_rayllm_batch" / "report.json").write_bytes(impossible()), "report.json in .*"),
        (
            lambda folder: (folder / "part-000001-0123abcd.parquet").write_bytes(
                b"x" * (folder / "part-000001-0123abcd.parquet").stat().st_size
            ),
            "part-000001-0123abcd.parquet in .* of 3 rows, is damaged",
        ),
    ],
)
def test_what_is_no_folder_or_a_broken_one(tmp_path: Path, break_it: Any, said: str, capsys: Any) -> None:
    folder = wrote(tmp_path / "out")
    break_it(folder)
    with pytest.raises(OutputError, match=said):
        folder_page(FolderView(folder))
    assert cli.main(["report", str(folder), "-o", str(tmp_path / "r.html")]) == cli.WRONG_INPUT
    assert capsys.readouterr().err.startswith("OutputError: ") and not (tmp_path / "r.html").exists()


def test_numbers_in_a_kept_report_are_numbers(tmp_path: Path) -> None:
    """What is marked as safe in the page are plots of them, and the file may be anybody's."""
    values = json.loads(kept(SampleRun(seconds=30)))
    values["history"]["points"]["running"][3] = NASTY
    with pytest.raises(ValueError, match="running"):
        RunReport.from_json(json.dumps(values).encode())
    values = json.loads(kept(SampleRun(seconds=30)))
    values["at_once"] = values["title"] = "$" + NASTY
    values["history"]["phases"] = {f"${NASTY}$": 3.0}
    shown = Page(page(**vars(RunReport.from_json(json.dumps(values).encode()))))
    assert not {"script", "img"} & {tag for tag, _ in shown.tags}


def test_a_report_holds_no_secret_of_the_config_or_the_workload() -> None:
    content = finished()._execution.report().to_json().decode()
    assert "s3cr3t" not in content and "private-value" not in content and "api_key" in content
