"""Which method to try first: three questions, answered from results; and what methods can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from compatbench.data.cards import COPIED
from compatbench.data.cards.shots import show_shots
from compatbench.messages import count, one_line
from compatbench.results.choice import choose_checked
from compatbench.results.expected import Upgrade
from compatbench.results.ranks import exact
from compatbench.results.ways import MeasuredWay, access_of, list_ways
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


def answer_questions(pages: Sequence[SuitePage]) -> dict[str, Any]:
    """The choices of each question, and an answer for every combination, in their order."""
    upgrades = _list_relations(pages)
    relations = {
        UNKNOWN: tuple(dict.fromkeys(u for of in upgrades.values() for u in of))
    } | upgrades
    known = {way: each for upgrade in relations[UNKNOWN] for way, each in _first(pages, upgrade)}
    titles = {page.results.name: one_line(page.card.title) for page in pages}
    answers = [
        _answer(known, titles, HAVE[have], relations[relation], classes == CLASSES[1])
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


def _first(
    pages: Sequence[SuitePage], upgrade: Upgrade
) -> Iterator[tuple[tuple[str, str, Upgrade], MeasuredWay]]:
    """By method, transfer and upgrade, the way as the first page has it that has it."""
    seen = set()
    for page in pages:
        measured = upgrade in page.expected.upgrades
        for way in list_ways(page.results, page.expected, upgrade) if measured else ():
            if (key := (way.info.name, way.transfer, upgrade)) not in seen:
                seen.add(key)
                yield key, way


def _answer(
    known: Mapping[tuple[str, str, Upgrade], MeasuredWay],
    titles: Mapping[str, str],
    allowed: frozenset[str],
    upgrades: Sequence[Upgrade],
    new_classes: bool,
) -> list[str]:
    """A verdict, a method and its track, and the reason."""
    facts = read_facts()
    by_way: dict[tuple[str, str], list[MeasuredWay]] = {}
    for (name, transfer, upgrade), way in known.items():
        fits = name in facts and "classes" in _abilities(facts[name])
        if upgrade in upgrades and way.needs <= allowed and (fits or not new_classes):
            by_way.setdefault((name, transfer), []).append(way)
    ways = [_join(of) for of in by_way.values() if len(of) == len(upgrades)]
    if not ways:
        return ["Cannot tell: nothing of this kind was measured.", "", "", ""]
    widest = max((way.datasets for way in ways), key=len)
    ways = [way for way in ways if way.datasets == widest]
    choice = choose_checked(ways, [way.by_task for way in ways])
    way, shown = choice.way, sum(way.gain.sign == 1 for way in ways)
    if choice.shown and shown == 1:
        verdict = "Try first, with zero-shot beside it: the only way that is shown to beat the new "
        verdict += "model's own zero-shot."
    elif choice.shown:
        verdict = f"Try first, with zero-shot beside it: of {shown} ways shown to beat the new "
        verdict += "model's own zero-shot, the cheapest that is not clearly worse than the best."
    elif shown:
        verdict = "Cannot tell: to choose by some datasets is not shown to gain on the others. Use "
        verdict += "the new model's own zero-shot meanwhile, and try first"
    elif choice.harmful:
        verdict = "Keep none: use the new model's own zero-shot, or train anew. The best was"
    else:
        verdict = "Cannot tell: nothing measured here is shown to beat the new model's own "
        verdict += "zero-shot. Use zero-shot meanwhile, and try first"
    gain = signed(way.gain.value)
    if way.gain.bounded:
        gain += f" ({bounds(way.gain, signed)})"
    where = f"{titles[way.suite]}, {count(len(way.datasets), 'dataset')}"
    where += f", {show_shots(way.shots)} shots"
    worst = " at its worst" if len(upgrades) > 1 else ""
    h = percent(exact(way.standing.mean("h")))
    reason = f"H {h}, {gain} points over zero-shot{worst} ({where})."
    how = "attached untouched" if way.transfer == COPIED else f"through {way.transfer}"
    return [verdict, way.info.name, f"{way.info.title}, {how}", reason]


def _join(ways: Sequence[MeasuredWay]) -> MeasuredWay:
    """A way on several upgrades as one: the gain that is least certain, means of the others."""
    shared = tuple(sorted(set.intersection(*({*way.datasets} for way in ways))))
    places = [[way.datasets.index(name) for name in shared] for way in ways]
    figures, gains = (
        np.mean([each[at] for each, at in zip(of, places, strict=True)], axis=0)
        for of in ([way.figures for way in ways], [way.by_task for way in ways])
    )
    worst = min(ways, key=lambda way: way.gain.low)
    return replace(worst, figures=figures, by_task=gains, datasets=shared)
