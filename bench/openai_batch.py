"""A file of batch requests with bad lines of ten kinds, its driver killed, the same command again: each request has one line.

    python bench/openai_batch.py                  # 100,000 lines, 50 of them bad, about 6 minutes on two cores
    python bench/openai_batch.py --lines 2000 --bad 20

The echo engine answers. Printed are the lines of both files, what they lack or have twice, requests that the engine
answered more than once, and the driver's own memory at most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from bench.reliability import end  # noqa: E402

URL = "/v1/chat/completions"
DRIVER = """
import sys, ray
sys.path.insert(0, {root!r})
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
from rayllm_batch import cli
sys.exit(cli.main({arguments!r}))
"""
SECONDS = 900


def request(name: Any, **body: Any) -> bytes:
    messages = [{"role": "user", "content": f"Request {name} asks for an answer, and here are some words more."}]
    its = {"model": "echo", "messages": messages, "max_tokens": 12, **body}
    return json.dumps({"custom_id": name, "method": "POST", "url": URL, "body": its}).encode()


BAD: dict[str, Callable[[str], bytes]] = {
    "no JSON": lambda name: f"{name}: please answer".encode(),
    "no object": lambda name: json.dumps([name]).encode(),
    "no UTF-8": lambda name: request(name)[:-1] + b', "note": "\xff"}',
    "NaN": lambda name: request(name, temperature=float("nan")),
    "no custom_id": lambda name: request(None, user=name),
    "a wrong type": lambda name: request(name, max_tokens="12"),
    "not done": lambda name: request(name, stream=True),
    "another model": lambda name: request(name, model="gpt-4"),
    "a custom_id again": lambda name: request("request-0", user=name),
    "17 MiB": lambda name: request(name, user="a" * (17 << 20)),
}
NAMED = ("NaN", "a wrong type", "not done", "another model", "17 MiB")  # whose error lines have their own custom_id


def make(path: Path, lines: int, bad: int) -> tuple[set[str], Counter[str]]:
    """Writes the file. Returns the custom_ids that are to have a result, and those of error lines."""
    good, errors = set[str](), Counter[str]()
    every = lines // bad
    kinds = list(BAD)
    with path.open("wb") as file:
        for number in range(lines):
            if number % every == every - 1 and number // every < bad:
                kind, name = kinds[number // every % len(kinds)], f"bad-{number}"
                file.write(BAD[kind](name) + b"\n")
                errors[name if kind in NAMED else "request-0" if kind == "a custom_id again" else ""] += 1
            else:
                good.add(f"request-{number}")
                file.write(request(f"request-{number}") + b"\n")
    return good, errors


@dataclass(frozen=True)
class Outcome:
    """What came of it; seconds and MiB of the driver's run to the end."""

    results: int
    errors: int
    lost: int
    doubled: int
    answered_again: int
    seconds: float
    own_mib: float


class Job:
    def __init__(self, folder: Path, lines: int, bad: int, seconds_per_request: float = 0.0) -> None:
        self.folder = folder
        self.good, self.bad = make(folder / "requests.jsonl", lines, bad)
        config = {
            "model_id": str(ROOT / "assets" / "demo-model"),
            "llm_engine": "echo",
            "accelerator_type": "CPU",
            "engine_kwargs": {
                "served_model_name": "echo",
                "calls_file": str(folder / "calls"),
                "seconds_per_request": seconds_per_request,
            },
        }
        (folder / "echo.yaml").write_text(json.dumps(config))
        self.own_mib = 0.0

    def start(self) -> subprocess.Popen:
        names = {"--config": "echo.yaml", "-i": "requests.jsonl", "-o": "results.jsonl", "--errors": "errors.jsonl"}
        arguments = [
            "openai-batch",
            *(word for option, name in names.items() for word in (option, str(self.folder / name))),
        ]
        log = (self.folder / "log").open("a")
        command = [sys.executable, "-c", DRIVER.format(root=str(ROOT), arguments=arguments)]
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def written(self) -> int:
        return sum(1 for _ in (self.folder / "results.jsonl.parts").glob("part-*"))

    def kill(self, parts: int) -> None:
        """Once so many parts are written."""
        driver = self.start()
        self._watch(driver, lambda: self.written() >= parts)
        assert driver.poll() is None, f"it ended before it was killed: {self.log()}"
        end(driver)
        assert not (self.folder / "results.jsonl").exists()

    def finish(self) -> Outcome:
        began, driver = time.time(), self.start()
        self._watch(driver)
        assert driver.poll() == 3, f"it ended with {driver.poll()}: {self.log()}"
        return self._outcome(time.time() - began)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def _watch(self, driver: subprocess.Popen, happened: Callable[[], bool] = lambda: False) -> None:
        deadline, process = time.time() + SECONDS, psutil.Process(driver.pid)
        while driver.poll() is None and not happened():
            if time.time() > deadline:
                end(driver)
                raise RuntimeError(f"it did not end in {SECONDS} s: {self.log()}")
            try:
                memory: Any = process.memory_info()
                self.own_mib = max(self.own_mib, (memory.rss - memory.shared) / 2**20)
            except psutil.Error:
                pass
            time.sleep(0.1)

    def _outcome(self, seconds: float) -> Outcome:
        results, errors = (self._ids(name) for name in ("results.jsonl", "errors.jsonl"))
        lost = sum((Counter(self.good) - results).values()) + sum((self.bad - errors).values())
        doubled = sum((results - Counter(self.good)).values()) + sum((errors - self.bad).values())
        # Of a custom_id that comes again, each line is asked; the later ones' answers are not written.
        asked = len(self.good) + sum(count for name, count in self.bad.items() if name == "request-0")
        again = (self.folder / "calls").stat().st_size - asked
        return Outcome(results.total(), errors.total(), lost, doubled, again, round(seconds, 1), round(self.own_mib))

    def _ids(self, name: str) -> Counter[str]:
        found = Counter[str]()
        with (self.folder / name).open() as file:
            for text in file:
                line = json.loads(text)
                assert (line["error"] is None) == (line["response"]["status_code"] == 200), line
                assert (line["error"] is None) == (name == "results.jsonl"), line
                found[line["custom_id"]] += 1
        return found


def main(given: Optional[list[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--bad", type=int, default=50)
    parser.add_argument("--parts", type=int, default=4, help="how many are written when the driver is killed")
    args = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), args.lines, args.bad)
        job.kill(args.parts)
        print(json.dumps({"lines": args.lines, "bad": args.bad, **asdict(job.finish())}))


if __name__ == "__main__":
    main()
