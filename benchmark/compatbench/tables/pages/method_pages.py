"""A page for each method: does its module survive, what it is, how it is run, and its results.

``docs/methods/<name>.md`` in a clone, and on the site. What no result says is in ``methods.json``,
which ``python benchmark/pages.py methods`` makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from compatbench.messages import count
from compatbench.results.expected import Upgrade
from compatbench.tables import markdown
from compatbench.tables.numbers import NOTHING, interval_text, percent, rounded, signed
from compatbench.tables.ranking_tables import SPREAD
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.survival_tables import has_survival, read_survival, show_gain_interval
from compatbench.tables.table import Table, join, number, plain_table, records, spread, text
from compatbench.tables.templates import read_source, render_markdown

Facts = Mapping[str, Any]
_FEW = 3  # transfers; a suite of more compares them, and the site has its tables


class Verdict(NamedTuple):
    """What becomes of an untouched module in one kind of upgrade.

    Attributes:
        verdict: one of ``compatbench.results.survival.VERDICTS``.
        sentence: the verdict with its gain, as plain text.
    """

    verdict: str
    sentence: str


class Result(NamedTuple):
    """A method on an upgrade of a suite."""

    page: SuitePage
    upgrade: Upgrade
    row: Mapping[str, Any]  # of the ranking


@cache
def read_facts() -> dict[str, Facts]:
    """Return what is known of each method of the project before any result."""
    return json.loads(read_source("methods.json"))


def render_method_pages(pages: Sequence[SuitePage]) -> dict[str, str]:
    """Return the pages by the methods' names, with the results of these suites."""
    suites = [suite for page in pages for suite in (page, *page.sections)]
    results: dict[str, list[Result]] = {}
    for result in _list_results(suites):
        results.setdefault(result.row["method"], []).append(result)
    judge = find_judge(pages)
    verdicts = list_verdicts(judge) if judge is not None else {}
    texts = {}
    for name, facts in read_facts().items():
        page = render_markdown(
            "method_page.md.jinja",
            facts=facts,
            judge=judge,
            verdicts=verdicts.get(name, []),
            shown=render_facts(facts, "##", changed=_list_changes(name, suites)),
            results=_result_tables(results.get(name, [])),
        )
        texts[name] = page.strip() + "\n"
    return texts


def find_judge(pages: Sequence[SuitePage]) -> SuitePage | None:
    """Return the first suite that says whether modules survive, if there is one."""
    for page in pages:
        if has_survival(page):
            return page
    return None


def list_verdicts(page: SuitePage) -> dict[str, list[Verdict]]:
    """Return a verdict for each kind of upgrade, by the names of methods."""
    over = f"over {count(len(page.expected.tasks), 'task')}"
    verdicts: dict[str, list[Verdict]] = {}
    for row in records(read_survival(page)):
        verdict = Verdict(row["verdict"], _show_verdict(row, over))
        verdicts.setdefault(row["method"], []).append(verdict)
    return verdicts


def _show_verdict(row: Mapping[str, Any], over: str) -> str:
    """Return ``CoOp loses 15.8 points (-20.4 to -11.2, over 8 tasks) if the new model ...``."""
    kind = row["kind"]
    condition = f"if {kind[:1].lower()}{kind[1:]}"
    title = row["title"]
    if row["with_words"]:
        title += " (with a list of words)"
    verdict = row["verdict"]
    if verdict in ("gains", "loses"):
        points = f"{percent(abs(row['gain']))} points ({show_gain_interval(row)}, {over})"
        return f"{title} {verdict} {points} {condition}."
    if verdict == "cannot tell":
        points = f"{signed(row['gain'])} points, {show_gain_interval(row)}, {over}"
        return f"We cannot tell whether {title} gains or loses {condition} ({points})."
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
    shown = {"facts": facts, "level": level, "whole": whole, "changed": changed}
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


def _list_results(suites: Sequence[SuitePage]) -> Iterator[Result]:
    """Yield every method on every upgrade at the most shots; what several suites have, once.

    Of a suite that compares many transfers, only the copied modules are shown.
    """
    seeds_seen: dict[tuple[Any, ...], set[int]] = {}
    for page in suites:
        expected = page.expected
        many = len(page.results.transfers) > _FEW
        of_suite = (expected.tasks, page.most_shots, expected.protocol)
        configs = {name: repr(method.config) for name, method in page.results.methods.items()}
        for upgrade in expected.upgrades:
            for row in records(page.ranking(upgrade, page.most_shots)):
                cells = (row["method"], configs[row["method"]], row["track"], upgrade, *of_suite)
                seen = seeds_seen.setdefault(cells, set())
                if seen >= {*expected.seeds} or (many and row["track_transfer"]):
                    continue
                seen |= {*expected.seeds}
                yield Result(page, upgrade, row)


def _result_tables(results: Sequence[Result]) -> dict[str, Table]:
    """Return accuracies, H, and the gain over the target's zero-shot, a table by upgrade."""
    rows: dict[str, list[list[Any]]] = {}
    for page, upgrade, row in results:
        cells = [
            text(page.card.title),
            text(row["track"] or "untouched"),
            number(row["place"] or NOTHING),
        ]
        cells += [spread(row[measure], row[f"{measure}_std"]) for measure in SPREAD]
        gain = number(signed(rounded(row["gain"], 4)))
        if row["gain_low"] is not None:
            gain = join([gain, number(f"({interval_text(row, 'gain', signed)})")], " ")
        rows.setdefault(page.path_title(upgrade), []).append([*cells, gain])
    header = ["Suite", "Module", "Rank", "Source", "Target", "H", "Gain (95 % interval)"]
    return {where: plain_table(header, of, left=(0, 1)) for where, of in rows.items()}


def _listed(items: Sequence[str]) -> str:
    return "; ".join(markdown.escape(item, 300) for item in items) or NOTHING
