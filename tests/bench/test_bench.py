"""The benchmark's judgement: what it prints, and which results it refuses to compare. No engine runs here."""

import copy
import json
import types

import pytest

from bench import compare, cpu_side, grid, models, rows, step_time, table
from rayllm_batch import init_engine_from_config

SETTINGS = {
    "max_model_len": 4096,
    "max_num_seqs": 1024,
    "max_num_batched_tokens": 16384,
    "enable_prefix_caching": True,
    "dtype": "bfloat16",
    "kv_cache_tokens": 850_000,
    "speculative": None,
}


def run(contender, engine_s, pair=1, wall_s=None, **settings):
    """A result of two rows: 10 and 20 tokens in, 40 and 60 out."""
    return {
        "contender": contender,
        "pair": pair,
        "workload": "8b",
        "rows": 2,
        "failed": 0,
        "input_tokens": 30,
        "output_tokens": 100,
        "start_s": 50.0,
        "engine_s": engine_s,
        "wall_s": wall_s or engine_s,
        "job_s": 50 + engine_s,
        "settings": {**SETTINGS, **settings},
        "tokens": [[0, 10, 40], [1, 20, 60]],
    }


def cells(markdown):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]


def test_ratios_are_medians_of_the_ratios_within_each_pair():
    # The host is half as fast after pair 1: a ratio of medians would say 1.0.
    results = [
        run("RayLLMBatch", 1.25, 1, wall_s=2.0),
        run("LLM.generate", 1.0, 1),
        run("LLM.generate", 2.0, 2),
        run("RayLLMBatch", 2.0, 2),
        run("LLM.generate", 2.0, 3),
        run("RayLLMBatch", 2.5, 3),
        run("ray.data.llm", 4.0, 2),
    ]
    header, _, *lines = cells(table.summary(results))
    assert [line[0] for line in lines] == ["LLM.generate", "RayLLMBatch", "ray.data.llm"]
    by_name = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    assert by_name["LLM.generate"]["ratio"] == "1.000 (1.000-1.000)"
    assert by_name["RayLLMBatch"]["ratio"] == "0.800 (0.800-1.000)"
    assert by_name["RayLLMBatch"]["ratio (wall)"] == "0.800 (0.500-1.000)"
    assert by_name["RayLLMBatch"]["output tokens/s"] == "50"
    assert by_name["ray.data.llm"]["ratio"] == "0.500" and by_name["ray.data.llm"]["runs"] == "1"
    assert table.differences(results) == []


@pytest.mark.parametrize(
    "key, value",
    [
        ("max_model_len", 8192),
        ("max_num_seqs", 128),
        ("max_num_batched_tokens", 2048),
        ("enable_prefix_caching", False),
        ("dtype", "float16"),
        ("kv_cache_tokens", 800_000),
        ("speculative", "ngram"),
    ],
)
def test_a_setting_that_differs_is_named_with_both_values_and_who_has_them(key, value):
    results = [run("LLM.generate", 1.0), run("RayLLMBatch", 1.0), run("ray.data.llm", 1.0, **{key: value})]
    [line] = table.differences(results)
    assert line.startswith(f"{key} differs")
    shown = f"{value:,}" if type(value) is int else str(value)
    assert "(LLM.generate, pair 1)" in line and f"{shown} (ray.data.llm, pair 1)" in line


def test_a_later_run_of_the_same_contender_is_held_to_the_same_settings():
    [line] = table.differences(
        [run("LLM.generate", 1.0), run("RayLLMBatch", 1.0), run("RayLLMBatch", 1.0, 2, max_num_seqs=512)]
    )
    assert "512 (RayLLMBatch, pair 2)" in line and "1,024 (LLM.generate, pair 1)" in line


def test_what_an_engine_does_not_report_and_a_little_less_cache_are_no_difference():
    ours = run("RayLLMBatch", 1.0, kv_cache_tokens=845_000)
    assert "quantization" not in ours["settings"]
    assert table.differences([run("LLM.generate", 1.0, quantization="fp8"), ours]) == []


def test_token_counts_are_held_against_each_other_row_by_row():
    other = run("ray.data.llm", 1.0)
    other["tokens"] = [[0, 11, 40], [1, 19, 60]]  # the sums are equal
    [line] = table.differences([run("LLM.generate", 1.0), other])
    assert "2 row(s) have other input token counts" in line and "row 0: 11 instead of 10" in line
    shorter = run("RayLLMBatch", 1.0)
    shorter["tokens"], shorter["failed"], shorter["first_error"] = [[0, 10, 39]], 1, "engine: ValueError: no"
    found = "\n".join(table.differences([run("LLM.generate", 1.0), shorter]))
    assert "1 row(s) failed, the first: engine: ValueError: no" in found
    assert "1 row(s) are in one result and not in the other, the first with id 1" in found
    assert "1 row(s) have other output token counts" in found and "row 0: 39 instead of 40" in found


@pytest.mark.parametrize(
    "mode, expected",
    [
        (
            "separate",
            [
                "open L",
                "run L 1",
                "close L",
                "open R",
                "run R 1",
                "close R",
                "open L",
                "run L 2",
                "close L",
                "open R",
                "run R 2",
                "close R",
            ],
        ),
        ("in-process", ["open L", "run L 1", "run L 2", "close L", "open R", "run R 1", "run R 2", "close R"]),
        ("side-by-side", ["open L", "run L 1", "open R", "run R 1", "run L 2", "close L", "run R 2", "close R"]),
    ],
)
def test_a_mode_says_which_processes_live_on_and_a_failure_stops_its_contender_alone(
    tmp_path, monkeypatch, mode, expected
):
    events, failing = [], set()

    class Fake:
        def __init__(self, name, job, folder):
            self.name, self.job = name, job
            events.append(f"open {name[0]}")

        def run(self, path, limit_s):
            events.append(f"run {self.name[0]} {path.name[0]}")
            if self.name in failing:
                raise compare.ContenderFailed("no result")
            return {**run(self.name, 1.0), "engine_kwargs": self.job.engine_kwargs}

        def close(self, patience_s=0):
            events.append(f"close {self.name[0]}")

    monkeypatch.setattr(compare, "Contender", Fake)
    monkeypatch.setattr(compare.rows, "write", lambda *_: (tmp_path, tmp_path))
    options = compare._options(
        [
            "--workload",
            "1b",
            "--pairs",
            "2",
            "--mode",
            mode,
            "--skip",
            "ray.data.llm",
            "--scratch",
            str(tmp_path / "scratch"),
        ]
    )
    assert compare.run_all(options, tmp_path) and events == expected
    results = compare.load(tmp_path)
    assert sorted((r["contender"], r["pair"]) for r in results) == [
        (n, p) for n in ("LLM.generate", "RayLLMBatch") for p in (1, 2)
    ]
    memory = {r["engine_kwargs"]["gpu_memory_utilization"] for r in results}
    assert memory == {0.45 if mode == "side-by-side" else 0.92}

    failing.add("RayLLMBatch")
    events.clear()
    assert not compare.run_all(options, tmp_path)
    assert events.count("run R 1") == 1 and "run R 2" not in events and "run L 2" in events
    assert events.count("open L") == events.count("close L") and events.count("close R") == 1
    assert {r["contender"] for r in compare.load(tmp_path)} == {"LLM.generate"}  # what an earlier call left is gone


def test_the_table_is_remade_from_the_files_and_says_when_results_do_not_compare(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "8b"
    folder.mkdir()
    more = {
        "versions": {"vllm": "0.29.0"},
        "device": "1 GPU",
        "date": "2026-01-01 00:00",
        "mode": "separate",
        "engine_kwargs": {},
        "ours": {},
        "cores": {"VLLM::EngineCore": 0.97},
    }
    results = [run("LLM.generate", 1.0), run("RayLLMBatch", 1.0)]
    for status, max_num_seqs in ((0, 1024), (2, 128)):
        results[1]["settings"]["max_num_seqs"] = max_num_seqs
        for i, found in enumerate(results):
            (folder / f"1-{i}.json").write_text(json.dumps({**found, **more}))
        monkeypatch.setattr("sys.argv", ["compare", "--workload", "8b", "--table", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            compare.main()
        out = capsys.readouterr().out
        assert ended.value.code == status
        assert ("max_num_seqs differs" in out) == (status == 2) and "VLLM::EngineCore | 0.97" in out


def test_a_grid_takes_the_fastest_run_of_each_setting_and_compares_with_the_best():
    settings = {
        "max_model_len": 4096,
        "max_num_seqs": 1024,
        "max_num_batched_tokens": 16_384,
        "kv_cache_tokens": 457_872,
    }

    def ran(setting, seconds):
        return {"setting": setting, "settings": {**settings, **setting}, "engine_s": seconds, "output_tokens": 1000}

    text = grid.report([ran({}, 4.0), ran({}, 2.0), ran({"max_num_seqs": 512}, 2.5)])
    assert cells(text)[2:] == [
        ["{}", "4,096", "1,024", "16,384", "457,872", "2.0", "500", "1.000"],
        ['{"max_num_seqs": 512}', "4,096", "512", "16,384", "457,872", "2.5", "400", "0.800"],
    ]


def test_a_steps_share_of_the_gpu_leaves_the_prompts_out(monkeypatch, tmp_path):
    """By hand: 32 more steps take 0.64 s more, 20 ms each; their kernels 0.16 s more, 5 ms each."""
    seconds, kernels = {8: 1.0, 40: 1.64}, iter([0.5, 0.66])
    monkeypatch.setattr(step_time, "answer", lambda _llm, _prompts, tokens: seconds[tokens])
    monkeypatch.setattr(step_time, "kernel_s", lambda _traces: next(kernels))
    engine = types.SimpleNamespace(start_profile=lambda: None, stop_profile=lambda: None)
    assert step_time.step(engine, [{}] * 3, tmp_path) == {
        "requests": 3,
        "step_ms": 20.0,
        "gpu_ms": 5.0,
        "gpu_share": 0.25,
    }


def test_rows_repeat_exactly_and_have_the_structure_their_workload_names():
    for name, work in rows.WORKLOADS.items():
        made = list(rows.make(work, 200))
        assert made == list(rows.make(work, 200)), name
        assert [row["id"] for row in made] == list(range(200))
        lengths = [row["max_tokens"] for row in made if row["max_tokens"] < 10 * work.output_tokens]
        assert min(lengths) >= work.shortest and max(lengths) <= 2 * work.output_tokens - work.shortest
        assert (
            200 - len(lengths)
            == sum(row["max_tokens"] == 10 * work.output_tokens for row in made)
            == {"mixed": 7}.get(name, 0)
        )
        assert abs(sum(lengths) / len(lengths) - work.output_tokens) < work.output_tokens * 0.12
        assert len({row["user"] for row in made}) == 200 // work.copies, name
    copies = [(row["user"], row["max_tokens"]) for row in rows.make(rows.WORKLOADS["duplicates"], 200)]
    assert len(set(copies)) == 50 and all(copies.count(copy) == 4 for copy in set(copies))
    begins = [row["user"][:200] for row in rows.make(rows.WORKLOADS["prefix"], 320)]
    assert len(set(begins)) == 160
    assert sum(a == b for a, b in zip(begins, begins[1:])) < 10  # noqa: B905  shuffled: neighbours differ


def test_dummy_models_tokenise_as_the_demo_model_does_and_have_configs_that_load(tmp_path):
    from tokenizers import Tokenizer

    model = models.make("1b", tmp_path)
    text = next(rows.make(rows.WORKLOADS["8b"], 1))["user"]
    big, demo = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (model, models.DEMO_MODEL))
    assert big.get_vocab_size() == models.VOCAB_SIZE
    assert big.encode(text, add_special_tokens=False).ids == demo.encode(text, add_special_tokens=False).ids
    for work in rows.WORKLOADS.values():  # every setting is one that vLLM has
        init_engine_from_config(
            {
                "model_id": str(model),
                "llm_engine": "vllm",
                "accelerator_type": "GPU",
                "engine_kwargs": copy.deepcopy(work.engine_kwargs),
            }
        )


def test_the_marginal_rate_leaves_the_fixed_cost_out():
    def measured(contender, count, seconds):
        return {
            "contender": contender,
            "rows": count,
            "seconds": seconds,
            "driver_mib": 300,
            "stored_bytes": 100 * count,
        }

    results = [
        measured("encode_batch_fast", 1000, 1.0),
        measured("encode_batch_fast", 3000, 3.0),
        measured("RayLLMBatch", 1000, 31.25),
        measured("RayLLMBatch", 3000, 33.75),
    ]
    header, _, alone, ours = cells(cpu_side.report(results))
    assert dict(zip(header, alone, strict=True))["rows/s (marginal)"] == "1,000"
    ours = dict(zip(header, ours, strict=True))
    assert (ours["rows/s (marginal)"], ours["of encode_batch_fast"], ours["fixed s"]) == ("800", "0.80", "30.0")


def test_object_store_bytes_are_the_sum_over_the_operators():
    stats = (
        "Operator 1 ReadParquet: 2 tasks\n* Output size bytes per block: 10 min, 20 max, 15 mean, 30 total\n"
        "Operator 2 MapBatches: 2 tasks\n* Output size bytes per block: 1 min, 2 max, 1 mean, 3 total\n"
    )
    assert cpu_side.stored_bytes(stats) == 33
    assert cpu_side.stored_bytes("nothing was executed") is None
