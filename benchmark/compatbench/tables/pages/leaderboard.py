"""The Markdown pages, from ``results/`` and the cards: the same results give the same bytes.

``leaderboard.md`` has the best of each upgrade, ``results/<suite>/README.md`` says what a suite is
and where its tables are, and ``README.md`` has a short ranking. A clone has a page for each method,
``docs/methods/<name>.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compatbench.errors import CompatbenchError
from compatbench.files.kinds import kind_of
from compatbench.results.gaps import find_disagreements
from compatbench.results.result_files import FIGURES, PAGE, RESULTS, ResultFiles, check_name
from compatbench.tables import markdown, survival_tables
from compatbench.tables.figures.figure_kinds import FigureKind, list_kinds
from compatbench.tables.flags import list_flags
from compatbench.tables.pages.method_pages import render_method_pages
from compatbench.tables.pages.report_site import Report, write_site
from compatbench.tables.pages.sections import TABLES, list_sections, list_sections_below
from compatbench.tables.suite_page import MARKS, SuitePage, published_pages, suites_with_results
from compatbench.tables.templates import render_markdown, write_changed

LEADERBOARD = "leaderboard.md"
METHOD_PAGES = "docs/methods"  # of a clone
SECTION = "leaderboard"  # between these markers the README has its table


def report(out: str | Path = ".", check: bool = False) -> Report:
    """Write the leaderboard, the pages and the site of all results from ``results/``.

    ``leaderboard.md`` has the verdicts and rankings, ``results/<suite>/README.md`` every row of a
    suite, and the site ``results/report/`` everything. A clone also has a page for each method.
    Nothing is trained, and the same results give the same bytes. A figure without results is left
    out, and so is the leaderboard if no suite here is published.

    Args:
        out: as for ``run``.
        check: write nothing, and fail if a page, a file of the site or a figure is not, byte for
            byte, what is made here.

    Returns:
        The files of the site with their bytes, the pages, and what the results do not give.

    Raises:
        CompatbenchError: no results, a broken results file, or a file that is out of date.
    """
    out = Path(out)
    files = ResultFiles(out)
    pages = published_pages(files)
    made = write_site(files, pages, check)
    if not pages:
        return replace(made, left_out=(f"no leaderboard: {_why_no_pages(out)}", *made.left_out))
    return replace(made, pages=tuple(write_pages(out, pages, check)))


def render_pages(out: Path, pages: Sequence[SuitePage]) -> dict[Path, str]:
    """Return ``leaderboard.md``, pages of suites and methods, and a ``README.md`` with a ranking.

    Args:
        pages: the published ones.
    """
    if not pages:
        raise CompatbenchError(_why_no_pages(out))
    figures = find_figures(out)
    folder = out / METHOD_PAGES
    rendered = {out / LEADERBOARD: render_leaderboard(pages, figures, folder.is_dir())}
    for published in pages:
        for page in (published, *published.sections):
            if page.results.methods:
                suite = out / RESULTS / check_name(page.card.name, "suite")
                rendered[suite / PAGE] = render_suite(page, figures)
    if folder.is_dir():
        for name, text in render_method_pages(pages).items():
            rendered[folder / f"{check_name(name, 'method')}.md"] = text
    text = read_readme(out)
    if text:
        rendered[out / "README.md"] = markdown.fill_section(text, SECTION, render_summary(pages[0]))
    return rendered


def find_figures(out: Path) -> dict[str, FigureKind]:
    """Return the figures that have been drawn: the names of files, with their kinds."""
    kinds = list_kinds()
    figures = {}
    for path in (out / RESULTS / FIGURES).glob("*-*-*.svg"):
        kind = kinds.get(path.stem.rsplit("-", 2)[1])
        if kind is not None:
            figures[path.stem] = kind
    return figures


def write_caption(page: SuitePage, name: str, kind: FigureKind) -> str:
    """Return the caption of a figure: the upgrade, and what is shown."""
    number = int(name.rpartition("-")[2])
    upgrade = page.expected.upgrades[number - 1]
    return f"{page.path_title(upgrade)}. {kind.caption}"


def _why_no_pages(out: Path) -> str:
    names = ", ".join(suite.name for suite in suites_with_results(out))
    if names:
        return f"{out / RESULTS} holds results of {names} alone, which no page shows ('publish')"
    return f"{out / RESULTS} holds no results; start with 'compatbench run'"


def read_readme(out: Path) -> str:
    """Return the text of a ``README.md`` that has a place marked for the ranking; else nothing."""
    readme = out / "README.md"
    mark = f"<!-- {SECTION}:"
    if kind_of(readme) != "file" or mark.encode() not in readme.read_bytes():
        return ""
    try:
        return readme.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        where = f"the byte at {error.start:,} is none of it"
        raise CompatbenchError(f"{readme} is not UTF-8 ({where}); save it as UTF-8") from None


def write_pages(out: Path, pages: Sequence[SuitePage], check: bool = False) -> list[Path]:
    """Write the pages that have changed; with ``check``, raise an error for the first of them."""
    files = {path: text.encode() for path, text in render_pages(out, pages).items()}
    write_changed(files, check)
    return list(files)


def render_leaderboard(
    suites: Sequence[SuitePage], figures: Mapping[str, FigureKind] = {}, methods: bool = False
) -> str:
    """Return the whole of ``leaderboard.md``.

    Args:
        figures: those that have been drawn, as ``find_figures`` gives them.
        methods: link to the pages of methods.
    """
    real = [page for page in suites if page.is_reported]
    others = [page for page in suites if page not in real]
    shown = {"suites": suites, "figures": figures, "methods": methods}
    shown |= {"real": real, "miniatures": others}
    return _render("leaderboard.md.jinja", **shown, root="")


def render_summary(page: SuitePage) -> str:
    """Return what ``README.md`` shows of a suite: the verdicts, and what to try first."""
    return _render("summary.md.jinja", page=page, root="", on_site=False)


def render_suite(page: SuitePage, figures: Mapping[str, FigureKind] = {}) -> str:
    """Return ``results/<suite>/README.md``: what a suite is, where its tables are, its pictures."""
    shown = [name for name in sorted(figures) if name.rsplit("-", 2)[0] == page.card.name]
    return _render("suite.md.jinja", page=page, shown=shown, figures=figures, root="../../")


def _render(name: str, **context: Any) -> str:
    text = render_markdown(
        name,
        tables=TABLES,
        survival=survival_tables,
        sections=list_sections,
        sections_below=list_sections_below,
        find_disagreements=find_disagreements,
        list_flags=list_flags,
        marks=MARKS,
        write_caption=write_caption,
        **context,
    )
    return f"{text}\n\n{markdown.define_links(text)}".strip() + "\n"
