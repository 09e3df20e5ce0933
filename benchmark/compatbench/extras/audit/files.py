"""Which files a results folder and its pages consist of, byte for byte; any other is a finding."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.extras.audit.findings import Finding, compare_file
from compatbench.extras.audit.stored_suite import Files, StoredSuite
from compatbench.files.kinds import files_below, kind_of
from compatbench.results.result_files import (
    FIGURES,
    PUBLISHED,
    REPORT,
    RESULTS,
    WRITTEN,
    ResultFiles,
)
from compatbench.tables.pages.leaderboard import METHOD_PAGES, SECTION, render_pages
from compatbench.tables.pages.report_site import make_report
from compatbench.tables.suite_page import published_pages

STALE = "is not what the results give; run 'compatbench report'"


def check_files(
    files: ResultFiles,
    cards: Sequence[SuiteCard],
    stored: Sequence[StoredSuite],
    suites_alone: bool,
) -> Iterator[Finding]:
    """Files that are not, byte for byte, what is made here, and those that nothing makes.

    With ``suites_alone``, folders of these suites are walked, and otherwise all of ``results/``.
    """
    out = files.out
    results = out / RESULTS
    made = Files()
    for suite in stored:
        made |= suite.files
    if any(card.publish for card in cards):
        try:
            made |= {path: (text, STALE) for path, text in _make_pages(files, cards).items()}
        except CompatbenchError as error:
            yield Finding(str(results), str(error))
    is_clone = kind_of(out / METHOD_PAGES) == "folder"
    if (readme := out / "README.md") not in made and (is_clone or kind_of(readme) == "link"):
        yield Finding(str(readme), f"is no file with a place for the ranking: <!-- {SECTION}:begin")
    folders = [suite.folder for suite in stored] if suites_alone else [results, out / METHOD_PAGES]
    walked = {path for folder in folders for path in files_below(folder)}
    written = {results / PUBLISHED / name for name in WRITTEN}
    for path in sorted({*made, *walked}):
        kind = kind_of(path)
        if kind == "file" and path.stat().st_nlink > 1:
            kind = "hard link"
        if kind not in ("file", ""):
            yield Finding(str(path), f"is a {kind}, not a file of its own")
        elif path in made:
            expected, why = made[path]
            yield from compare_file(path, expected, why)
        elif path not in written:
            yield Finding(str(path), "no command makes it; move it away")


def _make_pages(files: ResultFiles, cards: Sequence[SuiteCard]) -> dict[Path, bytes]:
    """All pages, and the report where there is one; one of the suites may come from a file."""
    from_file = next((card for card in cards if card.name not in suite_cards.names()), None)
    with warnings.catch_warnings():
        # A folder that no suite explains is a finding of its own.
        warnings.simplefilter("ignore", CompatbenchWarning)
        pages = published_pages(files, from_file)
    out = files.out
    made = {path: text.encode() for path, text in render_pages(out, pages).items()}
    if any(kind_of(out / RESULTS / name) for name in (REPORT, FIGURES)):
        made |= make_report(files, pages).files
    return made
