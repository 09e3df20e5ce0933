"""The function that checks methods, and remembers which of them are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from compatbench.data.cards import select_names
from compatbench.errors import CompatbenchError
from compatbench.extras.check.check_processes import try_rules
from compatbench.extras.check.outcome import RuleOutcome
from compatbench.extras.check.rules import RULES
from compatbench.method.refusals import forget_refusal, remember_refusal
from compatbench.method.registry import builtin_methods


def check(
    methods: str | Sequence[str] = "all",
    only: str | Sequence[str] = "all",
    *,
    progress: Callable[[RuleOutcome], object] = lambda _: None,
) -> pd.DataFrame:
    """Check that methods keep the rules, by name, on small random models.

    The rules make results comparable: a fit is decided by its data and its seed alone, nothing but
    the module is carried over, and it acts where the card says. Every method is fitted and attached
    in a process of its own, with a few optimiser steps, which takes seconds on one core; no data
    set and no weights are needed. A check that fails says what is wrong and, of an error, in which
    line. Try it alone with ``only``. What a method cannot keep by its nature its card excuses, with
    the reason: ``excused={"class-order": "its classes have an order"}``. A method from outside that
    fails is measured by ``run``, but not ranked.

    Args:
        methods: names, globs, ``all``, exclusions (``!coop``), or the path of a method file,
            which is run as code.
        only: names, globs or exclusions of checks.
        progress: called with each outcome as soon as it is known; several methods are tried at a
            time.

    Returns:
        One row for each method and check, with the columns ``method``, ``check``, ``status``
        (``pass``, ``fail`` or ``skip``), ``rule``, ``reason`` and ``seconds``. With ``all``
        methods, a file that cannot be loaded has a row that fails the check ``load``.

    Raises:
        CompatbenchError: an unknown method or check, a named file that cannot be loaded, or an
            empty selection.
    """
    registry = builtin_methods()
    selection = methods if isinstance(methods, str) else ",".join(methods)
    names = registry.select(selection)
    if not names:
        raise CompatbenchError(f"'{methods}': no method matches")
    checks = select_names(only, list(RULES), "check")
    if not checks:
        raise CompatbenchError(f"'{only}': no check matches")
    outcomes = try_rules(names, checks, progress)
    for name in names:
        _remember(name, [outcome for outcome in outcomes if outcome.method == name])
    if methods == "all":
        for name, why in registry.broken.items():
            outcomes.append(RuleOutcome(name, "load", "fail", "the file can be loaded", why))
    return pd.DataFrame(outcomes)


def _remember(name: str, outcomes: Sequence[RuleOutcome]) -> None:
    """Remember that a method from outside is refused, or forget it once it passes every check."""
    identity, _ = builtin_methods().identify(name)
    if ":" not in identity:
        return  # a method of the repository, whose tests try the rules
    failed = [outcome for outcome in outcomes if outcome.status == "fail"]
    if failed:
        remember_refusal(identity, f"check '{failed[0].check}': {failed[0].reason}")
    elif len(outcomes) == len(RULES):
        forget_refusal(identity)
