"""The same rows answered by several configs, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.report.comparison import MOST_SHOWN, Compared, Comparison
from rayllm_batch.report.estimate import Estimate, Spread

SAID = Estimate(
    rows=1_000_000,
    num_replicas=1,
    gpus=1,
    accelerator_type="H100",
    sample_rows=64,
    failed=[],
    input_tokens_per_row=Spread(100, 90, 110),
    output_tokens_per_row=Spread(10, 9, 11),
    start_s=60,
    run_s=7140,
    low_s=6000,
    high_s=9000,
    prefill_share=0.5,
    cpu_headroom=4.0,
    bound_by="decode",
    gpu_hour_usd=3.0,
)
ROWS = [{"id": 1, "text": "a <b>"}, {"id": 2, "text": None}, {"id": 3, "text": "c"}]


def answer(text: Any, error: Any = None, **more: Any) -> dict[str, Any]:
    return {"generated_text": text, "num_input_tokens": 5, "num_generated_tokens": 2, "error": error, **more}


def compared(name: str, *rows: dict[str, Any], said: Any = SAID) -> Compared:
    failed = sum(row["error"] is not None for row in rows)
    metrics = RunMetrics(rows=len(rows), failed=failed, num_input_tokens=5 * len(rows), num_generated_tokens=7)
    return Compared(name, list(rows), metrics, said)


def comparison(said: Any = SAID) -> Comparison:
    small = compared("small", answer("<i>yes"), answer("no"), answer(None, "engine: it died"), said=said)
    large = compared("large", answer("<i>yes"), answer("maybe"), answer("c"), said=said and replace(said, run_s=3540))
    return Comparison(ROWS, [small, large], "generated_text")


def test_the_figures_of_each() -> None:
    assert comparison().figures() == {
        "rows answered": ["2 of 3", "3 of 3"],
        "same answer as small": ["", "50%"],
        "input tokens a row": ["5", "5"],
        "output tokens a row": ["2", "2"],
        "start-up": ["1 min 00 s", "1 min 00 s"],
        "a million rows take": ["1 h 59 min", "59 min 00 s"],
        "from, to": ["1 h 40 min, 2 h 30 min"] * 2,
        "GPU-hours": ["2.0", "1.0"],
        "cost": ["$6.00", "$3.00"],
    }


def test_what_is_not_known_is_left_out() -> None:
    assert list(comparison(replace(SAID, gpu_hour_usd=None)).figures())[-1] == "GPU-hours"
    assert list(comparison(replace(SAID, gpus=0)).figures())[-1] == "from, to"
    assert list(comparison(None).figures()) == [
        "rows answered",
        "same answer as small",
        "input tokens a row",
        "output tokens a row",
    ]


def test_typed_answers_are_compared_by_their_values() -> None:
    one = compared("one", answer('{"a": 1, "b": 2}', parsed={"a": 1, "b": 2}))
    two = compared("two", answer('{"b":2,"a":1}', parsed={"b": 2, "a": 1}))
    assert Comparison(ROWS[:1], [one, two], "generated_text").figures()["same answer as one"] == ["", "100%"]


def test_in_a_terminal_and_in_a_notebook() -> None:
    text, html = str(comparison()), comparison()._repr_html_()
    assert "[1] id: 1, text: a <b>" in text and "error: engine: it died" in text and "maybe" in text
    assert "&lt;i&gt;yes" in html and "<i>" not in html and "a &lt;b&gt;" in html and "engine: it died" in html
    many = Comparison(
        [{"id": i} for i in range(MOST_SHOWN + 5)],
        [compared(name, *[answer(str(i)) for i in range(MOST_SHOWN + 5)]) for name in "ab"],
        "generated_text",
    )
    assert "5 more rows" in str(many) and "5 more rows" in many._repr_html_()


def test_a_page_has_all_rows_and_a_table_all_columns(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = comparison().save(tmp_path / "new" / "compared.html")
    page = Path(path).read_text()
    assert "small and large" in page and "$6.00" in page and "&lt;i&gt;yes" in page and "<i>yes" not in page
    assert "<script" not in page and "http" not in page
    assert capsys.readouterr().out == f"The comparison is in {path}\n"
    table = comparison().to_pandas()
    assert list(table["id"]) == [1, 2, 3] and list(table["large: generated_text"]) == ["<i>yes", "maybe", "c"]
    assert table["small: error"][2] == "engine: it died"
