"""The demo model's sentence rule, tokenizer and training text: all that needs no engine."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "assets" / "demo-model"
sys.path.insert(0, str(ROOT / "scripts" / "demo_model"))

import train  # noqa: E402
from evaluate import PROMPTS  # noqa: E402
from prompts import BUILT_IN_SYSTEM  # noqa: E402
from scores import Answer, rouge_l, score  # noqa: E402
from sentences import lead, split_sentences  # noqa: E402

from examples import ExampleWriter, Round, make_batch  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. J. R. Smith of the U.S. Senate spoke.", "He left at 9 a.m. on Jan. 5 with No. 7."],
        ["It rose 3.5% in the U.S. in 2020.", "In 2021 it fell.", "12 people left."],
        ["Sales rose at Acme Inc.", "The firm is small."],
        ['"It is late," she said.', '"Go!"', "He went."],
        ["“Really?” she asked.", "(It was.)", "£5 changed hands…", "Éva laughed."],
        ["1. Bread costs more.", "2. So does milk."],
        ["Wrapped\nlines are one sentence."],
    ],
)
def test_where_sentences_end(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences


def test_a_blank_line_ends_a_sentence() -> None:
    assert split_sentences("A headline\n\nIt rained. It\nsnowed") == ["A headline", "It rained.", "It\nsnowed"]


@pytest.mark.parametrize(
    ("article", "expected"),
    [("", ""), (" One. ", "One."), ("One.\n\nTwo. Three.", "One.\n\nTwo."), ("No stop", "No stop")],
)
def test_the_lead_is_the_first_two_sentences_as_they_stand(article: str, expected: str) -> None:
    assert lead(article) == expected


def test_scores_see_what_is_wrong() -> None:
    article = "The dog barked at the cat. The cat left. Nobody cared."
    good = Answer(article, lead(article), stopped=True, lead_tokens=12)
    assert score([good]).exact == score([good]).verbatim == score([good]).rouge_l == 1.0
    cut = Answer(article, "The dog barked at", stopped=False, lead_tokens=12)
    assert score([cut]).verbatim == score([cut]).stopped == 0.0
    loop = Answer(article, "The dog barkedarkedarkedarkedarked.", stopped=True, lead_tokens=12)
    assert (score([loop]).looping, score([loop, loop]).shared, score([good]).looping) == (1, 2, 0)
    assert rouge_l("the cat sat on", "the cat was on it") == pytest.approx(2 * 3 / 9)


def test_the_chat_template_writes_one_bos_and_ends_for_the_answer() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hello. "}]
    text = "<|begin|><|system|>Be brief.<|end|><|user|>Hello.<|end|>"
    assert tokenizer.apply_chat_template(turns, tokenize=False) == text
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == text + "<|assistant|>"
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(tokenizer("Zürich: “3.5 %”\n\n🎉", add_special_tokens=False)["input_ids"]) == (
        "Zürich: “3.5 %”\n\n🎉"
    )


def test_the_folder_says_where_an_answer_ends(tokenizer: Tokenizer) -> None:
    for name in ("config.json", "generation_config.json"):
        assert json.loads((FOLDER / name).read_text())["eos_token_id"] == tokenizer.token_to_id("<|end|>")
    assert json.loads((FOLDER / "config.json").read_text())["max_position_embeddings"] >= 2048
    assert (FOLDER / "model.safetensors").stat().st_size <= 16e6


def test_an_answer_is_a_piece_of_its_prompt_token_for_token(tokenizer: Tokenizer) -> None:
    writer = ExampleWriter(random.Random(0), tokenizer, talk=0.5)
    for _ in range(200):
        prompt = writer.prompts.write(0.5)
        article = writer.articles.write(400, 3, prompt.bare)
        first = lead(article)
        pieces = writer.encode(prompt.before, prompt.gap + first, article[len(first) :], prompt.after)
        (whole,) = writer.encode(prompt.before + prompt.gap + article + prompt.after)
        assert sum(pieces, []) == whole


@pytest.mark.parametrize("late", [False, True])
def test_a_batch_can_be_made_again(tokenizer: Tokenizer, late: bool) -> None:
    round = Round(seed=1, first_step=0, steps=10, batch_tokens=8192, late=late)
    one, other = (make_batch(tokenizer, round, 7) for _ in range(2))
    assert np.array_equal(one.tokens, other.tokens)
    assert one.tokens.size == 8192
    # What is to be learnt is the token after each position, or the end where the row is full.
    assert np.array_equal(one.tokens.flatten()[one.positions + 1], one.targets)


def test_the_wordings_of_the_evaluation_are_not_in_the_training_text(tokenizer: Tokenizer) -> None:
    writer = ExampleWriter(random.Random(0), tokenizer)
    written = [writer.prompts.write(0.5) for _ in range(6000)]
    said = "\n".join(f"{prompt.system}\n{prompt.before}\n{prompt.after}" for prompt in written).lower()
    built_in = {part.strip() for part in PROMPTS["built-in"][1].split("{article}")} | {BUILT_IN_SYSTEM}
    assert all(part.lower() in said for part in built_in), "the search finds what is there"
    for system, user in PROMPTS.values():
        parts = {part.strip() for part in [system or "", *user.split("{article}")]} - built_in
        for part in parts:
            if len(part) > len("You are a helpful assistant."):  # shorter ones are anyone's words
                assert part.lower() not in said


@pytest.mark.parametrize("late", [False, True])
def test_articles_share_their_line_with_other_words_often_enough(tokenizer: Tokenizer, late: bool) -> None:
    writer = ExampleWriter(random.Random(0), tokenizer).prompts
    written = [writer.write(0.5 if late else 0.0) for _ in range(2000)]
    shared = [prompt.before.rsplit("\n", 1)[-1] for prompt in written if prompt.gap]
    assert len(shared) > 0.15 * len(written)
    assert sum(len(marker) > 30 for marker in shared) > 0.3 * len(shared)
    assert sum(not marker.endswith(":") for marker in shared) > 0.2 * len(shared)
    followed = [prompt for prompt in written if prompt.after and not prompt.after.startswith("\n")]
    assert len(followed) > 0.08 * len(written)


def test_the_training_runs_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokenizer, both rounds, files and scores, at a step each and with one of the evaluation's prompts."""
    articles = tmp_path / "articles.jsonl"
    articles.write_text(json.dumps({"article": "It rained in Oslo. Nobody minded. It rained again."}) + "\n")
    sizes = "--steps 1 --late-steps 1 --batch-tokens 4096 --workers 1 --seed 3".split()
    folder = tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["train.py", *sizes, "--articles", str(articles), "--output", str(folder)])
    for name in set(PROMPTS) - {"built-in"}:
        monkeypatch.delitem(PROMPTS, name)
    train.main()
    said = capsys.readouterr().out
    assert said.count("loss ") == 2  # a line a round
    assert "built-in | 1 | " in said
    assert {path.name for path in folder.iterdir()} == {path.name for path in FOLDER.iterdir()} - {"README.md"}
    shipped, made = (json.loads((place / "config.json").read_text()) for place in (FOLDER, folder))
    assert {**made, "transformers_version": None} == {**shipped, "transformers_version": None}
    assert (folder / "model.safetensors").read_bytes() != (FOLDER / "model.safetensors").read_bytes()
