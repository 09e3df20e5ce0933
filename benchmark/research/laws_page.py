"""The page ``docs/laws.md``: what one target of a kind says of others, and questions about many."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import laws_anchoring
import laws_properties
import numpy as np
import pandas as pd
from laws_kinds import (
    AXES,
    EFFECTS,
    Kind,
    over_targets,
    read_kinds,
    read_zero_shot,
    reversals,
    reversed_orders,
    share_of_targets,
    spread_of_means,
    variance_components,
)
from pages import Page

from compatbench.data.cards import backbone_cards, suite_cards
from compatbench.extras.studies.law import FILE as law_file
from compatbench.results.estimate import FEWEST_UNITS, Array, estimate
from compatbench.results.result_files import read_results
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.markdown import fill_section
from compatbench.tables.numbers import NOTHING, bounds, percent, signed

ROOT = Path(__file__).parents[2]
SUITE = "mini-upgrades"
CHOICE = ROOT / "docs" / "choose-a-method.md"  # which has the answers, too
NAMES = {effect: " × ".join(AXES[axis] for axis in effect) for effect in EFFECTS}
NAMES[0, 1, 2] = "what is left"


# What one target says about others: by a sentence, the statistic and the most that it can be.
TELLINGS: dict[str, tuple[Callable[[Array], float], float]] = {
    "share of a gain's variance that changes with the target, %": (share_of_targets, 100),
    "standard deviation between targets of a method's mean gain, points": (spread_of_means, np.inf),
    "two methods, clearly apart on one target: in the other order on another, %": (
        reversed_orders,
        100,
    ),
    "a gain, clearly not 0 on one target: of the other sign on another, %": (reversals, 100),
}


def show(kind: Kind, statistic: Callable[[Array], float], most: float) -> str:
    """A statistic of gains; its interval only where there are targets enough."""
    interval = over_targets(kind.gains, statistic, most)
    if interval is None:
        return NOTHING
    between = f" ({bounds(interval)})" if interval.decides else ""
    return percent(interval.value) + between


def answer(kind: Kind) -> str:
    """The sentence on a kind of upgrade, which needs six targets."""
    count = len(kind.targets)
    if count < FEWEST_UNITS:
        return f"cannot tell from {count} of the {FEWEST_UNITS} targets."
    share, spread, order, _ = (show(kind, *telling) for telling in TELLINGS.values())
    return (
        f"{share} % of the variance of a gain changes with the target. A method's mean gain "
        f"has a standard deviation of {spread} points between targets, and an order of two methods "
        f"that is clear on one target is the other way round on another in {order} % of cases."
    )


def list_methods(kinds: list[Kind]) -> dict[str, list[tuple[str, str]]]:
    """By method and kind: its mean gain, with its interval over targets, and their deviation."""
    figures = dict[str, list[tuple[str, str]]]()
    for kind in kinds:
        for name, means in zip(kind.methods, kind.gains.mean(axis=1), strict=True):
            gain, deviation = estimate(means), percent(means.std(ddof=1))
            between = f" ({bounds(gain, signed)})" if gain is not None and gain.decides else ""
            figures.setdefault(name, []).append((signed(means.mean()) + between, deviation))
    return figures


def answer_questions(kinds: list[Kind], rows: pd.DataFrame) -> tuple[dict, dict[str, Shown]]:
    """The values of the template's sections on questions, and their figures, if answered."""
    zero_shot = read_zero_shot(rows)
    properties = pd.read_csv(laws_properties.FILE)
    (source,) = rows["source"].unique()
    gains = zero_shot.sub(zero_shot.loc[source]).mean(axis=1)
    targets = laws_properties.read_targets(kinds, gains, properties)
    judged = laws_properties.judge(targets)
    prices = laws_anchoring.price_weights(kinds, zero_shot)
    values: dict[str, Any] = {
        "properties": laws_properties,
        "properties_answer": laws_properties.answer(targets, judged),
        "law": laws_properties.fit_law(targets, judged),
        "anchoring": laws_anchoring,
        "anchoring_answer": laws_anchoring.answer(prices),
        "prices": prices,
        "judged": judged,
        "groups": laws_properties.list_groups(targets),
        "losses": laws_properties.compare_spaces(targets),
        "within": laws_properties.correlate_gains(targets),
    }
    figures = dict[str, Shown]()
    if judged:
        gains_told = laws_properties.describe_gains(kinds, targets, properties)
        values["help"] = laws_properties.measure_help(gains_told, targets)
        figures["laws/properties.svg"] = laws_properties.show_losses(targets)
    if len(prices) == len(laws_anchoring.WEIGHTS):
        figures["laws/anchoring.svg"] = laws_anchoring.show_prices(prices)
        values["levels"] = laws_anchoring.mean_gains(kinds)
    return values, figures


def make_page() -> Page:
    """Components, what one target says of another of its kind, and the questions."""
    suite = suite_cards.read(SUITE)
    rows = read_results(ROOT / "results" / SUITE).frame
    every = read_kinds(suite, rows)
    # Kinds of which a target ships: sentences on that target are to hold for others, too.
    kinds = [
        kind for kind in every if not all(backbone_cards.read(n).made_by for n in kind.targets)
    ]
    several = [kind for kind in kinds if len(kind.targets) > 1]
    values = {
        "several": several,
        "answers": {kind.title: answer(kind) for kind in kinds},
        "components": {
            kind.title: [variance_components(cells) for cells in (kind.gains, kind.losses)]
            for kind in several
        },
        "effects": NAMES,
        "tellings": {
            name: [show(kind, *telling) for kind in several] for name, telling in TELLINGS.items()
        },
        "methods": list_methods(several),
        "few": any(len(kind.targets) < FEWEST_UNITS for kind in several),
        "fewest": FEWEST_UNITS,
        "suite": suite,
    }
    questions, figures = answer_questions(every, rows)
    files = {
        str(law_file): questions["law"].model_dump_json(indent=1) + "\n",
        CHOICE.name: fill_section(CHOICE.read_text(encoding="utf-8"), "laws", _list(questions)),
    }
    filters = {"percent": percent, "bounds": bounds, "signed": signed}
    filters["signed_bounds"] = partial(bounds, show=signed)
    return Page(values | questions, figures, files, filters)


def _list(questions: dict[str, Any]) -> str:
    """The questions and their answers, a line each."""
    asked = {
        "Which property of an upgrade predicts what copied modules lose?": "properties_answer",
        "Can a new model be trained to keep old modules?": "anchoring_answer",
    }
    return "\n".join(f"* {question} {questions[answer]}" for question, answer in asked.items())
