"""What the site shows of every suite, as data for its script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import unescape
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import quote

from markdown_it import MarkdownIt

from compatbench.data.cards import COPIED
from compatbench.data.cards.shots import count_shots, show_shots
from compatbench.engine.flat_settings import flat_settings
from compatbench.messages import count, one_line
from compatbench.results.costs import access_of
from compatbench.results.expected import Upgrade
from compatbench.tables import survival_tables
from compatbench.tables.figures.figure_list import (
    PlannedFigure,
    figures_of_suite,
    figures_of_upgrade,
)
from compatbench.tables.markdown import define_links
from compatbench.tables.numbers import NOTHING, interval_text, signed
from compatbench.tables.pages.method_pages import read_facts
from compatbench.tables.pages.sections import TABLES, list_sections
from compatbench.tables.ranking_tables import (
    EVERY_COLUMN,
    SHORT,
    further_measures,
    gap_table,
    list_columns,
    measure_column,
    ranking_table,
    task_numbers,
)
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.survival_tables import describe_counts, read_survival
from compatbench.tables.table import Column, TableCell, records
from compatbench.tables.templates import render_markdown, show_setting

# Columns of a ranking, and measures of which every row has figures by dataset; measures that are
# registered since come on top.
_RANKING = (*EVERY_COLUMN, "interval")
# The columns that are shown before a reader asks for more, and those for which a phone has room.
FIRST = SHORT
ON_PHONE = ("rank", "method", "source", "target", "gain")
_BY_DATASET = ("h", "source", "target", "gain", "negative_flips")
_LINK = re.compile(r"<a [^>]*>(.*?)</a>")  # papers are linked once, from a method's page
_LINK_TO_SUITE = re.compile(r'<a href="results/([\w.+-]+)/README\.md">')
_BOLD = re.compile("<strong>(.*?)</strong>")
_LINK_INTO_CLONE = re.compile(r'<a href="(?!https://|#)[^"]*">(.*?)</a>')
_AFTER_BLOCK = re.compile(r"(</?(?:t\w+|[uo]l|li|p|h\d)(?: [^>]*)?>)\n")
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")

Json = dict[str, Any]

# Filters of the site: what a method can do, with the transfer that its module came through.
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
        measures: those that columns per task can show, with their titles.
    """

    ranking: list[Column]
    measures: dict[str, str]


def _which_kind(page: SuitePage) -> str:
    """Return how to find the kind of an upgrade, as Markdown."""
    values = {"page": page, "survival": survival_tables, "on_site": True}
    return render_markdown("which_kind.md.jinja", **values)


def describe_survival(page: SuitePage) -> Json:
    """Return the verdict on each module and what to do about it, for the first view of the site."""
    frame = read_survival(page)
    rows: dict[str, Json] = {}
    for each in records(frame):
        row = rows.setdefault(each["method"], {"title": one_line(each["title"]), "cells": []})
        measured = each["gain"] is not None
        row["words"] = each["with_words"]
        row["cells"].append(
            {
                "verdict": each["verdict"],
                "gain": signed(each["gain"]) if measured else "",
                "interval": interval_text(each, "gain", signed) if measured else "",
            }
        )
    answers = []
    for section in list_sections("first", page):
        html = _part(section.render(page, on_site=True))
        answers.append(_link_methods(html, {row["title"]: name for name, row in rows.items()}))
    return {
        "kinds": [one_line(kind) for kind in frame["kind"].unique()],
        "rows": rows,
        "counts": describe_counts(page),
        "tasks": count(len(page.expected.tasks), "task"),
        "seeds": count(len(page.expected.seeds), "seed"),
        "note": one_line(page.card.note or "", 2000),
        "miniature": bool(page.card.likeness),
        "which": to_html(_which_kind(page), mixed=False),
        "answers": answers,
    }


def describe_real_models(pages: Sequence[SuitePage]) -> str:
    """Return the rows that were reported, with who measured them, as HTML; '' if there are none."""
    real = [page for page in pages if page.is_reported]
    if not real:
        return ""
    return _part(render_markdown("real_models.md.jinja", real=real, tables=TABLES, root=""))


def list_capabilities(method: str, track_transfer: str) -> list[str]:
    """Return what a method can do, with the transfer that its module came through.

    Of a method that is not of this project nothing is known.
    """
    facts = read_facts().get(method)
    if facts is None:
        return []
    must_be_equal = {*facts["must_be_equal"]}
    capabilities = []
    if not must_be_equal & _WIDTHS:
        capabilities.append("width")
    needs_images = {"unlabelled", "labels"} & {*access_of(track_transfer or COPIED)}
    if not facts["given"] and not needs_images:
        capabilities.append("images")
    if "classes" not in must_be_equal:
        capabilities.append("classes")
    return capabilities


def choose_columns(pages: Sequence[SuitePage]) -> SiteColumns:
    """Return the columns of these suites together."""
    further = []
    for name in further_measures():
        for page in pages:
            ranking = page.ranking(page.expected.upgrades[0], page.most_shots)
            if ranking[name].notna().any():
                further.append(name)
                break
    shown = {*_RANKING, *further}
    ranking = [column for column in list_columns() if column.key in shown]
    measures = {name: measure_column(name).title for name in (*_BY_DATASET, *further)}
    return SiteColumns(ranking, measures)


def describe_suite(page: SuitePage, columns: SiteColumns, settings: dict[str, int]) -> Json:
    """Return what the site shows of a suite.

    Args:
        settings: the texts of settings with their numbers, by which methods refer to them; new ones
            are added.
    """
    boards = []
    for upgrade, shots in product(page.expected.upgrades, sorted(page.expected.shots)[::-1]):
        boards.append(_describe_board(page, columns, upgrade, shots))
    notes = (page.card.note, page.card.likeness, page.legend)
    methods = {}
    for name, method in sorted(page.results.methods.items()):
        methods[name] = _settings(method.config, settings)
    sections = list_sections("suite", page)
    sections += [section for section in list_sections("leaderboard", page) if section.on_site]
    parts = []
    for section in sections:
        parts.append({"title": section.title, "html": _part(section.render(page))})
    return {
        "title": one_line(page.card.title),
        "notes": [one_line(text, 2000) for text in notes if text],
        "tasks": [one_line(page.task_title(task), 40) for task in page.expected.tasks],
        "boards": boards,
        "figures": [_figure(planned) for planned in figures_of_suite(page)],
        "parts": parts,
        "methods": methods,
        "gaps": _gaps(page),
        "command": page.run_command("METHOD"),
    }


def _describe_board(page: SuitePage, columns: SiteColumns, upgrade: Upgrade, shots: int) -> Json:
    """Return a ranking, with its figures."""
    ranking = page.ranking(upgrade, shots)
    keys = [column.key for column in columns.ranking]
    measures = list(columns.measures)
    by_task = task_numbers(page, upgrade, shots, ranking, measures)
    rows = []
    table = ranking_table(ranking, keys)
    for place, method in enumerate(records(ranking)):
        shown = [_cell(cell) for cell in table.rows[place]]
        shown[keys.index("method")] = method["shown_title"]
        sets = [by_task[name][place] for name in measures]
        track = one_line(method["track"])
        can = list_capabilities(method["method"], method["track_transfer"])
        rows.append([method["method"], method["kind"], track, can, shown, sets])
    titles = list(ranking["shown_title"])
    heading = one_line(f"{page.path_title(upgrade)}, {count_shots(shots)}")
    return {
        "upgrade": list(upgrade),
        "kind": _kind_of_upgrade(page, upgrade),
        "title": one_line(page.path_title(upgrade)),
        "shots": str(show_shots(shots)),
        "rows": rows,
        "figures": [
            _figure(figure, titles, heading) for figure in figures_of_upgrade(page, upgrade, shots)
        ],
    }


def _kind_of_upgrade(page: SuitePage, upgrade: Upgrade) -> str:
    """Return the kind of upgrade, if the suite names it and has no other upgrade of this kind."""
    for title, upgrades in page.groups.items():
        if upgrades == (upgrade,):
            return one_line(title)
    return ""


def _cell(cell: TableCell) -> str | list[Any]:
    """Return what a cell shows and what it is sorted by; a text sorted by itself stands once."""
    shown = one_line(cell.text)
    return shown if cell.value == cell.text else [shown, cell.value]


def _figure(figure: PlannedFigure, titles: Sequence[str] = (), known_head: str = "") -> Json:
    """Return a figure; each name of its records stands once, and the script knows the titles.

    Args:
        titles: of the rows of the ranking that the figure is of. The figure's rows refer to them by
            number.
        known_head: the beginning of the heading, which the script has.
    """
    values = figure.data.rows
    known: tuple[str, ...] = ()
    if titles:
        # These stand in the rows of the ranking, too.
        known = ("title", "kind", "gains", "source", "target", "h")
        places = {title: place for place, title in enumerate(titles)}
        values = [{"row": places[value["title"]], **value} for value in values]
    fields: dict[str, None] = {}
    for value in values:
        fields |= dict.fromkeys(name for name in value if name not in known)
    heading = f"{figure.heading}. {figure.note}".rstrip(". ").removeprefix(known_head)
    return {
        "kind": figure.kind,
        "heading": heading,
        "missing": figure.missing,
        "signals": figure.data.params,
        "fields": list(fields),
        "values": [[value.get(name) for name in fields] for value in values],
    }


def _part(text: str) -> str:
    """Return a section of a page as HTML, without its links."""
    return _LINK.sub(r"\1", to_html(f"{text}\n\n{define_links(text)}"))


def _link_methods(html: str, methods: Mapping[str, str]) -> str:
    """Return a part of a page with links from titles in bold to the methods' pages of the site.

    Args:
        methods: names by title.
    """

    def link(match: re.Match[str]) -> str:
        name = methods.get(unescape(match[1]))
        if name is None:
            return match[0]
        return f'<strong><a href="#method={quote(name)}">{match[1]}</a></strong>'

    return _BOLD.sub(link, html)


def _settings(config: Mapping[str, Any], settings: dict[str, int]) -> list[int]:
    """Return the settings of a method, by their numbers: most are those of several suites."""
    numbers = []
    for name, value in flat_settings(config):
        text = one_line(f"{name}: {show_setting(value)}")
        numbers.append(settings.setdefault(text, len(settings)))
    return numbers


def to_html(markdown: str, mixed: bool = True) -> str:
    """Return Markdown of this project's pages as HTML; markup in it is shown as text.

    Where tables have ``mixed`` columns, a cell of text has a class, in place of the style that the
    policy of the page forbids.
    """
    html = _AFTER_BLOCK.sub(r"\1", _MARKDOWN.render(markdown))
    html = _LINK_TO_SUITE.sub(r'<a href="#view=ranking&amp;suite=\1">', html)
    html = _LINK_INTO_CLONE.sub(r"\1", html)  # the site is published without the clone
    if mixed:
        html = html.replace("<td>", "<td class=text>").replace("<th>", "<th class=text>")
    html = html.replace(' style="text-align:right"', "")
    return re.sub(r"</t[dhr]>", "", html)  # HTML does without


def _gaps(page: SuitePage) -> list[list[str]]:
    """Return method, what, rows and reason of all that failed, is missing, or was refused."""
    rows = []
    for row in gap_table(page).select(["Method", "What", "Rows", "Reason"]).rows:
        rows.append([cell.text for cell in row])
    for upgrade, shots in product(page.expected.upgrades, page.expected.shots):
        ranking = page.ranking(upgrade, shots)
        for method in records(ranking[ranking["not_attached"] > 0]):
            reason = "; ".join(method["reasons"]) or NOTHING
            count = f"{method['not_attached']:,}"
            rows.append([method["shown_title"], "not transferable", count, reason])
    return [[one_line(text) for text in row] for row in rows]
