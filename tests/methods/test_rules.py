"""Every method keeps the rules: the tests that ``compatbench check`` runs."""

import pytest

from compatbench.extras.check.attach_checks import *  # noqa: F403
from compatbench.extras.check.fit_checks import *  # noqa: F403

pytestmark = pytest.mark.slow
