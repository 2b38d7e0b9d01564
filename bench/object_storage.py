"""Rows from and to an object storage that is rude: what is lost, and what is said.

    bash bench/radosgw.sh /tmp/rgw                     # Ceph's S3 server on this machine, see there
    python -m bench.object_storage --endpoint 127.0.0.1:7480 --rows 100000

Between the run and the storage is a proxy (tests/support/rude_storage.py) that cuts connections, answers 500, 503 SlowDown and
expired credentials, or slowly. Rows are read from the bucket and answered by the echo engine into it; then the files are read
past the proxy: rows lost, doubled, wrong. The last lines are what a run says that cannot start, and after how long.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from raylets import Raylets  # noqa: E402
from rude_storage import RudeStorage  # noqa: E402

from bench.cluster import MODEL, account  # noqa: E402

BUCKET = "rayllm-batch-bench"
RUN_S = 1500.0
Fault = Callable[[str, str], Optional[str]]


def some(share: float, *kinds: str) -> Fault:
    draw = random.Random(1)
    return lambda _method, _path: draw.choice(kinds) if draw.random() < share else None


RUDE = some(0.05, "cut", "cut answer", "500", "slow down")


class Bench:
    def __init__(self, args: argparse.Namespace, proxy: RudeStorage, place: Path, cluster: Raylets) -> None:
        import pyarrow.fs

        self.args, self.proxy, self.place, self.cluster = args, proxy, place, cluster
        options = {"access_key": args.key, "secret_key": args.secret, "scheme": "http", "allow_bucket_creation": True}
        self.fs = pyarrow.fs.S3FileSystem(endpoint_override=args.endpoint, **options)
        self.fs.create_dir(BUCKET)
        self.prefix = f"{BUCKET}/{time.time_ns()}"
        self.env = {**os.environ, "AWS_ACCESS_KEY_ID": args.key, "AWS_SECRET_ACCESS_KEY": args.secret}

    def uri(self, name: str, bucket: str = "") -> str:
        place = f"{bucket}/{name}" if bucket else f"{self.prefix}/{name}"
        return f"s3://{place}?scheme=http&endpoint_override={self.proxy.address}"

    def put_data(self, rows: int, files: int = 20) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        for i in range(files):
            ids = range(rows * i // files, rows * (i + 1) // files)
            table = pa.table({"id": pa.array(ids, pa.int64()), "text": [f"text of {id_}" for id_ in ids]})
            pyarrow.parquet.write_table(table, f"{self.prefix}/data/{i:03}.parquet", filesystem=self.fs)

    def start(self, name: str, rows: int, **env: str) -> subprocess.Popen:
        kwargs = {"max_model_len": 2048, "max_num_seqs": 256}
        if name not in ("undisturbed", "rude"):  # 256 rows/s: something happens to it before it is over
            kwargs["seconds_per_request"] = 1.0
        job = {
            "folder": self.uri(name),
            "data": self.uri("data"),
            "rows": rows,
            "model": str(self.place / "model"),
            "engine": "echo",
        }
        job |= {"accelerator": "CPU", "engine_kwargs": kwargs, "replicas": 1}
        command = [sys.executable, "-m", "bench.cluster", "drive", json.dumps(job)]
        return self.cluster.driver(command, self.place / f"{name}.log", **self.env, **env)

    def said(self, name: str) -> str:
        return (self.place / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def end(self, driver: subprocess.Popen, name: str, expect: int = 0) -> None:
        if (driver.wait(RUN_S) == 0) != (expect == 0):
            raise RuntimeError(f"the driver ended with {driver.returncode}: {self.said(name)[-2500:]}")

    def wait_for_parts(self, name: str, driver: subprocess.Popen, parts: int) -> None:
        while len(self.parts(name)) < parts:
            if driver.poll() is not None:
                raise RuntimeError(f"the driver ended with {driver.returncode}: {self.said(name)[-2500:]}")
            time.sleep(0.5)

    def parts(self, name: str) -> list[Any]:
        import pyarrow.fs

        listed = self.fs.get_file_info(pyarrow.fs.FileSelector(f"{self.prefix}/{name}", allow_not_found=True))
        return [info for info in listed if info.base_name.startswith(("part-", "failed-"))]

    def rows(self, name: str) -> list[dict[str, Any]]:
        import pyarrow.parquet

        parts = self.parts(name)
        return [row for p in parts for row in pyarrow.parquet.read_table(p.path, filesystem=self.fs).to_pylist()]


def undisturbed(bench: Bench, name: str, rows: int) -> str:
    bench.end(bench.start(name, rows), name)
    return ""


def rude(bench: Bench, name: str, rows: int) -> str:
    bench.proxy.fault = RUDE
    bench.end(bench.start(name, rows), name)
    return ""


def killed(bench: Bench, name: str, rows: int) -> str:
    bench.proxy.fault = RUDE
    driver = bench.start(name, rows)
    bench.wait_for_parts(name, driver, 2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    bench.end(bench.start(name, rows), name)
    return ""


def outage(bench: Bench, name: str, rows: int) -> str:
    driver = bench.start(name, rows)
    bench.wait_for_parts(name, driver, 2)
    bench.proxy.fault = lambda _method, _path: "cut"
    time.sleep(45)
    bench.proxy.fault = lambda _method, _path: None
    bench.end(driver, name)
    return "the run went on by itself"


def expired(bench: Bench, name: str, rows: int) -> str:
    driver = bench.start(name, rows)
    bench.wait_for_parts(name, driver, 2)
    bench.proxy.fault = lambda _method, _path: "expired"
    bench.end(driver, name, expect=1)
    bench.proxy.fault = lambda _method, _path: None
    said = next(line for line in reversed(bench.said(name).splitlines()) if "Error" in line)
    bench.end(bench.start(name, rows), name)
    return f"the run ended, and the same command completed it: ... {said[-400:]}"


def two_writers(bench: Bench, name: str, rows: int) -> str:
    first = bench.start(name, rows)
    bench.wait_for_parts(name, first, 1)
    second = bench.start(name, rows)
    bench.end(second, name, expect=1)
    is_told = "Another run is writing to the output folder" in bench.said(name)
    bench.end(first, name)
    return "the second is refused" if is_told else "THE SECOND WAS NOT TOLD"


def written(bench: Bench, rows: int) -> str:
    """Rows through the writer of answers alone, without Ray, in blocks of 512, to a rude storage; parts as of a slow run."""
    import pyarrow as pa
    import pyarrow.parquet

    from rayllm_batch.data.row_id import row_id
    from rayllm_batch.output import part_writer, run_columns
    from rayllm_batch.output.fingerprint import Job
    from rayllm_batch.output.folder import OutputFolder

    part_writer.PART_BYTES = 4 << 20
    os.environ.update({name: bench.env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")})
    bench.proxy.met.clear()
    bench.proxy.fault, began = RUDE, time.monotonic()
    with OutputFolder(bench.uri("written"), Job({"model_id": "m"}), "parquet") as folder:
        with part_writer.PartWriter(folder) as writer:
            for begin in range(0, rows, 512):
                ids = range(begin, min(begin + 512, rows))
                table = {"id": pa.array(ids, pa.int64()), "error": pa.nulls(len(ids), pa.string())}
                table["generated_text"] = pa.array(
                    [f"answer {i} " + random.Random(i).randbytes(150).hex() for i in ids]
                )
                table[run_columns.ROW_ID] = pa.array([row_id({"id": i}) for i in ids], pa.binary())
                table[run_columns.ASKED] = pa.array([i + 1 for i in ids], pa.uint64())
                writer.add(pa.table(table))
        parts = len(folder.parts)
        took, began = time.monotonic() - began, time.monotonic()
        folder.merge_small()
        merged = time.monotonic() - began
        folder.write_manifest("complete")
    bench.proxy.fault = lambda _method, _path: None
    seen: Counter[int] = Counter()
    for part in bench.parts("written"):
        seen.update(pyarrow.parquet.read_table(part.path, filesystem=bench.fs, columns=["id"]).column("id").to_pylist())
    sizes = sorted(part.size / 1e6 for part in bench.parts("written"))
    met = ", ".join(f"{count} {kind}" for kind, count in bench.proxy.met.items())
    return (
        f"{rows:,} rows by the writer alone: lost {rows - len(seen)}, doubled {sum(seen.values()) - len(seen)}; "
        f"{parts} parts in {took:.0f} s, merged into {len(sizes)} of {sizes[0]:.1f} to {sizes[-1]:.1f} MB in {merged:.0f} s; {met}"
    )


SCENES = {
    "undisturbed": (undisturbed, "nothing"),
    "rude": (rude, "a twentieth of all requests cut, cut in the answer, 500 or 503 SlowDown"),
    "killed": (killed, "the same, and SIGKILL of the driver, then the same command again"),
    "outage": (outage, "no answers at all for 45 s"),
    "expired": (expired, "credentials that expire"),
    "two": (two_writers, "a second driver on the same folder"),
}


def refusals(bench: Bench) -> None:
    """What a run says that cannot start; each before Ray and engines are started."""
    other: dict[str, tuple[str, Fault, dict[str, str]]] = {
        "a missing bucket": ("no-such-bucket", lambda _m, _p: None, {}),
        "a wrong secret": ("", lambda _m, _p: None, {"AWS_SECRET_ACCESS_KEY": "wrong"}),
        "no right to write": ("", lambda method, _p: "denied" if method in ("PUT", "POST") else None, {}),
        "expired credentials": ("", lambda method, _p: "expired" if method in ("PUT", "POST") else None, {}),
        "a bucket in another region": ("", lambda _m, _p: "region", {}),
        "a storage that only says 503": ("", lambda _m, _p: "slow down", {}),
        "a storage that is not there": ("", lambda _m, _p: "cut", {}),
    }
    from rayllm_batch.errors import OutputError
    from rayllm_batch.output.fingerprint import Job
    from rayllm_batch.output.folder import OutputFolder

    for what, (bucket, fault, env) in other.items():
        bench.proxy.fault, began = fault, time.monotonic()
        os.environ.update({name: bench.env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")} | env)
        try:
            with OutputFolder(bench.uri(f"refused-{time.time_ns()}", bucket), Job({"model_id": "m"}), "parquet"):
                said = "NOT REFUSED"
        except OutputError as error:
            said = str(error)
        print(f"{what}, {time.monotonic() - began:.0f} s: {said}", flush=True)


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", default="127.0.0.1:7480")
    parser.add_argument("--key", default="rayllm")
    parser.add_argument("--secret", default="rayllm-secret")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", nargs="*", choices=[*SCENES, "refusals", "written"])
    parser.add_argument("--written", type=int, default=1_000_000, help="rows for the writer alone")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the nodes are ended then too
    wanted, bad = args.only or [*SCENES, "refusals", "written"], 0
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")  # Ceph 16 knows no others
    with (
        tempfile.TemporaryDirectory(prefix="os-") as place,
        RudeStorage(args.endpoint) as proxy,
        Raylets(Path(place) / "n") as cluster,
    ):
        shutil.copytree(MODEL, Path(place) / "model")
        bench = Bench(args, proxy, Path(place), cluster)
        cluster.env |= bench.env  # tasks on nodes read the storage too
        if wanted not in (["written"], ["refusals"]):
            cluster.add("head", cpus=3)
        put = 0
        print(
            "| what the storage does | rows | lost | doubled | wrong | s | files | |\n|---|---|---|---|---|---|---|---|"
        )
        for name in [name for name in SCENES if name in wanted]:
            scene, said = SCENES[name]
            rows = args.rows if name in ("undisturbed", "rude") else min(args.rows, 20_000)
            if rows != put:
                bench.put_data(put := rows)
            proxy.met.clear()
            began = time.monotonic()
            try:
                note = scene(bench, name, rows)
            except Exception as error:
                note, bad = f"FAILED: {type(error).__name__}: {error}", bad + 1
            proxy.fault = lambda _method, _path: None
            took, met = (
                time.monotonic() - began,
                ", ".join(f"{count} {kind}" for kind, count in Counter(proxy.met).items()),
            )
            found = account(bench.rows(name), rows)
            bad += any(found.values())
            counts = " | ".join(str(found[what]) for what in ("lost", "doubled", "wrong"))
            sizes = sorted(part.size for part in bench.parts(name))
            files = f"{len(sizes)}, {sizes[0] / 1e6:.2f} to {sizes[-1] / 1e6:.2f} MB" if sizes else ""
            print(
                f"| {said} | {rows:,} | {counts} | {took:.0f} | {files} | {note}{' ' if note else ''}{met} |",
                flush=True,
            )
        if "written" in wanted:
            print(written(bench, args.written), flush=True)
        if "refusals" in wanted:
            refusals(bench)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
