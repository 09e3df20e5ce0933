"""The pace of a plan: finished cells of a method give the time of its other cells.

Before any cell of a method has finished, its cost is only guessed, from the steps of its fits. The
guess is good enough to order cells and to divide them, and is never shown as a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from statistics import median

from compatbench.data.cards import COPIED, TaskCard
from compatbench.engine.cell import Cell
from compatbench.engine.matrix import Matrix, MethodChoice
from compatbench.method.registry import find_transfer
from compatbench.method.trained import TrainedMethod

# Guessed seconds, about those of the mini models on one core.
CLOSED_FORM = 0.2  # of a fit without steps
PLACE = 0.05  # of predicting at one place
STEP = 0.001  # of a step of training
TEXT_STEP = 0.006  # more, if the step runs through the text tower
IMAGE_STEP = 0.008  # more, if the step runs through the image tower


class Pace:
    """Gives the seconds that a cell takes, image encoding excluded.

    Args:
        cells: the cells of a plan.
        known: seconds of finished cells by key.
        guess: a rough cost of any cell, above 0.
    """

    def __init__(
        self, cells: Sequence[Cell], known: Mapping[str, float], guess: Callable[[Cell], float]
    ) -> None:
        self._known = known
        self._guess = guess
        spent = defaultdict[str, float](float)
        guessed = defaultdict[str, float](float)
        for cell in cells:
            if cell.key in known:
                spent[cell.name] += known[cell.key]
                guessed[cell.name] += guess(cell)
        self._paces = {name: spent[name] / guessed[name] for name in spent}
        self._usual_pace = median(self._paces.values()) if self._paces else 1.0

    def knows(self, cell: Cell) -> bool:
        """Return True if a cell of this method has finished."""
        return cell.name in self._paces

    def seconds(self, cell: Cell) -> float:
        """Return the seconds of a cell, above 0; a mere guess if its method is not known."""
        seconds = self._known.get(cell.key)
        if seconds is None:
            seconds = self._paces.get(cell.name, self._usual_pace) * self._guess(cell)
        return max(seconds, 1e-3)


def guess_cost(matrix: Matrix) -> Callable[[Cell], float]:
    """Return a function that guesses the cost of a cell, from cards and settings alone.

    It depends on nothing that a run changes, so all jobs of an array guess the same.
    """

    @cache  # the same for all seeds
    def guess_fits(
        choice: MethodChoice, task: str, shots: int, backbones: tuple[str, ...]
    ) -> float:
        fits, fit_shots = _count_fits(choice, shots, backbones)
        return fits * _guess_fit(choice, matrix.cards[task], fit_shots)

    def guess(cell: Cell) -> float:
        fits = guess_fits(matrix.choice(cell), cell.task, cell.shots, cell.backbones)
        return fits + PLACE * len(cell.backbones) * len(cell.test_sets)

    return guess


def count_images(choice: MethodChoice, card: TaskCard, shots: int) -> int:
    """Return the number of training images of a fit."""
    split = card.counts.get("train", 0)
    if "unlabelled" in choice.method.card.needs:
        return split
    return min(len(card.classes) * shots, split)


def _count_fits(choice: MethodChoice, shots: int, backbones: tuple[str, ...]) -> tuple[int, int]:
    """Return how many fits a cell has, and their shots.

    A transfer that takes labels may fit on every target. So does one that takes modules of other
    tasks: every task's modules on the targets are fitted once.
    """
    if not choice.method.card.learns:
        return 0, shots
    if choice.transfer == COPIED:
        return 1, shots
    transfer = find_transfer(choice.transfer)
    if "labels" in transfer.card.access:
        return len(backbones) - 1, transfer.config.shots
    if "modules" in transfer.card.access:
        return len(backbones) - 1, shots
    return 0, shots


def _guess_fit(choice: MethodChoice, card: TaskCard, shots: int) -> float:
    method = choice.build(card.name)
    if not isinstance(method, TrainedMethod):
        return CLOSED_FORM
    images = count_images(choice, card, shots)
    # Recipes count in shots, where all images may be requested.
    shots = min(shots, card.counts.get("train", 0) // max(len(card.classes), 1))
    step = STEP
    if {"text-input", "text-layers"}.intersection(method.card.places):
        step += TEXT_STEP
    if "image-layers" in method.card.places:
        step += IMAGE_STEP
    return step * math.prod(method.plan_steps(shots, images))
