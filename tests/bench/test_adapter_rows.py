"""The adapter benchmark's files and rows. No engine runs here."""

from __future__ import annotations

import json
from pathlib import Path

from bench import adapters
from bench.models import DEMO_MODEL
from rayllm_batch.engine import lora


def test_adapters_can_be_read_and_have_the_rank_they_say(tmp_path: Path) -> None:
    made = adapters.make_adapters(tmp_path, DEMO_MODEL, 2)
    assert lora.names_in(str(made)) == ["adapter-00", "adapter-01"]
    assert lora.rank_of("adapter-01", str(made), "") == adapters.RANK
    layers = json.loads((DEMO_MODEL / "config.json").read_text())["num_hidden_layers"]
    from safetensors import safe_open

    with safe_open(tmp_path / "adapter-00" / "adapter_model.safetensors", "np") as file:
        assert len(file.keys()) == layers * len(adapters.PROJECTIONS) * 2
    work = {"adapters": str(made), "words": 5, "rows": 40}
    rows = adapters.rows_of(work)
    assert rows == adapters.rows_of(work) and {row["adapter"] for row in rows} == {"adapter-00", "adapter-01"}
