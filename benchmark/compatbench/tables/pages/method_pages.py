"""A page for each method: does its module survive, what it is, how it is run, and its results.

``docs/methods/<name>.md`` in a clone, and on the site. What no result says is in ``methods.json``,
which ``python benchmark/pages.py methods`` makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from compatbench.data.cards import COPIED
from compatbench.messages import count, lower_first
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.ranking import rank_methods
from compatbench.results.suite_results import SuiteResults
from compatbench.tables import markdown
from compatbench.tables.flags import list_flags
from compatbench.tables.numbers import NOTHING, interval_text, percent, rounded, signed
from compatbench.tables.ranking_tables import SPREAD
from compatbench.tables.suite_page import MARKS, SuitePage
from compatbench.tables.survival_tables import has_survival, read_survival
from compatbench.tables.table import (
    Table,
    TableCell,
    join,
    number,
    plain_table,
    records,
    text,
)
from compatbench.tables.templates import read_source, render_markdown

Facts = Mapping[str, Any]
_MOST_TRANSFERS = 2  # that gain, on each upgrade; the site has the others
_GAIN = "Gain (95 % interval)"


class Verdict(NamedTuple):
    """What becomes of an untouched module in one kind of upgrade.

    Attributes:
        verdict: one of ``compatbench.results.survival.VERDICTS``.
        sentence: the verdict with its gain, as plain text.
    """

    verdict: str
    sentence: str


@cache
def read_facts() -> dict[str, Facts]:
    """Return what is known of each method of the project before any result."""
    return json.loads(read_source("methods.json"))


def render_method_pages(pages: Sequence[SuitePage]) -> dict[str, str]:
    """Return the pages by the methods' names, with the results of these suites."""
    suites = [suite for page in pages for suite in (page, *page.sections)]
    judge = find_judge(pages)
    verdicts = list_verdicts(judge) if judge is not None else {}
    flags = _join_flags(suites)
    unstable = judge.card.unstable if judge is not None else {}
    texts = {}
    for name, facts in read_facts().items():
        page = render_markdown(
            "method_page.md.jinja",
            facts=facts,
            judge=judge,
            verdicts=verdicts.get(name, []),
            flags=flags.get(name, []),
            unstable=unstable.get(name, ""),
            shown=render_facts(facts, "##", changed=_list_changes(name, suites)),
            results=_result_tables(name, pages),
        )
        texts[name] = page.strip() + "\n"
    return texts


def _join_flags(suites: Sequence[SuitePage]) -> dict[str, list[str]]:
    """Return what is implausible in the results of all suites, by the names of methods."""
    joined: dict[str, list[str]] = {}
    for suite in suites:
        for name, sentences in list_flags(suite).items():
            with_suite = [f"{suite.card.title}: {sentence}" for sentence in sentences]
            joined.setdefault(name, []).extend(with_suite)
    return joined


def find_judge(pages: Sequence[SuitePage]) -> SuitePage | None:
    """Return the first suite that says whether modules survive, if there is one."""
    for page in pages:
        if has_survival(page):
            return page
    return None


def list_verdicts(page: SuitePage) -> dict[str, list[Verdict]]:
    """Return a verdict for each kind of upgrade, by the names of methods."""
    verdicts: dict[str, list[Verdict]] = {}
    for row in records(read_survival(page)):
        verdict = Verdict(row["verdict"], _show_verdict(row))
        verdicts.setdefault(row["method"], []).append(verdict)
    return verdicts


def _show_verdict(row: Mapping[str, Any]) -> str:
    """Return ``CoOp loses 15.8 points (-20.4 to -11.2) if the new model ...``."""
    condition = f"if {lower_first(row['kind'])}"
    title = row["title"].rstrip(" " + "".join(MARKS))
    if row["with_words"]:
        title += " (with a list of words)"
    verdict = row["verdict"]
    if verdict in ("gains", "loses"):
        points = f"{percent(abs(row['gain']))} points ({interval_text(row, 'gain', signed)})"
        return f"{title} {verdict} {points} {condition}."
    if verdict == "cannot tell":
        points = f"{signed(row['gain'])} points, {interval_text(row, 'gain', signed)}"
        return f"We cannot tell whether {title} gains or loses {condition} ({points})."
    if verdict == "not ranked":
        points = ""
        if row["gain"] is not None:
            points = f" ({signed(row['gain'])} points, {interval_text(row, 'gain', signed)})"
        return f"We do not judge {title} {condition}{points}: {row['unranked']}."
    if verdict == "not measured":
        return f"{title} was not measured {condition}."
    return f"{title} {verdict} {condition}."


def render_facts(
    facts: Facts,
    level: str,
    whole: bool = True,
    changed: Sequence[tuple[list[SuitePage], Mapping[str, Any]]] = (),
) -> str:
    """Return what a method is, as Markdown whose headings begin with ``level``.

    Args:
        whole: show deviations from the published recipe in a table, and not just their number.
        changed: what suites change in the recipe; see ``_list_changes``.
    """
    paper = markdown.paper_id(facts["paper"])
    details = facts["details"]
    if paper is not None:  # the first title is the paper's
        link = rf"[*\1*](https://arxiv.org/abs/{paper})"
        details = re.sub(r"(?<![\w*\\])\*([A-Z][^*]*)\*", link, details, count=1)
    shown = {"facts": facts, "details": details, "level": level}
    shown |= {"whole": whole, "changed": changed}
    return render_markdown("method_facts.md.jinja", **shown, listed=_listed)


def _list_changes(
    name: str, suites: Sequence[SuitePage]
) -> list[tuple[list[SuitePage], Mapping[str, Any]]]:
    """Return what suites change in the published recipe of a method; equal changes stand once."""
    changed: list[tuple[list[SuitePage], Mapping[str, Any]]] = []
    for suite in suites:
        method = suite.results.methods.get(name)
        differs = method.differs if method is not None else {}
        for others, of_others in changed:
            if of_others == differs:
                others.append(suite)
                break
        else:
            if differs:
                changed.append(([suite], differs))
    return changed


def _result_tables(name: str, pages: Sequence[SuitePage]) -> list[tuple[SuitePage, Table]]:
    """Return a table for each published suite with results of a method."""
    tables = []
    for page in pages:
        rows = []
        for upgrade in page.leaderboard_upgrades:
            rows += _list_rows(name, page, upgrade)
        if rows:
            header = ["New model", "Module", "Source", "Target", "H", _GAIN]
            tables.append((page, plain_table(header, rows, left=(0, 1))))
    return tables


def _list_rows(name: str, page: SuitePage, upgrade: Upgrade) -> list[list[TableCell]]:
    """Return the untouched module on an upgrade, and the transfers with which it gains most."""
    shown = []
    gaining: dict[str, tuple[SuitePage, Mapping[str, Any]]] = {}
    for suite in (page, *_find_comparable(page, upgrade)):
        ranking = _ranking_by_method(suite.results, suite.expected, upgrade, page.most_shots)
        for row in ranking.get(name, ()):
            if row["transfer"] != COPIED:
                if row["effect"] == "gains":
                    gaining.setdefault(row["transfer"], (suite, row))
            elif suite is page:
                with_words = row["ranked_with"] != COPIED
                module = "untouched, with words" if with_words else "untouched"
                if not row["learns"]:
                    module = "none"
                shown.append([text(module), *_show_measures(row)])
    best = sorted(gaining, key=lambda transfer: -gaining[transfer][1]["gain"])
    for transfer in best[:_MOST_TRANSFERS]:
        suite, row = gaining[transfer]
        seeds = suite.expected.seeds
        fewer = f" ({count(len(seeds), 'seed')})" if len(seeds) < len(page.expected.seeds) else ""
        shown.append([text(f"{transfer}{fewer}"), *_show_measures(row)])
    target = text(page.backbone_title(upgrade[1]).partition(" (")[0])
    return [[target, *cells] for cells in shown]


@lru_cache(maxsize=256)
def _ranking_by_method(
    results: SuiteResults, expected: Expected, upgrade: Upgrade, shots: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a ranking by method; all pages of methods read them."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in records(rank_methods(results, expected, (upgrade,), shots)):
        by_method.setdefault(row["method"], []).append(row)
    return by_method


def _find_comparable(page: SuitePage, upgrade: Upgrade) -> list[SuitePage]:
    """Return the sections that measure the same tasks on this upgrade, such as other transfers."""
    comparable = []
    for section in page.sections:
        expected = section.expected
        same = expected.tasks == page.expected.tasks and page.most_shots in expected.shots
        if same and upgrade in expected.upgrades:
            comparable.append(section)
    return comparable


def _show_measures(row: Mapping[str, Any]) -> list[TableCell]:
    """Return accuracies, H, and the gain over the new model's zero-shot."""
    cells = []
    for measure in SPREAD:
        cells.append(number(percent(row[measure]) if row[measure] is not None else NOTHING))
    gain = number(signed(rounded(row["gain"], 4)))
    if row["gain_low"] is not None:
        gain = join([gain, number(f"({interval_text(row, 'gain', signed)})")], " ")
    return [*cells, gain]


def _listed(items: Sequence[str]) -> str:
    return "; ".join(markdown.escape(item, 300) for item in items) or NOTHING
