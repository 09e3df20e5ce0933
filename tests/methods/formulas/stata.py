"""StatA: the logits of its rounds, image by image and class by class."""

from __future__ import annotations

import itertools

import torch

from formulas import Fit, FitInputs, Tensors, fit_test, scale_of, unit, unit_texts


def logits(of: FitInputs) -> Tensors:
    x = unit(of.images)
    texts = unit_texts(of.target, of.data.labels)
    start = scale_of(of.target) * x @ texts.T
    alpha = of.settings["alpha"]
    near = torch.zeros(len(x), len(x))
    for i, f in enumerate(x):
        others = [j for j in range(len(x)) if j != i]
        others.sort(key=lambda j: -float(f.dot(x[j])))
        for j in others[:3]:
            near[i, j] = f.dot(x[j])
    z = start.softmax(1)
    first = torch.zeros(16)
    for i, c in itertools.product(range(len(x)), range(5)):
        first += z[i, c] * (x[i] - texts[c]) ** 2 / len(x)
    means = [*texts]
    spreads = [first] * 5
    found = start
    betas = torch.zeros(5)
    for _ in range(of.settings["rounds"]):
        fixed = start.clone()
        for i, c in itertools.product(range(len(x)), range(5)):
            squares = (x[i] - means[c]) ** 2 / spreads[c]
            fixed[i, c] += -(squares.sum() + spreads[c].log().sum()) / 2 / 50
        for _ in range(5):
            found = fixed + (near.T @ z + near @ z) / 6
            z = found.softmax(1)
        for c in range(5):
            count = sum(int(row.argmax()) == c for row in z)
            beta = count / (count + alpha)
            betas[c] = beta
            mean = unit(beta * unit(z[:, c] @ x) + (1 - beta) * texts[c])
            spread = sum(z[i, c] * (x[i] - mean) ** 2 for i in range(len(x))) / z[:, c].sum()
            spreads[c] = beta * spread + (1 - beta) * (first + (texts[c] - mean) ** 2)
            means[c] = mean
    assert betas.unique().numel() > 2  # the classes are not equally frequent
    return {"logits": found}


test_fits_equal_their_formulas = fit_test(
    [
        Fit("stata", logits, {"rounds": 3, "alpha": 1.0}),
        Fit("stata", logits, {"rounds": 4, "alpha": 5.0}),
    ]
)
