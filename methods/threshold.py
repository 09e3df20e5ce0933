"""Threshold: zero-shot refuses an image whose best cosine is below a number.

Stored thresholds on cosines decide in many programs: two photos are duplicates, an image shows a
cat, a query is about nothing that is known. Such a number was chosen on one model, and cosines of
another model lie elsewhere.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    require_shape,
)


class Threshold(Method):
    """An image is of class c = argmax cos_c, and is answered if cos_c ≥ τ.

    cos_c = ⟨f̂, t̂_c⟩ is the cosine of its feature with the text feature of a class. τ is the least
    of the few-shot images' best cosines at which, of the images with such a cosine or more, a
    share ``precision`` is right; if there is none, the one of the most precise answers. It is the
    empirical form of the selection with a wanted risk of Geifman and El-Yaniv, *Selective
    Classification for Deep Neural Networks*, without their bound on the risk for new images. With
    ``per_class`` each class has a τ_c of its own, chosen on the images that are classified as c;
    a class without such images has the one of all.

    Logits are s (cos − τ_c) with c the image's best class, so that the largest is below 0 where an
    image is refused. Stored is τ alone; text features and s are those of the backbone at hand.
    """

    card = MethodCard(
        name="threshold",
        title="Threshold",
        paper="arXiv:1705.08500",
        inserts="answer",
        summary="zero-shot that refuses images whose best cosine is low",
        zero_shot_at={"threshold": 0.0},
    )

    class Config(Method.Config):
        precision: Annotated[float, Field(gt=0, le=1)] = 0.9
        per_class: bool = False

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        cosines = F.normalize(data.train.plain, dim=-1) @ backbone.zero_shot(data.labels).T
        scores, classes = cosines.max(-1)
        size = len(data.labels) if self.config.per_class else 1
        right = classes == data.train.targets
        return Module({"threshold": self.choose(scores, classes, right, size)})

    def choose(self, scores: Tensor, classes: Tensor, right: Tensor, size: int) -> Tensor:
        """One threshold, or one for the images of each predicted class, ``[size]``.

        Args:
            scores: the best cosine of each image, ``[N]``.
            classes: the predicted ones, ``[N]``.
            right: whether they are right, or the probability of it, ``[N]``.
        """
        wanted = self.config.precision
        whole = choose_threshold(scores, right, wanted)
        if size == 1:
            return whole[None]
        rows_of = [classes == number for number in range(size)]
        chosen = [
            choose_threshold(scores[rows], right[rows], wanted) if rows.any() else whole
            for rows in rows_of
        ]
        return torch.stack(chosen)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        threshold = module["threshold"]
        if self.config.per_class:
            require_shape(module, "threshold", len(labels), "a number of classes of")
        plain = CosineClassifier(backbone.zero_shot(labels), backbone.logit_scale)

        def classify(features: Tensor) -> Tensor:
            logits = plain(features)
            least = threshold.expand(len(labels))[logits.argmax(-1)]
            return logits - backbone.logit_scale * least[:, None]

        return classify


def choose_threshold(scores: Tensor, right: Tensor, precision: float) -> Tensor:
    """The least of the scores at which images with it or more are right often enough, ``[]``.

    If none reaches the precision, the one of the highest, and of several of these the least.
    """
    ranked, order = scores.sort(descending=True, stable=True)
    shares = right[order].double().cumsum(0) / torch.arange(1, len(ranked) + 1).to(scores.device)
    # Images of equal scores are answered together.
    last = torch.cat([ranked[1:] < ranked[:-1], torch.ones_like(ranked[:1], dtype=torch.bool)])
    reached = last & (shares >= min(precision, float(shares[last].max())))
    return ranked[reached.nonzero()[-1, 0]]
