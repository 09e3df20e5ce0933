"""The files of a results folder and its pages, compared byte for byte; any other is a finding."""

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
    PAGE,
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
) -> tuple[list[Finding], list[str]]:
    """Compare every file with what is made here.

    Args:
        files: the result files, as far as they were read.
        cards: the suites to audit.
        stored: what was read of each.
        suites_alone: walk the folders of these suites alone, not all of ``results/``.

    Returns:
        Files that are not, byte for byte, what is made here, and those that nothing makes; and a
        note if pages cannot be compared, because results that they show are broken.
    """
    out = files.out
    made = Files()
    for suite in stored:
        made |= suite.files
    broken = [suite.card.name for suite in stored if suite.broken]
    if broken:
        # Without these results no page can be made: only the folders of the others are compared.
        whole = [suite.folder for suite in stored if not suite.broken]
        pages = [folder / PAGE for folder in whole]
        note = f"no page is compared: results of {', '.join(broken)} are broken"
        return list(_compare_files(files, made, whole, pages)), [note]
    findings = []
    if any(card.publish for card in cards):
        try:
            texts = _make_pages(files, cards)
        except CompatbenchError as error:
            return [Finding(str(out / RESULTS), str(error))], []
        made |= {path: (text, STALE) for path, text in texts.items()}
        findings += _check_readme(out, made)
    if suites_alone:
        folders = [suite.folder for suite in stored]
    else:
        folders = [out / RESULTS, out / METHOD_PAGES]
    written = [out / RESULTS / PUBLISHED / name for name in WRITTEN]
    findings += _compare_files(files, made, folders, written)
    return findings, []


def _check_readme(out: Path, made: Files) -> Iterator[Finding]:
    """Yield a finding if a clone's README has no ranking, or is a link to another file."""
    readme = out / "README.md"
    is_clone = kind_of(out / METHOD_PAGES) == "folder"
    if readme not in made and (is_clone or kind_of(readme) == "link"):
        problem = f"is no file with a place for the ranking: <!-- {SECTION}:begin"
        yield Finding(str(readme), problem)


def _compare_files(
    files: ResultFiles, made: Files, folders: Sequence[Path], left_out: Sequence[Path]
) -> Iterator[Finding]:
    """Yield the files that are not as made here, and those below the folders that nothing makes."""
    paths = {*made}
    for folder in folders:
        paths |= {*files_below(folder)}
    for path in sorted(paths):
        kind = kind_of(path)
        if kind == "file" and path.stat().st_nlink > 1:
            kind = "hard link"
        if kind not in ("file", ""):
            yield Finding(str(path), f"is a {kind}, not a file of its own")
        elif path in made:
            expected, why = made[path]
            yield from compare_file(path, expected, why, files.read_bytes)
        elif path not in left_out:
            yield Finding(str(path), "no command makes it; move it away")


def _make_pages(files: ResultFiles, cards: Sequence[SuiteCard]) -> dict[Path, bytes]:
    """Return all pages, and the report if there is one; one of the suites may come from a file."""
    out = files.out
    from_file = next((card for card in cards if card.name not in suite_cards.names()), None)
    with warnings.catch_warnings():
        # A folder that no suite explains is a finding of its own.
        warnings.simplefilter("ignore", CompatbenchWarning)
        pages = published_pages(files, from_file)
    made = {path: text.encode() for path, text in render_pages(out, pages).items()}
    if any(kind_of(out / RESULTS / name) for name in (REPORT, FIGURES)):
        made |= make_report(files, pages).files
    return made
