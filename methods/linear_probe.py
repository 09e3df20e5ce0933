"""Linear probe: logistic regression on image features, no text at all.

A linear classifier with a bias is fitted to the image features of the shots, its regularisation
chosen on validation images. It belongs wholly to the source's feature space, which makes it the
negative control of an upgrade.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FeatureSet,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    require_shape,
)


class LinearProbe(Method):
    """z = W f + b on the feature f as it leaves the image tower, not normalised by default.

    Radford et al., section 3.2, in the few-shot form of the CoOp authors: L-BFGS, the
    plain view, and an inverse regularisation C swept over seven decades on the
    few-shot validation set, then refined by eight bisections.

    W lives wholly in the source's coordinates: it is the suite's negative control.
    """

    card = MethodCard(
        name="linear_probe",
        title="Linear probe",
        paper="arXiv:2103.00020",
        inserts="classifier",
        summary="logistic regression on image features",
    )

    class Config(Method.Config):
        sweep: tuple[PositiveFloat, ...] = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
        bisections: int = 8
        max_iterations: PositiveInt = 1000
        normalized: bool = False  # the features, as those of stored embeddings often are

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        weight, bias = self._solve(data.train, self._search(data), len(data.labels))
        return Module({"weight": weight, "bias": bias}).to(backbone.device)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        weight = require_shape(module, "weight", backbone.embed_dim, "image features of size")
        bias = require_shape(module, "bias", len(labels), "a number of classes of")

        def classify(features: Tensor) -> Tensor:
            return self._see(features) @ weight.T + bias

        return classify

    def _see(self, features: Tensor) -> Tensor:
        """The features as the classifier takes them."""
        return F.normalize(features, dim=-1) if self.config.normalized else features

    def _search(self, data: FewShotData) -> float:
        """The C that classifies the few-shot validation set best; 1 if there is none."""
        if len(data.val) == 0:
            return 1.0
        scores = [self._validate(data, c) for c in self.config.sweep]
        peak = self.config.sweep[int(np.argmax(scores))]
        left, right = peak / 10, peak * 10
        best = peak
        for _ in range(self.config.bisections):
            middle = 10 ** (0.5 * (math.log10(left) + math.log10(right)))
            if self._validate(data, left) < self._validate(data, right):
                best, left = right, middle
            else:
                best, right = left, middle
        return best

    def _validate(self, data: FewShotData, c: float) -> float:
        weight, bias = self._solve(data.train, c, len(data.labels))
        logits = self._see(data.val.plain).cpu() @ weight.T + bias
        return float((logits.argmax(-1) == data.val.targets.cpu()).float().mean())

    def _solve(self, train: FeatureSet, c: float, classes: int) -> tuple[Tensor, Tensor]:
        """W ``[C, e]`` and b ``[C]``; a class without images gets a bias of −∞'s stand-in."""
        # Loading scikit-learn takes a second, which those who only list methods are spared.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        solver = LogisticRegression(C=c, max_iter=self.config.max_iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(self._see(train.plain).cpu().numpy(), train.targets.cpu().numpy())
        weight, bias = torch.zeros(classes, train.plain.shape[1]), torch.full((classes,), -1e4)
        seen = torch.from_numpy(solver.classes_)
        coefficients, intercept = solver.coef_, solver.intercept_
        if len(seen) == 2:  # scikit-learn keeps one row for a two-class problem
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercept = np.concatenate([-intercept, intercept]) / 2
        weight[seen] = torch.from_numpy(coefficients).to(weight)
        bias[seen] = torch.from_numpy(intercept).to(bias)
        return weight, bias
