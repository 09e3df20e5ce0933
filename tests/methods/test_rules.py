"""Every method keeps the rules: the tests that ``compatbench check`` runs, and one more."""

import pytest
from formulas import seeded

from compatbench.extras.check.attach_checks import *  # noqa: F403
from compatbench.extras.check.fit_checks import *  # noqa: F403
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.method.trained import TrainedMethod

pytestmark = pytest.mark.slow


def test_a_module_has_as_many_parameters_before_its_first_step(tested: MethodUnderTest) -> None:
    """The table of methods counts them there."""
    if isinstance(method := tested.build(), TrainedMethod):
        start = method.init(tested.source, tested.draw(), seeded())
        assert tested.fitted.parameters == start.parameters
