"""The conformance kit: what every method must keep, tried on a synthetic pair of models.

``compatbench check NAME`` runs it from the command line, and ``run_checks`` from a test:

    for outcome in run_checks(MyMethod):
        assert outcome.status != "fail", outcome.reason
"""

# The checks register themselves, in this order.
from compatbench.conformance import fitting  # noqa: F401, I001
from compatbench.conformance import attaching, classifying, turning  # noqa: F401
from compatbench.conformance.kit import CHECKS, Check, Outcome, run_checks

__all__ = ["CHECKS", "Check", "Outcome", "run_checks"]
