"""A process that has not seen what this one has, in which methods are fitted again."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

from compatbench.extras.check.method_under_test import MethodUnderTest, describe_fit
from compatbench.extras.check.plugin_files import PluginFiles
from compatbench.files.processes import end_with_parent, inherited
from compatbench.method.registry import builtin_methods

ELSEWHERE = {"PYTHONHASHSEED": "77", "TZ": "UTC-9", "LC_ALL": "C"}


class OtherProcess:
    """A new process with other hashes, another time zone, home and folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = self._start()

    def describe_fit(self, method: str) -> dict[str, str]:
        """What a fit of the method of this name gives there."""
        environment = ELSEWHERE | {"HOME": str(self._folder), "USERPROFILE": str(self._folder)}
        try:
            with inherited(threads=1), patch.dict(os.environ, environment):
                fitted = self._pool.submit(_fit_there, method)
            return fitted.result()
        except BrokenProcessPool:
            self._pool = self._start()  # for the next method
            raise

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        files = PluginFiles.known()
        return ProcessPoolExecutor(1, get_context("spawn"), _prepare, (self._folder, files))


def _prepare(folder: Path, files: PluginFiles) -> None:
    end_with_parent()
    os.chdir(folder)
    files.load()


def _fit_there(method: str) -> dict[str, str]:
    tested = MethodUnderTest(builtin_methods().get(method))
    try:
        return describe_fit(tested)
    finally:
        tested.models.restore()  # the next method finds them as they were
