"""The leaderboard of a folder: its ``results/`` and the cards, as pages."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from compatbench.data.cards import SuiteCard, backbone_cards, suite_cards, task_cards
from compatbench.data.cards.suites import suite_tasks, suite_variants
from compatbench.data.shots import count_shots
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.atomic import write_atomic
from compatbench.pages.figures import FIGURES, drawn_figures
from compatbench.pages.markdown import link_definitions
from compatbench.pages.marked_sections import fill_section, find_sections
from compatbench.pages.page import render_page
from compatbench.pages.suitepage import SuitePage, TaskFacts
from compatbench.pages.tables import main_table
from compatbench.results.measures import Expected, upgrade_pairs
from compatbench.results.store import read_results

LEADERBOARD = "leaderboard.md"
README = "README.md"
RESULTS = "results"
SHOWN = 10  # methods in the README's table, beside the floor


def suite_page(suite: SuiteCard, out: Path) -> SuitePage:
    """What the leaderboard shows of one suite.

    Raises:
        CompatbenchError: a broken card or results file.
    """
    tasks = suite_tasks(suite)
    variants = {task: suite_variants(suite, task) for task in tasks}
    shown = [name for task in tasks for name in (task, *variants[task])]
    facts = {name: task_cards.read(name) for name in shown}
    upgrades = upgrade_pairs(suite.upgrades)
    backbones = dict.fromkeys(name for pair in upgrades for name in pair)
    return SuitePage(
        name=suite.name,
        title=suite.title,
        note=suite.note,
        tasks={name: TaskFacts(card.title, card.licence) for name, card in facts.items()},
        backbones={name: _backbone_title(name) for name in backbones},
        expected=Expected(tasks, suite.shots, suite.seeds, upgrades, variants, suite.retrained),
        results=read_results(out / RESULTS / suite.name),
        views=suite.training.views,
        max_steps=suite.training.max_steps,
        groups={title: upgrade_pairs(paths) for title, paths in suite.groups.items()},
        paths=tuple(path for path in suite.upgrades if len(path) > 2),
        configs={name: suite.base_method(name) for name in suite.configs},
    )


def _backbone_title(name: str) -> str:
    """The title on a backbone's card; one that was named without a card is its name."""
    return name if any(mark in name for mark in "/@:") else backbone_cards.read(name).title


def render_pages(out: Path, also: SuiteCard | None = None) -> dict[Path, str]:
    """The pages that a folder's results give, by path.

    These are ``leaderboard.md`` and, where a ``README.md`` has a place marked for it,
    the README with the head of the first suite's main table.

    Args:
        also: a suite from a file of its own, which is not among the installed ones.

    Raises:
        CompatbenchError: no results, a broken card or results file.
    """
    pages = _published_pages(out, also)
    rendered = {out / LEADERBOARD: render_page(pages, drawn_figures(out / RESULTS))}
    readme = out / README
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if "<!-- leaderboard:begin -->" in text:
        find_sections(text, ["leaderboard"])
        rendered[readme] = fill_section(text, "leaderboard", _summary(pages[0]))
    return rendered


def write_pages(out: Path, also: SuiteCard | None = None) -> None:
    """Writes the pages that have changed.

    Raises:
        CompatbenchError: as ``render_pages``, or a folder that cannot be written.
    """
    for path, text in render_pages(out, also).items():
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomic(path, text.encode())


def _summary(page: SuitePage) -> str:
    upgrade, shots = page.expected.upgrades[0], max(page.expected.shots)
    source, target = (page.backbone_title(name) for name in upgrade)
    ranks = page.ranks(upgrade, shots)
    shown = [
        one.standing.info.paper
        for i, one in enumerate(ranks)
        if i < SHOWN or one.standing.info.depth == "none"
    ]
    lines = [
        f"{source} → {target}, {count_shots(shots)}, {len(page.expected.tasks)} tasks, "
        f"mean ± std over {len(page.expected.seeds)} seeds, top-1 in percent:",
        "",
        *main_table(page, upgrade, shots, top=SHOWN),
        "",
    ]
    if len(ranks) > len(shown):
        rest = f"The other {len(ranks) - len(shown)} methods, and the other tables"
        lines += [f"{rest}: [{LEADERBOARD}]({LEADERBOARD}).", ""]
    return "\n".join([*lines, *link_definitions(shown)]) + "\n"


def _published_pages(out: Path, also: SuiteCard | None) -> list[SuitePage]:
    """The suites that have results and are shown, each with its sections, by name."""
    known = _suites_with_results(out, also)
    sections: dict[str, list[SuitePage]] = {}
    for suite in known:
        if suite.publish == "section" and suite.extends in suite_cards.names():
            sections.setdefault(suite.extends, []).append(suite_page(suite, out))
    shown = {suite.name: suite for suite in known if suite.publish is True}
    # A section may have results before its suite has any.
    for name in sections:
        shown.setdefault(name, suite_cards.read(name))
    pages = [
        replace(suite_page(shown[name], out), sections=tuple(sections.get(name, ())))
        for name in sorted(shown)
    ]
    if not pages:
        raise CompatbenchError(f"{out / RESULTS} holds no results; start with 'compatbench run'")
    return pages


def _suites_with_results(out: Path, also: SuiteCard | None) -> list[SuiteCard]:
    folder = out / RESULTS
    found = (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    suites = []
    for name in found:
        if name in suite_cards.names():
            suites.append(suite_cards.read(name))
        elif also is not None and name == also.name:
            suites.append(also)
        elif name != FIGURES:
            warnings.warn(
                f"{folder / name} is left out: no suite has that name", CompatbenchWarning, 2
            )
    return suites
