"""A page for each method: what it is, how it is run, its results, and when its modules survive.

``docs/methods/<name>.md`` in a clone, and on the site. What no result says is in ``methods.json``,
which ``python benchmark/pages.py methods`` makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from compatbench.results.estimate import FEWEST_UNITS
from compatbench.results.expected import Upgrade
from compatbench.tables import markdown
from compatbench.tables.numbers import NOTHING, interval_text, rounded, signed
from compatbench.tables.ranking_tables import SPREAD
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Table, join, number, plain_table, records, spread, text
from compatbench.tables.templates import read_source, render_markdown

Facts = Mapping[str, Any]
_FEW = 3  # transfers; a suite of more compares them, and the site has its tables
_VERDICTS = {"gains": "above", "loses": "below", "cannot tell": "not decided"}


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
    texts = {}
    for name, facts in read_facts().items():
        texts[name] = _render_page(name, facts, results.get(name, []), suites)
    return texts


def render_facts(facts: Facts, level: str, whole: bool = True) -> str:
    """Return what a method is, as Markdown whose headings begin with ``level``.

    Args:
        whole: show deviations from the published recipe in a table, and not just their number.
    """
    shown = {"facts": facts, "level": level, "whole": whole, "listed": _listed}
    return render_markdown("method_facts.md.jinja", **shown)


def _render_page(
    name: str, facts: Facts, results: Sequence[Result], suites: Sequence[SuitePage]
) -> str:
    page = render_markdown(
        "method_page.md.jinja",
        facts=facts,
        shown=render_facts(facts, "##"),
        changed=_list_changes(name, suites),
        results=_result_tables(results),
        survival=describe_survival(results),
    )
    return page.strip() + "\n"


def _list_changes(
    name: str, suites: Sequence[SuitePage]
) -> list[tuple[list[SuitePage], Mapping[str, Any]]]:
    """Return what suites change in the published recipe of a method; equal changes stand once."""
    changed: list[tuple[list[SuitePage], Mapping[str, Any]]] = []
    for suite in suites:
        method = suite.tidy.methods.get(name)
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
        many = len(page.tidy.transfers) > _FEW
        of_suite = (expected.tasks, page.most_shots, expected.protocol)
        configs = {name: repr(method.config) for name, method in page.tidy.methods.items()}
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
    header = ["Suite", "Module", "Rank", "Source", "Target", "H", "Gain (95 %)"]
    return {where: plain_table(header, of, left=(0, 1)) for where, of in rows.items()}


def describe_survival(results: Sequence[Result]) -> dict[str, list[str]]:
    """Return the upgrades by what became of the copied module, as its gain over zero-shot shows.

    Each upgrade stands once: by the first suite that has datasets enough for a verdict, or else by
    any.
    """
    kinds: dict[str, tuple[str, str]] = {}
    for page, upgrade, row in results:
        where = markdown.escape(page.path_title(upgrade))
        kind, _ = kinds.get(where, ("few", ""))
        if row["track_transfer"] or kind != "few":
            continue
        if row["refused"]:
            kinds[where] = "refused", "; ".join(map(markdown.escape, row["reasons"]))
        elif row["gain"] is not None:
            enough = row["datasets"] >= FEWEST_UNITS
            kind = _VERDICTS[row["effect"]] if enough else "few"
            kinds[where] = kind, signed(rounded(row["gain"], 4))
    shown: dict[str, list[str]] = {}
    for where, (kind, why) in kinds.items():
        shown.setdefault(kind, []).append(f"{where} ({why})")
    return shown


def _listed(items: Sequence[str]) -> str:
    return "; ".join(markdown.escape(item, 300) for item in items) or NOTHING
