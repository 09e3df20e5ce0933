"""The conformance kit: the rules that every method must keep, tried on small random models.

A check is a function with the decorator ``check``, in one of two files: of the fit and its module,
or of what attach does with it. From a test:

    for outcome in run_checks(MyMethod):
        assert outcome.status != "fail", outcome.reason
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

FUNCTIONS = {"check_methods": "kit:check_methods", "check_transfers": "kit:check_transfers"}


_KIT = ("CHECKS", "Outcome", "check_methods", "check_transfers", "run_checks", "run_confined")


def __getattr__(name: str) -> Any:
    # The kit is not imported to find out what this folder offers.
    if name in _KIT:
        return getattr(import_module("compatbench.extras.check.kit"), name)
    raise AttributeError(f"module 'compatbench.extras.check' has no attribute '{name}'")
