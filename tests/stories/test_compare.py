"""The same rows through two engines, one after the other."""

from __future__ import annotations

from typing import Any

import pytest

from rayllm_batch import ChatWorkloadBase, RayLLMBatch
from rayllm_batch.errors import ConfigError, DatasetError

pytestmark = pytest.mark.ray
ECHO = {"model_id": "assets/demo-model", "llm_engine": "echo", "accelerator_type": "CPU"}


def echo(**engine_kwargs: Any) -> dict[str, Any]:
    return {**ECHO, "engine_kwargs": {"max_model_len": 4096, **engine_kwargs}}


class Numbers(ChatWorkloadBase):
    def load_dataset(self) -> Any:
        import ray.data

        return ray.data.from_items([{"id": n, "text": f"number {n} of a list"} for n in range(40)])

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 3:
            raise ValueError("not this one")
        return {"messages": [{"role": "user", "content": row["text"]}]}


def test_two_configs_of_one_model(ray_cluster: Any, capsys: pytest.CaptureFixture) -> None:
    configs = [echo(max_num_seqs=4), echo(max_num_seqs=4, seconds_per_request=0.05)]
    workload = Numbers(sampling_params={"max_tokens": 30})
    found = RayLLMBatch.compare(configs, workload, rows=12, gpu_hour_usd=2.0)
    assert [one.name for one in found.of] == ["demo-model", "demo-model (seconds_per_request=0.05)"]
    assert [row["id"] for row in found.inputs] == list(range(12)) and workload.dataset_fraction == 1.0
    for one in found.of:
        assert [row["generated_text"] is None for row in one.rows] == [n == 3 for n in range(12)]
        assert one.rows[5]["generated_text"].startswith("number 5") and one.estimate.rows == 1_000_000
    figures = found.figures()
    assert figures["rows answered"] == ["11 of 12"] * 2
    assert figures["same answer as demo-model"][1] == "100%" and "cost" not in figures  # of no GPU
    assert found.of[0].estimate.run_s < found.of[1].estimate.run_s


class Shuffled(Numbers):
    def load_dataset(self) -> Any:
        return super().load_dataset().random_shuffle()


def test_rows_that_are_others_each_time(ray_cluster: Any) -> None:
    with pytest.raises(DatasetError, match="same rows each time"):
        RayLLMBatch.compare([echo(), echo(max_num_seqs=7)], Shuffled(), rows=40)


@pytest.mark.parametrize(
    ("configs", "arguments", "said"),
    [
        (["a.yaml"], {}, "at least two configs"),
        ("a.yaml", {}, "at least two configs"),
        ([ECHO, ECHO], {"rows": 1}, "at least two rows"),
        ([ECHO, ECHO], {"rows": 2.5}, "whole number"),
        ([ECHO, ECHO], {"gpu_hour_usd": -1}, "price"),
    ],
)
def test_what_cannot_be_compared(configs: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RayLLMBatch.compare(configs, Numbers(), **arguments)
