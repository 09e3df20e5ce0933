"""Sections that a page has for what a suite measures besides rankings; extras add their own.

An extra names its sections in a constant ``SECTIONS`` of its package, a dictionary of names and the
places of ``Section`` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from compatbench import plugins
from compatbench.results.ranking import rank_transfer
from compatbench.tables import ranking_tables, reported_table, suite_tables
from compatbench.tables.classes_table import classes_table, has_other_classes
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.templates import render_markdown

# Of a suite, on the site; with which the leaderboard and the README begin; or of the leaderboard,
# below the suite's rankings.
Page = Literal["suite", "first", "leaderboard"]


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        place: sections stand in this order.
        title: ``{}`` in it is the title of the suite.
        applies: whether a suite has it.
        on_site: whether the site has a section of the leaderboard, too.
        template: of its Markdown; a file beside this one, or a whole path. It is given the
            ``page``, its most ``shots``, the most rows ``top`` of a table on the leaderboard, the
            arguments of ``render``, and these ``functions``.
    """

    page: Page
    place: int
    title: str
    applies: Callable[[SuitePage], bool]
    template: str
    functions: Mapping[str, Any]
    on_site: bool = False

    def heading(self, page: SuitePage) -> str:
        """Return the title as a heading on the page of a suite."""
        return self.title.format(page.whole_title)

    def render(self, page: SuitePage, short: bool = False, on_site: bool = False) -> str:
        """Return the section as Markdown; ``short`` is for a README.

        Args:
            on_site: leave out what only refers to other pages of a clone, which the site lacks.
        """
        context = {"page": page, "shots": page.most_shots, "top": TOP}
        context |= {"short": short, "on_site": on_site}
        context |= {"heading": self.heading(page), **self.functions}
        return render_markdown(self.template, **context)


TOP = 10  # the most methods in a section of the leaderboard
TABLES = (
    vars(suite_tables)
    | vars(ranking_tables)
    | vars(reported_table)
    | {"rank_transfer": rank_transfer, "classes_table": classes_table}
)


def _has_configs(page: SuitePage) -> bool:
    return any(name in page.results.methods for name in page.configs)


def _has_groups(page: SuitePage) -> bool:
    return any(len(upgrades) > 1 for upgrades in page.groups.values())


def _core_section(
    place: int,
    title: str,
    name: str,
    applies: Callable[[SuitePage], bool],
    page: Page = "suite",
) -> Section:
    return Section(page, place, title, applies, f"sections/{name}.md.jinja", TABLES)


_CORE = [
    _core_section(10, "Step by step", "paths", lambda page: bool(page.paths)),
    _core_section(20, "By shots", "shots", lambda page: len(page.expected.shots) > 1),
    _core_section(30, "Ablation", "ablation", _has_configs),
    _core_section(40, "Compared with retraining", "retained", lambda p: p.expected.retrained),
    _core_section(50, "By kind of upgrade", "groups", _has_groups),
    _core_section(70, "Known and other classes", "classes", has_other_classes),
    _core_section(
        20,
        "Known and other classes: {}",
        "classes_answer",
        has_other_classes,
        page="leaderboard",
    ),
]


def list_sections_below(page: SuitePage) -> list[tuple[Section, SuitePage]]:
    """Return what the leaderboard has below a suite, of it and of the suites in its sections."""
    pairs = []
    for each in (page, *page.sections):
        for section in list_sections("leaderboard", each):
            pairs.append((section, each))
    return sorted(pairs, key=lambda pair: pair[0].place)


def list_sections(kind: Page, page: SuitePage) -> list[Section]:
    """Return the sections of a kind that a suite has, in their order."""
    of_kind = [section for section in _all_sections() if section.page == kind]
    return [section for section in of_kind if section.applies(page)]


@cache
def _all_sections() -> list[Section]:
    offered = [plugins.load(place) for place in plugins.offered("SECTIONS").values()]
    return sorted([*_CORE, *offered], key=lambda section: section.place)
