"""What makes a job the same job: its answers' causes and nothing else, from a notebook, a script and a module."""

from __future__ import annotations

import functools
import importlib.util
import json
import linecache
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayllm_batch import ChatWorkloadBase
from rayllm_batch.config import init_engine_from_config
from rayllm_batch.engine.engine_args import installed_fields
from rayllm_batch.engine.vllm_fields import ENGINE_FIELDS
from rayllm_batch.engine.vllm_newest_fields import MORE_ENGINE_FIELDS
from rayllm_batch.output import code_text
from rayllm_batch.output.code_text import as_text, digest
from rayllm_batch.output.fingerprint import HOW_FAST, Job, describe_job, differences

CODE = """\
import re
from dataclasses import dataclass, field
from typing import Any, Callable

from rayllm_batch.workload import ChatWorkloadBase

STYLE = "Be brief."
WORDS = {"alpha", "beta", "gamma", "delta"}
LINK = re.compile("http\\\\S+")
split = 1


class Shape:
    end = "!"

    def finish(self, text):
        return text + self.end


def shorten(text, depth=0):
    return text if depth > 2 else longer(text[:100], depth)


def longer(text, depth):
    return shorten(text + " ", depth + 1)


def outer(prompt):
    class Inner(ChatWorkloadBase):
        def parse_row(self, row):
            return {"messages": [{"role": "user", "content": prompt + row["a"]}]}

    return Inner


@dataclass
class Mine(ChatWorkloadBase):
    tag: str = "t"
    choose: Callable[[Any], Any] = field(default=lambda row: row["a"])
    title = "A title"

    @classmethod
    def system(cls):
        return STYLE

    @staticmethod
    def clean(text):
        return LINK.sub("", text)

    @property
    def role(self):
        return "user"

    def parse_row(self, row):
        # A comment.
        text = " ".join(w for w in shorten(self.choose(row)).split() if w in {"a", "b", "c"} or w in WORDS)
        return {"messages": [{"role": self.role, "content": Shape().finish(self.clean(text))}]}
"""


def engine(**given: Any) -> Any:
    config = {
        "model_id": "org/model",
        "llm_engine": "vllm",
        "accelerator_type": "CPU",
        "engine_kwargs": {"max_model_len": 512},
    }
    return init_engine_from_config(config, override=given)


def test_what_else_decides_answers_is_a_setting_only_where_it_is_asked_for() -> None:
    class Asks(ChatWorkloadBase):
        pass

    plain = describe_job(engine(), Asks(), None)
    for given in (
        {"output_schema": ["a", "b"]},
        {"output_schema": {"type": "object"}},
        {"output_schema": ["a"], "reask": 1},
    ):
        job = describe_job(engine(), Asks(**given), None)
        assert job.fingerprint != plain.fingerprint and job.hints == plain.hints
        assert {key.removeprefix("workload.") for key in job.settings.keys() - plain.settings.keys()} == given.keys()
    for unused in ({"max_calls": 3}, {"reask": 0}, {"rollout_timeout_s": 5.0}):
        assert describe_job(engine(), Asks(**unused), None) == plain
    assert not any("schema" in key or "calls" in key or "reask" in key for key in {**plain.settings, **plain.hints})
    h100 = engine(accelerator_type="H100")
    invariant = describe_job(engine(accelerator_type="H100", batch_invariant=True), Asks(), None)
    assert invariant.settings == {**describe_job(h100, Asks(), None).settings, "batch_invariant": "true"}


def in_a_cell(code: str, name: str = "/tmp/ipykernel_7/1234.py") -> dict[str, Any]:
    """As IPython runs a cell: in __main__, its source in linecache alone."""
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)
    space = {"__name__": "__main__"}
    exec(compile(code, name, "exec"), space)  # noqa: S102 (a notebook cell)
    return space


def job_of(workload: Any, **given: Any) -> dict[str, str]:
    job = describe_job(engine(**given), workload, None)
    return {**job.settings, **job.hints, **job.rows}


def job_of_code(code: str, name: str = "Mine", **fields: Any) -> dict[str, str]:
    return job_of(in_a_cell(code)[name](**fields))


SAME = {
    "a comment": lambda code: code.replace("# A comment.", "# Another\n        # comment."),
    "no comment": lambda code: code.replace("        # A comment.\n", ""),
    "layout": lambda code: code.replace('{"messages": [', '{\n            "messages": [\n'),
    "quotes": lambda code: code.replace('"Be brief."', "'Be brief.'"),
    "more in the module": lambda code: code.replace("split = 1", "split = 2; other = 3\ndef unused(): pass"),
}
OTHER = {
    "parse_row": lambda code: code.replace('"messages": [', '"messages": [{"role": "system", "content": "x"}, '),
    "a helper": lambda code: code.replace("text[:100]", "text[:200]"),
    "a helper's helper": lambda code: code.replace('text + " "', 'text + "  "'),
    "a set": lambda code: code.replace('"delta"', '"epsilon"'),
    "a pattern": lambda code: code.replace("http", "ftp"),
    "a class it uses": lambda code: code.replace('end = "!"', 'end = "?"'),
    "a static method": lambda code: code.replace('LINK.sub("", text)', 'LINK.sub(" ", text)'),
    "a class method": lambda code: code.replace("return STYLE", "return STYLE + STYLE"),
    "a constant of a class method": lambda code: code.replace("Be brief", "Be long"),
    "a property": lambda code: code.replace('return "user"', 'return "system"'),
    "a lambda": lambda code: code.replace('row["a"])', 'row["b"])'),
    "a class attribute": lambda code: code.replace("A title", "Another title"),
    "a default": lambda code: code.replace("depth=0", "depth=1"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_is_no_change(change: Callable[[str], str]) -> None:
    assert change(CODE) != CODE
    assert differences(job_of_code(CODE), job_of_code(change(CODE))) == []


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_changed_code_is_a_hint(change: Callable[[str], str]) -> None:
    assert change(CODE) != CODE
    differing = differences(job_of_code(CODE), job_of_code(change(CODE)))
    assert differing and all(text.startswith(("code of Mine ", "workload.choose ")) for text in differing)
    jobs = [describe_job(engine(), in_a_cell(code)["Mine"](), None) for code in (CODE, change(CODE))]
    assert (
        jobs[0].settings == jobs[1].settings
        and jobs[0].fingerprint == jobs[1].fingerprint
        and jobs[0].hints != jobs[1].hints
    )


def test_a_prompt_in_triple_quotes_may_start_at_the_left_edge() -> None:
    code = CODE.replace(
        'text = " ".join', 'prompt = f"""\nDear model,\n  be {STYLE}\n"""\n        text = prompt + " ".join'
    )
    job = job_of_code(code)
    assert job == job_of_code(code.replace("# A comment.", "# Another comment."))
    assert len({str(j) for j in (job, job_of_code(CODE), job_of_code(code.replace("  be ", " be ")))}) == 3


def test_a_prompt_from_a_function_around_the_class_counts() -> None:
    make = in_a_cell(CODE)["outer"]
    assert job_of(make("one")()) == job_of(make("one")()) != job_of(make("two")())


def test_a_subclass_with_its_base_s_name_does_not_hide_it() -> None:
    again = CODE + "\n\nclass Mine(Mine):\n    title = 'X'\n"
    assert job_of_code(again) != job_of_code(again.replace("text[:100]", "text[:200]"))


def test_a_notebook_a_script_and_a_module_are_one_job_in_any_process(tmp_path: Path) -> None:
    """Each in a process of its own, where text hashes, and so sets, have another order."""
    show = "print(json.dumps(describe_job(engine, Mine(), None).hints))\n"
    setup = (
        "import json\nfrom rayllm_batch.config import init_engine_from_config\n"
        "from rayllm_batch.output.fingerprint import describe_job\n"
        "engine = init_engine_from_config({'model_id': 'org/model', 'llm_engine': 'vllm', 'accelerator_type': 'CPU'})\n"
    )
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "script.py").write_text(CODE + "\n\n" + setup + show)
    (tmp_path / "user.py").write_text(setup + "from mine import Mine\n" + show)
    (tmp_path / "cell.py").write_text(
        setup + f"import linecache\ncode = {CODE!r}\nmessages = text = finish = 'a variable of the notebook'\n"
        "linecache.cache['<ipython-input-1>'] = (len(code), None, code.splitlines(True), '<ipython-input-1>')\n"
        "exec(compile(code, '<ipython-input-1>', 'exec'))\n" + show
    )
    printed = {}
    for seed, name in enumerate(("script.py", "user.py", "cell.py")):
        env = {"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
        run = subprocess.run(
            [sys.executable, str(tmp_path / name)], env=env, capture_output=True, text=True, check=True
        )
        printed[name] = json.loads(run.stdout)
    assert printed["script.py"] == printed["user.py"] == printed["cell.py"]
    assert "code of Mine" in printed["script.py"]


def test_code_without_source_is_told_by_its_bytecode_in_any_process(tmp_path: Path) -> None:
    program = (
        "from rayllm_batch.output.code_text import code_of_class\nexec({code!r})\nprint(code_of_class(Mine, {{}}))"
    )
    printed = []
    for seed, code in (("1", CODE), ("2", CODE), ("3", CODE.replace("text[:100]", "text[:200]"))):
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
        command = [sys.executable, "-c", program.format(code=code)]
        printed.append(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert printed[0] == printed[1] != printed[2]


def test_a_helper_from_a_module_beside_the_workload_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from beside import build\nfrom json import dumps\n"
        "class Mine:\n    def parse_row(self, row):\n        return build(dumps(row))\n"
    )
    jobs = []
    for text in ("a", "b", "a"):
        (tmp_path / "beside.py").write_text(f"def build(text):\n    return {text!r} + text\n")
        linecache.clearcache()
        spec = importlib.util.spec_from_file_location("beside", tmp_path / "beside.py")
        module = importlib.util.module_from_spec(spec)
        exec(compile((tmp_path / "beside.py").read_text(), tmp_path / "beside.py", "exec"), vars(module))  # noqa: S102
        monkeypatch.setitem(sys.modules, "beside", module)
        jobs.append(job_of(in_a_cell(code)["Mine"]()))
    assert jobs[0] == jobs[2] != jobs[1]


def test_a_decorated_helper_counts() -> None:
    code = CODE.replace("def longer", "import functools\n@functools.lru_cache\ndef longer")
    assert job_of_code(code) != job_of_code(code.replace('text + " "', 'text + "  "'))


def test_a_decorator_s_code_counts() -> None:
    decorator = (
        "import functools\ndef loud(f):\n    @functools.wraps(f)\n"
        "    def g(*a):\n        return f(*a) + '!'\n    return g\n@loud\n"
    )
    code = CODE.replace("def longer", decorator + "def longer")
    assert (
        job_of_code(code) == job_of_code(code.replace("+ '!'", "+  '!'")) != job_of_code(code.replace("+ '!'", "+ '?'"))
    )


BESIDE = """\
SYSTEM = 'OLD'
def build(): return SYSTEM
class Builder:
    def __init__(self): self.text = 'OLD'
    def go(self): return self.text
    __call__ = go
BUILDER = Builder()
"""
# What comes before a class, and what its parse_row puts into the prompt; BESIDE: prompts.py and pack/sub.py.
HIDDEN = {
    "a module's constant": ("import prompts", "prompts.SYSTEM"),
    "a module's function": ("import prompts as p", "p.build()"),
    "a package's": ("import pack.sub", "pack.sub.SYSTEM"),
    "a module of a package": ("from pack import sub", "sub.build()"),
    "an object of a module": ("from prompts import BUILDER", "BUILDER.go()"),
    "an object that is called": ("from prompts import BUILDER", "BUILDER()"),
    "a template": ("import string\nT = string.Template('OLD $x')", "T.substitute(x=1)"),
    "a template of a package's": ("import jinja2\nT = jinja2.Template('OLD {{x}}')", "T.render(x=1)"),
    "a namespace": ("import types\nT = types.SimpleNamespace(x='OLD')", "T.x"),
    "a read-only dict": ("import types\nT = types.MappingProxyType({'x': 'OLD'})", "T['x']"),
    "a deque": ("import collections\nT = collections.deque(['OLD'])", "T[0]"),
    "a DataFrame": ("import pandas\nT = pandas.DataFrame({'x': ['OLD']})", "T['x'][0]"),
    "a bytearray": ("T = bytearray(b'OLD')", "T.decode()"),
    "a getter": ("import operator\nT = operator.itemgetter('OLD')", "T(row)"),
    "an object's state": ("class C:\n    def __init__(self, x): self.x = x\nT = C('OLD')", "T.x"),
    "an object with slots": (
        "class C:\n    __slots__ = 'x'\n    def __init__(self, x): self.x = x\nT = C('OLD')",
        "T.x",
    ),
    "an object with a lock": (
        "import threading\nclass C:\n    def __init__(self, x): self.x, self.y = x, threading.Lock()\nT = C('OLD')",
        "T.x",
    ),
    "an object's code": ("class C:\n    def go(self): return 'OLD'\nT = C()", "T.go()"),
    "a bound method": ("class C:\n    def go(self): return 'OLD'\nT = C().go", "T()"),
    "a member of an enum": ("import enum\nclass E(enum.Enum):\n    A = 'OLD'\nT = E.A", "T.value"),
    "a method of an enum": (
        "import enum\nclass E(enum.Enum):\n    A = 1\n    def text(self): return 'OLD'\nT = E.A",
        "T.text()",
    ),
    "a dataclass's method": (
        "import dataclasses\n@dataclasses.dataclass\nclass D:\n    x: int = 1\n    def t(self): return 'OLD'\nT = D()",
        "T.t()",
    ),
    "a dict that makes values": ("class D(dict):\n    def __missing__(self, key): return 'OLD'\nT = D()", "T['x']"),
    "a method that Python calls": ("class C:\n    def __str__(self): return 'OLD'", "str(C())"),
    "a base's attribute": ("class A:\n    x = 'OLD'\nclass B(A): pass", "B.x"),
    "a metaclass's attribute": ("class M(type):\n    x = 'OLD'\nclass B(metaclass=M): pass", "B.x"),
    "a dispatching function": (
        "import functools\n@functools.singledispatch\ndef g(x): return ''\n@g.register\ndef _(x: str): return 'OLD'",
        "g('')",
    ),
}


@pytest.fixture
def hints_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], dict[str, str]]:
    """Of the code of a class Mine, with the modules beside it. As another process would have them."""

    def described(code: str, beside: str) -> dict[str, str]:
        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "rayllm_batch" / "job"  # inside a clone of that name
        (folder / "pack").mkdir(parents=True)
        for file, text in (
            ("prompts.py", beside),
            ("pack/__init__.py", ""),
            ("pack/sub.py", beside),
            ("mine.py", code),
        ):
            (folder / file).write_text(text)
        with monkeypatch.context() as patched:
            patched.syspath_prepend(folder)
            for name in ("prompts", "pack", "pack.sub", "mine"):
                patched.delitem(sys.modules, name, raising=False)
            hints = describe_job(engine(), importlib.import_module("mine").Mine(), None).hints
            for name in ("prompts", "pack", "pack.sub", "mine"):
                patched.delitem(sys.modules, name, raising=False)
        return hints

    return described


def mine(before: str, prompt: str) -> str:
    asked = f"return {{'messages': [{{'role': 'user', 'content': {prompt} + row['a']}}]}}"
    base = "from rayllm_batch.workload import ChatWorkloadBase"
    return f"{before}\n{base}\nclass Mine(ChatWorkloadBase):\n    def parse_row(self, row):\n        {asked}\n"


@pytest.mark.parametrize(("before", "prompt"), HIDDEN.values(), ids=HIDDEN)
def test_whatever_changes_a_prompt_is_a_hint(hints_of: Any, before: str, prompt: str) -> None:
    code = mine(before, prompt)
    first = hints_of(code, BESIDE)
    assert hints_of(code, BESIDE) == first != hints_of(code.replace("OLD", "NEW"), BESIDE.replace("OLD", "NEW"))


@pytest.mark.parametrize(
    "imports", ["import prompts", "import prompts as p, json", "from prompts import SYSTEM", "import pack.sub"]
)
def test_a_module_that_parse_row_imports_itself_counts(hints_of: Any, imports: str) -> None:
    code = mine("", "''").replace("return {", f"{imports}\n        return {{")
    first = hints_of(code, BESIDE)
    assert (
        hints_of(code, BESIDE)
        == first
        == hints_of(code, "# a comment\n" + BESIDE)
        != hints_of(code, BESIDE.replace("OLD", "NEW"))
    )


def test_this_librarys_own_code_is_none_of_the_users() -> None:
    assert code_text._source_of("tokenizer_builders") and not code_text._source_of("rayllm_batch.errors")


def test_what_a_module_has_besides_does_not_count(hints_of: Any) -> None:
    code = mine("import prompts", "prompts.SYSTEM")
    assert (
        hints_of(code, BESIDE)
        == hints_of(code, BESIDE + "OTHER = 1\n")
        != hints_of(code, BESIDE.replace("'OLD'\ndef", "'NEW'\ndef"))
    )


@pytest.mark.parametrize("what", ["SYSTEM", "build()", "helper()", "sub.build()"])
def test_a_workload_of_an_installed_package_is_the_user_s_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    monkeypatch.setattr("rayllm_batch.output.code_text.is_installed", lambda file: True)
    before = "from installed_jobs import sub\nfrom installed_jobs.sub import build, SYSTEM\ndef helper(): return 'OLD'"
    hints = []
    for number, word in enumerate(("OLD", "OLD", "NEW")):
        folder = tmp_path / str(number) / "installed_jobs"
        folder.mkdir(parents=True)
        for file, text in (("__init__.py", ""), ("sub.py", BESIDE), ("jobs.py", mine(before, what))):
            (folder / file).write_text(text.replace("OLD", word))
        with monkeypatch.context() as patched:
            patched.syspath_prepend(folder.parent)
            hints.append(describe_job(engine(), importlib.import_module("installed_jobs.jobs").Mine(), None).hints)
        for name in [name for name in sys.modules if name.startswith("installed_jobs")]:
            del sys.modules[name]
    assert hints[0] == hints[1] != hints[2]


def test_the_state_of_an_object_is_not_written_down() -> None:
    class Client:
        def __init__(self, key: str) -> None:
            self.key = key

    texts = [json.dumps(job_of(in_a_cell(CODE)["Mine"](tag=Client(key)))) for key in ("k-12345678", "k-87654321")]
    assert texts[0] != texts[1] and "12345678" not in texts[0]


class Raises:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def holding_itself() -> list[Any]:
    one: list[Any] = []
    one.append(one)
    return one


@pytest.mark.parametrize("made", [Raises, holding_itself, type("Odd", (), {"__reduce_ex__": lambda *_: (1,)})])
def test_a_value_that_cannot_be_described_is_known_by_its_kind(made: Callable[[], Any]) -> None:
    value = made()
    assert as_text(value) == json.dumps(f"a {type(value).__name__}")


FAST = {
    "tensor_parallel_size": 4,
    "gpu_memory_utilization": 0.5,
    "max_num_seqs": 7,
    "enforce_eager": True,
    "max_num_batched_tokens": 4096,
    "max_model_len": 256,
    "renderer_num_workers": 2,
    "numa_bind": True,
    "cudagraph_capture_sizes": [1, 2],
    "mm_processor_cache_gb": 1,
}
ANSWERS = {
    "quantization": "fp8",
    "dtype": "float16",
    "seed": 3,
    "kv_cache_dtype": "fp8",
    "revision": "main",
    "load_format": "dummy",
}
DECIDES = set(
    """
    model enable_return_routed_experts return_sampling_mask model_weights tokenizer hf_config_path runner convert
    skip_tokenizer_init enable_prompt_embeds tokenizer_mode trust_remote_code allowed_local_media_path
    allowed_media_domains load_format config_format dtype kv_cache_dtype seed disable_sliding_window logprobs_mode
    use_fp64_gumbel revision code_revision hf_overrides model_class_overrides tokenizer_revision quantization
    quantization_config allow_deprecated_quantization language_model_only limit_mm_per_prompt enable_mm_embeds
    interleave_mm_strings media_io_kwargs mm_processor_kwargs mm_encoder_only mm_encoder_attn_dtype
    mm_encoder_fp8_scale_path mm_encoder_fp8_scale_save_path mm_encoder_fp8_scale_save_margin io_processor_plugin
    video_pruning_rate video_pruning_method mm_device_do_normalize default_mm_loras lora_dtype lora_target_modules
    enable_tower_connector_lora enable_mixed_moe_lora_format model_loader_extra_config structured_outputs_config
    reasoning_parser reasoning_parser_plugin diffusion_config pooler_config attention_config mamba_config
    enable_bf16x3_router_gemm worker_cls worker_extension_cls reasoning_config generation_config
    override_generation_config model_impl kv_cache_dtype_skip_layers mamba_cache_dtype mamba_ssm_cache_dtype
    mamba_ssu_algorithm enable_mamba_cache_stochastic_rounding mamba_cache_philox_rounds additional_config
    logits_processors kv_sharing_fast_prefill tokens_only aux_output_config watermark_config swa_bounded_replay
""".split()
)


def test_every_setting_of_vllm_is_sorted_into_speed_or_answers() -> None:
    """A vLLM with a new one fails here: does it decide answers (DECIDES), or only how fast they come (HOW_FAST)?"""
    fields = {*ENGINE_FIELDS, *MORE_ENGINE_FIELDS, *(installed_fields() or ())}
    assert fields - HOW_FAST - DECIDES == set(), "to be sorted"
    assert set() == DECIDES & HOW_FAST and fields >= DECIDES


@pytest.mark.parametrize(("key", "value"), FAST.items(), ids=FAST)
def test_settings_of_speed_do_not_count(key: str, value: Any) -> None:
    assert job_of_code(CODE) == job_of(in_a_cell(CODE)["Mine"](), engine_kwargs={key: value})


@pytest.mark.parametrize(("key", "value"), ANSWERS.items(), ids=ANSWERS)
def test_settings_that_change_answers_count(key: str, value: Any) -> None:
    other = job_of(in_a_cell(CODE)["Mine"](), engine_kwargs={key: value})
    assert [text.split()[0] for text in differences(job_of_code(CODE), other)] == [f"engine_kwargs.{key}"]


def test_model_template_and_sampling_count_and_the_accelerator_does_not() -> None:
    job = job_of_code(CODE)
    assert job_of(in_a_cell(CODE)["Mine"](), accelerator_type="H100") == job
    assert job_of(in_a_cell(CODE)["Mine"](), model_id="org/other") != job
    assert job_of(in_a_cell(CODE)["Mine"](), chat_template="{{ messages }}") != job
    assert job_of_code(CODE, sampling_params={"max_tokens": 3}) != job
    assert 'id_column was null, is "id"' in differences(
        describe_job(engine(), in_a_cell(CODE)["Mine"](), None).settings,
        describe_job(engine(), in_a_cell(CODE)["Mine"](), "id").settings,
    )
    assert describe_job(engine(), in_a_cell(CODE)["Mine"](sampling_params={"max_tokens": 3}), None).settings[
        "workload.sampling_params"
    ]


def test_which_rows_are_read_is_no_other_job(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    mine = in_a_cell(CODE)["Mine"]
    jobs = [
        describe_job(engine(), mine(dataset_file=str(tmp_path / "rows.jsonl"), dataset_fraction=fraction), None)
        for fraction in (8, 16.0, 16)
    ]
    assert jobs[1] == jobs[2] and jobs[0].rows != jobs[1].rows
    assert (jobs[0].settings, jobs[0].hints) == (jobs[1].settings, jobs[1].hints)

    class Own(mine):
        def load_dataset(self) -> Any:
            return None

    assert describe_job(engine(), Own(dataset_file=str(tmp_path / "rows.jsonl")), None).rows == {}, (
        "who knows what it reads"
    )


def test_a_job_of_format_1_is_sorted_anew() -> None:
    parts = {
        "model_id": "org/model",
        "engine_kwargs.dtype": '"float32"',
        "engine_kwargs.cudagraph_capture_sizes": "[1]",
        "id_column": "null",
        "workload": "Mine",
        "workload.sampling_params": "{}",
        "workload.note": '""',
        "workload.dataset_fraction": "8",
        "code of Mine": "a",
        "files of dataset_file": "1 file(s)",
    }
    job = Job.of_format_1(parts)
    assert set(job.settings) == {"model_id", "engine_kwargs.dtype", "id_column", "workload.sampling_params"}
    assert set(job.hints) == {"workload", "workload.note", "code of Mine"} and job.rows == {}


def test_a_local_model_that_was_trained_again_is_another(tmp_path: Path) -> None:
    """Its files have the same sizes; and it is the same wherever it lies, whatever a file browser left in it."""
    jobs = []
    for place, byte in (("x/m", b"a"), ("y/m", b"a"), ("z/m", b"b")):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"header" + bytes(300_000) + byte + bytes(300_000))
        (folder / ".DS_Store").write_bytes(place.encode())
        jobs.append(job_of(in_a_cell(CODE)["Mine"](), model_id=str(folder)))
    assert jobs[0] == jobs[1] != jobs[2]


SECRETS = {
    "token": "abcdefgh12345678",
    "api_key": "k-12345-secretvalue",
    "password": "letmein-12345678",
    "auth": "Bearer abcdefgh12345678",
    "source": "s3://user:pw-12345678@bucket/x",
    "url": "https://x/y?sv=1&sig=abc12345678",
    "note": "hf_abcdefghijklmnopqrstuv12345678",
    "headers": {"Authorization": "Basic abc12345678"},
    "nested": {"deep": [{"secret_key": "abc12345678"}]},
}


@pytest.mark.parametrize(("name", "value"), SECRETS.items(), ids=SECRETS)
def test_no_secret_is_written(name: str, value: Any) -> None:
    class Job:
        def parse_row(self, row: Any) -> Any:
            return row

    def with_field(given: Any) -> dict[str, str]:
        workload = Job()
        setattr(workload, name, given)
        return job_of(workload, runtime_env={"env_vars": {"HF_TOKEN": "env-12345678"}})

    written = json.dumps(with_field(value))
    assert "12345678" not in written
    other = json.loads(json.dumps(value).replace("12345678", "87654321").replace("12345", "54321"))
    assert with_field(other) != with_field(value)


def test_a_secret_in_the_code_or_the_model_s_address_is_not_written() -> None:
    code = CODE.replace("Be brief.", "hf_12345678901234567890123")
    written = json.dumps(job_of(in_a_cell(code)["Mine"](), model_id="s3://key:pw-12345678@bucket/model"))
    assert "12345678" not in written


def test_a_workload_of_any_kind_can_be_described() -> None:
    class Slots:
        __slots__ = ("prompt",)

        def parse_row(self, row: Any) -> Any:
            return row

    class Plain:
        def __init__(self, **fields: Any) -> None:
            vars(self).update(fields)

        def parse_row(self, row: Any) -> Any:
            return row

    assert job_of(Slots())["workload"].endswith("Slots")
    values = [
        {"a", "b"},
        {("x", 1): 2, "y": 3},
        Path("p"),
        b"x",
        np.arange(3),
        functools.partial(int, base=2),
        Plain,
        1 + 2j,
        float("nan"),
        "\ud800",
        10**400,
        {1: 2, "1": 3},
        [object()],
        lambda row: row,
        functools.partial(int, base=8),
        Path("q"),
        {"a", "c"},
        np.arange(4),
    ]
    jobs = [job_of(Plain(value=value)) for value in values]
    assert len({digest(json.dumps(job, sort_keys=True)) for job in jobs}) == len(values)
    assert [job_of(Plain(value=value)) for value in values] == jobs


def test_what_a_workload_keeps_of_an_earlier_run_does_not_count() -> None:
    """load_dataset may keep its Dataset in self; the next run in the same kernel must continue."""
    workload = in_a_cell(CODE)["Mine"]()
    before = job_of(workload)
    workload._dataset = object()
    assert job_of(workload) == before
    workload.prompt = "x"
    assert job_of(workload) != before


def test_data_files_count_by_name_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    mine = in_a_cell(CODE)["Mine"]
    before = job_of(mine(dataset_file=str(tmp_path / "rows.jsonl")))
    assert job_of(mine(dataset_file=str(tmp_path / "rows.jsonl"))) == before
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    assert [
        t.split(" was ")[0] for t in differences(before, job_of(mine(dataset_file=str(tmp_path / "rows.jsonl"))))
    ] == ["files of dataset_file"]


def test_differences_name_what_came_and_what_went() -> None:
    assert differences({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == [
        "a was 1, is not set",
        "b was 2, is 3",
        "c was not set, is 4",
    ]


def test_adapters_are_known_by_their_files(tmp_path: Path) -> None:
    for name in ("one", "of/two"):
        (tmp_path / "loras" / name).mkdir(parents=True)
        (tmp_path / "loras" / name / "adapter_config.json").write_text("{}")
        (tmp_path / "loras" / name / "adapter_model.safetensors").write_bytes(b"w" * 100)

    def adapters(root: Any) -> dict[str, str]:
        where = {"lora_config": {"dynamic_lora_loading_path": str(root)}}
        config = init_engine_from_config(
            {"model_id": "org/model", "llm_engine": "vllm", "accelerator_type": "CPU", **where}
        )
        return describe_job(config, ChatWorkloadBase(), None).adapters

    first = adapters(tmp_path / "loras")
    assert first.keys() == {"one", "of/two"}
    shutil.copytree(tmp_path / "loras", tmp_path / "copied" / "loras")
    assert adapters(tmp_path / "copied" / "loras") == first
    (tmp_path / "loras" / "of/two" / "adapter_model.safetensors").write_bytes(b"w" * 99 + b"v")
    assert [name for name, its in adapters(tmp_path / "loras").items() if its != first[name]] == ["of/two"]
    assert adapters("s3://bucket/loras") == adapters(tmp_path / "none") == {}


def test_what_rows_media_may_be_decides_no_answer_and_their_folder_hints_at_other_files() -> None:
    config = init_engine_from_config("configs/demo-cpu.yaml")
    before = describe_job(config, ChatWorkloadBase(), None)
    assert not any("media" in key for key in {**before.settings, **before.hints})
    rules = {"media_hosts": ["a.example"], "max_media_pixels": 5, "media_timeout_s": 1.0}
    assert describe_job(config, ChatWorkloadBase(**rules), None) == before
    elsewhere = describe_job(config, ChatWorkloadBase(media_folder="pictures"), None)
    assert elsewhere.settings == before.settings and "workload.media_folder" in elsewhere.hints
    assert "media" not in repr(ChatWorkloadBase()), "its code is a hint"
