"""A batch file from its lines to the files of results, without Ray: what is there, once, and in which file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pyarrow as pa
import pytest

from rayllm_batch.data.request_lines import SCHEMA, custom_id
from rayllm_batch.errors import OutputError, WorkloadError
from rayllm_batch.tasks.api_urls import CHAT
from rayllm_batch.workload import openai_results
from rayllm_batch.workload.invalid_request import InvalidRequest
from rayllm_batch.workload.openai_batch import OpenAIBatchFile
from rayllm_batch.workload.openai_results import api_error, check_outputs


def request(name: Any, **body: Any) -> bytes:
    its = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **body}
    return json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": its}).encode()


class Answers:
    """As a run's Dataset: blocks of answers to these lines, those that are refused with an error."""

    def __init__(self, *lines: bytes, workload: Optional[OpenAIBatchFile] = None, error: str = "") -> None:
        self.rows = []
        for line in lines:
            row = {"custom_id": custom_id(line), "request": line, "response": '{"a": "é"}', "error": error or None}
            try:
                (workload or OpenAIBatchFile("x", served_model_name="m")).parse_row(row)
            except InvalidRequest as refusal:
                row |= {"error": f"parse_row: InvalidRequest: {refusal}"}
            self.rows.append({**row, "response": None if row["error"] else row["response"]})

    def count(self) -> int:
        return len(self.rows)

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        schema = pa.schema([*SCHEMA, ("response", pa.string()), ("error", pa.string())])
        for first in range(0, len(self.rows), 2):
            yield pa.Table.from_pylist(self.rows[first : first + 2], schema=schema)


def written(folder: Path, lines: list[bytes], answers: Any, *, apart: bool = True, **how: Any) -> tuple[list, list]:
    file = folder / "requests.jsonl"
    file.write_bytes(b"\n".join(lines))
    workload = OpenAIBatchFile(str(file), **{"served_model_name": "m", **how})
    out, errors = folder / "results.jsonl", folder / "errors.jsonl"
    counts = workload.write_results(answers, out, errors if apart else None)
    results = [json.loads(line) for line in out.read_text().splitlines()]
    failed = [json.loads(line) for line in errors.read_text().splitlines()] if apart else []
    assert (counts.results, counts.errors) == (
        sum(line["error"] is None for line in results),
        sum(line["error"] is not None for line in [*results, *failed]),
    )
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["requests.jsonl", "results.jsonl", *(["errors.jsonl"] if apart else [])]
    )
    return results, failed


def test_results_and_errors(tmp_path: Path) -> None:
    lines = [request("a"), request("b", stream=True), b"nonsense", request("größe")]
    results, errors = written(tmp_path, lines, Answers(*lines))
    assert [line["custom_id"] for line in results] == ["a", "größe"]
    assert results[0]["response"]["body"] == {"a": "é"} and results[0]["response"]["status_code"] == 200
    assert [line["custom_id"] for line in errors] == ["b", ""]
    assert errors[0]["response"]["status_code"] == 400 and errors[0]["response"]["body"] is None
    assert errors[0]["error"]["error"]["param"] == "stream"
    assert "not JSON" in errors[1]["error"]["error"]["message"]
    assert len({line["id"] for line in [*results, *errors]}) == 4


def test_a_line_that_is_read_with_an_error_of_pythons_keeps_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [request("a"), request("b"), request("c")]
    answers = Answers(*lines)
    answers.rows[1] |= {"error": "parse_row: AttributeError: it has no x", "response": None}
    monkeypatch.setattr(openai_results, "read_request", lambda *_: {}["x"])
    results, errors = written(tmp_path, lines, answers)
    assert [line["custom_id"] for line in results] == ["a", "c"]
    assert errors[0]["error"]["error"]["message"] == "it has no x"


def test_without_a_second_file_all_are_in_one(tmp_path: Path) -> None:
    lines = [request("a"), request("b", stream=True)]
    results, _ = written(tmp_path, lines, Answers(*lines), apart=False)
    assert Counter(line["custom_id"] for line in results) == {"a": 1, "b": 1}


def test_each_line_is_one_of_vllms_runner(tmp_path: Path) -> None:
    from vllm.entrypoints.launchers.run_batch import BatchRequestOutput

    lines = [request("a"), request("b", stream=True), b"\xff", request("c", model="other")]
    answers = Answers(*lines)
    answers.rows[0]["response"] = "null"  # a body is held against the models elsewhere
    written(tmp_path, lines, answers, apart=False)
    made = list(map(BatchRequestOutput.model_validate_json, (tmp_path / "results.jsonl").open()))
    assert [one.response.status_code for one in made if one.response] == [200, 400, 400, 404]


def test_of_lines_with_one_custom_id_the_first_is_answered(tmp_path: Path) -> None:
    first, second, third = request("a"), request("a", seed=1), request("b")
    lines = [first, third, second, third, third, request("c")]
    for answers in (lines, lines[::-1]):
        results, errors = written(tmp_path, lines, Answers(*answers))
        assert Counter(line["custom_id"] for line in results) == {"a": 1, "b": 1, "c": 1}
        assert Counter(line["custom_id"] for line in errors) == {"a": 1, "b": 2}
        assert {line["error"]["error"]["param"] for line in errors} == {"custom_id"}


def test_the_first_of_two_requests_is_known_in_whatever_order_they_come(tmp_path: Path) -> None:
    first, second = request("a"), request("a", seed=1)
    for order in ([first, second], [second, first]):
        answers = Answers(*order)
        for row in answers.rows:
            row["response"] = json.dumps({"is_first": row["request"] == first})
        results, _ = written(tmp_path, [first, second], answers)
        assert [line["response"]["body"] for line in results] == [{"is_first": True}]


def test_answers_to_lines_that_are_gone_are_left_out(tmp_path: Path) -> None:
    """As where a line was mended, and the same command came again: the folder keeps both."""
    before, after, other = request("a", stream=True), request("a"), request("b")
    answers = Answers(before, other, after, request("gone"))
    results, errors = written(tmp_path, [after, other], answers)
    assert ([line["custom_id"] for line in results], errors) == (["b", "a"], [])
    results, _ = written(tmp_path, [after, other], Answers(other, other, after), dataset_fraction=0.5)
    assert Counter(line["custom_id"] for line in results) == {"a": 1, "b": 1}
    results, _ = written(tmp_path, [after, other, request("c")], Answers(other, before), dataset_fraction=0.5)
    assert [line["custom_id"] for line in results] == ["b"], "fewer answers than lines, and one of them gone"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InvalidRequest("no such", "model", 404), 404, "no such"),
        ('parse_row: TypeError: parse_row\'s "messages" must be', 400, '"messages" must be'),
        ("sampling_params: max_tokens must be", 400, "max_tokens must be"),
        ("tokenize: the prompt has 5000 tokens", 400, "tokenize: the prompt has 5000 tokens"),
        (
            "engine: ValueError: no LoRA adapter 'x': /a has no",
            404,
            "engine: ValueError: no LoRA adapter 'x': /a has no",
        ),
        ("engine: VLLMValidationError: too many", 400, "engine: VLLMValidationError: too many"),
        ("engine: sampling_params: VLLMValidationError: x", 400, "engine: sampling_params: VLLMValidationError: x"),
        ("engine: EngineDied: the process died", 500, "engine: EngineDied: the process died"),
        ("engine: RuntimeError: x", 500, "engine: RuntimeError: x"),
        ("engine: this row makes the engine crash; x", 500, "engine: this row makes the engine crash; x"),
        ("engine: the engine ended the request without", 500, "engine: the engine ended the request without"),
    ],
)
def test_the_apis_error(error: Any, status: int, message: str) -> None:
    from vllm.entrypoints.serve.engine.protocol import ErrorInfo

    made = api_error(error)
    ErrorInfo.model_validate(made)
    assert (made["code"], made["message"]) == (status, message)
    assert made["type"] == openai_results.KINDS[status]


def test_what_cannot_be_written_is_said_before(tmp_path: Path) -> None:
    requests, other = str(tmp_path / "requests.jsonl"), str(tmp_path / "results.jsonl")
    (tmp_path / "requests.jsonl").write_text("")
    (tmp_path / "file").write_text("")
    for output, errors, said in (
        (requests, None, "is one of the files of requests"),
        (other, requests, "errors .* is one of the files of requests"),
        (other, other, "are both"),
        (str(tmp_path), None, "is a folder"),
        (f"{tmp_path}/new/", None, "is a folder"),
        (f"{tmp_path}/file/results.jsonl", None, "cannot be written"),
        ("nothing://a/b", None, "cannot be opened"),
    ):
        with pytest.raises(OutputError, match=said):
            check_outputs(requests, output, errors)
    for several in (str(tmp_path), f"{tmp_path}/re*.jsonl"):
        with pytest.raises(OutputError, match="is one of the files of requests, or would be"):
            check_outputs(several, other, None)
    with pytest.raises(OutputError) as caught:
        check_outputs(requests, "s3://key:secret@bucket/a", "s3://key:secret@bucket/a")
    assert "are both" in str(caught.value) and "secret" not in str(caught.value)
    check_outputs(requests, f"{tmp_path}/new/results.jsonl", f"{tmp_path}/new/errors.jsonl")


def test_what_was_there_stays_until_all_is_written(tmp_path: Path) -> None:
    lines = [request("a"), request("b")]
    written(tmp_path, lines, Answers(*lines))
    before = (tmp_path / "results.jsonl").read_bytes()

    class Broken(Answers):
        def iter_batches(self, **how: Any) -> Iterator[pa.Table]:
            yield next(super().iter_batches(**how))
            raise OSError("the disk is gone")

    with pytest.raises(OutputError, match="the disk is gone"):
        written(tmp_path, lines, Broken(*lines))
    assert (tmp_path / "results.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["errors.jsonl", "requests.jsonl", "results.jsonl"]


def test_a_uri_gets_the_whole_file(tmp_path: Path) -> None:
    lines = [request("a"), request("b", stream=True)]
    (tmp_path / "requests.jsonl").write_bytes(b"\n".join(lines))
    workload = OpenAIBatchFile(str(tmp_path / "requests.jsonl"))
    workload.write_results(Answers(*lines), f"file://{tmp_path}/results.jsonl", f"file://{tmp_path}/errors.jsonl")  # type: ignore[arg-type]
    assert [json.loads(line)["custom_id"] for line in (tmp_path / "results.jsonl").open()] == ["a"]
    assert [json.loads(line)["custom_id"] for line in (tmp_path / "errors.jsonl").open()] == ["b"]


def test_a_file_of_requests_is_needed() -> None:
    with pytest.raises(WorkloadError, match="has no requests"):
        OpenAIBatchFile().load_dataset()
