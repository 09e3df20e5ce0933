"""The Markdown pages, from ``results/`` and the cards: the same results give the same bytes.

``leaderboard.md`` has the best of each upgrade, ``results/<suite>/README.md`` every table,
``results/<suite>/methods.md`` every method, and ``README.md`` a short ranking.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from compatbench.data.cards.shots import count_shots, show_shots
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import kind_of
from compatbench.messages import count
from compatbench.results.expected import Upgrade
from compatbench.results.ranking_table import find_disagreements
from compatbench.results.ranks import ALPHA, Ranked, rank_datasets, rank_upgrades
from compatbench.results.store import FIGURES, PAGES, RESULTS, check_name
from compatbench.tables import class_tables, markdown, method_tables, price_tables, tables
from compatbench.tables.markdown import percent
from compatbench.tables.ranking import explain_unranked
from compatbench.tables.retrieval_tables import read_indexes
from compatbench.tables.suite_page import MARKS, SuitePage, published_pages
from compatbench.tables.templates import template, write_changed

LEADERBOARD = "leaderboard.md"
SHOWN = 10  # rows of an upgrade; on the leaderboard the floors come on top
SHORT = ("Rank", "Method", "Source", "Target", "H", "Gain")  # the README's columns
# What a suite may measure besides rankings, in the order of its page.
PARTS = {
    "paths": "Step by step",
    "shots": "By shots",
    "ablation": "Ablation",
    "retained": "Compared with retraining",
    "groups": "By kind of upgrade",
    "price": "The price of an upgrade",
    "classes": "Known and other classes",
}
SECTION = "leaderboard"  # between these markers the README has its table


def render_pages(out: Path, pages: Sequence[SuitePage] | None = None) -> dict[Path, str]:
    """``leaderboard.md``, the pages of each suite, and the ranking in a ``README.md`` with a place.

    ``pages`` are the published ones, where they have been read.
    """
    pages = published_pages(out) if pages is None else pages
    if not pages:
        raise CompatbenchError(f"{out / RESULTS} holds no results; start with 'compatbench run'")
    figures = {path.stem for path in (out / RESULTS / FIGURES).glob("*.svg")}
    rendered = {out / LEADERBOARD: render_leaderboard(pages, figures, read_indexes(out))}
    for page in (one for suite in pages for one in (suite, *suite.sections)):
        if page.results.all:
            folder = out / RESULTS / check_name(page.name, "suite")
            texts = render_suite(page, figures), render_methods(page)
            rendered |= {folder / name: text for name, text in zip(PAGES, texts, strict=True)}
    if text := read_readme(out):
        summary = markdown.fill_section(text, SECTION, _summary(pages[0]))
        rendered[out / "README.md"] = summary
    return rendered


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


def render_leaderboard(
    suites: Sequence[SuitePage],
    figures: Collection[str] = (),
    indexes: Mapping[str, list[str]] = {},
) -> str:
    """The whole of ``leaderboard.md``, with those of its figures that exist.

    ``indexes`` is what ``read_indexes`` gives.
    """
    given = {"suites": suites, "figures": figures, "indexes": indexes}
    return _render("leaderboard.md.jinja", **given, root="", top=SHOWN)


def render_suite(page: SuitePage, figures: Collection[str] = (), **only: str) -> str:
    """``results/<suite>/README.md``: every table of one suite; or ``only`` one of ``PARTS``."""
    return _render("suite.md.jinja", page=page, figures=figures, root="../../", **only)


def render_methods(page: SuitePage) -> str:
    """``results/<suite>/methods.md``: every method of one suite."""
    return _render("methods.md.jinja", page=page)


def _render(name: str, **context: Any) -> str:
    text = template(name, autoescape=False, **_FILTERS).render(
        tables=vars(tables) | vars(price_tables) | vars(method_tables) | vars(class_tables),
        PARTS=PARTS,
        ALPHA=ALPHA,
        extra_parts=extra_parts,
        explain_unranked=explain_unranked,
        find_disagreements=find_disagreements,
        rank_datasets=rank_datasets,
        rank_upgrades=rank_upgrades,
        advice=_advice,
        apart=_ranked_apart,
        by_method=method_tables.rows_by_method,
        **context,
    )
    return re.sub(r"\n{3,}", "\n\n", f"{text.strip()}\n\n{_links(text)}").strip() + "\n"


def _links(text: str) -> str:
    """The targets of the papers that a page refers to."""
    papers = (f"arXiv:{one}" for one in re.findall(r"\]\[(\d{4}\.\d{4,5})\]", text))
    return "\n".join(markdown.link_definitions(papers))


def extra_parts(page: SuitePage) -> list[str]:
    """What a suite measures besides rankings, in the order of ``PARTS``."""
    there = {
        "paths": page.paths,
        "shots": len(page.expected.shots) > 1,
        "ablation": page.configs.keys() & page.results.methods,
        "retained": page.expected.retrained,
        "groups": page.groups,
        "price": price_tables.has_prices(page),
        "classes": class_tables.has_other_classes(page),
    }
    return [name for name in PARTS if there[name]]


# Text goes into Markdown through "md", "code" or "summary" only.
_FILTERS = {
    "md": markdown.escape,
    "code": markdown.code,
    "summary": markdown.escape_summary,
    "backbone": lambda name, page: page.backbone_title(name),
    "count": lambda items, noun: count(len(items), noun),
    "shots": lambda count: str(show_shots(count)),
    "count_shots": count_shots,
    "slug": markdown.slug,
}


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
        name = max(names, key=lambda one: lowest[one], default=None)
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
    lines = tables.ranking_table(rows, SHOWN - 1, floors=1, columns=SHORT)
    tasks, seeds = count(len(page.expected.tasks), "task"), count(len(page.expected.seeds), "seed")
    text = "\n".join(
        [
            f"{_arrow(page, upgrade)}: {count_shots(shots)}, {tasks}, {seeds}, top-1 in percent"
            f"{page.mark and f' ({page.mark})'}.",
            *("", *lines, ""),
            " ".join(f"{mark} {what}" for mark, what in MARKS.items() if mark in "".join(lines)),
            "",
            f"All {len(rows)} methods and the other upgrades: [{LEADERBOARD}]({LEADERBOARD}).",
            *("", _advice(page), ""),
        ]
    )
    return f"{text}\n{_links(text)}"
