"""Every method passes the checks of ``compatbench check``, and one more."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from formulas import seeded

from compatbench.extras.check.check_host import ask_elsewhere
from compatbench.extras.check.check_processes import start_elsewhere
from compatbench.extras.check.method_under_test import Elsewhere, MethodUnderTest
from compatbench.extras.check.rules import RULES, try_rule
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    """Fits in another process."""
    with start_elsewhere() as connection:
        yield partial(ask_elsewhere, connection)


@pytest.fixture(scope="module", params=builtin_methods().names())
def tested(request: pytest.FixtureRequest, elsewhere: Elsewhere) -> Iterator[MethodUnderTest]:
    """A method; models that it changed are restored for the next one."""
    method = MethodUnderTest(builtin_methods().get(request.param), elsewhere)
    yield method
    method.models.restore()


@pytest.mark.parametrize("check", RULES)
def test_method_passes_the_check(check: str, tested: MethodUnderTest) -> None:
    outcome = try_rule(check, tested)
    if outcome.status == "skip":
        pytest.skip(outcome.reason)
    assert outcome.status == "pass", outcome.reason


def test_number_of_parameters_is_known_before_the_first_step(tested: MethodUnderTest) -> None:
    """The table of methods counts them there."""
    method = tested.build()
    if isinstance(method, TrainedMethod):
        start = method.init(tested.source, tested.draw(), seeded())
        assert tested.fitted.parameters == start.parameters
