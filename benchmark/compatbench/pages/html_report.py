"""``results/report.html`` and the figures beside it: one page that needs no other file.

The same results give the same bytes. Every text of a result file or card goes through the
template's escaping, and a policy in the page allows its own script and style, by their hashes,
and no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import compatbench
from compatbench.data.shots import show_shots
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import sha256_bytes
from compatbench.pages.figures.compact_svg import compact_svg, inline_svg
from compatbench.pages.figures.plan import TITLES, PlannedFigure, plan_figures
from compatbench.pages.figures.style import COLOUR_VARIABLES, MARKS, is_current
from compatbench.pages.markdown import NOTHING, one_line, paper_id
from compatbench.pages.ranking import (
    COLUMNS,
    Cell,
    RankingRow,
    gap_rows,
    ranking_rows,
)
from compatbench.pages.suite_page import (
    FIGURES,
    RESULTS,
    SuitePage,
    read_suite_page,
    suites_with_results,
)
from compatbench.pages.templates import read_source, template
from compatbench.results.rows import Cost, Row, write_csv
from compatbench.results.store import check_name, join_provenance

if TYPE_CHECKING:
    from markupsafe import Markup

REPORT = Path(RESULTS, "report.html")
# Figures that other commands draw in docs/analysis/, and their captions.
ANALYSES = {
    "layers": "How far each layer of both towers has moved",
    "depth": "The same small module at each depth of the text tower",
}


@dataclass(frozen=True)
class Report:
    """The page and the figures of a report.

    Attributes:
        files: by path, the page last.
        left_out: lines on figures that the results do not give.
    """

    files: dict[Path, bytes]
    left_out: tuple[str, ...]


def report_pages(out: Path) -> list[SuitePage]:
    """The suites that a folder's report shows, those that the leaderboard shows first.

    The others are those that extend one of them. If the leaderboard would show none, the report
    has all suites that are there.

    Raises:
        CompatbenchError: no results, a broken card or results file.
    """
    cards = sorted(suites_with_results(out), key=lambda card: (card.publish is not True, card.name))
    pages = [(card, read_suite_page(card, out)) for card in cards]
    found = [(card, page) for card, page in pages if page.measured]
    if not found:
        raise CompatbenchError(
            f"{out / RESULTS} holds no results; give the folder that holds results/ with --out, "
            "or start with 'compatbench run'"
        )
    published = {card.name for card, _ in found if card.publish is True}
    shown = [page for card, page in found if {card.name, card.extends} & published]
    return shown or [page for _, page in found]


def make_report(out: Path, keep: bool = False) -> Report:
    """The report of the results in a folder.

    Args:
        keep: keep a figure that exists and shows the same data, even if another version of
            matplotlib drew it.

    Raises:
        CompatbenchError: no results, a broken card or results file.
    """
    pages = report_pages(out)
    planned = plan_figures(pages)
    figures: dict[str, bytes] = {}
    for one in planned:
        if not one.missing:
            svg, path = one.render(), _figure_path(out, one.name)
            old = path.read_bytes() if keep and path.is_file() else svg
            figures[one.name] = old if is_current(old, svg) else svg
    html = render_report(pages, planned, figures, _read_analyses(out))
    files = {_figure_path(out, name): svg for name, svg in figures.items()}
    left_out = [f"{one.name}.svg is left out: {one.missing}" for one in planned if one.missing]
    return Report({**files, out / REPORT: html.encode()}, tuple(left_out))


def write_report(out: Path) -> Report:
    """Writes what has changed, and removes figures that the results no longer give.

    Raises:
        CompatbenchError: as ``make_report``, or a folder that cannot be written.
    """
    report = make_report(out)
    for path, content in report.files.items():
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
    for path in _stray_figures(out, report):
        path.unlink()
    return report


def check_report(out: Path) -> Report:
    """Checks that the figures and the page are what the results give.

    Raises:
        CompatbenchError: as ``make_report``, or the first file that is not up to date.
    """
    report = make_report(out, keep=True)
    for path, content in report.files.items():
        if not path.is_file() or path.read_bytes() != content:
            raise CompatbenchError(f"{path} is not what results/ gives; run 'compatbench report'")
    for path in _stray_figures(out, report):
        raise CompatbenchError(f"{path} belongs to no results here; run 'compatbench report'")
    return report


def render_report(
    pages: Sequence[SuitePage],
    planned: Sequence[PlannedFigure],
    figures: Mapping[str, bytes],
    analyses: Mapping[str, bytes],
) -> str:
    """The whole page.

    Args:
        pages: suites with results, the first to be shown first.
        planned: of ``plan_figures``.
        figures: SVG of every planned figure that is not missing, by its name.
        analyses: further figures by caption, SVG files made by other commands.
    """
    inline = {
        name: inline_svg(svg.decode(), f"f{number}", COLOUR_VARIABLES)
        for number, (name, svg) in enumerate(figures.items())
    }
    style = "\n".join([read_source("report.css"), *(rules for _, rules in inline.values())])
    script = read_source("report.js")
    boards = all_boards(pages)
    text = template("report.html.jinja", autoescape=True).render(
        notes=list(dict.fromkeys(one_line(page.note, 2000) for page in pages[:1] if page.note)),
        titles=TITLES,
        figures={kind: [one for one in planned if one.section == kind] for kind in TITLES},
        markup={name: _raw(markup) for name, (markup, _) in inline.items()},
        # As an image a file can run nothing, whatever it holds.
        analyses={caption: base64.b64encode(svg).decode() for caption, svg in analyses.items()},
        first=boards[0],
        columns=COLUMNS,
        kinds=[(kind, label) for kind, (_, _, label) in MARKS.items()],
        gaps=_gaps(pages),
        suites=[_suite_row(page) for page in pages],
        versions=_versions(pages),
        commands=[f"compatbench run --suite {check_name(page.name, 'suite')}" for page in pages],
        data=_json(boards),
        style=_raw(style),
        script=_raw(script),
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
    )
    return text.rstrip() + "\n"


def all_boards(pages: Sequence[SuitePage]) -> list[dict[str, Any]]:
    """The rankings of all suites as plain text: their upgrades in order, the most shots first.

    A suite that measures the same cells for another purpose repeats no board.
    """
    boards: list[dict[str, Any]] = []
    seen: dict[tuple[str, str], set[str]] = {}
    for page in pages:
        for upgrade in page.expected.upgrades:
            for shots in sorted(page.expected.shots, reverse=True):
                rows = [_board_row(row) for row in ranking_rows(page, upgrade, shots)]
                title, count = one_line(page.path_title(upgrade)), str(show_shots(shots))
                known = seen.setdefault((title, count), set())
                shown = {repr(row["cells"][1:]) for row in rows}
                if not shown <= known:
                    suite = one_line(page.title)
                    boards.append(dict(suite=suite, upgrade=title, shots=count, rows=rows))
                known |= shown
    return boards


def _board_row(row: RankingRow) -> dict[str, Any]:
    """A row for the page's script: every cell as [text, value], or [text] if that is the value."""

    def pair(cell: Cell) -> list[float | str | None]:
        return [cell.text] if isinstance(cell.value, str) else [cell.text, cell.value]

    paper = paper_id(row.figures["paper"]) or ""
    cells = [pair(column.cell(row)) for column in COLUMNS]
    return {"kind": row.kind, "paper": paper, "cells": cells}


def _gaps(pages: Sequence[SuitePage]) -> list[list[str]]:
    """Suite, method, what, rows and reason of all that failed, is missing, or was refused."""
    found = []
    for page in pages:
        for title, kind, count, _, reason in gap_rows(page):
            found.append([page.name, title, kind, count, reason])
        for upgrade in page.expected.upgrades:
            for shots in page.expected.shots:
                for row in ranking_rows(page, upgrade, shots):
                    if refused := row.figures["refused"]:
                        reason = "; ".join(row.figures["reasons"])
                        found.append(
                            [page.name, row.title, "not transferable", f"{refused:,}", reason]
                        )
    return [[one_line(text) or NOTHING for text in row] for row in found]


def _suite_row(page: SuitePage) -> tuple[str, ...]:
    methods = page.measured
    texts = [write_csv(one.rows, Row) + write_csv(one.costs, Cost) for one in methods]
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
    methods = [method for page in pages for method in page.measured]
    joined = join_provenance(method.provenance for method in methods)
    rows = [(one_line(name), one_line(", ".join(values))) for name, values in joined.items()]
    return [*rows, ("this page", f"compatbench {compatbench.__version__}")]


def _json(value: Any) -> Markup:
    """JSON that can stand in a script element: no ``<``, so that nothing can end it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return _raw(text)


def _source_hash(text: str) -> str:
    """What a content security policy calls an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _raw(markup: str) -> Markup:
    from markupsafe import Markup

    return Markup(markup)


def _figure_path(out: Path, name: str) -> Path:
    return out / RESULTS / FIGURES / f"{name}.svg"


def _stray_figures(out: Path, report: Report) -> list[Path]:
    return sorted(set((out / RESULTS / FIGURES).glob("*.svg")) - set(report.files))


def _read_analyses(out: Path) -> dict[str, bytes]:
    """The figures of the analyses that lie beside the results, by caption."""
    found = {}
    for name, caption in ANALYSES.items():
        path = out / "docs" / "analysis" / f"{name}.svg"
        try:
            if path.is_file():
                found[caption] = compact_svg(path.read_bytes(), (), caption).encode()
        except OSError as error:
            raise CompatbenchError(f"cannot read {path}: {error.strerror}") from None
        except (ElementTree.ParseError, UnicodeDecodeError) as error:
            raise CompatbenchError(
                f"{path} is no SVG ({error}); 'compatbench analyze page docs/analysis.md' makes it"
            ) from None
    return found
