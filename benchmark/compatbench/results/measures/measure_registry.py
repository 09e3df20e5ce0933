"""The registry of measures, which result files, frames and pages read.

A measure is one function in a file of this folder, with a name, a unit, a direction and a sentence.
Its kind is the argument that the function receives:

* ``answers``: predictions and labels. The number is stored in a column of a results file;
* ``row``: the columns of many rows. The result is a column of a frame, computed on reading;
* ``upgrade``: rows with source and target side by side. Pages show the mean over tasks and seeds.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas as pd

    from compatbench.method.predictions import Predictions

Unit = Literal["images", "percent", "points", ""]
Direction = Literal["higher", "lower"] | None  # the better values; None if neither are better
Side = Literal["source", "target"]
Kind = Literal["answers", "row", "upgrade"]
Columns = Mapping[str, NDArray[np.float64]]  # by name, [rows]; NaN where a row has no number

STANDARD = "standard"  # the file whose measures come before those of others
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of a module on one backbone and one test set; arrays are ``[images]``."""

    predictions: Predictions
    # Of the same module on its source; None if this backbone is the source, or if they are lost.
    source: Predictions | None
    zero_shot: Predictions  # of this backbone's own zero-shot classifier
    labels: ArrayLike

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """Return the labels as an array."""
        return np.asarray(self.labels)

    def right(self, predictions: Predictions) -> NDArray[np.bool_]:
        """Return True for each image that is classified correctly, ``[images]``."""
        return np.asarray(predictions.classes) == self.targets

    @property
    def accuracy(self) -> float:
        """Return the top-1 accuracy in percent."""
        return 100 * float(self.right(self.predictions).mean())

    @property
    def zero_shot_accuracy(self) -> float:
        """Return the top-1 accuracy of the backbone's own zero-shot classifier, in percent."""
        return 100 * float(self.right(self.zero_shot).mean())

    @property
    def gain(self) -> float:
        """Return accuracy minus zero-shot accuracy, in percentage points."""
        return self.accuracy - self.zero_shot_accuracy


@dataclass(frozen=True)
class Measure:
    """A registered measure; names are unique among those of one kind."""

    name: str
    title: str  # the head of a column on a page
    unit: Unit
    direction: Direction
    sentence: str  # its meaning, for readers
    kind: Kind
    compute: Callable[[Any], Any]
    standard: bool  # True if every results file has it; older files lack later measures

    @property
    def column(self) -> str:
        """Return its column in a ranking, named after its title: ``NFR`` becomes ``nfr``."""
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
    kind: Kind = "answers",
    mean_on: Side | None = "target",
) -> Callable[[_FunctionT], _FunctionT]:
    """Register a function as a measure under its own name; its docstring begins with the sentence.

    Args:
        kind: the argument of the function. From ``answers``, it returns an integer for ``images``,
            a float for other units, and None where there is no number. From a ``row``, which is
            ``Columns``, it returns a column ``[rows]``. From an ``upgrade``, a frame with the
            columns ``source_NAME`` and ``target_NAME``, it returns a column ``[rows]``, too.
        mean_on: the side of an upgrade on which a measure of answers is also averaged over tasks
            and seeds, unless its unit is images.
    """

    def decorate(function: _FunctionT) -> _FunctionT:
        name = function.__name__
        file = function.__module__.rpartition(".")[2]
        first_paragraph = (function.__doc__ or "").partition("\n\n")[0]
        words = " ".join(first_paragraph.split()).rstrip(".")
        sentence = words[:1].lower() + words[1:]
        is_standard = file == STANDARD
        _register(Measure(name, title, unit, direction, sentence, kind, function, is_standard))
        if kind == "answers" and mean_on is not None and unit != "images":
            add_mean(name, name, mean_on)
        return function

    return decorate


def add_mean(name: str, column: str, side: Side, title: str = "", sentence: str = "") -> None:
    """Register the mean of a column on one side of an upgrade: of a stored measure, or of a row.

    Title and sentence are by default those of the column.
    """
    base = _MEASURES.get(("row", column)) or _MEASURES["answers", column]

    def compute(rows: pd.DataFrame) -> NDArray[np.float64]:
        return rows[f"{side}_{column}"].to_numpy("float64")

    mean = replace(
        base,
        name=name,
        title=title or base.title,
        sentence=sentence or base.sentence,
        kind="upgrade",
        compute=compute,
    )
    _register(mean)


@cache
def list_measures(kind: Kind) -> dict[str, Measure]:
    """Return the measures of a kind by name, in the order of columns."""
    package = __name__.rpartition(".")[0]
    files = {module.name for module in pkgutil.iter_modules(import_module(package).__path__)}
    # The order of imports is the order of columns.
    others = sorted(files - {STANDARD})
    for file in (STANDARD, *others):
        import_module(f"{package}.{file}")
    return {each.name: each for each in _MEASURES.values() if each.kind == kind}


def score(answers: Answers) -> dict[str, int | float | None]:
    """Return every stored measure of these answers, in the order of a results file's columns."""
    return {name: measure.compute(answers) for name, measure in list_measures("answers").items()}
