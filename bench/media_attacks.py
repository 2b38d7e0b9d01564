"""What strangers may put where a row's image, sound or video belongs: each attack once, alone, against the reader.

    python -m bench.media_attacks [--each | --mutate 10000]

A table for bench/RELIABILITY.md; `--each` has a line an attack in place of one a family. The attacks are those of
tests/support/media_attacks.py: each says whether it must be refused, and how, or is only unusual and must be taken. "Let in" are
attacks that were taken, or that reached a server that rows may not reach; "wrong" those whose error says something else, or good media that
were refused; "ended the run" those that raised anything but the row's own error. A fetch has 1 s, an image 4 million pixels, a medium 2 MB.
`--mutate`: instead, so many good files with bytes changed at random are read and decoded; a crash of Pillow or FFmpeg ends the script.
Memory is what the process held at its most, less what it held before the first (Linux).
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from media_attacks import RULES, attacks, world  # noqa: E402
from media_samples import mutated, whole  # noqa: E402

from rayllm_batch.media import decode  # noqa: E402
from rayllm_batch.media.media_error import MediaError  # noqa: E402
from rayllm_batch.media.reader import MediaReader  # noqa: E402
from rayllm_batch.media.rules import MediaRules  # noqa: E402

TAKEN = "taken, as it must be"
OUTCOMES = ("refused", TAKEN, "let in", "wrong", "ended the run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--mutate", type=int, default=0)
    given = parser.parse_args()
    if given.mutate:
        return mutate(given.mutate)
    tried = attacks()
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    longest: dict[str, float] = defaultdict(float)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # its largest size is counted anew
    before = _memory("VmRSS")
    with world() as there:
        for attack in tried:
            reached, began = sum(there.inner.asked.values()), time.monotonic()
            try:
                said, outcome = "", "let in" if attack.said else TAKEN
                there.reader.read(attack.kind, there.source(attack))
            except MediaError as error:
                said = str(error)
                outcome = "refused" if attack.said and re.search(attack.said, said) else "wrong"
            except BaseException as error:
                outcome = f"ended the run: {error!r}"
            if sum(there.inner.asked.values()) > reached:
                outcome = "let in"
            seconds = time.monotonic() - began
            longest[attack.family] = max(longest[attack.family], seconds)
            counts[attack.family][outcome.partition(":")[0]] += 1
            if given.each:
                print(
                    f"| {attack.family} | {_cell(attack.what)} | {outcome} | {_cell(said)} | {seconds:.2f} |",
                    flush=True,
                )
    if not given.each:
        print(f"| {len(tried)} attacks | " + " | ".join(OUTCOMES) + " | s, the longest |")
        print("|---" * (len(OUTCOMES) + 2) + "|")
        for family, found in counts.items():
            print(f"| {family} | " + " | ".join(str(found[one]) for one in OUTCOMES) + f" | {longest[family]:.1f} |")
        sums = [sum(found[one] for found in counts.values()) for one in OUTCOMES]
        print("| all | " + " | ".join(map(str, sums)) + f" | {max(longest.values()):.1f} |")
    print(f"{_memory('VmHWM') - before:.0f} MiB more at most", file=sys.stderr)


def mutate(count: int) -> None:
    chance, good, reader = random.Random(count), whole(), MediaReader(MediaRules(**RULES))
    outcomes: dict[str, int] = defaultdict(int)
    longest = 0.0
    for _ in range(count):
        kind, data = chance.choice(good)
        began = time.monotonic()
        try:
            medium = reader.read(kind, mutated(data, chance))
            getattr(decode, f"{kind}_of")(medium)
            outcomes["decoded"] += 1
        except MediaError:
            outcomes["refused"] += 1
        longest = max(longest, time.monotonic() - began)
    print(f"{count:,} mutated files: {dict(outcomes)}; the longest took {longest:.2f} s")


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _cell(text: str) -> str:
    return text.encode("unicode_escape").decode().replace("|", "\\|")[:150]


if __name__ == "__main__":
    main()
