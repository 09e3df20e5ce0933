"""What a module will gain on a new model, estimated without a label of the new model's images.

Two regressions of the gain over the target's zero-shot, in shares of the images. One knows the
models and the place of the module alone. The other knows what four classifiers answer for
unlabelled images: source and target, each with the module and zero-shot. Where the target answers
with the module as it does without, nothing can be gained or lost; so all its features are shares
of the images for which the answers differ, d, and its residuals are taken relative to d.

Answers that agree as evidence of accuracy: Baek et al., *Agreement-on-the-Line*
(arXiv:2206.13089); Jiang et al. (arXiv:2106.13799); confidences: Guillory et al., *Difference of
Confidences* (arXiv:2107.03315); Garg et al., *Average Thresholded Confidence* (arXiv:2201.04234).
Intervals: the jackknife, as Barber et al. (arXiv:1905.02928) describe it beside their jackknife+,
with an upgrade left out at a time; of rows that share models it has no guarantee, and is measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import MethodCard
from compatbench.method.predictions import Predictions
from compatbench.method.transfer import COPIED, JOINT_SPACE

Knowledge = Literal["models", "images"]
Array = NDArray[np.float64]
LEVEL = 0.9  # of the intervals
FILE = "survival.json"
WORDS = "words"
PLACES = ("text-input", "text-layers", "image-layers", "feature", "classifier")
KINDS = (*PLACES, "words", "bound", "unrelated")
UNRELATED = 0.5


class FourAnswers(NamedTuple):
    """What source and target answer for the same images, with the module and zero-shot."""

    source: Predictions
    source_zero_shot: Predictions
    target: Predictions
    target_zero_shot: Predictions


def describe_answers(four: FourAnswers, classes: int) -> dict[str, float]:
    """Features of the answers, each at most d, the share for which the target's two answers differ.

    Shares of the images:
        ``differ``: d; ``sides_source``: where the source, with the module, answers as the target
        does with it, less where it answers as the target's zero-shot; ``sides_confident``: the
        same, each image weighted by the source's confidence; ``alone``: where the answers differ
        and the target with the module is alone with its own.
    Mean confidences where the answers differ, times d:
        ``sure`` of the target, ``sure_zero`` of its zero-shot, ``sure_source`` and
        ``sure_source_zero`` of the source.
    Products of d and a figure of all images:
        ``uneven``, ``uneven_zero``, ``uneven_source``: the total variation between the answered
        classes and equal shares of all ``classes``, of the target, its zero-shot and the source;
        ``moved``: that between target and source, both with the module; ``plain``: the share in
        which the source, with the module, agrees with the target's zero-shot; ``certain``: the mean
        confidence of the target's zero-shot.
    """
    answers = [each.classes.numpy() for each in four]
    sure = [each.confidence.double().numpy() for each in four]
    old, old_zero, new, new_zero = answers
    differ = new != new_zero
    d = float(differ.mean())
    shares = [np.bincount(answer, minlength=classes) / len(answer) for answer in answers]

    def sides(answer: Array, weights: Array | float = 1.0) -> float:
        return float((((answer == new) * 1.0 - (answer == new_zero)) * weights).mean())

    def apart(first: Array, second: Array | float) -> float:
        return d * float(np.abs(first - second).sum()) / 2

    return {
        "differ": d,
        "sides_source": sides(old),
        "sides_confident": sides(old, sure[0]),
        "alone": float((differ & (new != old) & (new != old_zero)).mean()),
        "sure": float((sure[2] * differ).mean()),
        "sure_zero": float((sure[3] * differ).mean()),
        "sure_source": float((sure[0] * differ).mean()),
        "sure_source_zero": float((sure[1] * differ).mean()),
        "uneven": apart(shares[2], 1 / classes),
        "uneven_zero": apart(shares[3], 1 / classes),
        "uneven_source": apart(shares[0], 1 / classes),
        "moved": apart(shares[2], shares[0]),
        "plain": d * float((old == new_zero).mean()),
        "certain": d * float(sure[3].mean()),
    }


def describe_module(
    places: Sequence[str], transfer: str, starts_at_zero_shot: bool, tokens: float
) -> dict[str, float]:
    """What a module is, and whether the target is unrelated to its source, 1 or 0 each.

    ``tokens`` is 1 less the mean cosine of class names' token embeddings: near 0 for models that
    share an initialisation of the text tower, near 1 for unrelated models.
    """
    kinds = {place: float(place in places) for place in PLACES}
    kinds["words"] = float(transfer != COPIED)
    # It takes the joint space as it is, such as a probe, and is no change of zero-shot.
    kinds["bound"] = float(not JOINT_SPACE.isdisjoint(places) and not starts_at_zero_shot)
    return kinds | {"unrelated": float(tokens > UNRELATED)}


def describe_method(
    card: MethodCard, transfer: str, source: Backbone, target: Backbone, labels: Labels
) -> dict[str, float]:
    """What ``describe_module`` says of a method's module for these classes."""
    tokens = measure_tokens(source, target, labels)
    return describe_module(card.places, transfer, bool(card.zero_shot_at), tokens)


@torch.no_grad()
def measure_tokens(source: Backbone, target: Backbone, labels: Labels) -> float:
    """1 less the mean cosine of class names' token embeddings; 1 where the widths differ."""
    old, new = (mean_tokens(backbone, labels).double() for backbone in (source, target))
    return 1.0 if old.shape != new.shape else 1 - float(F.cosine_similarity(old, new).mean())


def mean_tokens(backbone: Backbone, labels: Labels) -> Tensor:
    """The mean token embedding of each class name, ``[C, D]``."""
    rows, lengths = backbone.name_tokens(labels)
    counts = torch.tensor(lengths, device=rows.device)
    inside = torch.arange(rows.shape[1], device=rows.device) < counts[:, None]
    return ((rows * inside[..., None]).sum(1) / counts[:, None]).cpu()


def describe_kinds(answers: Mapping[str, Any], module: Mapping[str, Any]) -> dict[str, Any]:
    """The share d of the answers for each kind of module; also of whole columns."""
    return {f"differ {name}": answers["differ"] * module[name] for name in KINDS}


@dataclass(frozen=True)
class Gain:
    """An estimated gain over the target's zero-shot, with its interval, in shares of the images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """In points, with the interval: ``+1.2 (-0.3 to +2.5)``."""
        shown = [f"{round(100 * x, 1) + 0.0:+.1f}" for x in (self.value, self.low, self.high)]
        return "{} ({} to {})".format(*shown)


@dataclass(frozen=True)
class Estimator:
    """A ridge regression of gains on features, as numbers that a JSON file holds.

    Attributes:
        weights: of each feature, not standardised.
        width: half an interval, for a unit of ``scale``.
        floor: what is added to d for the scale of a residual; None where residuals have no scale.
    """

    features: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float
    width: float
    floor: float | None

    def estimate(self, rows: pd.DataFrame) -> Array:
        """Gains of rows of features, ``[rows]``; at most d in size where d is known."""
        gains = rows[list(self.features)].to_numpy(float) @ np.array(self.weights) + self.intercept
        bound = rows["differ"].to_numpy(float) if self.floor is not None else 1.0
        return np.clip(gains, -bound, bound)

    def predict(self, row: Mapping[str, float]) -> Gain:
        """The gain of one row of features, with its interval."""
        frame = pd.DataFrame([row])
        value = float(self.estimate(frame)[0])
        half = self.width * float(scale_of(frame, self.floor)[0])
        bound = row["differ"] if self.floor is not None else 1.0
        return Gain(value, max(value - half, -bound), min(value + half, bound))


def scale_of(rows: pd.DataFrame, floor: float | None) -> Array:
    """What residuals are taken relative to, ``[rows]``."""
    return np.ones(len(rows)) if floor is None else rows["differ"].to_numpy(float) + floor


@lru_cache(maxsize=1)
def read_estimators() -> dict[tuple[Knowledge, str], Estimator]:
    """The estimators that ship with compatbench, by what they know and the upgrade left out.

    Of all upgrades is that which leaves out none (``""``). How they were fitted is in the file.
    """
    text = resources.files("compatbench.transfers._shared").joinpath(FILE).read_text("utf-8")
    content = json.loads(text)
    features = {name: tuple(values) for name, values in content["features"].items()}
    return {
        (name, left_out): Estimator(features[name], tuple(weights), intercept, width, floor)
        for name, left_out, weights, intercept, width, floor in content["estimators"]
    }


def find_estimator(knows: Knowledge, source: str, target: str) -> Estimator:
    """The estimator for an upgrade, which has not seen gains of this upgrade itself."""
    estimators = read_estimators()
    return estimators.get((knows, name_upgrade(source, target)), estimators[knows, ""])


def predict_gain(
    four: FourAnswers, classes: int, kind: Mapping[str, float], source: str, target: str
) -> Gain:
    """The gain that four classifiers' answers for images of so many ``classes`` let expect.

    ``kind`` is what ``describe_module`` says; ``source`` and ``target`` are names of backbones.
    """
    row = describe_answers(four, classes)
    return find_estimator("images", source, target).predict(row | describe_kinds(row, kind))


def name_upgrade(source: Any, target: Any) -> Any:
    """The name of an upgrade in the estimators' file; also of whole columns."""
    return source + " → " + target


def to_json(
    estimators: Mapping[tuple[Knowledge, str], Estimator], provenance: Mapping[str, Any]
) -> str:
    """The file that ``read_estimators`` reads, an estimator in each line."""
    features = {
        name: each.features for (name, left_out), each in estimators.items() if not left_out
    }
    rows = [
        json.dumps([*key, each.weights, each.intercept, each.width, each.floor], ensure_ascii=False)
        for key, each in estimators.items()
    ]
    head = json.dumps({"provenance": provenance, "features": features}, indent=1)
    return head.removesuffix("\n}") + ',\n "estimators": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"
