"""What the site shows of every suite, as data for its script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import Any

from markdown_it import MarkdownIt

from compatbench.data.cards.shots import show_shots
from compatbench.messages import one_line
from compatbench.results.ranks import Ranked, rounded
from compatbench.results.standing import MeasureName
from compatbench.tables.figures.plan import PlannedFigure, figures_of_suite, figures_of_upgrade
from compatbench.tables.leaderboard import PARTS, extra_parts, render_suite
from compatbench.tables.markdown import NOTHING, link_definitions
from compatbench.tables.method_tables import about_method, rows_by_method
from compatbench.tables.ranking import gap_rows, row_cells
from compatbench.tables.suite_page import SuitePage

# What columns per dataset can show; of all of these a row has its figures.
MEASURES: dict[MeasureName, str] = {
    "h": "H",
    "source": "Source",
    "target": "Target",
    "gain": "Gain",
    "negative_flips": "NFR",
}
_LINK = re.compile(r"<a [^>]*>(.*?)</a>")  # papers are linked once, from a method's page
_LINK_INTO_CLONE = re.compile(r'<a href="(?!https://)[^"]*">(.*?)</a>')
_AFTER_BLOCK = re.compile(r"(</?(?:t\w+|[uo]l|li|p|h\d)(?: [^>]*)?>)\n")
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")

Json = dict[str, Any]


def describe_suites(pages: Sequence[SuitePage], settings: dict[str, int]) -> list[Json]:
    """What the site shows of every suite; adds to ``settings``, which it refers to by number.

    A suite that measures the same cells for another purpose repeats no ranking.
    """
    found: list[Json] = []
    seen: set[tuple[Any, ...]] = set()
    for page in pages:
        boards: list[Json] = []
        most_first = sorted(page.expected.shots, reverse=True)
        for upgrade, shots in product(page.expected.upgrades, most_first):
            ranked = page.all_ranks(upgrade, shots)
            rows = [_row(page, row, place) for place, row in enumerate(ranked, 1)]
            shown = {(upgrade, shots, repr(row[3][1:])) for row in rows}
            if not shown <= seen:
                boards.append(
                    {
                        "upgrade": list(upgrade),
                        "title": one_line(page.path_title(upgrade)),
                        "shots": str(show_shots(shots)),
                        "rows": rows,
                        "figures": [
                            _figure(one, [row.title for row in ranked])
                            for one in figures_of_upgrade(page, upgrade, shots)
                        ],
                    }
                )
            seen |= shown
        texts = (page.note, page.likeness, page.legend)
        found.append(
            {
                "title": one_line(page.title),
                "notes": [one_line(text, 2000) for text in texts if text],
                "tasks": [one_line(page.task_title(task), 40) for task in page.expected.tasks],
                "boards": boards,
                "figures": list(map(_figure, figures_of_suite(page))),
                "parts": [
                    {
                        "title": PARTS[name],
                        "html": _LINK.sub(r"\1", to_html(render_suite(page, only=name))),
                    }
                    for name in extra_parts(page)
                ],
                "methods": {
                    name: _about(page, rows, settings) for name, rows in rows_by_method(page)
                },
                "gaps": _gaps(page),
            }
        )
    return found


def _row(page: SuitePage, row: Ranked, place: int) -> list[Any]:
    """Name and kind of a method, its transfer, what columns show, and ``MEASURES`` by dataset."""
    # A text that is sorted by itself stands once.
    cells = [one.text if one.value == one.text else one for one in row_cells(row, place)]
    tasks = page.expected.tasks
    sets = [[rounded(row.value(one, task), 1) for task in tasks] for one in MEASURES]
    return [row.figures["method"], row.kind, one_line(row.track), cells, sets]


def _figure(one: PlannedFigure, titles: Sequence[str] = ()) -> Json:
    """A figure; of its records each name stands once, and a row of the ranking is a number."""
    values = one.shown.values
    if titles:
        places = {title: place for place, title in enumerate(titles)}
        values = [{"row": places[value["title"]], **value} for value in values]
    known = ("title", "kind") if titles else ()
    names = dict.fromkeys(name for value in values for name in value)
    fields = [name for name in names if name not in known]
    return {
        "kind": one.section,
        "heading": one.heading,
        "missing": one.missing,
        "signals": one.shown.signals,
        "fields": fields,
        "values": [[value.get(name) for name in fields] for value in values],
    }


def _about(page: SuitePage, rows: Sequence[Ranked], settings: dict[str, int]) -> list[Any]:
    """What is said of a method: pieces by their number in ``settings``, and the rest."""
    paragraphs = "\n".join(about_method(page, rows)).split("\n\n")
    papers = "\n".join(link_definitions(row.figures["paper"] for row in rows))
    same, own = ("\n\n".join([*part, papers]) for part in (paragraphs[:2], paragraphs[2:]))
    pieces = to_html(same).split("; ")  # most settings are those of other methods and suites, too
    return [[settings.setdefault(one, len(settings)) for one in pieces], to_html(own)]


def to_html(markdown: str) -> str:
    """Markdown of this project's pages as HTML; markup in it is shown as text.

    A cell of text has a class, in place of the style that the policy of the page forbids.
    """
    html = _AFTER_BLOCK.sub(r"\1", _MARKDOWN.render(markdown))
    html = _LINK_INTO_CLONE.sub(r"\1", html)  # the site is published without the clone
    html = html.replace("<td>", '<td class="text">').replace("<th>", '<th class="text">')
    html = html.replace(' style="text-align:right"', "")
    return re.sub(r"</t[dhr]>", "", html)  # HTML does without


def _gaps(page: SuitePage) -> list[list[str]]:
    """Method, what, rows and reason of all that failed, is missing, or was refused."""
    found = [[title, kind, count, reason] for title, kind, count, _, reason in gap_rows(page)]
    for upgrade, shots in product(page.expected.upgrades, page.expected.shots):
        for row in page.all_ranks(upgrade, shots):
            if refused := row.figures["refused"]:
                reason = "; ".join(row.figures["reasons"])
                found.append([row.title, "not transferable", f"{refused:,}", reason])
    return [[one_line(text) or NOTHING for text in row] for row in found]
