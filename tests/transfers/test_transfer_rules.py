"""Every transfer keeps the rules: the tests that ``compatbench check`` runs."""

import pytest

from compatbench.extras.check.transfer_checks import *  # noqa: F403

pytestmark = pytest.mark.slow
