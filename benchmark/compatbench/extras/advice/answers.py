"""The first table of the leaderboard and the README: what you have, what to try, what to expect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.extras.advice.price import (
    count_labels,
    find_worth,
    retrained_curves,
    retrained_modules,
    show_labels,
)
from compatbench.extras.advice.price_pages import has_prices
from compatbench.messages import count
from compatbench.results.choice import Decision, choose_option, decide
from compatbench.results.costs import cost_table, labels_of
from compatbench.results.differences import ZERO_SHOT
from compatbench.results.estimate import FEWEST_UNITS, Interval, estimate
from compatbench.results.expected import Upgrade
from compatbench.results.options import list_options, option_name
from compatbench.results.upgrade_rows import pair_rows, task_means
from compatbench.tables.numbers import NOTHING, bounds, percent, signed
from compatbench.tables.pages.sections import Section
from compatbench.tables.suite_page import MARKS, SuitePage
from compatbench.tables.table import Column, Table, TableCell, make_table, number, sentence, text

_STAY = "the old model"  # the option that makes no upgrade
_FREE = frozenset({"words", "source weights"})  # whoever has the module can have these
_MOST_TIED = 3  # options that a row names
_COLUMNS = (
    Column("upgrade", "The upgrade", left=True),
    Column("held", "You have", left=True),
    Column("option", "Try first, on your own images", left=True),
    Column("accuracy", "Accuracy"),
    Column("zero_shot", "Zero-shot"),
    Column("gain", "Gain (95 %)"),
    Column("beats", "Beats zero-shot?", left=True),
    Column("worth", "Worth in labels"),
    Column("tasks", "Tasks"),
)
_SHORT_COLUMNS = (
    Column("upgrade", "The upgrade", left=True),
    Column("held", "You have", left=True),
    Column("option", "Try first", left=True),
    Column("accuracy_and_gain", "Accuracy, gain (95 %)"),
)


class Held(NamedTuple):
    """What an owner has besides the module: labels, or what the title says."""

    title: str
    access: frozenset[str]
    labels: int = 0

    def allows(self, options: pd.DataFrame) -> pd.Series:
        """Return True for every option that needs no more than this."""
        allowed = options["needs"].map(self.access.issuperset).astype(bool)
        return allowed & (options["labels"] <= self.labels)

    def is_used_by(self, options: pd.DataFrame) -> pd.Series:
        """Return True for every option that needs what this has more than others.

        What no option uses has no row in the table.
        """
        special = self.access - _FREE or self.access
        used = [not special or bool(special & needs) for needs in options["needs"]]
        return pd.Series(used, index=options.index)


@dataclass(frozen=True, eq=False)
class _Pool:
    """All options that were measured on the same tasks.

    Attributes:
        prices: of their pages the one with retrained modules, if one has them.
        options: a row for each option, as of ``list_options``, with the ``seeds`` of its page.
        accuracy: on the target in percent, ``[options, tasks]``.
        gain: over its zero-shot in points, ``[options, tasks]``.
        on_shared_seeds: the accuracy with the seeds that all pages have, ``[options, tasks]``.
    """

    prices: SuitePage
    options: pd.DataFrame
    accuracy: pd.DataFrame
    gain: pd.DataFrame
    on_shared_seeds: pd.DataFrame

    @property
    def tasks(self) -> int:
        """Return how many tasks there are."""
        return len(self.prices.expected.tasks)

    @property
    def weight(self) -> tuple[bool, bool, int]:
        """Return how much it can decide: enough tasks for a verdict, then prices, then tasks."""
        return self.tasks >= FEWEST_UNITS, has_prices(self.prices), self.tasks

    def difference(self, option: str, minus: str | None = None) -> Interval | None:
        """Compare an option with zero-shot or another option.

        Options with different seeds are compared on those that all pages have.
        """
        if minus == ZERO_SHOT:
            return estimate(self.gain.loc[option].to_numpy())
        if minus is None or minus not in self.options.index:
            return None
        seeds: Any = self.options["seeds"]
        scores = self.accuracy if seeds[option] == seeds[minus] else self.on_shared_seeds
        return estimate(scores.loc[option].to_numpy() - scores.loc[minus].to_numpy())


class _Answer(NamedTuple):
    """A row of the table: the option of it, its cells by column, and who gets it."""

    option: pd.Series | None  # None for zero-shot
    cells: dict[str, TableCell]
    held: list[Held]


def answer_table(page: SuitePage) -> Table:
    """Return a row for each upgrade and each answer, with all that an owner may have to get it."""
    return make_table(_COLUMNS, _list_rows(page))


def short_answer_table(page: SuitePage) -> Table:
    """Return the same in four columns: accuracy and gain together."""
    rows = _list_rows(page)
    for row in rows:
        row["accuracy_and_gain"] = sentence(row["accuracy"], ", ", row["gain"])
    return make_table(_SHORT_COLUMNS, rows)


def _list_rows(page: SuitePage) -> list[dict[str, TableCell]]:
    """Return the cells of each row by column. The first row of an upgrade names it."""
    rows = []
    for upgrade in page.leaderboard_upgrades:
        title = page.kind_title(upgrade)
        for answer in _list_answers(page, upgrade):
            rows.append(
                {"upgrade": text(title), "held": text(_either(answer.held)), **answer.cells}
            )
            title = ""
    return rows


@lru_cache(maxsize=64)
def _list_answers(page: SuitePage, upgrade: Upgrade) -> list[_Answer]:
    """Return the answers in the order of the first who gets each.

    Whoever has more may have more options that are tied with the same one. A row lists those of
    the first, who has the least.
    """
    pools = _pool_options(page, upgrade)
    answers: dict[tuple[str, ...], _Answer] = {}
    labels = pd.concat([pool.options["labels"] for pool in pools])
    for held in _what_is_held(labels):
        served = []
        for pool in pools:
            if (held.allows(pool.options) & held.is_used_by(pool.options)).any():
                served.append(pool)
        if served:
            # The tasks that allow a verdict, then those with prices, then the most, then the first.
            pool = max(served, key=lambda pool: pool.weight)
            option, cells = _answer(pool, upgrade, held)
            name = "" if option is None else str(option.name)
            numbers = [cell.text for column, cell in cells.items() if column != "option"]
            key = (name, *numbers)
            answers.setdefault(key, _Answer(option, cells, [])).held.append(held)
    return list(answers.values())


def _either(held: Sequence[Held]) -> str:
    """Return ``a list of words, unlabelled images, or 2 or 8 labels per class``."""
    titles = [each.title for each in held if not each.labels]
    labels = [each.labels for each in held if each.labels]
    if labels:
        *fewer, most = labels
        titles.append(" or ".join([*map(str, fewer), f"{count(most, 'label')} per class"]))
    *others, last = titles
    if not others:
        return last
    comma = "," if len(others) > 1 else ""
    return f"{', '.join(others)}{comma} or {last}"


def _pool_options(page: SuitePage, upgrade: Upgrade) -> list[_Pool]:
    """Return the options that a suite and its sections with prices measured, by their tasks."""
    by_tasks: dict[tuple[str, ...], list[SuitePage]] = {}
    for source in (page, *page.sections):
        if source is page or (has_prices(source) and upgrade in source.expected.upgrades):
            by_tasks.setdefault(tuple(source.expected.tasks), []).append(source)
    pools = []
    for pages in by_tasks.values():
        shared = _shared_seeds(pages)
        parts = [_measure_options(source, upgrade, shared) for source in pages]
        options, *tables = (pd.concat(frames) for frames in zip(*parts, strict=True))
        first = ~options.index.duplicated()
        priced = max(pages, key=has_prices)
        pools.append(_Pool(priced, options[first], *(table[first] for table in tables)))
    return pools


def _shared_seeds(pages: Sequence[SuitePage]) -> tuple[int, ...] | None:
    """Return the seeds that all pages have; None if there are none."""
    first, *others = (page.expected.seeds for page in pages)
    shared = [seed for seed in first if all(seed in seeds for seeds in others)]
    return tuple(shared) or None


def sections_with_fewer_seeds(page: SuitePage) -> list[SuitePage]:
    """Return the sections with prices that have fewer seeds than the suite."""
    fewer = []
    for section in page.sections:
        if has_prices(section) and len(section.expected.seeds) < len(page.expected.seeds):
            fewer.append(section)
    return fewer


def _what_is_held(labels: pd.Series) -> Iterator[Held]:
    """Yield from nothing to labels; of the numbers of labels every other one."""
    yield Held("nothing but the module", frozenset())
    yield Held("a list of words", _FREE)
    yield Held("unlabelled images", _FREE | {"unlabelled"})
    yield Held("the old model kept", _FREE | {"old model"})
    for most in sorted({*labels} - {0})[::2]:
        yield Held("", _FREE | {"labels"}, most)


def _measure_options(
    page: SuitePage, upgrade: Upgrade, shared: tuple[int, ...] | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return every option that was measured, and staying with the old model.

    The first three frames are those of ``list_options`` by ``option_name``; ``action`` is the
    transfer, or ``_STAY``. The last one is the accuracy with the shared seeds; without any, it is
    that with all seeds.
    """
    options, accuracy, gain = list_options(page.results, page.expected, upgrade)
    # Staying is an option of its own: ``_STAY``.
    options = options[options["transfer"] != "kept"]
    accuracy = accuracy.loc[options.index]
    gain = gain.loc[options.index]
    shots = max(page.expected.shots)
    rows = pair_rows(page.results, page.expected, upgrade, shots)
    some_rows = pair_rows(page.results, page.expected.restrict(seeds=shared), upgrade, shots)
    sources = task_means(rows, "source")
    seeds = pd.Series([page.expected.seeds] * len(options), index=options.index, dtype=object)
    options = options.assign(action=options["transfer"], old="", refused=False, seeds=seeds)
    copied = options["transfer"] == COPIED
    stay = options[copied & options.index.isin(sources.index)]
    free = {"labels": 0, "old_model": False, "access_count": 0, "moved": False}
    needs = pd.Series([frozenset({"old model"})] * len(stay), index=stay.index, dtype=object)
    stay = stay.assign(action=_STAY, needs=needs, **free)
    old_accuracy = sources.loc[stay.index]
    old_gain = old_accuracy - (accuracy - gain).loc[stay.index]
    on_shared_seeds = task_means(some_rows, "target").loc[options.index]
    old_on_shared_seeds = task_means(some_rows, "source").loc[stay.index]
    options = pd.concat([options, stay])
    names = [option_name(*pair) for pair in zip(options["method"], options["action"], strict=True)]
    return (
        options.set_axis(names),
        pd.concat([accuracy, old_accuracy]).set_axis(names),
        pd.concat([gain, old_gain]).set_axis(names),
        pd.concat([on_shared_seeds, old_on_shared_seeds]).set_axis(names),
    )


def _answer(
    pool: _Pool, upgrade: Upgrade, held: Held
) -> tuple[pd.Series | None, dict[str, TableCell]]:
    """Return the option to try, or None for zero-shot, and the cells of its row."""
    options = pool.options[held.allows(pool.options)]
    accuracy = pool.accuracy.loc[options.index]
    gain = pool.gain.loc[options.index]
    costs = cost_table(options)
    choice = choose_option(accuracy, accuracy - gain, costs, pool.difference)
    decision = decide(options, pool.difference, choice)
    name = choice.option or decision.likely
    chosen: Any = options.loc[name]
    what = describe_tied(options.loc[list(choice.tied) or [name]])
    means = accuracy.mean(axis="columns")
    mean_gains = gain.mean(axis="columns")
    zero_shot = percent(float((accuracy - gain).mean(axis="columns")[name]))
    cells = {"zero_shot": number(zero_shot), "tasks": number(str(pool.tasks))}
    if decision.verdict in ("zero-shot", "retrain or zero-shot"):
        cells |= {"option": text("zero-shot"), "accuracy": number(zero_shot)}
        cells |= {"gain": number(NOTHING), "beats": number("no"), "worth": number(NOTHING)}
        return None, cells
    beats = "yes"
    if not choice.option:
        # No option is shown to gain, so the caveat stands before what is likely.
        instead = "" if mean_gains[name] > 0 else "zero-shot, or "
        what = sentence(f"cannot tell; {instead}", what)
        beats = f"not shown{_tasks_needed(choice.held_out, decision)}"
    over_zero_shot = estimate(gain.loc[name].to_numpy())
    gained = signed(float(mean_gains[name]))
    if over_zero_shot is not None and over_zero_shot.bounded:
        gained += f" ({bounds(over_zero_shot, signed)})"
    cells |= {"option": what, "accuracy": number(percent(float(means[name])))}
    cells |= {"gain": number(gained), "beats": number(beats)}
    cells["worth"] = number(_show_worth(pool, upgrade, name))
    return chosen, cells


def _show_worth(pool: _Pool, upgrade: Upgrade, option: str) -> str:
    """Return the labels per class of the best retrained method; nothing of a retrained one."""
    page = pool.prices
    transfers = count_labels(page.results.transfers)
    if pool.options.loc[option, "action"] in transfers.values():
        return NOTHING
    accuracy = pool.accuracy.loc[option].to_numpy()
    zero_shot = accuracy - pool.gain.loc[option].to_numpy()
    retrained = retrained_modules(page.results, page.expected, upgrade)
    methods, curves = retrained_curves(retrained, zero_shot)
    if not methods:
        return NOTHING
    labels = [0, *retrained]
    return show_labels(find_worth(accuracy, curves, labels), max(labels))


def _tasks_needed(held_out: Interval | None, decision: Decision) -> str:
    """Return how many tasks would decide, by the measured spread of a gain."""
    if held_out is None or not held_out.bounded:
        return f" (takes {FEWEST_UNITS} tasks or more)"
    needed = decision.needed
    if held_out.value <= 0 or needed is None or needed > 100:
        return ""
    return f" (takes about {needed:.0f} tasks)"


def describe_tied(tied: pd.DataFrame) -> TableCell:
    """Return the options that cost the same and are not significantly worse, three at most."""
    named = [option for _, option in tied.head(_MOST_TIED).iterrows()]
    # What is done in the same way stands together; the best option still comes first.
    actions = [_describe_action(option) for option in named]
    named.sort(key=lambda option: actions.index(_describe_action(option)))
    parts = _describe(named)
    if len(tied) > _MOST_TIED:
        parts.append(f"; and {len(tied) - _MOST_TIED} more")
    return sentence(*parts)


def _describe(options: Sequence[pd.Series]) -> list[str | TableCell]:
    """Return the titles of options with what is done to their modules: ``CoOp or VPT, untouched``.

    Options of one kind that follow each other are joined.
    """
    parts: list[str | TableCell] = []
    for place, option in enumerate(options):
        after = options[place + 1] if place + 1 < len(options) else None
        before = options[place - 1] if place else None
        prefix, suffix = _describe_action(option)
        if before is not None:
            parts.append(" or " if _describe_action(before) == (prefix, suffix) else "; or ")
        if before is None or _describe_action(before) != (prefix, suffix):
            parts.append(prefix)
        parts.append(text(option["title"], option["paper"]).bold())
        if after is None or _describe_action(after) != (prefix, suffix):
            parts.append(suffix)
    return [part for part in parts if part]


def _describe_action(option: pd.Series) -> tuple[str, str]:
    """Return the words before and after the title of an option."""
    name = option["action"]
    if name == _STAY:
        return "stay with the old model: ", ""
    if name == COPIED:
        return "", ", untouched, with the words" if option["needs"] else ", untouched"
    if name.startswith("retrained+"):
        return "", f", retrained with {count(labels_of(name), 'label')} per class"
    return "", f", moved by *{name}*"


ANSWERS = Section(
    "first",
    10,
    "What to try first: {}",
    lambda page: bool(page.results.methods),
    str(Path(__file__).parent / "answers.md.jinja"),
    {
        "answer_table": answer_table,
        "short_answer_table": short_answer_table,
        "sections_with_fewer_seeds": sections_with_fewer_seeds,
        "fewest": FEWEST_UNITS,
        "marks": MARKS,
    },
)
