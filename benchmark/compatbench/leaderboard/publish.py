"""The leaderboard of a folder: its ``results/`` and the cards, as pages."""

from __future__ import annotations

import warnings
from pathlib import Path

from compatbench.cards import SuiteCard, backbone_cards, suite_cards, task_cards
from compatbench.cards.suites import suite_tasks, suite_variants
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.leaderboard.measures import Expected, upgrade_pairs
from compatbench.leaderboard.page import render_page
from compatbench.leaderboard.results import read_results
from compatbench.leaderboard.tables import SuitePage, TaskFacts

LEADERBOARD = "leaderboard.md"
RESULTS = "results"


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
        backbones={name: backbone_cards.read(name).title for name in backbones},
        expected=Expected(tasks, suite.shots, suite.seeds, upgrades, variants),
        results=read_results(out / RESULTS / suite.name),
        views=suite.training.views,
        max_steps=suite.training.max_steps,
    )


def render_leaderboard(out: Path) -> str:
    """``leaderboard.md`` of a folder, from its results alone.

    Raises:
        CompatbenchError: no results, a broken card or results file.
    """
    folder = out / RESULTS
    found = (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    known = suite_cards.names()
    for name in found:
        if name not in known:
            warnings.warn(
                f"{folder / name} is left out: no suite has that name", CompatbenchWarning, 2
            )
    suites = [suite_cards.read(name) for name in found if name in known]
    pages = [suite_page(suite, out) for suite in suites if suite.publish]
    if not pages:
        raise CompatbenchError(f"{folder} holds no results; start with 'compatbench run'")
    return render_page(pages)
