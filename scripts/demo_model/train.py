"""Makes the demo model again from nothing: tokenizer, training text, weights, scores.

    python scripts/demo_model/train.py

The training text is generated as it goes. One GPU; `--steps 0` writes the folder with seeded random weights.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from evaluate import ROOT, TransformersEngine, evaluate, read_articles
from feed import feed
from tokenizer import build_tokenizer, tokenizer_texts

from examples import Round

PEAK_RATES = (2e-3, 1e-3)  # of the first round and of the second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "assets" / "demo-model")
    parser.add_argument("--steps", type=int, default=9000, help="in the first round; 0 writes seeded random weights")
    parser.add_argument("--late-steps", type=int, default=2400, help="in the second round")
    parser.add_argument("--continue-from", type=Path, metavar="FOLDER", help="skip the first round: it made this model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-tokens", type=int, default=65536, help="tokens a step, padding included")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="make training text")
    parser.add_argument("--articles", type=Path, default=ROOT / "tests" / "data" / "heldout_articles.jsonl")
    parser.add_argument("--faults", type=Path, help="write the answers that differ from the lead to this file")
    args = parser.parse_args()

    # Here and not above: the processes that make the batches import this file too, and need no torch.
    import torch
    from folder import new_model, read_weights, write_model, write_tokenizer
    from learning import train

    began = time.perf_counter()
    tokenizer = build_tokenizer(tokenizer_texts(args.seed))
    model = new_model(args.seed).to("cuda" if torch.cuda.is_available() else "cpu")
    rounds = [
        Round(args.seed, 0, args.steps, args.batch_tokens, late=False),
        Round(args.seed, args.steps, args.late_steps if args.steps else 0, args.batch_tokens, late=True),
    ]
    if args.continue_from:
        read_weights(model, args.continue_from)
    print(f"{model.num_parameters():,} parameters; ready in {time.perf_counter() - began:.0f} s", flush=True)
    for round, peak in zip(rounds, PEAK_RATES, strict=True):
        if round.late or not args.continue_from:
            train(model, feed(tokenizer, round, args.workers), round.steps, peak)
    write_tokenizer(tokenizer, args.output)
    write_model(model, args.output)
    print(f"wrote {args.output} in {time.perf_counter() - began:.0f} s", flush=True)
    if args.steps:
        evaluate(TransformersEngine(str(args.output)), args.output, read_articles(args.articles), args.faults)


if __name__ == "__main__":
    main()
