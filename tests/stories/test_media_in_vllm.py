"""Pictures in a real vLLM engine on CPU, beside vLLM's own offline interface. Without Ray."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
# In a process of its own: this one's is told of its environment before vLLM is there.
PROGRAM = """
import base64, json, sys
import media_rows as m
from scripts import demo_vlm

def main():
    config = m.config_of(str(demo_vlm.make(__import__("pathlib").Path(sys.argv[1]))))
    small, wide, other = m.picture(50, 40), m.picture(200, 50, 1), m.picture(64, 64, 2, "JPEG")
    rows = [
        {"question": "What is it?", "pictures": [small]},
        {"question": "What is it?", "pictures": [wide]},
        {"question": "Which are the same?", "pictures": [small, other, small]},
        {"question": "Nothing to see.", "pictures": []},
        {"question": "Broken.", "pictures": [wide[:-100]]},
        {"question": "Too many.", "pictures": [small] * 4},
        {"question": "Too long. " * 150, "pictures": [wide, wide, wide]},
        {"question": "What is it?", "pictures": [small]},
    ]
    ours = m.in_vllm(config, rows)
    for row in ours:
        del row["pictures"]
    theirs = m.by_llm_chat(config, rows[:4])
    print("FOUND", json.dumps([ours, theirs]))

if __name__ == "__main__":
    main()
"""


# The same for sound; its rows have one instead of pictures.
HEARING = """
import base64, json, sys
import media_rows as m, tiny_ears
from pathlib import Path

def main():
    config = m.config_of(str(tiny_ears.make(Path(sys.argv[1]))), limit_mm_per_prompt={"audio": 1})
    high, low = tiny_ears.sound(1.5, 880), tiny_ears.sound(0.7, 220, 16000)
    rows = [{"question": "What?", "sounds": its} for its in ([high], [low], [], [high[:100]], [high, low])]
    ours = m.in_vllm(config, rows)
    for row in ours:
        del row["sounds"]
    theirs = m.by_llm_chat(config, rows[:3])
    print("FOUND", json.dumps([ours, theirs]))

if __name__ == "__main__":
    main()
"""

# Two calls of a rollout with a picture each, through Ray, and the same questions as rows.
ROLLING = """
import json, sys
from pathlib import Path
import media_rows as m
import ray
import ray.data
from rayllm_batch import ChatWorkloadBase, RayLLMBatch
from scripts import demo_vlm

class Asked(m.Looking):
    rows: object = None

    def load_dataset(self):
        return self.rows

class Twice(ChatWorkloadBase):
    sampling_params = {"temperature": 0.0, "max_tokens": 8}
    rows: object = None

    def load_dataset(self):
        return self.rows

    async def rollout(self, row, generate):
        texts = []
        for one in row["pictures"]:
            media = [{"type": "image", "image": one}, {"type": "text", "text": row["question"]}]
            texts.append((await generate([{"role": "user", "content": media}])).text)
        return {"said": " / ".join(texts)}

def main():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    config = m.config_of(str(demo_vlm.make(Path(sys.argv[1]))))
    pictures = [m.picture(50 + 30 * i, 40, i) for i in range(6)]
    single = [{"n": i, "question": "What is it?", "pictures": [one]} for i, one in enumerate(pictures)]
    double = [{"n": i, "question": "What is it?", "pictures": pictures[i : i + 2]} for i in range(5)]
    double.append({"n": 5, "question": "What is it?", "pictures": [pictures[0], pictures[1][:-50]]})
    found = []
    for workload in (Asked(rows=single), Twice(rows=double)):
        batch = RayLLMBatch(config, workload)
        batch.preview(1)  # one start for both
        found.append(sorted(batch.run().take_all(), key=lambda row: row["n"]))
    print("FOUND", json.dumps([[(row.get("said", row.get("generated_text")), row["error"]) for row in rows] for rows in found]))

if __name__ == "__main__":
    main()
"""


def run(program: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = os.pathsep.join([".", "tests/support"])
    env = {**os.environ, "PYTHONPATH": path, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    file = tmp_path_factory.mktemp("program") / "program.py"
    file.write_text(program)
    command = [sys.executable, str(file), str(tmp_path_factory.mktemp("vlm"))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("FOUND ")[1].splitlines()[0])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(PROGRAM, tmp_path_factory)


def test_answers_are_those_of_llm_chat(found: Any) -> None:
    ours, theirs = found
    assert [row["generated_text"] for row in ours[:4]] == [text for text, _ in theirs]
    assert len({row["generated_text"] for row in ours[:4]}) == 4, "the pictures are seen"
    assert ours[7]["generated_text"] == ours[0]["generated_text"]


def test_the_tokens_of_pictures_are_counted_and_known_before(found: Any) -> None:
    ours, theirs = found
    assert [row["num_input_tokens"] for row in ours[:4]] == [tokens for _, tokens in theirs]
    assert [row["tokens_before"] for row in ours[:4]] == [tokens for _, tokens in theirs]
    assert ours[1]["num_input_tokens"] != ours[0]["num_input_tokens"], "a wide one has fewer tiles"


def test_a_rows_media_can_fail_it_and_no_other(found: Any) -> None:
    ours, _ = found
    errors = {row["question"].split(".")[0]: row["error"] for row in ours if row["error"]}
    assert list(errors) == ["Broken", "Too many", "Too long"]
    assert errors["Broken"].startswith("media: ") and "does not decode" in errors["Broken"]
    assert "it has 4 images, but limit_mm_per_prompt in engine_kwargs allows 3" in errors["Too many"]
    assert "with its media's" in errors["Too long"] and "max_model_len is 512" in errors["Too long"]


@pytest.mark.slow
def test_sounds_are_heard_as_by_llm_chat(tmp_path_factory: pytest.TempPathFactory) -> None:
    ours, theirs = run(HEARING, tmp_path_factory)
    assert [row["generated_text"] for row in ours[:3]] == [text for text, _ in theirs]
    assert len({row["generated_text"] for row in ours[:3]}) == 3
    assert [row["num_input_tokens"] for row in ours[:3]] == [tokens for _, tokens in theirs]
    assert [row["tokens_before"] for row in ours[:3]] == [tokens for _, tokens in theirs]
    assert ours[3]["error"].startswith("media: ") and "it has 2 audio, but limit_mm_per_prompt" in ours[4]["error"]


@pytest.mark.slow
@pytest.mark.ray
def test_a_rollouts_calls_see_their_own_pictures(tmp_path_factory: pytest.TempPathFactory) -> None:
    single, double = run(ROLLING, tmp_path_factory)
    texts = [text for text, error in single if error is None]
    assert len(texts) == len(set(texts)) == 6
    assert double[:5] == [[f"{a} / {b}", None] for a, b in itertools.pairwise(texts)]
    assert double[5][0] is None and "does not decode" in double[5][1]
