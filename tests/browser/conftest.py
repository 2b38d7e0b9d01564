from __future__ import annotations

from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in item.path.parts[-2]:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")  # while Playwright runs, no test of this process can start an event loop of its own
def browser() -> Iterator[object]:
    pytest.importorskip("playwright")
    from jupyterlab_harness import chromium, chromium_path

    if chromium_path() is None:
        pytest.skip("Chromium is not installed")
    with chromium() as browser:
        yield browser
