"""A pytest plug-in: what the checks are tried on, what is excused, and another process.

The checks of methods ask for the fixture ``tested``; for ``fitted`` or ``unfitted`` if they have
something to look at even where nothing can be attached, or fitted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import pytest

from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.extras.check.rules import check_name
from compatbench.files.processes import end_with_parent, inherited
from compatbench.files.scratch import scratch_folder
from compatbench.method.identity import plugin_file
from compatbench.method.registry import builtin_methods

ELSEWHERE = {"PYTHONHASHSEED": "77", "TZ": "UTC-9", "LC_ALL": "C"}


def outside_files() -> list[str]:
    """The files beside ours that methods of this process were loaded from."""
    paths = map(plugin_file, builtin_methods().classes.values())
    return list(dict.fromkeys(filter(None, paths)))


def load_files(files: Sequence[str]) -> None:
    """Loads such files into this process."""
    for file in files:
        builtin_methods().add_file(Path(file))


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that names what is checked."""
    what = "the methods that conformance checks are tried on"
    parser.addoption("--checked", default="all", help=what)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All checks of a method come one after the other, since its fixture lasts the session."""
    if "checked_method" in metafunc.fixturenames:
        names = builtin_methods().select(metafunc.config.getoption("checked"))
        metafunc.parametrize("checked_method", names, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a card excuses a method from is expected to fail."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if isinstance(item, pytest.Function) and "checked_method" in parameters:
            excused = builtin_methods().get(parameters["checked_method"]).card.excused
            if (check := check_name(item.originalname)) in excused:
                item.add_marker(pytest.mark.xfail(reason=excused[check], strict=True))


@pytest.fixture(scope="session")
def checked_method(request: pytest.FixtureRequest) -> Iterator[MethodUnderTest]:
    """A method; the models that it may have changed are as they were for the next one."""
    method = MethodUnderTest(builtin_methods().get(request.param))
    yield method
    method.models.restore()


@pytest.fixture
def unfitted(checked_method: MethodUnderTest) -> Iterator[MethodUnderTest]:
    """A method, whose changes to its backbones are undone after the check."""
    yield checked_method
    checked_method.models.restore(checked_method.source, checked_method.target)


@pytest.fixture
def fitted(unfitted: MethodUnderTest) -> MethodUnderTest:
    """A method that could be fitted."""
    try:
        _ = unfitted.fitted
    except Exception:
        pytest.skip("there is no module to look at; fix 'fit' first")
    return unfitted


@pytest.fixture
def tested(fitted: MethodUnderTest) -> MethodUnderTest:
    """A method of which the module could be attached to its source."""
    if not fitted.classifies:
        pytest.skip("the module has no classifier on its source; fix 'attach' first")
    return fitted


@pytest.fixture(scope="session")
def describe_elsewhere() -> Iterator[Callable[[str], dict[str, str]]]:
    """What a fit gives in a process with other hashes, another time zone, home and folder.

    The process has not seen what this one has; it is started when it is first asked.
    """
    pools: list[ProcessPoolExecutor] = []
    with scratch_folder() as folder:
        environment = ELSEWHERE | {"HOME": str(folder), "USERPROFILE": str(folder)}

        def describe(method: str) -> dict[str, str]:
            if not pools:
                work = (str(folder), outside_files())
                pools.append(ProcessPoolExecutor(1, get_context("spawn"), _prepare, work))
            try:
                with inherited(threads=1), patch.dict(os.environ, environment):
                    fitted = pools[0].submit(_describe_fit, method)
                return fitted.result()
            except BrokenProcessPool:
                pools.clear()  # the next method has another
                raise

        yield describe
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _prepare(folder: str, files: list[str]) -> None:
    end_with_parent()
    os.chdir(folder)
    load_files(files)


def _describe_fit(method: str) -> dict[str, str]:
    tested = MethodUnderTest(builtin_methods().get(method))
    try:
        return tested.describe_fit()
    finally:
        tested.models.restore()  # the next method finds them as they were
