"""The first table of the leaderboard and the README: what you have, what to try, what to expect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from compatbench.data.cards import COPIED
from compatbench.extras.advice.price import anew_curves, count_labels, show_labels, worth_interval
from compatbench.extras.advice.price_pages import has_prices
from compatbench.messages import count
from compatbench.results.choice_of_ways import choose_checked, units_to_decide
from compatbench.results.estimate import FEWEST_UNITS, Interval, estimate
from compatbench.results.expected import Upgrade
from compatbench.results.method_results import remembered
from compatbench.results.standing import dataset_means
from compatbench.results.ways import MeasuredWay, list_ways
from compatbench.tables.numbers import NOTHING, bounds, percent, signed
from compatbench.tables.pages.sections import Section
from compatbench.tables.suite_page import MARKS, SuitePage
from compatbench.tables.table import Table, TableCell, number, plain_table, sentence, text

_STAY = "the old model"  # the way that makes no upgrade
_FREE = frozenset({"words", "source weights"})  # whoever has the module can have these
_Tried = MeasuredWay | None  # None for zero-shot
_Cells = tuple[TableCell, ...]


class Held(NamedTuple):
    """What an owner has besides the module: labels, or what the title says."""

    title: str
    access: frozenset[str]
    labels: int = 0

    def allows(self, way: MeasuredWay) -> bool:
        return self.access >= way.needs and self.labels >= way.cost[0]

    def is_used_by(self, way: MeasuredWay) -> bool:
        """Whether a way needs what this has more than others; without any it has no row."""
        special = self.access - _FREE or self.access
        return not special or bool(special & way.needs)


class _Pool(NamedTuple):
    """All ways that were measured on the same tasks."""

    prices: SuitePage  # of their pages the one with modules trained anew, if one has them
    candidates: list[MeasuredWay]

    @property
    def tasks(self) -> int:
        return len(self.prices.expected.tasks)

    @property
    def weight(self) -> tuple[bool, bool, int]:
        return self.tasks >= FEWEST_UNITS, has_prices(self.prices), self.tasks


def answer_table(page: SuitePage) -> Table:
    """A row for each upgrade and each answer, with all that an owner may have to get it."""
    header = ["New model", "You have", "Try first, on your own images", "Accuracy", "Zero-shot"]
    header += ["Beats zero-shot?", "Worth in labels", "Tasks"]
    rows = []
    for upgrade in page.expected.upgrades:
        title = page.backbone_title(upgrade[1])
        for cells, (_, held) in _by_answer(page, upgrade).items():
            rows.append([text(title), text(_either(held)), *cells])
            title = ""
    return plain_table(header, rows, left=(0, 1, 2, 5))


def describe_kinds(page: SuitePage) -> list[TableCell]:
    """What the table's untouched modules gain on all targets of a kind, a text for each.

    The interval is over targets, of which a replication of the suite has six or more, that of the
    table among them.
    """
    texts = []
    for upgrade in page.expected.upgrades:
        kinds = [
            (replication, title, upgrades)
            for replication in page.replications
            for title, upgrades in replication.groups.items()
            if upgrade in upgrades and len(upgrades) >= FEWEST_UNITS
        ]
        answers = _by_answer(page, upgrade).values() if kinds else ()
        untouched = [way for way, _ in answers if way is not None and way.name == COPIED]
        for (replication, title, upgrades), way in product(kinds, untouched):
            gains = [
                other.gain.value
                for each in upgrades
                for other in list_ways(replication.results, replication.expected, each)
                if (other.info.name, other.name) == (way.info.name, COPIED)
            ]
            if len(gains) == len(upgrades) and (over := estimate(gains)) is not None:
                gain = f": {signed(over.value)} points over zero-shot ({bounds(over, signed)}), "
                gain += f"mean of {over.units} targets ("
                texts.append(sentence(_describe(way), gain, text(title), ")"))
    return texts


@remembered
def _by_answer(page: SuitePage, upgrade: Upgrade) -> dict[_Cells, tuple[_Tried, list[Held]]]:
    """The way of each answer, and who gets it; the answers by the first who does."""
    pools, by_answer = _pool_ways(page, upgrade), dict[_Cells, tuple[_Tried, list[Held]]]()
    for held in _what_is_held([each for pool in pools for each in pool.candidates]):
        served = [
            pool
            for pool in pools
            if any(held.allows(each) and held.is_used_by(each) for each in pool.candidates)
        ]
        if served:
            # The tasks that allow a verdict, then those with prices, then the most, then the first.
            pool = max(served, key=lambda pool: pool.weight)
            allowed = [each for each in pool.candidates if held.allows(each)]
            way, cells = _answer(pool, upgrade, allowed)
            by_answer.setdefault(cells, (way, []))[1].append(held)
    return by_answer


def _either(held: Sequence[Held]) -> str:
    """``a list of words, unlabelled images, or 1 or 4 labels per class``."""
    titles = [each.title for each in held if not each.labels]
    if labels := [each.labels for each in held if each.labels]:
        *fewer, most = labels
        titles.append(" or ".join([*map(str, fewer), f"{count(most, 'label')} per class"]))
    *others, last = titles
    return f"{', '.join(others)}{',' * (len(others) > 1)} or {last}" if others else last


def _pool_ways(page: SuitePage, upgrade: Upgrade) -> list[_Pool]:
    """The ways that a suite and its sections with prices measured, by the tasks of each."""
    by_tasks: dict[tuple[str, ...], list[SuitePage]] = {}
    for source in (page, *page.sections):
        if source is page or (has_prices(source) and upgrade in source.expected.upgrades):
            by_tasks.setdefault(tuple(source.expected.tasks), []).append(source)
    pools = []
    for pages in by_tasks.values():
        first = dict[tuple[str, str], MeasuredWay]()
        for source in pages:
            for each in _list_ways(source, upgrade):
                first.setdefault((each.info.name, each.name), each)
        pools.append(_Pool(max(pages, key=has_prices), [*first.values()]))
    return pools


def _what_is_held(candidates: Sequence[MeasuredWay]) -> Iterator[Held]:
    """From nothing to labels; of the numbers of labels every other one."""
    yield Held("nothing but the module", frozenset())
    yield Held("a list of words", _FREE)
    yield Held("unlabelled images", _FREE | {"unlabelled"})
    yield Held("the old model kept", _FREE | {"old model"})
    for most in sorted({each.cost[0] for each in candidates} - {0})[::2]:
        yield Held("", _FREE | {"labels"}, most)


def _list_ways(page: SuitePage, upgrade: Upgrade) -> Iterator[MeasuredWay]:
    """Every way that was measured, and to stay with the old model."""
    for way in list_ways(page.results, page.expected, upgrade):
        yield way
        source = dataset_means(way.standing, "source")
        if way.standing.results.transfer == COPIED and source is not None:
            figures, needs = np.array([*source.values()]), frozenset({"old model"})
            gains = figures - (way.figures - way.by_task)
            if (gain := estimate(gains)) is not None:
                old = {"name": _STAY, "gain": gain, "cost": (0, False, 0, False), "needs": needs}
                yield replace(way, **old, figures=figures, by_task=gains)


def _answer(
    pool: _Pool, upgrade: Upgrade, candidates: Sequence[MeasuredWay]
) -> tuple[_Tried, _Cells]:
    """What to try, its accuracy and zero-shot's, whether it is better, and what it is worth."""
    choice = choose_checked(candidates, [each.by_task for each in candidates])
    chosen = choice.way
    what, beats, tasks = _describe(chosen), "yes", str(pool.tasks)
    zero_shot = percent(float((chosen.figures - chosen.by_task).mean()))
    if choice.harmful:
        figures = zero_shot, zero_shot, "no", NOTHING, tasks
        return None, (text("zero-shot"), *map(number, figures))
    if not choice.shown:
        # No way can be told from zero-shot, so the caveat stands before what is likely.
        what = sentence("cannot tell; " + ("" if chosen.gain.value > 0 else "zero-shot, or "), what)
        beats = f"not shown{_tasks_needed(choice.held_out)}"
    worth = _show_worth(pool.prices, upgrade, chosen)
    accuracy = percent(float(chosen.figures.mean()))
    return chosen, (what, *map(number, (accuracy, zero_shot, beats, worth, tasks)))


def _show_worth(page: SuitePage, upgrade: Upgrade, way: MeasuredWay) -> str:
    """In labels per class of the best method trained anew; nothing of training anew itself."""
    anew = count_labels(page.results.transfers)
    if way.name in anew.values():
        return NOTHING
    zero = [*(way.figures - way.by_task)]
    methods, curves = anew_curves(page.results, page.expected, upgrade, zero)
    if not methods:
        return NOTHING
    return show_labels(worth_interval(way.figures, curves, [0, *anew]).value, max(anew))


def _tasks_needed(gain: Interval | None) -> str:
    """How many would decide, by the measured spread of a gain."""
    if gain is None or not gain.bounded:
        return f" (takes {FEWEST_UNITS} tasks or more)"
    enough = units_to_decide(gain, gain.units)
    return f" (takes about {enough:.0f} tasks)" if gain.value > 0 and enough <= 100 else ""


def _describe(way: MeasuredWay) -> TableCell:
    title = text(way.info.title, way.info.paper).bold()
    if way.name == _STAY:
        return sentence("stay with the old model: ", title)
    if way.name == COPIED:
        return sentence(title, ", untouched, with the words" if way.needs else ", untouched")
    if way.name.startswith("retrained+"):
        return sentence(title, f", trained anew with {count(way.cost[0], 'label')}")
    return sentence(title, f", moved by *{way.name}*")


ANSWERS = Section(
    "first",
    10,
    "What to try first: {}",
    lambda page: bool(page.results.all),
    str(Path(__file__).parent / "answers.md.jinja"),
    {
        "answer_table": answer_table,
        "describe_kinds": describe_kinds,
        "has_prices": has_prices,
        "fewest": FEWEST_UNITS,
        "marks": MARKS,
    },
)
