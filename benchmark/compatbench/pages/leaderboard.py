"""``leaderboard.md`` and the README's short ranking, from ``results/`` and the cards.

The same results give the same bytes. The layout and the text of the page are in
``leaderboard.md.jinja``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from compatbench.data.shots import count_shots, show_shots
from compatbench.errors import CompatbenchError, one_line
from compatbench.files.kinds import kind_of
from compatbench.pages import markdown, price_tables, settings_tables, tables
from compatbench.pages.ranking import explain_unranked
from compatbench.pages.suite_page import SuitePage, published_pages
from compatbench.pages.templates import template, write_changed
from compatbench.results.ranking_table import find_disagreements
from compatbench.results.ranks import rank_upgrades
from compatbench.results.store import FIGURES, RESULTS, check_name

LEADERBOARD = "leaderboard.md"
SHOWN = 10  # methods in the README's table, besides the floor
SECTION = "leaderboard"  # between these markers the README has its table


def render_pages(out: Path, pages: Sequence[SuitePage] | None = None) -> dict[Path, str]:
    """``leaderboard.md`` and, if a ``README.md`` has a place marked for it, its short ranking.

    ``pages`` are the published ones, where they have been read.
    """
    pages = published_pages(out) if pages is None else pages
    if not pages:
        raise CompatbenchError(f"{out / RESULTS} holds no results; start with 'compatbench run'")
    figures = {path.stem for path in (out / RESULTS / FIGURES).glob("*.svg")}
    rendered = {out / LEADERBOARD: render_leaderboard(pages, figures)}
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


def render_leaderboard(suites: Sequence[SuitePage], figures: Collection[str] = ()) -> str:
    """The whole of ``leaderboard.md``, with those of its figures that exist."""
    shown = [one for page in suites for one in (page, *page.sections)]
    papers = [one.info.paper for page in shown for one in page.results.all]
    page = template("leaderboard.md.jinja", autoescape=False, **_FILTERS)
    text = page.render(
        suites=suites,
        figures=figures,
        links=markdown.link_definitions(papers),
        tables=vars(tables) | vars(settings_tables) | vars(price_tables),
        extra_parts=extra_parts,
        explain_unranked=explain_unranked,
        find_disagreements=find_disagreements,
        rank_upgrades=rank_upgrades,
        commands=_commands,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def extra_parts(page: SuitePage) -> list[str]:
    """What a suite measures besides rankings, in the order in which pages show it."""
    parts = {
        "paths": page.paths,
        "shots": len(page.expected.shots) > 1,
        "ablation": page.configs.keys() & page.results.methods,
        "retained": page.expected.retrained,
        "groups": page.groups,
        "price": price_tables.has_prices(page),
    }
    return [name for name, there in parts.items() if there]


def section_order(pages: Sequence[SuitePage]) -> list[SuitePage]:
    """Suites in the order of the parts that they add, then by name."""
    order = ("paths", "shots", "ablation", "retained", "groups", "price", "ranking")
    first = {page.name: next(iter(extra_parts(page)), "ranking") for page in pages}
    return sorted(pages, key=lambda page: (order.index(first[page.name]), page.name))


def _commands(page: SuitePage) -> list[tuple[str, str]]:
    """The commands that measure every row again, one row, and one cell of it."""
    run = f"compatbench run --suite {check_name(page.name, 'suite')} --methods"
    commands = [(f"{run} all", "every row")]
    ranks = page.ranks(page.expected.upgrades[0], max(page.expected.shots))
    name = next((one.standing.info.name for one in ranks if one.standing.info.learns), None)
    if name is not None:
        task, seed = page.expected.tasks[0], page.expected.seeds[0]
        commands.append((f"{run} {name}", "one row"))
        commands.append((f"{run} {name} --tasks {task} --seeds {seed}", "one cell of it"))
    for section in section_order(page.sections):
        suite = check_name(section.name, "suite")
        title = one_line(section.title)
        commands.append((f"compatbench run --suite {suite} --methods all", title))
    width = max(len(command) for command, _ in commands)
    return [(command.ljust(width), comment) for command, comment in commands]


# Text goes into Markdown through "md", "code" or "summary" only.
_FILTERS = {
    "md": markdown.escape,
    "code": markdown.code,
    "summary": markdown.escape_summary,
    "backbone": lambda name, page: page.backbone_title(name),
    "count": lambda items, noun: f"{len(items)} {noun}{'' if len(items) == 1 else 's'}",
    "shots": lambda count: str(show_shots(count)),
    "count_shots": count_shots,
    "section_order": section_order,
}


def _summary(page: SuitePage) -> str:
    upgrade, shots = page.expected.upgrades[0], max(page.expected.shots)
    rows = page.ranks(upgrade, shots)
    shown = [row for i, row in enumerate(rows) if i < SHOWN or row.kind == "floor"]
    lines = [
        f"{page.path_title(upgrade)}, {count_shots(shots)}, {len(page.expected.tasks)} tasks, "
        f"mean ± std over {len(page.expected.seeds)} seeds, top-1 in percent"
        f"{page.mark and f' ({page.mark})'}:",
        "",
        *tables.ranking_table(rows, top=SHOWN),
        "",
    ]
    if len(rows) > len(shown):
        rest = f"The other {len(rows) - len(shown)} methods, and the other tables"
        lines += [f"{rest}: [{LEADERBOARD}]({LEADERBOARD}).", ""]
    if page.legend:
        lines += [markdown.escape(page.legend, 2000), ""]
    return "\n".join([*lines, *markdown.link_definitions(row.figures["paper"] for row in shown)])
