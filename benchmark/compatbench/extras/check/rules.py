"""The rules that every method must keep, in the order in which they are tried; and one trial.

A rule is a function of a method under test. It returns nothing or a remark, and raises
``BrokenRule`` with a reason. Its name, with dashes, is the name of the check; the first line of its
docstring says what must hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from compatbench.errors import CompatbenchError
from compatbench.extras.check import attach_rules, fit_rules
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.extras.check.outcome import (
    FOLLOWS,
    BrokenRule,
    RuleOutcome,
    SkippedRule,
    Status,
    quoted,
    require,
)
from compatbench.messages import one_line
from compatbench.method.mistakes import explain

Rule = Callable[[MethodUnderTest], str | None]


def card(tested: MethodUnderTest) -> None:
    """The card says what the method is, and a method that learns acts somewhere."""
    fit_rules.check_card(tested)
    unknown = tested.card.excused.keys() - RULES.keys()
    require(not unknown, f"the card excuses it from {quoted(unknown)}, which is no check")


IN_ORDER: tuple[Rule, ...] = (
    card,
    fit_rules.lint,
    fit_rules.settings,
    fit_rules.fit,
    fit_rules.attach,
    attach_rules.logits,
    fit_rules.same_seed,
    fit_rules.other_seed,
    fit_rules.needs,
    fit_rules.global_randomness,
    fit_rules.backbone_unchanged,
    fit_rules.data_unchanged,
    fit_rules.few_shots,
    fit_rules.odd_draws,
    fit_rules.round_trip,
    fit_rules.source_classifier,
    fit_rules.module_unchanged,
    fit_rules.derived_not_stored,
    fit_rules.other_process,
    attach_rules.no_image,
    attach_rules.other_sizes,
    attach_rules.class_subset,
    attach_rules.turned_space,
    attach_rules.batch_size,
    attach_rules.inputs_unchanged,
    attach_rules.class_order,
    attach_rules.zero_shot_setting,
    attach_rules.place,
)
RULES: dict[str, Rule] = {rule.__name__.replace("_", "-"): rule for rule in IN_ORDER}
# If one of these fails, so would most of the rules after it, which are skipped.
CAUSES = ("fit", "attach", "logits")


def describe_rule(check: str) -> str:
    """Return the line that says what must hold."""
    return (RULES[check].__doc__ or "").splitlines()[0]


def try_rule(check: str, tested: MethodUnderTest) -> RuleOutcome:
    """Try one rule on a method, and undo what it changed of the source and the target."""
    start = time.perf_counter()
    status, reason = _judge(check, tested)
    tested.models.restore(tested.source, tested.target)
    seconds = time.perf_counter() - start
    rule = describe_rule(check)
    return RuleOutcome(tested.card.name, check, status, rule, one_line(reason, 600), seconds)


def _judge(check: str, tested: MethodUnderTest) -> tuple[Status, str]:
    """Return what becomes of a rule, and the reason; a rule follows from a cause that fails."""
    if check not in tested.verdicts:
        verdict = None
        for cause in _list_causes(check):
            status, reason = _judge(cause, tested)
            if status == "fail":
                verdict = "skip", f"{FOLLOWS} '{cause}': {reason}"
                break
        tested.verdicts[check] = verdict or _try(check, tested)
    return tested.verdicts[check]


def _list_causes(check: str) -> list[str]:
    """Return the rules from which the failure of a rule would follow, the first cause first."""
    order = list(RULES)
    if order.index(check) < order.index(CAUSES[0]):
        return []
    causes = [cause for cause in CAUSES if order.index(cause) < order.index(check)]
    if check == "other-process":
        causes.append("same-seed")
    return causes


def _try(check: str, tested: MethodUnderTest) -> tuple[Status, str]:
    """Try a rule, and return what becomes of it, and the reason."""
    rule = RULES[check]
    excuse = tested.card.excused.get(check)
    try:
        remark = rule(tested)
    except KeyboardInterrupt:
        raise
    except SkippedRule as why:
        return "skip", str(why)
    except BaseException as error:  # a method may raise anything, SystemExit included
        is_told = isinstance(error, (BrokenRule, CompatbenchError))
        reason = str(error) if is_told else explain(error)
        if excuse:
            return "skip", f"{excuse} (excused: {reason})"
        return "fail", reason
    if excuse:
        return "fail", "the card excuses the method from this check, but it passes"
    return "pass", remark or ""
