"""The Markdown pages, from ``results/`` and the cards: the same results give the same bytes.

``leaderboard.md`` has the best of each upgrade, ``results/<suite>/README.md`` every table,
``results/<suite>/methods.md`` every method, and ``README.md`` a short ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compatbench.data.cards.shots import count_shots
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import kind_of
from compatbench.messages import count
from compatbench.results.expected import Upgrade
from compatbench.results.ranking_table import find_disagreements
from compatbench.results.ranks import ALPHA, Ranked, rank_datasets
from compatbench.results.result_files import FIGURES, PAGES, RESULTS, check_name
from compatbench.tables import markdown, method_tables, ranking, suite_tables
from compatbench.tables.figures.kinds import list_kinds
from compatbench.tables.numbers import percent
from compatbench.tables.pages.report_site import report
from compatbench.tables.pages.sections import TOP, list_sections, list_sections_below
from compatbench.tables.suite_page import MARKS, SuitePage, published_pages, suites_with_results
from compatbench.tables.templates import render_markdown, write_changed

LEADERBOARD = "leaderboard.md"
SECTION = "leaderboard"  # between these markers the README has its table


def leaderboard(out: str | Path = ".", check: bool = False) -> list[Path]:
    """Makes ``leaderboard.md`` and the pages of every suite again from ``results/``, byte for byte.

    Each suite has ``results/<suite>/README.md``, with every table, and ``methods.md``, with every
    method. The report and its figures are made as well.

    Args:
        out: as for ``run``.
        check: write nothing, and fail if a page or figure is not up to date.

    Returns:
        The pages.

    Raises:
        CompatbenchError: no results, a broken results file, or a page that is out of date.
    """
    out = Path(out)
    pages = published_pages(out)
    if check:  # the quick part first
        written = write_pages(out, pages, check)
        report(out, check, pages)
        return written
    report(out, check, pages)
    return write_pages(out, pages)


def render_pages(out: Path, pages: Sequence[SuitePage] | None = None) -> dict[Path, str]:
    """``leaderboard.md``, the pages of each suite, and the ranking in a ``README.md`` with a place.

    ``pages`` are the published ones, where they have been read.
    """
    pages = published_pages(out) if pages is None else pages
    if not pages:
        raise CompatbenchError(_why_no_pages(out))
    figures = find_figures(out)
    rendered = {out / LEADERBOARD: render_leaderboard(pages, figures)}
    for page in (each for suite in pages for each in (suite, *suite.sections)):
        if page.results.all:
            folder = out / RESULTS / check_name(page.name, "suite")
            texts = render_suite(page, figures), render_methods(page)
            rendered |= {folder / name: text for name, text in zip(PAGES, texts, strict=True)}
    if text := read_readme(out):
        summary = markdown.fill_section(text, SECTION, _summary(pages[0]))
        rendered[out / "README.md"] = summary
    return rendered


def find_figures(out: Path) -> dict[str, str]:
    """The figures that have been drawn: the name of a file, and what is to be seen."""
    kinds = {kind.name: kind.alt for kind in list_kinds()}
    names = [path.stem for path in (out / RESULTS / FIGURES).glob("*-*-*.svg")]
    return {name: kinds[kind] for name in names if (kind := name.rsplit("-", 2)[1]) in kinds}


def _why_no_pages(out: Path) -> str:
    if unpublished := [suite.name for suite in suites_with_results(out)]:
        names = ", ".join(unpublished)
        return f"{out / RESULTS} holds results of {names} alone, which no page shows ('publish')"
    return f"{out / RESULTS} holds no results; start with 'compatbench run'"


def read_readme(out: Path) -> str:
    """The text of a ``README.md`` that has a place marked for the ranking; else nothing."""
    readme, mark = out / "README.md", f"<!-- {SECTION}:"
    if kind_of(readme) != "file" or mark.encode() not in readme.read_bytes():
        return ""
    try:
        return readme.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        where = f"the byte at {error.start:,} is none of it"
        raise CompatbenchError(f"{readme} is not UTF-8 ({where}); save it as UTF-8") from None


def write_pages(
    out: Path, pages: Sequence[SuitePage] | None = None, check: bool = False
) -> list[Path]:
    """Writes the pages that have changed; a check raises for the first of them instead."""
    files = {path: text.encode() for path, text in render_pages(out, pages).items()}
    write_changed(files, "compatbench leaderboard", check)
    return list(files)


def render_leaderboard(suites: Sequence[SuitePage], figures: Mapping[str, str] = {}) -> str:
    """The whole of ``leaderboard.md``, with those of its figures that exist."""
    return _render("leaderboard.md.jinja", suites=suites, figures=figures, root="", top=TOP)


def render_suite(page: SuitePage, figures: Mapping[str, str] = {}) -> str:
    """``results/<suite>/README.md``: every table of one suite."""
    return _render("suite.md.jinja", page=page, figures=figures, root="../../")


def render_methods(page: SuitePage) -> str:
    """``results/<suite>/methods.md``: every method of one suite."""
    return _render("methods.md.jinja", page=page)


def _render(name: str, **context: Any) -> str:
    text = render_markdown(
        name,
        tables=vars(suite_tables) | vars(method_tables) | vars(ranking),
        sections=list_sections,
        sections_below=list_sections_below,
        ALPHA=ALPHA,
        find_disagreements=find_disagreements,
        rank_datasets=rank_datasets,
        advice=_advice,
        apart=_ranked_apart,
        **context,
    )
    return f"{text}\n\n{markdown.define_links(text)}".strip() + "\n"


def _advice(page: SuitePage) -> str:
    """Which method to choose: whatever the upgrade, and for each upgrade of the suite."""
    upgrades, shots = page.expected.upgrades, max(page.expected.shots)
    ranks: list[dict[str, Ranked]] = [
        {
            row.standing.info.name: row
            for row in page.ranks(upgrade, shots)
            if row.rank and row.standing.info.learns and not row.sees_tests
        }
        for upgrade in upgrades
    ]
    lowest = {
        name: min(rows[name].value("h") or 0.0 for rows in ranks)
        for name in ranks[0]
        if all(name in rows for rows in ranks)
    }
    if not lowest:
        return ""

    def safest(*kinds: str) -> str:
        names = [name for name in lowest if ranks[0][name].kind in kinds]
        name = max(names, key=lowest.__getitem__, default=None)
        return "" if name is None else f"{_bold(ranks[0][name])} ({percent(lowest[name])})"

    what = "H" if len(upgrades) == 1 else f"lowest H over the {len(upgrades)} upgrades"
    text = f"**Which method?** Judged by the {what}, choose {safest('shallow', 'deep')}"
    if prompts := safest("shallow"):
        text += f", or of prompts and other shallow modules {prompts}"
    firsts = [
        f"{_bold(row)} ({percent(row.value('h'))}) for {_arrow(page, upgrade)}"
        for upgrade, rows in zip(upgrades, ranks, strict=True)
        for row in list(rows.values())[:1]
    ]
    alone = f" If the upgrade is known: {'; '.join(firsts)}." if len(upgrades) > 1 else ""
    return f"{text}.{alone}"


def _bold(row: Ranked) -> str:
    return f"**{markdown.escape(row.standing.info.title)}**"


def _ranked_apart(page: SuitePage, upgrade: Upgrade) -> str:
    """The best of the rankings that give a method more, and what cannot be attached."""
    rows = page.all_ranks(upgrade, max(page.expected.shots))
    firsts = {row.track: row for row in reversed(rows) if row.track and row.rank}
    parts = [
        f"*{markdown.escape(track)}* {_bold(row)} (H {percent(row.value('h'))})"
        for track, row in sorted(firsts.items())
        if not (row.transfer and row.sees_tests)
    ]
    text = f"Given more, and ranked apart: {', '.join(parts)}. " * bool(parts)
    rest = [row for row in rows if not row.track and row.standing.state != "complete"]
    for state in dict.fromkeys(row.standing.state for row in rest):
        names = ", ".join(row.title for row in rest if row.standing.state == state)
        text += f"{state.capitalize()}: {markdown.escape(names, 400)}. "
    return text.rstrip()


def _arrow(page: SuitePage, upgrade: Upgrade) -> str:
    return " → ".join(markdown.escape(page.backbone_title(name)) for name in upgrade)


def _summary(page: SuitePage) -> str:
    upgrade, shots = page.expected.upgrades[0], max(page.expected.shots)
    rows = [row for row in page.ranks(upgrade, shots) if not row.sees_tests]
    shown = ranking.ranking_table(rows, ranking.SHORT, TOP - 1, floors=1)
    table = markdown.render_table(shown)
    tasks, seeds = count(len(page.expected.tasks), "task"), count(len(page.expected.seeds), "seed")
    paragraphs = [
        f"{_arrow(page, upgrade)}: {count_shots(shots)}, {tasks}, {seeds}, top-1 in percent"
        f"{page.mark and f' ({page.mark})'}.",
        table,
        " ".join(f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in table),
        f"All {len(rows)} methods and the other upgrades: [{LEADERBOARD}]({LEADERBOARD}).",
        _advice(page),
    ]
    return "\n\n".join([*paragraphs, markdown.define_links("\n".join(paragraphs))])
