"""The files that `job` writes: they carry the command unchanged, and the committed examples are of its making."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayllm_batch import cli
from rayllm_batch.jobs import kuberay

ROOT = Path(__file__).parents[2]
CONFIG = "configs/llama-3.1-8b-h100-fp8.yaml"
EVIL = """It's "{{body}}" $HOME `id`; $(id) \\ !x #y | & * ~ é 🎈 --- : {a: b}
  next\t$code
"""
RUN = ["run", "--config", CONFIG, "--prompt", EVIL, "--input", "a b.jsonl", "--output", "/shared/ö 'x'"]
EXAMPLES = {
    "kuberay-rayjob.yaml": "job kuberay --name summaries --image registry.example.com/rayllm-batch:latest "
    "--working-dir /srv/rayllm_batch -- run --config configs/llama-3.1-8b-l4.yaml "
    "--workload rayllm_batch:CNNDailySummary --num-replicas 4 --output s3://my-bucket/summaries/",
    "ray-job.sh": "job ray --name summaries -- run --config configs/llama-3.1-8b-l4.yaml "
    "--workload rayllm_batch:CNNDailySummary --num-replicas 4 --output s3://my-bucket/summaries/",
    "slurm.sh": "job slurm --name summaries --time 12:00:00 --partition gpu --venv /shared/venv "
    f"--working-dir /shared/rayllm_batch -- run --config {CONFIG} "
    "--workload rayllm_batch:CNNDailySummary --num-replicas 16 --output /shared/summaries",
}


def written(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert cli.main(["job", *args]) == cli.DONE, capsys.readouterr().err
    return capsys.readouterr().out


def run_by(shell: list[str], folder: Path) -> list[str]:
    """The words that `python` gets when the shell runs this; of `ray job submit`, those after --."""
    program = '#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done > {}\n'
    for name in ("python", "ray"):
        (folder / name).write_text(program.format(folder / f"{name}.words"))
        (folder / name).chmod(0o755)
    subprocess.run(shell, env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}, check=True, cwd=folder)
    words = (folder / ("ray.words" if (folder / "ray.words").exists() else "python.words")).read_text().split("\0")[:-1]
    return words[words.index("--") + 1 :] if "--" in words else words


@pytest.mark.parametrize("file", EXAMPLES)
def test_the_examples_are_what_the_command_makes(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kuberay.metadata, "version", lambda _: "2.60.0")
    assert written(capsys, *shlex.split(EXAMPLES[file])[1:]) == (ROOT / "jobs" / file).read_text()


def test_a_rayjob_carries_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = written(
        capsys, "kuberay", "--image", "a/b:1", "--volume", "claim:/shared", "--time", "1-00:00:00", "--", *RUN
    )
    job = yaml.safe_load(text)
    assert job["spec"]["activeDeadlineSeconds"] == 86400
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == metadata.version("ray")
    worker = cluster["workerGroupSpecs"][0]
    assert [worker[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [1, 1, 1]
    pod = worker["template"]["spec"]
    [container] = pod["containers"]
    assert container["resources"]["limits"] == {"cpu": "7", "memory": "48Gi", "nvidia.com/gpu": "1"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    # KubeRay has a shell split it for `ray job submit`, which quotes the words for the shell of the head.
    words = shlex.split(job["spec"]["entrypoint"])
    assert run_by(["sh", "-c", shlex.join(words)], tmp_path) == ["-m", "rayllm_batch", *RUN]


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1), (2, 2), (3, 0), (143, 143)])
def test_rows_with_errors_are_no_reason_for_another_cluster(
    code: int, ends: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = written(capsys, "kuberay", "--image", "a", "--volume", "claim:/shared", "--", *RUN)
    (tmp_path / "python").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "python").chmod(0o755)
    entrypoint = yaml.safe_load(text)["spec"]["entrypoint"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["sh", "-c", entrypoint], env=environment, check=False).returncode == ends


def test_a_ray_job_carries_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(written(capsys, "ray", "--address", "http://head:8265", "--", *RUN))
    assert run_by(["bash", str(tmp_path / "job.sh")], tmp_path) == ["python", "-m", "rayllm_batch", *RUN]


class SlurmsJob:
    """The script in a folder of stand-ins for Slurm, Ray and the run, which is `body`, a shell script."""

    def __init__(self, text: str, folder: Path, body: str) -> None:
        self.folder, self.log = folder, folder / "log"
        # Asked for its address; for the nodes, which have joined once srun has started Ray on them; for the run.
        joined = f"until grep -q 'ray start' {self.log}; do sleep 0.05; done"
        asked = f"case $1 in -c) echo 127.0.0.1; exit;; -) {joined}; exit;; esac"
        stand_ins = {
            "python": f'{asked}\necho "run $*" >> {self.log}\n{body}',
            "ray": "case $* in *--head*) exec sleep 60;; esac",
            "srun": f"echo srun $* >> {self.log}; case $* in *'ray start'*) exec sleep 60;; esac",
            "scontrol": f"echo scontrol $* >> {self.log}",
        }
        for name, script in stand_ins.items():
            (folder / name).write_text(f"#!/bin/bash\n{script}\n")
            (folder / name).chmod(0o755)
        (folder / "job.sh").write_text(text.replace("i < 600", "i < 1"))
        slurms = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_RESTART_COUNT": "0"}
        environment = {**os.environ, **slurms, "PATH": f"{folder}:{os.environ['PATH']}"}
        self.process = subprocess.Popen(["bash", str(folder / "job.sh")], cwd=folder, env=environment)

    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def tell(self, number: int) -> None:
        """When the run has begun."""
        deadline = time.monotonic() + 30
        while "run " not in self.logged():
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.05)
        time.sleep(0.2)
        self.process.send_signal(number)


@pytest.fixture
def slurms_job(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., SlurmsJob]:
    return lambda body, *options: SlurmsJob(written(capsys, "slurm", *options, "--", *RUN), tmp_path, body)


LIVES = "trap 'echo told >> log; exit 143' TERM; for i in {1..300}; do sleep 0.1; done"


@pytest.mark.parametrize(
    ("body", "told", "ends", "queued_again"),
    [
        ("exit 0", None, 0, False),
        ("exit 3", None, 3, False),
        ("exit 1", None, 1, False),
        (LIVES, signal.SIGUSR1, 143, True),  # the time is nearly up
        (LIVES, signal.SIGTERM, 143, False),  # scancel
        ("trap 'exit 0' TERM; for i in {1..300}; do sleep 0.1; done", signal.SIGUSR1, 0, False),  # just done
    ],
)
def test_slurm_ends_the_run_and_queues_it_again(
    body: str, told: Any, ends: int, queued_again: bool, slurms_job: Callable[..., SlurmsJob]
) -> None:
    job = slurms_job(body, "--nodes", "2", "--gpus-per-node", "1")
    if told:
        job.tell(told)
    assert job.process.wait(timeout=30) == ends
    assert ("scontrol requeue 7" in job.logged()) is queued_again
    assert ("told" in job.logged()) is (body == LIVES)
    assert "srun --relative=1 --nodes=1 --ntasks=1" in job.logged()
    assert ("rm -rf" in job.logged()) is (ends != 1)  # Ray's logs stay where they are needed


def test_slurm_carries_the_command_and_no_token(slurms_job: Callable[..., SlurmsJob], tmp_path: Path) -> None:
    job = slurms_job(
        'shift 2; printf "%s\\0" "$@" > words; echo "$RAY_AUTH_TOKEN" > token; exit 0',
        "--memory",
        "64G",
        "--account",
        "us",
    )
    text = (tmp_path / "job.sh").read_text()
    assert job.process.wait(timeout=30) == 0
    assert (tmp_path / "words").read_text().split("\0")[:-1] == RUN
    token = (tmp_path / "token").read_text().strip()
    assert len(token) == 64 and token not in text + job.logged()
    assert "#SBATCH --mem=64G\n" in text and "#SBATCH --account=us\n" in text and "--partition" not in text


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("slurm -- run --output /tmp/a", "on a node's own disk"),
        ("slurm -- run --output a --report /dev/shm/r.html", "--report /dev/shm/r.html is on a node's own disk"),
        ("slurm --nodes 1 --gpus-per-node 2 -- run --output a --num-replicas 4", "has room for 2"),
        ("ray -- run --output answers", "which Ray deletes"),
        ("ray --working-dir tests -- run --output s3://b/a", "is not in --working-dir tests"),
        ("kuberay --image i -- run --output /answers", "lie in a --volume CLAIM:/PATH"),
        ("kuberay --image i --volume c:/ans -- run --output /answers/a", "on the disk of a Pod"),
        ("kuberay --image i --volume c:/a --volume c:/b -- run --output /a/x", "given twice"),
        ("slurm -o /nowhere/job.sh -- run --output a", "-o /nowhere/job.sh: the file cannot be written"),
    ],
)
def test_what_cannot_run_is_refused(args: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = args.replace("run", f"run --config {CONFIG} --workload rayllm_batch:CNNDailySummary").split()
    assert cli.main(["job", *words]) == cli.WRONG_INPUT
    shown = capsys.readouterr()
    assert said in shown.err and not shown.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("", "the following arguments are required: kuberay|ray|slurm"),
        ("slrm -- run", "there is no kind 'slrm'. Did you mean 'slurm'?"),
        ("slurm", "after -- comes the command that the job runs, `run --config ...`, nothing is given"),
        ("slurm -- check --config c", "`run --config ...`, given 'check'"),
        ("slurm --gpus-per_node 2 -- run", "Did you mean '--gpus-per-node'?"),
        ("slurm --image x -- run", "there is no option --image."),
        ("slurm --nodes 0 -- run", "a whole number of at least 1, given '0'"),
        ("slurm --time 12 -- run", "[DAYS-]HOURS:MINUTES:SECONDS"),
        ("slurm --time 00:05:00 -- run", "at least 600 seconds"),
        ("slurm --partition a;b -- run", "without spaces and quotes, given 'a;b'"),
        ("kuberay -- run", "the following arguments are required: --image"),
        ("kuberay --image i --name Big_One -- run", "at most 47 of a-z, 0-9 and -"),
        ("slurm -- run --config c --outptu a", "there is no option --outptu. Did you mean '--output'?"),
    ],
)
def test_a_typo_is_named(args: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["job", *args.split()])
    assert ended.value.code == cli.WRONG_INPUT
    assert said in capsys.readouterr().err
