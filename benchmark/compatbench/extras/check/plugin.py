"""A pytest plug-in: what the checks are tried on, what is excused, and another process.

The checks of methods ask for the fixture ``tested``, or ``unfitted`` if they have something to look
at even where the fit fails; those of transfers ask for ``carried``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compatbench.extras.check.find_checks import check_name
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.extras.check.other_process import OtherProcess
from compatbench.extras.check.transfer_under_test import TransferUnderTest
from compatbench.files.scratch import scratch_folder
from compatbench.method.registry import builtin_methods, builtin_transfers

# What parametrises the checks of methods, and those of transfers.
REGISTRIES = {"checked_method": builtin_methods, "carried": builtin_transfers}


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that names what is checked."""
    what = "the methods, or the transfers, that conformance checks are tried on"
    parser.addoption("--checked", default="all", help=what)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All checks of a method come one after the other, since its fixture lasts the session."""
    for fixture, registry in REGISTRIES.items():
        if fixture in metafunc.fixturenames:
            names = registry().select(metafunc.config.getoption("checked"))
            metafunc.parametrize(fixture, names, indirect=True, scope="session")


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
def tested(unfitted: MethodUnderTest) -> MethodUnderTest:
    """A method that could be fitted."""
    try:
        _ = unfitted.fitted
    except Exception:
        pytest.skip("there is no module to look at; fix 'fit' first")
    return unfitted


@pytest.fixture
def carried(request: pytest.FixtureRequest) -> Iterator[TransferUnderTest]:
    """A transfer, whose changes to backbones are undone after the check."""
    transfer = TransferUnderTest(request.param)
    yield transfer
    transfer.models.restore()


@pytest.fixture(scope="session")
def other_process() -> Iterator[OtherProcess]:
    """A process that has not seen what this one has; started when it is first asked."""
    with scratch_folder() as folder:
        process = OtherProcess(folder)
        yield process
        process.close()
