"""Claims, what bears on them, and what may be said: supported, contradicted, not decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compatbench.results.bootstrap import Interval
from compatbench.results.measures import Upgrade

Verdict = Literal["supported", "contradicted", "not decided"]


@dataclass(frozen=True)
class Finding:
    """One thing that a claim says, held against results.

    Attributes:
        claim: number of the claim.
        says: what is tested, as a sentence that can be wrong.
        data: what it was computed from: methods, tasks, seeds.
        effect: the figure and its interval; None if the results give none.
        unit: of the effect, such as ``points``.
        verdict: by the interval, never by the figure alone.
        why: what is missing, if there is no effect; or what to bear in mind.
    """

    claim: int
    says: str
    data: str
    effect: Interval | None
    unit: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class ClaimsReport:
    """All findings on one upgrade of a suite.

    Attributes:
        coverage: complete methods, and methods in the results.
    """

    suite: str
    upgrade: Upgrade
    shots: int
    coverage: tuple[int, int]
    findings: tuple[Finding, ...]


def above(effect: Interval, bound: float = 0.0) -> Verdict:
    """The verdict on a claim that the effect is greater than a bound."""
    if not effect.bounded:
        return "not decided"
    if effect.low > bound:
        return "supported"
    return "contradicted" if effect.high < bound else "not decided"


def as_reported(effect: Interval, reported: float) -> Verdict:
    """The verdict on a reported gain: there is one, and it is not smaller than reported.

    Supported if the interval lies above 0 and reaches what was reported; contradicted if
    it lies below that, whether or not there is some gain.
    """
    if not effect.bounded:
        return "not decided"
    if effect.high < reported:
        return "contradicted"
    return "supported" if effect.low > 0 else "not decided"
