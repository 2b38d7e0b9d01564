"""No test sees the home, the tokens or the settings of whoever runs the tests, nor leaves anything there."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_fixtures import hub, hub_env, isolated  # noqa: F401  (fixtures; support/ is on the path, see pyproject.toml)

# What decides how the code behaves: tokens and the Hub's settings, and which front end a notebook runs in.
PRIVATE = ("HF_", "HUGGING", "HUGGINGFACE_", "TRANSFORMERS_", "JPY_", "VSCODE", "RAY_ADDRESS")
# Tools find themselves or their downloads through the home; they keep the real one.
TOOLS = {
    "PYENV_ROOT": ".pyenv",
    "PIP_CACHE_DIR": ".cache/pip",
    "UV_CACHE_DIR": ".cache/uv",
    "PIP_CONFIG_FILE": ".config/pip/pip.conf",
}

_before = dict(os.environ)
_home = Path(tempfile.mkdtemp(prefix="tests-home-"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow", action="store_true", help="also the tests marked slow: before a release, not before each commit"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: --slow"))
    items.sort(key=lambda item: (_starts_much(item), not _shares_ray(item)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """One Ray a process on a small machine: who starts engines or a Ray of its own gets the one that was shared ended."""
    if _starts_much(item) and not _shares_ray(item) and "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def _starts_much(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("ray", "vllm", "browser"))


def _shares_ray(item: pytest.Item) -> bool:
    return "ray_cluster" in getattr(item, "fixturenames", ())


def pytest_configure() -> None:
    # Before huggingface_hub is imported: it reads its environment once, at its import.
    for name in [name for name in os.environ if name.startswith(PRIVATE)]:
        del os.environ[name]
    for name, place in TOOLS.items():
        if (Path.home() / place).exists():
            os.environ.setdefault(name, str(Path.home() / place))
    os.environ.update(HOME=str(_home), HF_HOME=str(_home / "huggingface"), XDG_CACHE_HOME=str(_home / "cache"))
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if "PYTEST_XDIST_WORKER" in os.environ:  # one test per core: torch's threads would wait for each other's cores
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_unconfigure() -> None:
    os.environ.clear()
    os.environ.update(_before)
    shutil.rmtree(_home, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a test see the token that an earlier one left in the environment."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _own_log_level(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Libraries that tests load into this process raise the root logger's level and those of its handlers."""
    with caplog.at_level(logging.WARNING, "rayllm_batch"):
        yield


@pytest.fixture(scope="module")
def ray_cluster():
    """A Ray with two CPUs and no GPU, which goes on to the next module: to start it, and its workers, takes half a minute.

    Those of a process who share it run one after the other, see `pytest_collection_modifyitems`.
    """
    import ray

    from rayllm_batch.run import warm

    for left in (2, 1, 0):
        try:
            if not ray.is_initialized():
                ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            break
        except Exception:  # Ray allows its node 30 s, which is short just after another Ray has ended
            ray.shutdown()
            if not left:
                raise
    yield ray
    warm.release()


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Writes a file below the test's folder."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write
