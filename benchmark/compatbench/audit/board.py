"""``leaderboard.md``, the report and its figures follow from the results beside them."""

from __future__ import annotations

import warnings
from pathlib import Path

from compatbench.audit.findings import Finding
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.pages.figures.plan import drawn_figures
from compatbench.pages.html_report import REPORT, check_report
from compatbench.pages.leaderboard import render_pages
from compatbench.pages.suite_page import RESULTS


def check_pages(results: Path, also: SuiteCard | None = None) -> list[Finding]:
    """Pages and pictures that are not what the results give; of pages, the line that differs.

    Args:
        results: the folder ``results``.
        also: a suite from a file of its own.
    """
    if results.name != RESULTS or not _publishes(results, also):
        return []
    try:
        with warnings.catch_warnings():
            # A folder that no suite explains is a finding of its own.
            warnings.simplefilter("ignore", CompatbenchWarning)
            pages = render_pages(results.parent, also)
    except CompatbenchError as error:
        return [Finding(str(results), f"no leaderboard can be made of it: {error}")]
    findings = []
    for path, text in pages.items():
        try:
            found = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError):
            findings.append(Finding(str(path), "cannot be read; run 'compatbench leaderboard'"))
            continue
        if found != text:
            findings.append(_first_difference(path, text.split("\n"), found.split("\n")))
    return findings + _check_report(results.parent)


def _check_report(out: Path) -> list[Finding]:
    """A figure or a report, where one has been made, that is not what the results give."""
    page = out / REPORT
    if not page.exists() and not drawn_figures(out / RESULTS):
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CompatbenchWarning)
            check_report(out)
    except CompatbenchError as error:
        return [Finding(str(out / RESULTS), str(error))]
    return []


def _first_difference(path: Path, expected: list[str], found: list[str]) -> Finding:
    length = max(len(expected), len(found))
    expected += ["nothing"] * (length - len(expected))
    found += ["nothing"] * (length - len(found))
    line = next(n for n, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b)
    problem = "is not what the results give; run 'compatbench leaderboard'"
    return Finding(str(path), problem, line + 1, "", expected[line].strip(), found[line].strip())


def _publishes(results: Path, also: SuiteCard | None) -> bool:
    known = suite_cards.names()
    for folder in results.iterdir():
        if also is not None and folder.name == also.name:
            suite = also
        elif folder.is_dir() and folder.name in known:
            suite = suite_cards.read(folder.name)
        else:
            continue
        if suite.publish:
            return True
    return False
