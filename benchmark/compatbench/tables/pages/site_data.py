"""What the site shows of every suite, as data for its script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from markdown_it import MarkdownIt

from compatbench.data.cards.shots import count_shots, show_shots
from compatbench.engine.flat_settings import flat_settings
from compatbench.messages import one_line
from compatbench.results.expected import Upgrade
from compatbench.results.ranks import rounded
from compatbench.results.ways import access_of
from compatbench.tables.figures.figure_list import (
    PlannedFigure,
    figures_of_suite,
    figures_of_upgrade,
)
from compatbench.tables.markdown import define_links
from compatbench.tables.numbers import NOTHING
from compatbench.tables.pages.method_pages import read_facts
from compatbench.tables.pages.sections import list_sections
from compatbench.tables.ranking import (
    PAGE,
    further_measures,
    gap_table,
    list_columns,
    measure_column,
    ranking_table,
)
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Column, TableCell
from compatbench.tables.templates import show_setting

# Columns of a ranking, and measures of which every row has figures by dataset; measures that are
# registered since come on top.
_RANKING = (*PAGE, "negative_flips", "parameters", "fit")
_BY_DATASET = ("h", "source", "target", "gain", "negative_flips")
_LINK = re.compile(r"<a [^>]*>(.*?)</a>")  # papers are linked once, from a method's page
_LINK_INTO_CLONE = re.compile(r'<a href="(?!https://)[^"]*">(.*?)</a>')
_AFTER_BLOCK = re.compile(r"(</?(?:t\w+|[uo]l|li|p|h\d)(?: [^>]*)?>)\n")
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")

Json = dict[str, Any]

# Filters of the site: what a method, with the transfer that its module came through, can do.
CAPABILITIES = {
    "width": "survives another width",
    "images": "needs no images for the upgrade",
    "classes": "serves new classes",
}
_WIDTHS = frozenset({"token width", "feature size", "image width"})


class SiteColumns(NamedTuple):
    """What the site shows of every row.

    Attributes:
        ranking: the ranking's columns.
        measures: those that columns per dataset can show, with their titles.
    """

    ranking: list[Column]
    measures: dict[str, str]


def list_capabilities(pages: Sequence[SuitePage]) -> Json:
    """Return what each method can do, where it is known, and the transfers that need images."""
    measured = {method.info.name for page in pages for method in page.results.all}
    of_method = {}
    for name, facts in read_facts().items():
        if name in measured:
            of_method[name] = _capabilities_of(facts)
    with_images = set()
    for page in pages:
        for transfer in page.results.transfers:
            if {"unlabelled", "labels"} & {*access_of(transfer)}:
                with_images.add(transfer)
    return {"methods": of_method, "images": sorted(with_images)}


def _capabilities_of(facts: Mapping[str, Any]) -> list[str]:
    must_be_equal = {*facts["must_be_equal"]}
    capabilities = []
    if not must_be_equal & _WIDTHS:
        capabilities.append("width")
    if not facts["given"]:
        capabilities.append("images")
    if "classes" not in must_be_equal:
        capabilities.append("classes")
    return capabilities


def choose_columns(pages: Sequence[SuitePage]) -> SiteColumns:
    """The columns of these suites together."""
    rows = (
        row
        for page in pages
        for row in page.all_ranks(page.expected.upgrades[0], max(page.expected.shots))
    )
    further = further_measures(rows=rows)
    shown = {*_RANKING, *further}
    ranking = [column for column in list_columns() if column.key in shown]
    return SiteColumns(ranking, {n: measure_column(n).title for n in (*_BY_DATASET, *further)})


def describe_suite(page: SuitePage, columns: SiteColumns, settings: dict[str, int]) -> Json:
    """What the site shows of a suite; adds to ``settings``, which it refers to by number."""
    boards = [
        _describe_board(page, columns, upgrade, shots)
        for upgrade, shots in product(
            page.expected.upgrades, sorted(page.expected.shots, reverse=True)
        )
    ]
    notes = (page.card.note, page.card.likeness, page.legend)
    configs = {method.info.name: method.config for method in reversed(page.results.all)}
    sections = list_sections("suite", page)
    sections += (each for each in list_sections("leaderboard", page) if each.on_site)
    return {
        "title": one_line(page.card.title),
        "notes": [one_line(text, 2000) for text in notes if text],
        "tasks": [one_line(page.task_title(task), 40) for task in page.expected.tasks],
        "boards": boards,
        "figures": [_figure(planned) for planned in figures_of_suite(page)],
        "parts": [
            {"title": section.title, "html": _part(section.render(page))} for section in sections
        ],
        "methods": {name: _settings(configs[name], settings) for name in sorted(configs)},
        "gaps": _gaps(page),
        "command": page.run_command("METHOD"),
    }


def _describe_board(page: SuitePage, columns: SiteColumns, upgrade: Upgrade, shots: int) -> Json:
    """A ranking, with its figures."""
    ranked = page.all_ranks(upgrade, shots)
    keys = [column.key for column in columns.ranking]
    table = ranking_table(ranked, keys)
    rows = []
    for row, cells in zip(ranked, table.rows, strict=True):
        shown = [_cell(cell) for cell in cells]
        shown[keys.index("method")] = row.title
        sets = [[rounded(mean, 1) for mean in row.by_task(name)] for name in columns.measures]
        rows.append([row.figures["method"], row.kind, one_line(row.track), shown, sets])
    titles = [row.title for row in ranked]
    return {
        "upgrade": list(upgrade),
        "title": _board_title(page, upgrade),
        "shots": str(show_shots(shots)),
        "rows": rows,
        "figures": [
            _figure(figure, titles, one_line(f"{page.path_title(upgrade)}, {count_shots(shots)}"))
            for figure in figures_of_upgrade(page, upgrade, shots)
        ],
    }


def _board_title(page: SuitePage, upgrade: Upgrade) -> str:
    """The models, behind the kind of upgrade where that kind has no other."""
    kinds = (one_line(title) for title, of in page.groups.items() if of == (upgrade,))
    return ": ".join([*kinds, one_line(page.path_title(upgrade))])


def _cell(cell: TableCell) -> str | list[Any]:
    """What a cell shows and what it is sorted by; a text that is sorted by itself stands once."""
    shown = one_line(cell.text)
    return shown if cell.value == cell.text else [shown, cell.value]


def _figure(figure: PlannedFigure, titles: Sequence[str] = (), known_head: str = "") -> Json:
    """A figure; of its records each name stands once, and a row of the ranking is a number.

    Of its heading the script has the beginning.
    """
    values = figure.data.rows
    if titles:
        # These stand in the row, too.
        of_row = ("gains", "source", "target", "h")
        values = [
            {name: of for name, of in value.items() if name not in of_row} for value in values
        ]
        places = {title: place for place, title in enumerate(titles)}
        values = [{"row": places[value["title"]], **value} for value in values]
    known = ("title", "kind") if titles else ()
    names = dict.fromkeys(name for value in values for name in value)
    fields = [name for name in names if name not in known]
    return {
        "kind": figure.kind,
        "heading": f"{figure.heading}. {figure.note}".removesuffix(". ").removeprefix(known_head),
        "missing": figure.missing,
        "signals": figure.data.params,
        "fields": fields,
        "values": [[value.get(name) for name in fields] for value in values],
    }


def _part(text: str) -> str:
    """A section of a page, without its links."""
    return _LINK.sub(r"\1", to_html(f"{text}\n\n{define_links(text)}"))


def _settings(config: Mapping[str, Any], settings: dict[str, int]) -> list[int]:
    """The settings of a method, by their numbers in ``settings``: most are of several suites."""
    shown = (f"{name}: {show_setting(value)}" for name, value in flat_settings(config))
    return [settings.setdefault(one_line(text), len(settings)) for text in shown]


def to_html(markdown: str, mixed: bool = True) -> str:
    """Markdown of this project's pages as HTML; markup in it is shown as text.

    Where tables have ``mixed`` columns, a cell of text has a class, in place of the style that the
    policy of the page forbids.
    """
    html = _AFTER_BLOCK.sub(r"\1", _MARKDOWN.render(markdown))
    html = _LINK_INTO_CLONE.sub(r"\1", html)  # the site is published without the clone
    if mixed:
        html = html.replace("<td>", "<td class=text>").replace("<th>", "<th class=text>")
    html = html.replace(' style="text-align:right"', "")
    return re.sub(r"</t[dhr]>", "", html)  # HTML does without


def _gaps(page: SuitePage) -> list[list[str]]:
    """Method, what, rows and reason of all that failed, is missing, or was refused."""
    gaps = gap_table(page).select(["Method", "What", "Rows", "Reason"])
    rows = [[cell.text for cell in row] for row in gaps.rows]
    for upgrade, shots in product(page.expected.upgrades, page.expected.shots):
        for row in page.all_ranks(upgrade, shots):
            if refused := row.figures["refused"]:
                reason = "; ".join(row.figures["reasons"])
                rows.append([row.title, "not transferable", f"{refused:,}", reason or NOTHING])
    return [[one_line(text) for text in row] for row in rows]
