"""The report of a folder: its ``results/`` as figures and a page, written or checked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.atomic import write_atomic
from compatbench.pages.publish import RESULTS, suite_page
from compatbench.pages.report.canvas import is_current
from compatbench.pages.report.figures import FIGURES, plan_drawings
from compatbench.pages.report.page import render_report
from compatbench.pages.report.tidy import tidy_svg
from compatbench.pages.suitepage import SuitePage

REPORT = Path(RESULTS, "report.html")
ANALYSES = {
    "layers": "How far each layer of both towers has moved",
    "depth": "The same small module at each depth of the text tower",
}


@dataclass(frozen=True)
class Report:
    """All files of a report, by path.

    Attributes:
        left_out: lines on figures that the results do not give.
    """

    figures: dict[Path, bytes]
    page: tuple[Path, bytes]
    left_out: tuple[str, ...]


def report_pages(out: Path) -> list[SuitePage]:
    """The suites that a folder's report shows, those that the leaderboard shows first.

    The others are those that extend one of them, such as by shots or by steps. Where the
    leaderboard would show none, a report of a trial run has all suites that are there.

    Raises:
        CompatbenchError: no results, a broken card or results file.
    """
    folder = out / RESULTS
    if not folder.is_dir():
        raise CompatbenchError(
            f"{folder} is not there; give the folder that holds results/ with --out, or start "
            "with 'compatbench run'"
        )
    names = {path.name for path in folder.iterdir() if path.is_dir()} - {FIGURES.name}
    for name in sorted(names - set(suite_cards.names())):
        warnings.warn(f"{folder / name} is left out: no suite has that name", CompatbenchWarning, 2)
    cards = [suite_cards.read(name) for name in suite_cards.names() if name in names]
    found = [
        (card, page)
        for card in sorted(cards, key=_published_first)
        if (page := suite_page(card, out)).results.all
    ]
    if not found:
        raise CompatbenchError(f"{folder} holds no results; start with 'compatbench run'")
    published = {card.name for card, _ in found if card.publish is True}
    shown = [page for card, page in found if {card.name, card.extends} & published]
    return shown or [page for _, page in found]


def make_report(out: Path, keep: bool = False) -> Report:
    """The report of the results in a folder.

    Args:
        keep: whether a figure that is there and shows the same data stays as it is, even if
            another matplotlib drew it.

    Raises:
        CompatbenchError: no results, a broken card or results file.
    """
    pages = report_pages(out)
    drawings = plan_drawings(pages)
    figures: dict[str, bytes] = {}
    for one in drawings:
        if not one.missing:
            svg = one.render()
            path = _figure_path(out, one.name)
            old = path.read_bytes() if keep and path.is_file() else svg
            figures[one.name] = old if is_current(old, svg) else svg
    html = render_report(pages, drawings, figures, _read_analyses(out))
    return Report(
        {_figure_path(out, name): svg for name, svg in figures.items()},
        (out / REPORT, html.encode()),
        tuple(f"{one.name}.svg is left out: {one.missing}" for one in drawings if one.missing),
    )


def write_report(out: Path) -> Report:
    """Writes what has changed, and removes figures that the results no longer give.

    Raises:
        CompatbenchError: as ``make_report``, or a folder that cannot be written.
    """
    report = make_report(out)
    for path, content in [*report.figures.items(), report.page]:
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
    for path in _stray_figures(out, report):
        path.unlink()
    return report


def check_report(out: Path) -> Report:
    """Finds out whether the figures and the page are what the results give.

    Raises:
        CompatbenchError: as ``make_report``, or the first file that is not up to date.
    """
    report = make_report(out, keep=True)
    for path, content in [*report.figures.items(), report.page]:
        if not path.is_file() or path.read_bytes() != content:
            raise CompatbenchError(f"{path} is not what results/ gives; run 'compatbench report'")
    for path in _stray_figures(out, report):
        raise CompatbenchError(f"{path} is of no results here; run 'compatbench report'")
    return report


def _figure_path(out: Path, name: str) -> Path:
    return out / FIGURES / f"{name}.svg"


def _stray_figures(out: Path, report: Report) -> list[Path]:
    return sorted(set((out / FIGURES).glob("*.svg")) - set(report.figures))


def _published_first(card: SuiteCard) -> tuple[bool, str]:
    return card.publish is not True, card.name


def _read_analyses(out: Path) -> dict[str, bytes]:
    """The pictures of the analyses that lie beside the results, by caption."""
    found = {}
    for name, caption in ANALYSES.items():
        path = out / "docs" / "analysis" / f"{name}.svg"
        try:
            if path.is_file():
                found[caption] = tidy_svg(path.read_bytes(), (), caption).encode()
        except OSError as error:
            raise CompatbenchError(f"cannot read {path}: {error.strerror}") from None
        except (ElementTree.ParseError, UnicodeDecodeError) as error:
            raise CompatbenchError(
                f"{path} is no SVG ({error}); 'compatbench analyze page docs/analysis.md' makes it"
            ) from None
    return found
