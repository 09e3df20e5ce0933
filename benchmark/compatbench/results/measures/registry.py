"""The registry of measures, which files of results, frames and pages read.

A measure is one function in a file of this folder, with a name, a unit, a direction and a sentence.
There are three kinds, by what the function is given:

* ``answers``: predictions and labels. Its number is stored, in a column of a results file;
* ``row``: the columns of many rows. It is a column of a frame, computed when results are read;
* ``upgrade``: a method's rows on source and target. Its mean over tasks and seeds is shown.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from compatbench.method.predictions import Predictions

Unit = Literal["images", "percent", "points", ""]
Direction = Literal["higher", "lower"] | None  # which values are better, if any are
Side = Literal["source", "target"]
Kind = Literal["answers", "row", "upgrade"]
Columns = Mapping[str, NDArray[np.float64]]  # by name, [rows]; NaN where a row has no number

STANDARD = "standard"  # the file whose measures come before those of others
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Answers:
    """What is known of a module on one backbone and one test set; arrays are ``[images]``."""

    predictions: Predictions
    source: Predictions | None  # of the same module on its source; None there, or if they are lost
    zero_shot: Predictions  # of this backbone's own zero-shot classifier
    labels: ArrayLike

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """The labels as an array."""
        return np.asarray(self.labels)

    def right(self, predictions: Predictions) -> NDArray[np.bool_]:
        """Whether each image is classified right."""
        return np.asarray(predictions.classes) == self.targets

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in percent."""
        return 100 * float(self.right(self.predictions).mean())

    @property
    def zero_shot_accuracy(self) -> float:
        """Top-1 accuracy of the backbone's own zero-shot classifier, in percent."""
        return 100 * float(self.right(self.zero_shot).mean())

    @property
    def gain(self) -> float:
        """Accuracy over that of zero-shot, in percentage points."""
        return self.accuracy - self.zero_shot_accuracy


class BothSides(Protocol):
    """A method's rows on the source and on the target of an upgrade."""

    def column(self, side: Side, name: str) -> NDArray[Any]:
        """Return a column of the table at the rows of one side, ``[seeds, tasks]``."""
        ...


@dataclass(frozen=True)
class Measure:
    """A registered measure; names are unique among those of one kind."""

    name: str
    title: str  # the head of a column on a page
    unit: Unit
    direction: Direction
    sentence: str  # what it says, for readers
    kind: Kind
    compute: Callable[[Any], Any]
    standard: bool  # whether every results file has it; older files lack those of later measures

    @property
    def column(self) -> str:
        """Its column in a ranking, named as its title: ``NFR`` is ``nfr``."""
        return self.title.lower().replace(" ", "_")


_MEASURES: dict[tuple[Kind, str], Measure] = {}


def _register(new: Measure) -> None:
    if (new.kind, new.name) in _MEASURES:
        raise ValueError(f"there are two measures '{new.name}' of kind '{new.kind}'")
    _MEASURES[new.kind, new.name] = new


def measure(
    title: str,
    unit: Unit = "",
    direction: Direction = None,
    *,
    of: Kind = "answers",
    mean_on: Side | None = "target",
) -> Callable[[_FunctionT], _FunctionT]:
    """Registers a function as a measure under its own name; its docstring begins with the sentence.

    Args:
        of: what it is a function of. Of ``answers``, it gives an integer for ``images``, a float
            for other units, and None where there is no number; of a ``row``, it is given
            ``Columns`` and gives one, ``[rows]``; of an ``upgrade``, it is given
            ``BothSides`` and gives figures ``[seeds, tasks]``.
        mean_on: the side of an upgrade on which a number of answers, in another unit than images,
            is also averaged over tasks and seeds.
    """

    def decorate(function: _FunctionT) -> _FunctionT:
        name, standard = function.__name__, function.__module__.rpartition(".")[2] == STANDARD
        words = " ".join((function.__doc__ or "").partition("\n\n")[0].split()).rstrip(".")
        sentence = words[:1].lower() + words[1:]
        _register(Measure(name, title, unit, direction, sentence, of, function, standard))
        if of == "answers" and mean_on is not None and unit != "images":
            add_mean(name, name, mean_on)
        return function

    return decorate


def add_mean(name: str, column: str, side: Side, title: str = "", sentence: str = "") -> None:
    """Registers the mean of a column on one side of an upgrade: of a stored measure, or of a row.

    Title and sentence are those of the column, if they are not given.
    """
    of = _MEASURES.get(("row", column)) or _MEASURES["answers", column]
    words = {"title": title or of.title, "sentence": sentence or of.sentence}

    def compute(rows: BothSides) -> NDArray[np.float64]:
        return rows.column(side, column)

    _register(replace(of, name=name, kind="upgrade", compute=compute, **words))


@cache
def list_measures(kind: Kind) -> dict[str, Measure]:
    """The measures of a kind by name, in the order of columns."""
    package = __name__.rpartition(".")[0]
    names = {module.name for module in pkgutil.iter_modules(import_module(package).__path__)}
    for name in sorted(names, key=lambda name: (name != STANDARD, name)):
        import_module(f"{package}.{name}")
    return {each.name: each for each in _MEASURES.values() if each.kind == kind}


def score(answers: Answers) -> dict[str, int | float | None]:
    """Every stored measure of these answers, in the order of the columns of a results file."""
    return {name: measure.compute(answers) for name, measure in list_measures("answers").items()}
