"""One finished smoke run that many tests read, and a worker."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import output_in

from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker

from .running import SMOKE


@pytest.fixture(autouse=True, scope="session")
def _restore_ctrl_c() -> Iterator[None]:
    """Let runs react to Ctrl-C, which processes in the background of a script ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need the smoke run as slow, because they wait for it."""
    for item in items:
        if "smoke" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def worker(cache: Path, tmp_path: Path) -> Worker:
    """Return a worker with its own store, and with the image features that all tests share."""
    return Worker(RunStore(tmp_path / "runs"), FeatureCache(cache))


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished smoke run of some methods."""
    folder = tmp_path_factory.mktemp("smoke")
    output_in(folder, *SMOKE)
    return folder
