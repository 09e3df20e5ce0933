"""``results/report.html`` and the figures beside it: one page that needs no other file.

The same results give the same bytes. Every text of a result file or card goes through the
template's escaping, and a policy in the page allows its own script and style, by their hashes,
and no request.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import compatbench
from compatbench.data.shots import show_shots
from compatbench.errors import CompatbenchError, one_line
from compatbench.files.hashes import sha256_bytes
from compatbench.files.kinds import kind_of, require
from compatbench.pages.figures.plan import TITLES, PlannedFigure, is_current, plan_figures
from compatbench.pages.figures.style import MARKS
from compatbench.pages.figures.svg import inline_svg
from compatbench.pages.markdown import NOTHING, paper_id
from compatbench.pages.ranking import COLUMNS, gap_rows, row_cells
from compatbench.pages.suite_page import (
    SuitePage,
    published_pages,
    read_suite_page,
    suites_with_results,
)
from compatbench.pages.templates import read_source, template, write_changed
from compatbench.results.rows import write_csv
from compatbench.results.store import FIGURES, REPORT, RESULTS, join_provenance


@dataclass(frozen=True)
class Report:
    """The figures and the page of a report, and lines on figures that the results do not give."""

    files: dict[Path, bytes]
    left_out: tuple[str, ...]


def report_pages(out: Path, published: Sequence[SuitePage] | None = None) -> list[SuitePage]:
    """The suites of the leaderboard, each with its sections behind it; without any, all suites."""
    shown = published_pages(out) if published is None else published
    pages = [one for page in shown for one in (page, *page.sections)]
    pages = pages or [read_suite_page(card, out) for card in suites_with_results(out)]
    if not (measured := [page for page in pages if page.results.all]):
        raise CompatbenchError(
            f"{out / RESULTS} holds no results; give the folder that holds results/ with --out, "
            "or start with 'compatbench run'"
        )
    return measured


def make_report(
    out: Path, check: bool = False, published: Sequence[SuitePage] | None = None
) -> Report:
    """Writes the files that have changed, and removes figures that the results no longer give.

    A check raises for the first of them instead. A figure that shows the same data is up to date,
    even if another version of matplotlib drew it. ``published`` saves reading the results again.
    """
    pages, folder = report_pages(out, published), require(out / RESULTS / FIGURES, "folder")
    planned = plan_figures(pages)
    files: dict[Path, bytes] = {}
    for one in planned:
        if not one.missing:
            path, svg = folder / f"{one.name}.svg", one.render()
            old = path.read_bytes() if check and kind_of(path) == "file" else b""
            files[path] = old if is_current(old, svg) else svg
    figures = {path.stem: svg for path, svg in files.items()}
    files[out / REPORT] = render_report(pages, planned, figures).encode()
    write_changed(files, "compatbench report", check)
    for path in sorted(set(folder.glob("*.svg")) - set(files)):
        if check:
            raise CompatbenchError(f"{path} belongs to no results here; run 'compatbench report'")
        require(path).unlink()
    left_out = [f"{one.name}.svg is left out: {one.missing}" for one in planned if one.missing]
    return Report(files, tuple(left_out))


def render_report(
    pages: Sequence[SuitePage], planned: Sequence[PlannedFigure], figures: Mapping[str, bytes]
) -> str:
    """The whole page: its suites in this order, and the SVG of the planned figures by name."""
    inline = {name: inline_svg(svg.decode(), name) for name, svg in figures.items()}
    style = "\n".join([read_source("report.css"), *(rules for _, rules in inline.values())])
    script = read_source("report.js")
    text = template("report.html.jinja", autoescape=True).render(
        notes=[
            one_line(text, 2000)
            for page in pages[:1]
            for text in (page.note, page.likeness)
            if text
        ]
        + sorted({page.legend for page in pages if page.legend}),
        titles=TITLES,
        figures={kind: [one for one in planned if one.section == kind] for kind in TITLES},
        inline=inline,
        boards=all_boards(pages),
        columns=COLUMNS,
        kinds=[(kind, label) for kind, (_, _, label) in MARKS.items()],
        gaps=_gaps(pages),
        suites=[_suite_row(page) for page in pages],
        versions=_versions(pages),
        commands=[page.run_command() for page in pages],
        style=style,
        script=script,
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
    )
    return text.rstrip() + "\n"


def all_boards(pages: Sequence[SuitePage]) -> list[dict[str, Any]]:
    """The rankings of all suites as plain text: their upgrades in order, the most shots first.

    A suite that measures the same cells for another purpose repeats no board.
    """
    boards: list[dict[str, Any]] = []
    seen: set[tuple[str, str, str]] = set()
    for page in pages:
        most_first = sorted(page.expected.shots, reverse=True)
        for upgrade, shots in product(page.expected.upgrades, most_first):
            rows = [
                {
                    "kind": row.kind,
                    "paper": paper_id(row.figures["paper"]) or "",
                    "cells": row_cells(row, place),
                }
                for place, row in enumerate(page.all_ranks(upgrade, shots), 1)
            ]
            title, count = one_line(page.path_title(upgrade)), str(show_shots(shots))
            shown = {(title, count, repr(row["cells"][1:])) for row in rows}
            if not shown <= seen:
                suite = one_line(page.title)
                boards.append(dict(suite=suite, upgrade=title, shots=count, rows=rows))
            seen |= shown
    return boards


def _gaps(pages: Sequence[SuitePage]) -> list[list[str]]:
    """Suite, method, what, rows and reason of all that failed, is missing, or was refused."""
    found = []
    for page in pages:
        for title, kind, count, _, reason in gap_rows(page):
            found.append([page.name, title, kind, count, reason])
        for upgrade, shots in product(page.expected.upgrades, page.expected.shots):
            for row in page.all_ranks(upgrade, shots):
                if refused := row.figures["refused"]:
                    what, reason = "not transferable", "; ".join(row.figures["reasons"])
                    found.append([page.name, row.title, what, f"{refused:,}", reason])
    return [[one_line(text) or NOTHING for text in row] for row in found]


def _suite_row(page: SuitePage) -> tuple[str, ...]:
    methods = page.results.all
    texts = [write_csv(one.rows) + write_csv(one.costs) for one in methods]
    return (
        one_line(page.title),
        page.name,
        f"{len(methods)}",
        f"{sum(len(one.rows) for one in methods):,}",
        f"{len(page.expected.tasks)}",
        ", ".join(str(show_shots(count)) for count in page.expected.shots),
        ", ".join(map(str, page.expected.seeds)),
        sha256_bytes(*(text.encode() for text in texts))[:16],
    )


def _versions(pages: Sequence[SuitePage]) -> list[tuple[str, str]]:
    joined = join_provenance(method.provenance for page in pages for method in page.results.all)
    rows = [(one_line(name), one_line(", ".join(values))) for name, values in joined.items()]
    return [*rows, ("this page", f"compatbench {compatbench.__version__}")]


def _source_hash(text: str) -> str:
    """What a content security policy calls an inline script or style."""
    digest = bytes.fromhex(sha256_bytes(text.encode()))
    return f"sha256-{base64.b64encode(digest).decode()}"
