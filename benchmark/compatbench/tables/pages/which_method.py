"""Which method to try first: three questions, answered from results; and what methods can do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from compatbench.data.cards import COPIED
from compatbench.data.cards.shots import show_shots
from compatbench.messages import count, one_line
from compatbench.results.choice import Way, choose_checked
from compatbench.results.estimate import Array, estimate
from compatbench.results.expected import Upgrade
from compatbench.results.ranks import Ranked
from compatbench.results.standing import dataset_means, measure_interval
from compatbench.results.ways import access_of, cost_of
from compatbench.tables.numbers import bounds, percent, signed
from compatbench.tables.pages.method_pages import read_facts
from compatbench.tables.suite_page import SuitePage

WIDTHS = frozenset({"token width", "feature size", "image width"})
# What a reader may ask of a method or of a way to bring its module along.
CAPABILITIES = {
    "width": "survives another width",
    "images": "needs no images for the upgrade",
    "classes": "serves new classes",
}
# What one has when the new model comes, and what a transfer may then need.
HAVE: dict[str, frozenset[str]] = {
    "nothing but the module": frozenset(),
    "a list of words": frozenset({"words"}),
    "images without labels": frozenset({"words", "unlabelled"}),
    "a few labelled images per class": frozenset({"words", "labels"}),
    "the old model, kept beside the new": frozenset({"words", "unlabelled", "old model"}),
}
UNKNOWN = "I do not know yet"
CLASSES = ("stay as they are", "change")
# A row of a ranking, and the page that it is of.
Candidate = tuple[SuitePage, Ranked]


def answer_questions(pages: Sequence[SuitePage]) -> dict[str, Any]:
    """The choices of each question, and an answer for every combination, in their order."""
    upgrades = _list_relations(pages)
    relations = {
        UNKNOWN: tuple(dict.fromkeys(u for of in upgrades.values() for u in of))
    } | upgrades
    ways = {have: dict(_candidates(pages, needs)) for have, needs in HAVE.items()}
    answers = [
        _answer(ways[have], relations[relation], classes == CLASSES[1])
        for have, relation, classes in product(HAVE, relations, CLASSES)
    ]
    return {"choices": [[*HAVE], [*relations], [*CLASSES]], "answers": answers}


def list_capabilities(pages: Sequence[SuitePage]) -> dict[str, Any]:
    """By method what it can, of those of which it is known; and the tracks that need images."""
    methods = {method.info.name for page in pages for method in page.results.all}
    of_method = {name: _abilities(facts) for name, facts in read_facts().items() if name in methods}
    tracks = {transfer for page in pages for transfer in page.results.transfers}
    images = sorted(track for track in tracks if {*access_of(track)} & {"unlabelled", "labels"})
    return {"methods": of_method, "images": images}


def _abilities(facts: Mapping[str, Any]) -> list[str]:
    needs = {*facts["must_be_equal"]}
    told = {
        "width": not needs & WIDTHS,
        "images": not facts["given"],
        "classes": "classes" not in needs,
    }
    return [name for name, true in told.items() if true]


def _list_relations(pages: Sequence[SuitePage]) -> dict[str, tuple[Upgrade, ...]]:
    """How the next model is related to the old one: as suites group upgrades, then the others."""
    relations = {one_line(title): of for page in pages for title, of in page.groups.items()}
    grouped = {upgrade for of in relations.values() for upgrade in of}
    for page in pages:
        for upgrade in page.expected.upgrades:
            if upgrade not in grouped:
                grouped.add(upgrade)
                relations[one_line(page.path_title(upgrade))] = (upgrade,)
    return relations


def _candidates(
    pages: Sequence[SuitePage], allowed: Collection[str]
) -> Iterator[tuple[tuple[str, str, Upgrade], Candidate]]:
    """By method, transfer and upgrade, the first row that needs no more than is ``allowed``."""
    seen = set()
    for page in pages:
        for transfer in page.results.transfers:
            if not {*access_of(transfer)} <= {*allowed}:
                continue
            for upgrade in page.expected.upgrades:
                for row in page.ranks(upgrade, max(page.expected.shots), transfer):
                    key = row.standing.info.name, row.transfer, upgrade
                    learns = row.standing.info.learns and not row.sees_tests
                    if learns and row.value("h") is not None and key not in seen:
                        seen.add(key)
                        yield key, (page, row)


def _answer(
    candidates: Mapping[tuple[str, str, Upgrade], Candidate],
    upgrades: Sequence[Upgrade],
    new_classes: bool,
) -> list[str]:
    """A verdict, a method and its track, and the reason."""
    facts = read_facts()
    by_way: dict[tuple[str, str], list[Candidate]] = {}
    for (name, transfer, upgrade), candidate in candidates.items():
        fits = name in facts and "classes" in _abilities(facts[name])
        if upgrade in upgrades and (fits or not new_classes):
            by_way.setdefault((name, transfer), []).append(candidate)
    measured = [_measure(of) for of in by_way.values() if len(of) == len(upgrades)]
    ways = [way for way in measured if way is not None]
    if not ways:
        return ["Cannot tell: nothing of this kind was measured.", "", "", ""]
    widest = max((way.tasks for way in ways), key=len)
    ways = [way for way in ways if way.tasks == widest]
    found, _ = choose_checked(ways, [way.by_task for way in ways], lambda a, b: estimate(a - b))
    way = found if isinstance(found, _Way) else max(ways, key=lambda way: way.gain.value)
    shown = sum(way.gain.sign == 1 for way in ways)
    if found is not None and shown == 1:
        verdict = "Try first, with zero-shot beside it: the only way that is shown to beat the new "
        verdict += "model's own zero-shot."
    elif found is not None:
        verdict = f"Try first, with zero-shot beside it: of {shown} ways shown to beat the new "
        verdict += "model's own zero-shot, the cheapest that is not clearly worse than the best."
    elif shown:
        verdict = "Cannot tell: to choose by some datasets is not shown to gain on the others. Use "
        verdict += "the new model's own zero-shot meanwhile, and try first"
    elif max(way.gain.sign for way in ways) == -1:
        verdict = "Keep none: use the new model's own zero-shot, or train anew. The best was"
    else:
        verdict = "Cannot tell: nothing measured here is shown to beat the new model's own "
        verdict += "zero-shot. Use zero-shot meanwhile, and try first"
    page, row = way.worst
    gain = signed(row.value("gain"))
    if way.gain.bounded:
        gain += f" ({bounds(way.gain, signed)})"
    where = f"{one_line(page.title)}, {count(len(way.tasks), 'dataset')}"
    where += f", {show_shots(max(page.expected.shots))} shots"
    worst = " at its worst" if len(upgrades) > 1 else ""
    reason = f"H {percent(row.value('h'))}, {gain} points over zero-shot{worst} ({where})."
    how = f"through {row.transfer}" if row.transfer else "attached untouched"
    return [verdict, row.standing.info.name, f"{row.standing.info.title}, {how}", reason]


@dataclass(frozen=True, eq=False)
class _Way(Way):
    """A method and a transfer on some upgrades: ``gain`` is the one that is least certain.

    ``figures`` are accuracies on the target by task, in mean over the upgrades.
    """

    worst: Candidate  # the row of that gain
    tasks: tuple[str, ...]
    by_task: Array  # gains, in mean over the upgrades


def _measure(rows: Sequence[Candidate]) -> _Way | None:
    """A way by its rows, one for each upgrade; None where a figure is missing."""
    means = [[dataset_means(row.standing, name) for _, row in rows] for name in ("target", "gain")]
    gains = [measure_interval(row.standing, "gain") for _, row in rows]
    worst, gain = min(
        ((row, gain) for row, gain in zip(rows, gains, strict=True) if gain is not None),
        key=lambda pair: pair[1].low,
        default=(rows[0], None),
    )
    if gain is None or any(None in of for of in means):
        return None
    tasks = tuple(sorted(set.intersection(*({*(of or ())} for of in means[0]))))
    by_task = [np.mean([[of[task] for task in tasks] for of in each], axis=0) for each in means]  # type: ignore[index]
    row = worst[1]
    name = f"{row.standing.info.name} {row.transfer}"
    return _Way(name, gain, cost_of(row.transfer or COPIED), by_task[0], worst, tasks, by_task[1])
