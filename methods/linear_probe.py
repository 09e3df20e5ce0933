"""Linear probe: logistic regression on image features, without any text.

A linear classifier with a bias is fitted to the image features of the shots, and its
regularisation is chosen on validation images. It belongs entirely to the source's feature space,
which makes it the negative control of an upgrade.
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

    Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
    section 3.2, in the few-shot form of CoOp's authors: L-BFGS on the plain view, and an
    inverse regularisation C that is swept over seven decades on the few-shot validation set,
    then refined by eight bisections.
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
        c = self._search(data)
        weight, bias = self._solve(data.train, c, len(data.labels))
        return Module({"weight": weight, "bias": bias}).to(backbone.device)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        weight = require_shape(module, "weight", backbone.embed_dim, "image features of size")
        bias = require_shape(module, "bias", len(labels), "a number of classes of")

        def classify(features: Tensor) -> Tensor:
            return self._prepare(features) @ weight.T + bias

        return classify

    def _prepare(self, features: Tensor) -> Tensor:
        """Return the features as the classifier takes them, ``[n, e]``."""
        return F.normalize(features, dim=-1) if self.config.normalized else features

    def _search(self, data: FewShotData) -> float:
        """Return the C that classifies the validation set best, or 1 without validation images."""
        if len(data.val) == 0:
            return 1.0
        accuracies = [self._validate(data, c) for c in self.config.sweep]
        best = self.config.sweep[int(np.argmax(accuracies))]
        left = best / 10
        right = best * 10
        for _ in range(self.config.bisections):
            middle = 10 ** (0.5 * (math.log10(left) + math.log10(right)))
            if self._validate(data, left) < self._validate(data, right):
                best = right
                left = middle
            else:
                best = left
                right = middle
        return best

    def _validate(self, data: FewShotData, c: float) -> float:
        """Fit with an inverse regularisation; return the accuracy on the validation set."""
        weight, bias = self._solve(data.train, c, len(data.labels))
        logits = self._prepare(data.val.plain).cpu() @ weight.T + bias
        hits = logits.argmax(-1) == data.val.targets.cpu()
        return float(hits.float().mean())

    def _solve(self, train: FeatureSet, c: float, classes: int) -> tuple[Tensor, Tensor]:
        """Fit W ``[C, e]`` and b ``[C]``, both on the CPU.

        A class without images gets a bias so low that it is never predicted.
        """
        # Imported here, because it takes a second and listing methods does not need it.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        solver = LogisticRegression(C=c, max_iter=self.config.max_iterations)
        features = self._prepare(train.plain).cpu().numpy()
        with warnings.catch_warnings():
            # A cap on iterations is part of the recipe.
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(features, train.targets.cpu().numpy())
        weight = torch.zeros(classes, train.plain.shape[1])
        bias = torch.full((classes,), -1e4)
        seen = torch.from_numpy(solver.classes_)
        coefficients = solver.coef_
        intercept = solver.intercept_
        if len(seen) == 2:  # scikit-learn keeps one row for a two-class problem
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercept = np.concatenate([-intercept, intercept]) / 2
        weight[seen] = torch.from_numpy(coefficients).to(weight)
        bias[seen] = torch.from_numpy(intercept).to(bias)
        return weight, bias
