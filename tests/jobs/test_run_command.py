"""What is wrong with a job's run is found before a file is written, and no secret comes into one."""

from __future__ import annotations

from typing import Any

import pytest

from rayllm_batch.arguments import parse
from rayllm_batch.errors import ConfigError, RayLLMBatchError, WorkloadError
from rayllm_batch.jobs.run_command import RunCommand, run_command

WORDS = ["run", "--config", "configs/demo-cpu.yaml", "--output", "s3://bucket/answers"]
NAMED = ["--workload", "rayllm_batch:CNNDailySummary"]


def made(*more: str) -> RunCommand:
    """more: over WORDS, where it has the same option."""
    kept = [word for name, value in (WORDS[1:3], WORDS[3:]) if name not in more for word in (name, value)]
    given = ["run", *kept, *more]
    return run_command(given, parse(given))


def test_the_most_replicas_count() -> None:
    assert made(*NAMED, "--num-replicas", "2-8").replicas == 8
    assert made(*NAMED).replicas == 1


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        (["--workload", "nowhere.py:Triage"], WorkloadError, "there is no file 'nowhere.py'"),
        (["--workload", "Triage"], WorkloadError, "FILE.py:CLASS"),
        ([*NAMED, "-w", "limit"], WorkloadError, "KEY=VALUE"),
        ([*NAMED, "-s", "max_tokens="], WorkloadError, "has no value"),
        ([*NAMED, "-w", "api_key=abc"], ConfigError, "-w api_key=... looks like a secret"),
        ([*NAMED, "--output", "s3://KEY:VERYSECRET@bucket/a"], ConfigError, "s3://***@bucket/a"),
        ([*NAMED, "-w", "who=hf_abcdefghijklmnopqrst"], ConfigError, "hf_***"),
        ([*NAMED, "-w", "who=sk-abcdefghijklmnopqrst"], ConfigError, "'who=sk-***'"),
        ([*NAMED, "-w", "who=sk-proj-abcdefghijklmnop_q-rst"], ConfigError, "'who=sk-proj-***'"),
        ([*NAMED, "-w", "who=sk-ant-api03-abcdefghijklmnopqrst"], ConfigError, "'who=sk-ant-api03-***'"),
        ([*NAMED, "-w", "who=gsk_abcdefghijklmnopqrst"], ConfigError, "'who=gsk_***'"),
        ([*NAMED, "--output", "a\udcff"], ConfigError, "not UTF-8"),
        ([*NAMED, "--config", "configs/demo-cpuu.yaml"], ConfigError, "demo-cpu.yaml"),
    ],
)
def test_what_is_wrong_is_found(more: list[str], error: type[RayLLMBatchError], said: str) -> None:
    with pytest.raises(error) as caught:
        made(*more)
    assert said in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("VERYSECRET", "abcdefghijklmnop"))


def test_a_prompt_may_speak_of_secrets() -> None:
    assert made(*NAMED, "--report", "sk-learn-results-2024-11/hf_report.html")
    assert made("--prompt", "Is a password in {body}?", "--input", "rows.jsonl", "-s", "max_tokens=20")


def test_local_paths_are_those_on_a_disk() -> None:
    places: Any = dict(made(*NAMED, "--report", "r.html").local_paths())
    assert places == {"--report": "r.html"}
    places = dict(made(*NAMED, "--output", "file:///data/a").local_paths())
    assert places == {"--output": "file:///data/a"}
