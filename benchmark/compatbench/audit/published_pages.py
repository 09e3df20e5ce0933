"""``leaderboard.md``, the report and its figures follow from the results beside them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from compatbench.audit.findings import Finding
from compatbench.audit.method_files import first_difference
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.pages.figures.plan import drawn_figures
from compatbench.pages.html_report import REPORT, check_report
from compatbench.pages.leaderboard import render_pages
from compatbench.pages.suite_page import RESULTS


def check_pages(out: Path, suites: Sequence[SuiteCard]) -> list[Finding]:
    """Pages and figures that are not what the results give; of pages, the line that differs.

    Args:
        out: the folder with ``results/`` and ``leaderboard.md``.
        suites: those with results; one of them may come from a file of its own.
    """
    if not any(suite.publish for suite in suites):
        return []
    own = [suite for suite in suites if suite.name not in suite_cards.names()]
    with warnings.catch_warnings():
        # A folder that no suite explains is a finding of its own.
        warnings.simplefilter("ignore", CompatbenchWarning)
        try:
            pages = render_pages(out, own[0] if own else None)
        except CompatbenchError as error:
            return [Finding(str(out / RESULTS), f"no leaderboard can be made of it: {error}")]
        findings = [one for path, text in pages.items() for one in _check_page(path, text)]
        if (out / REPORT).exists() or drawn_figures(out / RESULTS):
            try:
                check_report(out)
            except CompatbenchError as error:
                findings.append(Finding(str(out / RESULTS), str(error)))
    return findings


def _check_page(path: Path, text: str) -> list[Finding]:
    try:
        found = path.read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError):
        return [Finding(str(path), "cannot be read; run 'compatbench leaderboard'")]
    expected = text.split("\n")
    if found == expected:
        return []
    line = first_difference(expected, found)
    wanted, there = ([*lines, *["nothing"] * line][line - 1].strip() for lines in (expected, found))
    problem = "is not what the results give; run 'compatbench leaderboard'"
    return [Finding(str(path), problem, line, "", wanted, there)]
