"""Which suites a results folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compatbench.audit.findings import Finding
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError
from compatbench.pages.suite_page import FIGURES


def find_suites(
    results: Path, wanted: Sequence[str] | None = None
) -> tuple[list[SuiteCard], list[Finding]]:
    """The suites to audit, and what is in the folder that no suite explains.

    Args:
        wanted: names, or YAML files, of suites; all, if none are given.

    Raises:
        CompatbenchError: there is no such folder, or no such suite.
    """
    try:
        entries = sorted(results.iterdir())
    except OSError as error:
        raise CompatbenchError(f"cannot read {results}: {error.strerror}") from None
    if wanted:
        cards = [suite_cards.read(name) for name in wanted]
        for card in cards:
            if not (results / card.name).is_dir():
                raise CompatbenchError(f"{results} holds no results of suite '{card.name}'")
        return cards, []
    cards, findings = [], []
    for entry in entries:
        if entry.is_symlink():
            findings.append(Finding(str(entry), "is a link; results are read from here only"))
        elif entry.is_dir() and entry.name in suite_cards.names():
            cards.append(suite_cards.read(entry.name))
        elif entry.is_dir() and entry.name != FIGURES:
            findings.append(Finding(str(entry), "no suite has that name; give its file: --suite"))
    if not cards and not findings:
        raise CompatbenchError(f"{results} holds no results; start with 'compatbench run'")
    return cards, findings
