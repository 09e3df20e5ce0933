"""A page for each method: what it is, how it is run, its results, and when its modules survive.

``docs/methods/<name>.md`` in a clone, and on the site. What no result says is in ``methods.json``,
which ``python benchmark/pages.py methods`` makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from compatbench.results.estimate import Interval
from compatbench.results.expected import Upgrade
from compatbench.results.ranks import Ranked
from compatbench.results.standing import measure_interval
from compatbench.tables import markdown
from compatbench.tables.numbers import NOTHING, bounds, signed
from compatbench.tables.ranking import SPREAD
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Table, join, number, plain_table, spread, text
from compatbench.tables.templates import read_source, render_markdown

Facts = Mapping[str, Any]
_FEW = 3  # transfers; a suite of more compares them, and the site has its tables


class Result(NamedTuple):
    """A method on an upgrade of a suite."""

    page: SuitePage
    upgrade: Upgrade
    row: Ranked


@cache
def read_facts() -> dict[str, Facts]:
    """What is known of each method of the project before any result."""
    return json.loads(read_source("methods.json"))


def render_method_pages(pages: Sequence[SuitePage]) -> dict[str, str]:
    """The pages by the methods' names, with the results of these suites."""
    suites = [suite for page in pages for suite in (page, *page.sections)]
    results = dict[str, list[Result]]()
    for result in _list_results(suites):
        results.setdefault(result.row.standing.info.name, []).append(result)
    return {
        name: _render_page(name, facts, results.get(name, []), suites)
        for name, facts in read_facts().items()
    }


def render_facts(facts: Facts, level: str, whole: bool = True) -> str:
    """What a method is, as Markdown whose headings begin with ``level``.

    Of deviations from the published recipe it has a table only if ``whole``, and else a number.
    """
    shown = {"facts": facts, "level": level, "whole": whole, "listed": _listed}
    return render_markdown("method_facts.md.jinja", **shown)


def _render_page(
    name: str, facts: Facts, results: Sequence[Result], suites: Sequence[SuitePage]
) -> str:
    changed: list[tuple[list[SuitePage], Mapping[str, Any]]] = []
    for suite in suites:
        differs = suite.results.methods[name].differs if name in suite.results.methods else {}
        same = next((suites for suites, of in changed if of == differs), None)
        if same is not None:
            same.append(suite)
        elif differs:
            changed.append(([suite], differs))
    page = render_markdown(
        "method_page.md.jinja",
        facts=facts,
        shown=render_facts(facts, "##"),
        changed=changed,
        results=_result_tables(results),
        survival=describe_survival(results),
    )
    return page.strip() + "\n"


def _list_results(suites: Sequence[SuitePage]) -> Iterator[Result]:
    """Every method on every upgrade at the most shots; what an earlier suite has, too, once.

    Of a suite that compares many transfers, the untouched modules alone.
    """
    seeds_seen = dict[tuple[Any, ...], set[int]]()
    for page in suites:
        expected, many = page.expected, len(page.results.transfers) > _FEW
        for upgrade in expected.upgrades:
            for row in page.all_ranks(upgrade, max(expected.shots)):
                method = row.standing.results
                cells = (method.info.name, repr(method.config), row.track, upgrade)
                cells = (*cells, expected.tasks, max(expected.shots), expected.protocol)
                seen = seeds_seen.setdefault(cells, set())
                if not seen >= {*expected.seeds} and not (many and row.transfer):
                    seen |= {*expected.seeds}
                    yield Result(page, upgrade, row)


def _result_tables(results: Sequence[Result]) -> dict[str, Table]:
    """By upgrade accuracies, H, and the gain over the target's zero-shot with its interval."""
    rows: dict[str, list[list[Any]]] = {}
    for page, upgrade, row in results:
        interval = measure_interval(row.standing, "gain")
        means = [spread(row.standing.mean(measure)) for measure in SPREAD]
        gain = number(signed(row.value("gain")))
        if interval is not None and interval.bounded:
            gain = join([gain, number(f"({bounds(interval, signed)})")], " ")
        how, rank = text(row.track or "untouched"), number(row.place or NOTHING)
        rows.setdefault(page.path_title(upgrade), []).append(
            [text(page.card.title), how, rank, *means, gain]
        )
    header = ["Suite", "Module", "Rank", "Source", "Target", "H", "Gain (95 %)"]
    return {where: plain_table(header, of, left=(0, 1)) for where, of in rows.items()}


def describe_survival(results: Sequence[Result]) -> dict[str, list[str]]:
    """Upgrades by what became of the untouched module: what its gain over zero-shot shows.

    Each upgrade once: by the first suite that has datasets enough for a verdict, or else any.
    """
    kinds: dict[str, tuple[str, str]] = {}
    for page, upgrade, row in results:
        where, gain = markdown.escape(page.path_title(upgrade)), row.value("gain")
        if row.transfer or kinds.get(where, ("few", ""))[0] != "few":
            continue
        interval = measure_interval(row.standing, "gain")
        if row.figures["refused"]:
            kinds[where] = "refused", "; ".join(map(markdown.escape, row.figures["reasons"]))
        elif gain is not None and interval is not None:
            kinds[where] = _verdict(interval), signed(gain)
    shown: dict[str, list[str]] = {}
    for where, (kind, said) in kinds.items():
        shown.setdefault(kind, []).append(f"{where} ({said})")
    return shown


def _verdict(interval: Interval) -> str:
    if not interval.decides:
        return "few"
    return {1: "above", -1: "below", 0: "not decided"}[interval.sign]


def _listed(items: Sequence[str]) -> str:
    return "; ".join(markdown.escape(item, 300) for item in items) or NOTHING
