"""The kit as a whole: the checks register themselves when they are imported."""

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
