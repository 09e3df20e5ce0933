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
from compatbench.results.ranks import rank_upgrades
from compatbench.results.standing import compute_retained, paired_interval
from compatbench.tables import ranking, suite_tables
from compatbench.tables.other_classes import classes_table, has_other_classes
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
            ``page``, its most ``shots``, the most rows ``top`` of a table on the leaderboard, and
            these ``functions``.
    """

    page: Page
    place: int
    title: str
    applies: Callable[[SuitePage], bool]
    template: str
    functions: Mapping[str, Any]
    on_site: bool = False

    def heading(self, page: SuitePage) -> str:
        return self.title.format(page.whole_title)

    def render(self, page: SuitePage) -> str:
        """Its Markdown."""
        shots = max(page.expected.shots)
        return render_markdown(self.template, page=page, shots=shots, top=TOP, **self.functions)


TOP = 10  # rows of an upgrade on the leaderboard; the floors come on top
TABLES = (
    vars(suite_tables)
    | vars(ranking)
    | {of.__name__: of for of in (rank_upgrades, compute_retained, paired_interval, classes_table)}
)


_CORE = [
    Section("suite", place, title, applies, f"sections/{name}.md.jinja", TABLES)
    for place, title, name, applies in (
        (10, "Step by step", "paths", lambda page: bool(page.paths)),
        (20, "By shots", "shots", lambda page: len(page.expected.shots) > 1),
        (30, "Ablation", "ablation", lambda p: bool(p.configs.keys() & p.results.methods)),
        (40, "Compared with retraining", "retained", lambda page: page.expected.retrained),
        (
            50,
            "By kind of upgrade",
            "groups",
            lambda page: any(len(of) > 1 for of in page.groups.values()),
        ),
        (70, "Known and other classes", "classes", has_other_classes),
    )
]
_CORE.append(
    Section(
        "leaderboard",
        20,
        "Known and other classes: {}",
        has_other_classes,
        "sections/classes_answer.md.jinja",
        TABLES,
    )
)


def list_sections_below(page: SuitePage) -> list[tuple[Section, SuitePage]]:
    """What the leaderboard has below a suite, of it and of the suites that are its sections."""
    pages = [page, *page.sections]
    pairs = [(section, each) for each in pages for section in list_sections("leaderboard", each)]
    return sorted(pairs, key=lambda pair: pair[0].place)


def list_sections(kind: Page, page: SuitePage) -> list[Section]:
    """The sections of a kind that a suite has, in their order."""
    return [
        section for section in _all_sections() if section.page == kind and section.applies(page)
    ]


@cache
def _all_sections() -> list[Section]:
    offered = [plugins.load(place) for place in plugins.offered("SECTIONS").values()]
    return sorted([*_CORE, *offered], key=lambda section: section.place)
