"""The paper's claims (arXiv:2412.20895), each held against a suite's results.

What the claims leave open is fixed here, before any result is looked at:

* A method *does well* if it gains on the source over the source's zero-shot; its module
  *fails* if it loses on the target against the target's. *Many* is a third or more.
* *Shallow* and *deep* are those of the method's card. Both methods and datasets are samples.
* The baselines of a reported gain are the prompt methods that the paper names.
* An interval of 95 % decides. Where kinds of methods are compared, it must do so without any
  one of the methods, too. Methods without a complete set of cells have no mean and take
  no part; modules that cannot be attached have no accuracy, and are counted.
* The paper claims nothing of methods of this project, which came after it; they take no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from compatbench.data.cards import SuiteCard
from compatbench.errors import CompatbenchError
from compatbench.pages.suite_page import RESULTS, SuitePage, read_suite_page
from compatbench.results.measures import Upgrade
from compatbench.studies.claim_checks import (
    Evidence,
    Finding,
    contcoop_is_best,
    depth_decides,
    gains_as_reported,
    holds_out_of_distribution,
    many_fail,
)
from compatbench.studies.study_report import StudyReport, TextTable, records, with_interval

OWN = "compatbench"  # in place of the paper, on the card of a method of this project


@dataclass(frozen=True)
class ClaimsReport(StudyReport):
    """The claims, held against the results of one upgrade of a suite.

    Attributes:
        complete, methods: how many methods are complete, and how many have results.
        findings: one row for each thing that a claim says: number of the ``claim``; what it
            ``says``, as a sentence that can be wrong; the ``data`` it was computed from; the
            ``effect`` with its interval, missing if the results give none; its ``unit``; the
            ``verdict``, by the interval and never by the figure alone; ``why``: what is missing
            if there is no effect, or what to bear in mind.
    """

    suite: str
    upgrade: Upgrade
    shots: int
    complete: int
    methods: int
    findings: pd.DataFrame

    def tables(self) -> list[TextTable]:
        """One row for each finding."""
        rows = [
            [
                str(one["claim"]),
                one["says"],
                one["data"] + (f" ({one['why']})" if one["why"] else ""),
                describe_effect(one),
                one["verdict"],
            ]
            for one in records(self.findings)
        ]
        header = ["Claim", "What it says", "Data", "Effect, 95 % interval", "Verdict"]
        head = (
            f"Suite {self.suite}, {' → '.join(self.upgrade)}, {self.shots} shots, "
            f"{self.complete} of {self.methods} methods complete:"
        )
        return [TextTable(header, rows, head, left=range(5), markup={4: "**{}**".format})]


def describe_effect(finding: Finding) -> str:
    """``+1.2 points (-0.3 to +2.5)``; shares in percent."""
    show, unit = "{:+.1f}".format, finding["unit"]
    if unit.startswith("of "):
        show, unit = (lambda value: f"{100 * value:.0f}"), f"% {unit}"
    value, space, interval = with_interval(finding, "effect", show).partition(" ")
    return value if finding["effect"] is None else f"{value} {unit}{space}{interval}"


def study_claims(suite: SuiteCard, out: Path = Path()) -> list[ClaimsReport]:
    """The claims at the largest number of shots, one report for each upgrade of a suite.

    Args:
        out: folder of ``results/``.

    Raises:
        CompatbenchError: no results of the suite, or a broken results file.
    """
    page = read_suite_page(suite, out)
    if not page.results.methods:
        raise CompatbenchError(
            f"{out / RESULTS / page.name} holds no results; start with "
            f"'compatbench run --suite {page.name}'"
        )
    shots = max(page.expected.shots)
    return [check_claims(page, upgrade, shots) for upgrade in page.expected.upgrades]


def check_claims(page: SuitePage, upgrade: Upgrade, shots: int) -> ClaimsReport:
    """Every claim that results can bear on, for one upgrade."""
    ranked = [one.standing for one in page.ranks(upgrade, shots)]
    ranked = [one for one in ranked if one.info.paper != OWN]
    complete = [one for one in ranked if one.state == "complete"]
    evidence = Evidence(
        page,
        {one.info.name: one for one in complete if one.info.depth != "none"},
        [one for one in ranked if one.state == "not transferable"],
    )
    findings = [
        many_fail(evidence),
        *depth_decides(evidence),
        *contcoop_is_best(evidence),
        *gains_as_reported(evidence),
        *holds_out_of_distribution(evidence, upgrade, shots),
    ]
    frame = pd.DataFrame(findings)
    return ClaimsReport(page.name, upgrade, shots, len(complete), len(ranked), frame)
