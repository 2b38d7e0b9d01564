"""All that is wrong comes in one list: the checks themselves are stood in for here, each has its own tests."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rayllm_batch import init_engine_from_config
from rayllm_batch.cluster import resources, versions
from rayllm_batch.errors import (
    ClusterError,
    ConfigError,
    DatasetError,
    GatedModelError,
    PreflightError,
    RayLLMBatchError,
    WorkloadError,
)
from rayllm_batch.run import preflight
from rayllm_batch.run.model_check import ModelFacts
from rayllm_batch.run.rows import Rows
from rayllm_batch.tasks.completions import Completions
from rayllm_batch.tasks.generate import Generate

FACTS = ModelFacts({"model_type": "llama"}, 1000, True)
ROWS = Rows(None, [{"text": "a"}], 1)
ORDER = [
    "cluster",
    "versions",
    "token",
    "look_at",
    "files",
    "memory",
    "here",
    "disk",
    "rows",
    "template",
    "prompts",
    "nodes",
    "room",
]


class Checks:
    """Every check passes until a test sets its error; `done` has those that were made, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: dict[str, Exception] = {}
        self.results: dict[str, Any] = {"token": "hf_of_the_config", "look_at": FACTS, "here": True, "rows": ROWS}
        self.done: list[str] = []
        self.arguments: dict[str, tuple] = {}
        self.cpus = 4.0
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": self.cpus}}])
        for name, place, attribute in [
            ("cluster", resources, "check"),
            ("versions", preflight, "check_versions"),
            ("token", preflight, "hub_token"),
            ("look_at", preflight, "look_at"),
            ("files", preflight, "check_files"),
            ("prompts", preflight, "check_first_prompts"),
            ("template", preflight, "check_chat_template"),
            ("memory", preflight, "check_memory"),
            ("here", preflight, "runs_here"),
            ("disk", preflight, "check_disk"),
            ("rows", preflight, "read_rows"),
            ("nodes", preflight, "missing_on_nodes"),
            ("room", preflight, "check_output_room"),
        ]:
            monkeypatch.setattr(place, attribute, self._check(name))

    def _check(self, name: str) -> Any:
        def check(*arguments: Any) -> Any:
            self.done.append(name)
            self.arguments[name] = arguments
            if name in self.errors:
                raise self.errors[name]
            return self.results.get(name)

        return check

    def run(self, llm_engine: str = "vllm", folder: Any = "folder", task: str = "generate") -> preflight.Ready:
        given = {"model_id": "org/model", "llm_engine": llm_engine, "accelerator_type": "A10G", "task": task}
        return preflight.preflight(
            init_engine_from_config(given), "workload", 2, preserve_order=True, id_column="id", folder=folder
        )

    def refusal(self) -> BaseException:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            self.run()
        return caught.value


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    return Checks(monkeypatch)


def test_all_is_well(checks: Checks) -> None:
    ready = checks.run()
    assert (ready.token, ready.rows) == ("hf_of_the_config", ROWS)
    assert checks.done == ORDER
    assert checks.arguments["cluster"][1] == 2 and checks.arguments["rows"][:3] == ("workload", True, "id")
    assert isinstance(checks.arguments["rows"][3], Generate)
    assert checks.arguments["look_at"][1] == "hf_of_the_config"
    assert checks.arguments["room"] == ("folder", ROWS, "workload")


def test_without_a_folder_nothing_is_written(checks: Checks) -> None:
    checks.run(folder=None)
    assert checks.done == ORDER[:-1]


def test_an_empty_token_is_a_token(checks: Checks) -> None:
    checks.results["token"] = ""
    assert checks.run().token == "" and checks.done == ORDER


@pytest.mark.parametrize(
    ("chats", "checked"),
    [([{"prompt_token_ids": [1]}], False), ([{"prompt_token_ids": [1]}, {"messages": ["a"]}], True), ([], True)],
)
def test_token_ids_need_no_chat_template(chats: list, checked: bool, checks: Checks) -> None:
    checks.results["rows"] = Rows(None, [{}], 1, chats=tuple(chats))
    checks.run()
    assert ("template" in checks.done) == checked


@pytest.mark.parametrize("task", ["embed", "classify"])
def test_rows_of_which_nothing_is_known_need_no_template_where_texts_are_usual(task: str, checks: Checks) -> None:
    checks.errors["rows"] = WorkloadError("parse_row fails on each of the first 8 row(s).")
    with pytest.raises(RayLLMBatchError, match="parse_row fails"):
        checks.run(task=task)
    assert "template" not in checks.done


@pytest.mark.parametrize(
    ("chats", "checked"), [([], False), ([{"prompt": "a"}, {"messages": ["a"]}], False), ([{"messages": ["a"]}], True)]
)
def test_where_each_error_is_a_result_one_chat_needs_no_template(chats: list, checked: bool, checks: Checks) -> None:
    checks.results["rows"] = Rows(None, [{}], 1, chats=tuple(chats), task=Completions())
    checks.run()
    assert ("template" in checks.done) == checked


def test_the_echo_engine_has_no_weights(checks: Checks) -> None:
    checks.run("echo")
    assert checks.done == [
        "cluster",
        "versions",
        "token",
        "look_at",
        "files",
        "rows",
        "template",
        "prompts",
        "nodes",
        "room",
    ]


@pytest.mark.parametrize("name", ORDER)
def test_one_problem_is_raised_as_itself(name: str, checks: Checks) -> None:
    error = checks.errors[name] = ClusterError(f"{name} is wrong")
    assert checks.refusal() is error


def test_all_problems_are_listed_in_order(checks: Checks) -> None:
    checks.errors = {
        "rows": DatasetError("no such file"),
        "cluster": ClusterError("no GPU"),
        "versions": ClusterError("no vLLM"),
        "template": ConfigError("no chat template"),
        "memory": ConfigError("too large"),
        "disk": ClusterError("no room"),
    }
    error = checks.refusal()
    assert type(error) is PreflightError
    assert error.problems == [checks.errors[name] for name in ORDER if name in checks.errors]
    assert str(error) == (
        "6 things are to be mended before the run can start:\n"
        "  1. no GPU\n  2. no vLLM\n  3. too large\n  4. no room\n  5. no such file\n  6. no chat template"
    )
    assert checks.done == [name for name in ORDER if name not in ("prompts", "room")], (
        "none hides another; only the prompts and the room cannot be looked at without the rows"
    )


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("token", {"look_at", "files", "template", "memory", "here", "disk"}),
        ("look_at", {"files", "template", "memory", "here", "disk"}),
        ("here", {"disk"}),
        ("cluster", set()),
        ("versions", set()),
        ("template", set()),
        ("memory", set()),
        ("disk", set()),
        ("files", set()),
    ],
)
def test_what_a_failed_check_leaves_out(name: str, left_out: set[str], checks: Checks) -> None:
    checks.errors = {name: GatedModelError("no access.", "Ask for it."), "rows": WorkloadError("parse_row fails")}
    error = checks.refusal()
    assert (
        error.problems == [checks.errors[each] for each in ORDER if each in checks.errors] and len(error.problems) == 2
    )
    assert checks.done == [each for each in ORDER if each not in {*left_out, "prompts", "room"}]


@pytest.mark.parametrize("name", ["files", "template"])
def test_prompts_are_not_tried_without_a_sound_tokenizer(name: str, checks: Checks) -> None:
    checks.errors = {name: ConfigError("it is a pointer")}
    assert checks.refusal() is checks.errors[name] and checks.done == [each for each in ORDER if each != "prompts"]


def test_what_cannot_be_answered_is_handed_on(checks: Checks) -> None:
    checks.results["prompts"] = ["chat_template: no"]
    assert checks.run().unanswered == ("chat_template: no",)


def test_an_error_of_the_users_code_hides_no_other(checks: Checks) -> None:
    checks.errors = {"cluster": ClusterError("no GPU"), "rows": KeyError("column")}
    error = checks.refusal()
    assert type(error) is PreflightError and error.problems == list(checks.errors.values())
    assert "  1. no GPU\n  2. KeyError: 'column'" in str(error)


def test_an_error_of_the_users_code_alone_is_raised_as_it_is(checks: Checks) -> None:
    error = checks.errors["rows"] = FileNotFoundError("prompts.csv")
    assert checks.refusal() is error


def test_an_interrupt_is_not_a_problem_among_others(checks: Checks) -> None:
    checks.errors = {"cluster": ClusterError("no GPU"), "token": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        checks.run()


def test_a_weak_cluster_does_not_hang_the_reading(checks: Checks) -> None:
    """Ray would wait for ever for a CPU to read on, after cluster.check has said that there is none."""
    checks.cpus = 0.5
    checks.errors["cluster"] = ClusterError("no CPU")
    assert checks.refusal() is checks.errors["cluster"]
    assert not {"rows", "room"} & {*checks.done}


def test_where_the_disk_is_another_nodes(checks: Checks) -> None:
    checks.results["here"] = False
    checks.run()
    assert "disk" not in checks.done


def test_the_list_survives_pickling(checks: Checks) -> None:
    error = PreflightError([ClusterError("no GPU"), GatedModelError("no access.", "Ask."), ValueError("yours")])
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and [type(p) for p in again.problems] == [ClusterError, GatedModelError, ValueError]
    assert isinstance(again, RayLLMBatchError)


def test_a_vllm_that_was_not_tried_is_warned_of_and_no_error(
    checks: Checks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = {"Alive": True, "NodeID": "here", "Resources": {"CPU": 4.0, "GPU": 1.0, "accelerator_type:A10G": 1.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(preflight, "check_versions", versions.check_versions)
    monkeypatch.setattr(versions, "vllm_version", lambda: "9.9.9")
    assert checks.run().rows is ROWS
    assert "vLLM 9.9.9 is not a tested pair, but may well do" in caplog.text
