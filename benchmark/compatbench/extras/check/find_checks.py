"""The checks by name, as the modules that hold them define them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Literal

Kind = Literal["method", "transfer"]
MODULES = {"method": ("fit_checks", "attach_checks"), "transfer": ("transfer_checks",)}


def find_checks(kind: Kind) -> dict[str, Callable[..., None]]:
    """The checks of methods, or those of transfers, in the order in which they are tried."""
    modules = (importlib.import_module(f"{__package__}.{name}") for name in MODULES[kind])
    functions = [function for module in modules for function in vars(module).items()]
    return {check_name(name): test for name, test in functions if name.startswith("test_")}


def check_name(function: str) -> str:
    """The name of the check that a test function is."""
    return function.removeprefix("test_").replace("_", "-")


def find_rule(kind: Kind, check: str) -> str:
    """One line that says what must hold."""
    return (find_checks(kind)[check].__doc__ or "").splitlines()[0]
