"""A job of each task that pools, with the echo engine, slow enough to be killed in its middle: by a driver of its own
(`python pooled_job.py ADDRESS TASK FOLDER`), and again by the test that continues it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config

ROWS, POISON, FAILS = 600, 599, 5
FORMATS = {"embed": "parquet", "classify": "jsonl", "score": "parquet"}


def text(number: int) -> str:
    return f"article {number} of the harbour" + (" hospital" * (number == POISON)) + (" penalty" * (number == FAILS))


class Numbered(ChatWorkloadBase):
    task: str = "embed"

    def load_dataset(self) -> Any:
        import ray.data

        return ray.data.range(ROWS, override_num_blocks=6)

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        one = text(row["id"])
        return {"query": one, "documents": [text(7), one]} if self.task == "score" else {"prompt": one}


def config(task: str, **engine_kwargs: Any) -> Any:
    own = {"max_model_len": 64, "max_num_seqs": 16, "fail_on": "penalty", **engine_kwargs}
    model = "assets/demo-classifier" if task == "classify" else "assets/demo-model"
    given = {"model_id": model, "llm_engine": "echo", "accelerator_type": "CPU", "task": task}
    return init_engine_from_config({**given, "engine_kwargs": own})


def run(task: str, folder: Path, **engine_kwargs: Any) -> Any:
    batch = RayLLMBatch(config(task, **engine_kwargs), Numbered(task=task), batch_size=20)
    return batch.run(folder, output_format=FORMATS[task], id_column="id")


if __name__ == "__main__":
    import ray

    ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
    run(sys.argv[2], Path(sys.argv[3]), seconds_per_request=0.5)
