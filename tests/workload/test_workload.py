"""Workloads: every way to write a subclass, how it travels to a worker, and what is refused before the run."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Optional

import pytest

from rayllm_batch import CNNDailySummary, SyntheticWithSharedPrefix
from rayllm_batch.errors import WorkloadError
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workload import ChatWorkloadBase, check_workload

ROOT = Path(__file__).parents[2]
DEFAULT_PARAMS = {"max_tokens": 150, "temperature": 0.0}


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


class Parsing(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return chat(row["text"])


def refusal(workload: Any) -> str:
    with pytest.raises(WorkloadError) as caught:
        check_workload(workload)
        Generate().of(workload, {})
    return str(caught.value)


# --- ways to write one


def test_with_dataclass_and_type_hints() -> None:
    @dataclass
    class Workload(Parsing):
        dataset_file: Optional[str] = "rows.jsonl"
        column: str = "text"
        sampling_params: dict[str, Any] = field(default_factory=lambda: {"max_tokens": 5})

    made = Workload(column="article", dataset_fraction=0.5)
    assert (made.dataset_file, made.dataset_fraction, made.column, made.sampling_params) == (
        "rows.jsonl",
        0.5,
        "article",
        {"max_tokens": 5},
    )


def test_without_dataclass_and_without_type_hints() -> None:
    class Workload(Parsing):
        dataset_file = "rows.jsonl"
        dataset_fraction = 10
        sampling_params = {"max_tokens": 5}
        column = "article"  # neither a field of the base nor annotated: an ordinary class attribute

    made = Workload()
    assert (made.dataset_file, made.dataset_fraction, made.sampling_params, made.column) == (
        "rows.jsonl",
        10,
        {"max_tokens": 5},
        "article",
    )
    assert Workload(dataset_file="other.jsonl", sampling_params={}).dataset_file == "other.jsonl"
    with pytest.raises(TypeError, match="column"):
        Workload(column="x")


def test_without_dataclass_but_with_type_hints() -> None:
    class Workload(Parsing):
        column: str = "article"
        dataset_file: str = "rows.jsonl"

    assert Workload().column == "article" and Workload(column="x").column == "x"
    assert Workload().dataset_file == "rows.jsonl"


def test_with_dataclass_and_without_type_hints() -> None:
    @dataclass
    class Workload(Parsing):
        dataset_file = "rows.jsonl"
        sampling_params = {"max_tokens": 5}

    assert Workload().dataset_file == "rows.jsonl" and Workload().sampling_params == {"max_tokens": 5}


def test_mutable_defaults_are_not_shared() -> None:
    shared = {"max_tokens": 5, "stop": ["x"]}

    @dataclass
    class Workload(Parsing):
        sampling_params: dict[str, Any] = shared  # noqa: RUF009  (@dataclass alone refuses this)
        columns: list[str] = ["a"]  # noqa: RUF008

    first, second = Workload(), Workload()
    first.sampling_params["stop"].append("y")
    first.columns.append("b")
    assert second.sampling_params == {"max_tokens": 5, "stop": ["x"]} and second.columns == ["a"]
    assert shared == {"max_tokens": 5, "stop": ["x"]}
    assert Parsing().sampling_params == DEFAULT_PARAMS


def test_own_init_that_calls_the_base() -> None:
    class Workload(Parsing):
        def __init__(self, path: str) -> None:
            super().__init__(dataset_file=path, sampling_params={"max_tokens": 1})

    made = Workload("rows.csv")
    assert (
        made.dataset_file == "rows.csv" and made.sampling_params == {"max_tokens": 1} and made.dataset_fraction == 1.0
    )


def test_own_init_that_does_not() -> None:
    class Workload(Parsing):
        dataset_fraction = 3

        def __init__(self, rows: list[str]) -> None:
            self.rows = rows

    made = Workload(["a"])
    check_workload(made)
    assert (made.rows, made.dataset_file, made.dataset_fraction) == (["a"], None, 3)
    assert made.sampling_params == DEFAULT_PARAMS
    made.sampling_params["max_tokens"] = 1
    assert Workload([]).sampling_params == DEFAULT_PARAMS


def asks(decorated: bool, **body: Any) -> type:
    made = type("Asks", (Parsing,), {"__annotations__": {"question": str, "retries": int}, "retries": 2, **body})
    return dataclass(made) if decorated else made


@pytest.mark.parametrize("decorated", [True, False])
@pytest.mark.parametrize("how", [None, {"repr": False}, {"kw_only": True}], ids=str)
def test_a_field_without_a_default(decorated: bool, how: dict[str, Any] | None) -> None:
    made = asks(decorated, **({} if how is None else {"question": field(**how)}))
    assert made(question="why?").question == "why?" and made(question="why?").retries == 2
    assert made("rows.jsonl", question="why?").dataset_file == "rows.jsonl"
    with pytest.raises(WorkloadError, match="needs question=.*-w question="):
        made()
    again = copy.copy(made(question="why?"))
    assert again.question == "why?"
    with pytest.raises(WorkloadError, match="question"):
        type("Next", (made,), {"more": 1})()
    assert type("Next", (made,), {"question": "given"})().question == "given"


def test_fields_without_a_default_of_other_kinds() -> None:
    class Workload(Parsing):
        shared: ClassVar[dict]
        sampling_params: dict[str, Any]  # hinted again: keeps its default
        dataset_file: str
        bad_lines: str = field(repr=False)
        extra: InitVar[int]
        first: str
        second: int = field(init=False)

        def __post_init__(self, extra: int) -> None:
            self.second = extra

    made = Workload(first="a", extra=3)
    assert (made.first, made.second, made.sampling_params, made.dataset_file) == ("a", 3, DEFAULT_PARAMS, None)
    assert made.bad_lines == "raise"
    with pytest.raises(WorkloadError, match="first"):
        Workload(extra=1)


def test_a_subclass_of_a_subclass_none_of_them_a_dataclass() -> None:
    class Middle(Parsing):
        dataset_file = "middle.jsonl"
        column: str = "article"
        sampling_params = {"max_tokens": 5}

    class Last(Middle):
        column = "text"

    made = Last()
    assert (made.dataset_file, made.column, made.sampling_params) == ("middle.jsonl", "text", {"max_tokens": 5})
    assert Last(column="other").column == "other" and Middle().column == "article"


def test_class_variables_stay_what_they_are() -> None:
    class Workload(Parsing):
        prompts: ClassVar[tuple[str, ...]] = ("a",)

    with pytest.raises(TypeError, match="prompts"):
        Workload(prompts=("b",))
    assert Workload().prompts == ("a",)


def test_shipped_workloads_can_be_changed_in_the_same_ways() -> None:
    class Mine(CNNDailySummary):
        dataset_file = "mine.jsonl"
        sampling_params = {"max_tokens": 7}

    assert Mine().sampling_params == {"max_tokens": 7} and Mine(dataset_split="train").dataset_split == "train"
    assert Mine().parse_row({"article": "A storm."})["messages"][-1]["content"].startswith("Article:\nA storm.")


@pytest.mark.parametrize(
    "made", [Parsing("rows.jsonl", 0.5), CNNDailySummary(), SyntheticWithSharedPrefix(num_synthetic_requests=3)]
)
def test_copies_are_equal(made: ChatWorkloadBase) -> None:
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert copied == made and copied is not made and repr(copied) == repr(made)


# --- by value, from a notebook cell, to a process that has neither the cell nor this package


CELL = """
from dataclasses import dataclass
from rayllm_batch.workload import ChatWorkloadBase

PREFIX = "Summarise: "

class Middle(ChatWorkloadBase):
    sampling_params = {"max_tokens": 5}

class Workload(Middle):
    column: str = "text"

    def load_dataset(self):
        return [1]

    def parse_row(self, row):
        return {"messages": [{"role": "user", "content": PREFIX + row[self.column]}]}
"""
SENDER = """
import sys
import ray.cloudpickle as cloudpickle
import rayllm_batch
cloudpickle.register_pickle_by_value(rayllm_batch)
exec(compile(open(sys.argv[1]).read(), "cell", "exec"))
workload = Workload(column="article", dataset_fraction=3)
open(sys.argv[2], "wb").write(cloudpickle.dumps([workload.parse_row, workload, Workload]))
"""
RECEIVER = """
import sys
sys.path = [entry for entry in sys.path if not entry.endswith("checkout")]  # where the environment has it
try:
    import rayllm_batch
except ImportError:
    pass
else:
    sys.exit("the package can be imported here, so this test shows nothing")
import ray.cloudpickle as cloudpickle
parse_row, workload, cls = cloudpickle.loads(open(sys.argv[1], "rb").read())
assert parse_row({"article": "A storm."}) == {"messages": [{"role": "user", "content": "Summarise: A storm."}]}
assert workload.sampling_params == {"max_tokens": 5} and workload.dataset_fraction == 3
again = cls()
assert again.column == "text" and again.sampling_params == {"max_tokens": 5} and again.dataset_file is None
again.sampling_params["max_tokens"] = 6
assert cls().sampling_params == {"max_tokens": 5}
print("received")
"""


def test_a_class_of_a_notebook_cell_travels_by_value(tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_text(textwrap.dedent(CELL))
    cell, pickled = str(tmp_path / "cell.py"), str(tmp_path / "workload.pkl")
    subprocess.run([sys.executable, "-c", SENDER, cell, pickled], cwd=ROOT, check=True)
    done = subprocess.run(
        [sys.executable, "-c", RECEIVER, pickled], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "received\n", done.stderr


# --- refused before the run


def test_a_setting_of_a_class_that_comes_too_late() -> None:
    class Body(ChatWorkloadBase):
        pooling_params = {"dimensions": 64}  # noqa: RUF012
        dataset_file = "rows.jsonl"

        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"prompt": row["text"]}

    class Late(Body):
        pass

    check_workload(Late(dataset_fraction=3))  # has been made once
    Late.pooling_params = {"dimensions": 100_000}
    for workload in (Late(), Late(pooling_params={"dimensions": 8})):
        assert "Late.pooling_params was set after the class was made" in refusal(workload)
    Body.dataset_file = "others.jsonl"
    assert "Body.dataset_file was set" in refusal(Body()) and "Body(dataset_file=...)" in refusal(Body())


def test_a_class_in_place_of_an_instance() -> None:
    assert "Parsing()" in refusal(Parsing)


@pytest.mark.parametrize("thing", ["rows.jsonl", None, SimpleNamespace(parse_row=chat), {"parse_row": chat}])
def test_something_without_the_methods(thing: Any) -> None:
    message = refusal(thing)
    assert "load_dataset()" in message and "ChatWorkloadBase" in message and type(thing).__name__ in message


def test_anything_with_the_methods_will_do() -> None:
    check_workload(SimpleNamespace(load_dataset=list, parse_row=chat, sampling_params={"max_tokens": 3}))


def test_without_parse_row() -> None:
    class Forgetful(ChatWorkloadBase):
        dataset_file = "rows.jsonl"

    message = refusal(Forgetful())
    assert "Forgetful" in message and "parse_row(self, row)" in message and "messages" in message


def test_without_rows() -> None:
    with pytest.raises(WorkloadError, match=r"Parsing has no rows.*dataset_file.*load_dataset"):
        Parsing().load_dataset()


@pytest.mark.parametrize("fraction", [0, -1, 0.0, float("nan"), float("inf"), True, "0.5", None])
def test_dataset_fraction(fraction: Any) -> None:
    message = refusal(Parsing(dataset_fraction=fraction))
    assert "Parsing.dataset_fraction" in message and "0 < x <= 1" in message and repr(fraction) in message


@pytest.mark.parametrize("fraction", [0.001, 1, 1.0, 2, 1000.0])
def test_good_dataset_fraction(fraction: float) -> None:
    check_workload(Parsing(dataset_fraction=fraction))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (None, ["dict", "None"]),
        ([("max_tokens", 1)], ["dict", "list"]),
        ({"max_token": 5}, ["'max_token'", "Did you mean 'max_tokens'?"]),
        ({"temprature": 0}, ["'temprature'", "Did you mean 'temperature'?"]),
        ({"zzz": 0}, ["'zzz'", "SamplingParams"]),
        ({"n": 2, "temperature": 0}, ["n=2", "temperature above 0"]),
        ({"n": 0}, ["n in", "at least 1"]),
        ({"logprobs": 21}, ["logprobs", "at most 20", "max_logprobs"]),
        ({"prompt_logprobs": -1}, ["prompt_logprobs", "max_logprobs"]),
        ({"flat_logprobs": True}, ["'flat_logprobs'", "no column", "Remove"]),
        ({"output_kind": 2}, ["'output_kind'", "Remove"]),
    ],
)
def test_sampling_params(params: Any, words: list[str]) -> None:
    message = refusal(Parsing(sampling_params=params))
    for word in ["Parsing.sampling_params", *words]:
        assert word in message


# --- SyntheticWithSharedPrefix


def synthetic(**given: Any) -> SyntheticWithSharedPrefix:
    sizes = {
        "num_synthetic_requests": 6,
        "num_synthetic_prefixes": 2,
        "num_synthetic_prefix_tokens": 20,
        "num_unique_synthetic_prompt_tokens": 10,
        "max_tokens": 8,
    }
    return SyntheticWithSharedPrefix(**{**sizes, **given})


def words_of(workload: SyntheticWithSharedPrefix, index: int) -> list[str]:
    [message] = workload.parse_row({"id": index})["messages"]
    assert message["role"] == "user"
    return message["content"].split()


def test_synthetic_prompts_share_their_prefix() -> None:
    prompts = [words_of(synthetic(), index) for index in range(6)]
    assert all(len(prompt) == 30 for prompt in prompts)
    assert len({tuple(prompt[:20]) for prompt in prompts}) == 2
    assert prompts[0][:20] == prompts[2][:20] == prompts[4][:20] != prompts[1][:20] == prompts[3][:20]
    assert len({tuple(prompt[20:]) for prompt in prompts}) == 6


def test_synthetic_prompts_repeat_exactly_in_another_process() -> None:
    code = (
        "from rayllm_batch import SyntheticWithSharedPrefix as S;"
        "print(S(num_synthetic_prefixes=2, num_synthetic_prefix_tokens=20, num_unique_synthetic_prompt_tokens=10)"
        ".parse_row({'id': 3})['messages'][0]['content'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == words_of(synthetic(), 3)


def test_synthetic_numbers_as_from_a_command_line() -> None:
    made = synthetic(
        num_synthetic_requests=6.0,
        num_synthetic_prefixes="2",
        num_synthetic_prefix_tokens="20.0",
        num_unique_synthetic_prompt_tokens=10.9,
        max_tokens="8",
    )
    assert made == synthetic() and isinstance(made.num_synthetic_requests, int)
    check_workload(made)


def test_synthetic_answers_have_their_full_length() -> None:
    assert synthetic().sampling_params == {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True}
    own = {"temperature": 1.0, "ignore_eos": False}
    assert synthetic(sampling_params=own).sampling_params == {**own, "max_tokens": 8}
    assert own == {"temperature": 1.0, "ignore_eos": False}


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("num_synthetic_requests", 0, 1),
        ("num_synthetic_requests", "many", 1),
        ("num_synthetic_requests", None, 1),
        ("num_synthetic_prefixes", -1, 1),
        ("num_synthetic_prefixes", 0.5, 1),
        ("max_tokens", 0, 1),
        ("max_tokens", float("inf"), 1),
        ("max_tokens", float("nan"), 1),
        ("num_synthetic_prefix_tokens", -1, 0),
        ("num_unique_synthetic_prompt_tokens", "-3", 0),
    ],
)
def test_synthetic_number_that_cannot_be(name: str, value: Any, least: int) -> None:
    with pytest.raises(WorkloadError) as caught:
        synthetic(**{name: value})
    for word in (name, f"at least {least}", repr(value)):
        assert word in str(caught.value)


def test_synthetic_parts_may_be_empty() -> None:
    assert len(words_of(synthetic(num_synthetic_prefix_tokens=0), 0)) == 10
    assert words_of(synthetic(num_unique_synthetic_prompt_tokens=0), 0) == words_of(
        synthetic(num_unique_synthetic_prompt_tokens=0), 2
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("media_hosts", "images.example.org"),
        ("media_hosts", ["https://images.example.org"]),
        ("media_hosts", [5]),
        ("media_folder", ""),
        ("media_folder", "/"),
        ("max_media_bytes", 0),
        ("max_media_pixels", "many"),
        ("max_media_seconds", -1),
        ("media_timeout_s", float("inf")),
    ],
)
def test_what_media_may_be_is_checked(field: str, value: Any) -> None:
    check_workload(Parsing())
    with pytest.raises(WorkloadError, match="media"):
        check_workload(Parsing(**{field: value}))
