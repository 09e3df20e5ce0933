"""The function that checks methods, and remembers which of them are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from compatbench.data.cache_files import default_cache_folder
from compatbench.data.refusals import forget_refusal, remember_refusal
from compatbench.engine.request import CLASSES, Methods
from compatbench.extras.check.check_processes import try_rules
from compatbench.extras.check.outcome import RuleOutcome

if TYPE_CHECKING:
    import pandas as pd


def check(
    methods: Methods = "all",
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
            which is run as code; or classes that a notebook or a script defines.
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
    if not isinstance(methods, str):
        from compatbench.method.live_class import write_classes  # loads torch

        methods = ",".join(write_classes(methods, default_cache_folder() / CLASSES.name))
    selected, outcomes = try_rules(methods, only, progress)
    for name, identity in selected.outside.items():
        own = [outcome for outcome in outcomes if outcome.method == name]
        _remember(identity, own, selected.is_complete)
    for name, why in selected.broken.items():
        outcomes.append(RuleOutcome(name, "load", "fail", "the file can be loaded", why))
    # Loaded while nothing waits for it.
    import pandas as pd

    return pd.DataFrame(outcomes)


def _remember(identity: str, outcomes: Sequence[RuleOutcome], is_complete: bool) -> None:
    """Remember that code from outside is refused, or forget it once it passes every check.

    What the linter finds makes no number less comparable.
    """
    failed = []
    for outcome in outcomes:
        if outcome.status == "fail" and outcome.check != "lint":
            failed.append(outcome)
    if failed:
        remember_refusal(identity, f"check '{failed[0].check}': {failed[0].reason}")
    elif is_complete:
        forget_refusal(identity)
