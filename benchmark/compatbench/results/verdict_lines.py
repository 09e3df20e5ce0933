"""The three lines that ``evaluate`` and ``advise`` print: verdict, gain, next command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compatbench.data.cards import COPIED
from compatbench.messages import count
from compatbench.results.choice import Decision, act
from compatbench.results.differences import ZERO_SHOT, Difference
from compatbench.results.estimate import Interval
from compatbench.results.options import option_name
from compatbench.results.ranking import NULL

UNTOUCHED = "untouched"
MOST_TIMES = 100  # of more units than so many times those that were measured, no number is given
IS_NULL = f"null: it changes fewer than {NULL:g} % of the zero-shot predictions"
ACTIONS = {
    "keep": "keep {module} untouched",
    "port": "port {module} by {transfer}",
    "retrain": "retrain {module} ({transfer})",
    "stay": "stay with {module} on {source}",
    "zero-shot": "use zero-shot, because every option of {module} loses",
    "retrain or zero-shot": "{module} loses: retrain it, or use zero-shot",
    "cannot tell": "cannot tell whether {module} gains",
    "unknown": "no verdict on {module}, because measurements are missing",
}


@dataclass(frozen=True)
class Case:
    """A decision with what its lines name.

    Attributes:
        decision: what an owner should do.
        difference: compares the options.
        upgrade: source and target.
        module: the name of the module, or of the method, that the decision is about.
        transfer: of the option that the decision is about.
        old: the name of the module on the old model.
        units: how many units the intervals are over, and what they are.
        refusal: why the module cannot be attached; empty if it can.
        is_null: True if every option changes fewer than ``NULL`` percent of the zero-shot
            predictions.
    """

    decision: Decision
    difference: Difference
    upgrade: tuple[str, str]
    module: str
    transfer: str
    old: str
    units: tuple[int, str]
    refusal: str = ""
    is_null: bool = False

    @property
    def does_nothing(self) -> bool:
        """Return True if no number of images would decide, because the module is null."""
        return self.is_null and self.decision.verdict == "cannot tell"

    @property
    def expected(self) -> Interval | None:
        """Return the accuracy of what the verdict says to use."""
        if self.does_nothing:
            return self.difference(ZERO_SHOT, None)
        if self.decision.verdict == "stay":
            return self.difference(self.old, None)
        return self.difference(self.decision.option or ZERO_SHOT, None)


def show_verdict(case: Case) -> str:
    """Return the verdict in one sentence."""
    decision = case.decision
    source, target = case.upgrade
    if case.refusal and decision.verdict == "retrain or zero-shot":
        why = f"{case.module} cannot be attached ({case.refusal})"
        return f"{target}: {why}; retrain it, or use zero-shot"
    names = {"module": case.module, "transfer": case.transfer, "source": source}
    text = f"{target}: {ACTIONS[decision.verdict].format(**names)}"
    if case.does_nothing:
        text = f"{target}: {case.module} is {IS_NULL}; use zero-shot"
    elif decision.verdict == "cannot tell":
        text += show_needed(decision.needed, case.units)
        if decision.undecided != option_name(case.module, case.transfer):
            text += f" on {decision.undecided.replace(f' {COPIED}', f' {UNTOUCHED}')}"
        meanwhile = "use zero-shot"
        if decision.option:
            meanwhile = ACTIONS[act(case.transfer)].format(**names)
        text += f"; meanwhile {meanwhile}"
    expected = case.expected
    if decision.verdict != "unknown" and expected is not None:
        text += f"; expect {show_interval(expected, '.1f')} %"
    return text


def show_gain(case: Case) -> str:
    """Return the gain with its interval, and what it is compared with."""
    option = option_name(case.module, case.transfer)
    gain = case.difference(option, ZERO_SHOT)
    zero_shot = case.difference(ZERO_SHOT, None)
    if gain is None or zero_shot is None:
        return f"{case.module} was not measured there"
    how = UNTOUCHED if case.transfer == COPIED else f"by {case.transfer}"
    text = f"{case.module} {how}: gain {show_interval(gain, '+.1f')} over zero-shot "
    text += f"({zero_shot.value:.1f} %)"
    over_old = case.difference(option, case.old)
    if over_old is not None:
        text += f", {show_interval(over_old, '+.1f')} over the old model"
    return f"{text}; {count(*case.units)}"


def verdict_lines(case: Case, command: str) -> Sequence[str]:
    """Return the three lines; ``command`` is the next one."""
    return (show_verdict(case), f"  {show_gain(case)}", f"  next: {command}")


def suggest_method(module: str) -> str:
    """Return the method to try where a module is null: one that changes much."""
    return "clip_lora" if module != "clip_lora" else "coop"


def python_call(task: str, target: str) -> str:
    """Return the call that goes on with a module that is in memory."""
    return f"cb.advise({task!r}, module=module, target={target!r}, labels=4)"


def is_out_of_reach(needed: float | None, units: tuple[int, str]) -> bool:
    """Return True if nobody will measure as many units as would decide."""
    return needed is not None and needed > MOST_TIMES * units[0]


def show_needed(needed: float | None, units: tuple[int, str]) -> str:
    """Return how much more to measure: ``, about 1,200 test images would decide``."""
    _, noun = units
    if needed is None:
        return ""
    if is_out_of_reach(needed, units):
        return f", and {MOST_TIMES} times the {noun}s would not decide"
    # Two digits: the spread is an estimate, too.
    digits = max(0, len(str(int(needed))) - 2)
    return f", about {round(needed, -digits):,.0f} {noun}s would decide"


def show_interval(interval: Interval, form: str) -> str:
    """Return a number with its bounds, such as ``+1.2 (-0.3 to +2.7)``."""
    text = _show(interval.value, form)
    if not interval.bounded:
        return text
    return f"{text} ({_show(interval.low, form)} to {_show(interval.high, form)})"


def _show(value: float, form: str) -> str:
    # Adding 0 turns -0.0 into 0.0.
    rounded = round(value, 1) + 0
    return format(rounded, ".1f" if rounded == 0 else form)
