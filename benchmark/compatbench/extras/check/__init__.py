"""The conformance kit: the rules that every method must keep, tried on small random models.

A check is a function with the decorator ``check``, in one of two files: of the fit and its module,
or of what attach does with it. From a test:

    for outcome in run_checks(MyMethod):
        assert outcome.status != "fail", outcome.reason
"""

# The checks register themselves, in this order.
from compatbench.extras.check import fit_checks  # noqa: F401, I001
from compatbench.extras.check import attach_checks  # noqa: F401
from compatbench.extras.check.checks import (
    CHECKS,
    Outcome,
    check_methods,
    restore_in_server,
    run_checks,
    run_confined,
    run_in_server,
)
from compatbench.extras.check.transfer_checks import check_transfers

__all__ = ["check_transfers"]
__all__ += ["CHECKS", "Outcome", "check_methods", "run_checks", "run_confined"]
__all__ += ["restore_in_server", "run_in_server"]
