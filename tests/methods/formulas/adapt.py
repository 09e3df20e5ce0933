"""ADAPT: its logits, with lists of banked images and the inverse of the covariance."""

from __future__ import annotations

import itertools
import math

import torch

from formulas import Fit, FitInputs, Tensors, fit_test, scale_of, unit, unit_texts


def logits(of: FitInputs) -> Tensors:
    texts = unit_texts(of.target, of.data.labels)
    size = of.settings["capacity"]
    banks: list[list[tuple[float, torch.Tensor, torch.Tensor]]] = [[] for _ in range(5)]
    means = texts.clone()
    rows = []
    entered = 0
    for f in unit(of.images):
        start = scale_of(of.target) * texts @ f
        p = start.softmax(0)
        entropy = float(torch.special.entr(p).sum())
        guess = int(p.argmax())
        bank = banks[guess]
        bank.append((entropy, f, p[guess]))
        bank.sort(key=lambda entry: entry[0])
        del bank[size:]
        if any(entry[1] is f for entry in bank):
            entered += 1
            total = sum(share for _, _, share in bank) + p[guess]
            weighted = sum(share * x for _, x, share in bank) + p[guess] * f
            means[guess] = 0.9 * weighted / total + 0.1 * texts[guess]
        residuals = torch.stack([x - means[c] for c in range(5) for _, x, _ in banks[c]])
        scatter = torch.eye(16)
        if len(residuals) > 1:
            centred = residuals - residuals.mean(0)
            scatter = centred.T @ centred / (len(residuals) - 1)
        shrunk = (len(residuals) - 1) * scatter + scatter.trace() * torch.eye(16)
        inverse = 16 * torch.linalg.inv(shrunk)
        gaussians = torch.stack([m @ inverse @ f - m @ inverse @ m / 2 for m in means])
        near = torch.zeros(5)
        for c, (_, x, share) in itertools.chain(*([(c, e) for e in banks[c]] for c in range(5))):
            near[c] += share * x.dot(f)
        exponent = gaussians.log_softmax(0) / 20 + near / (2 * len(residuals))
        rows.append(start * torch.exp(exponent - exponent.max()))
    # Some images found their class's bank full, and some of these entered it.
    assert sum(map(len, banks)) < entered < len(rows)
    assert math.isfinite(float(torch.stack(rows).sum()))
    return {"logits": torch.stack(rows)}


test_fits_equal_their_formulas = fit_test([Fit("adapt", logits, {"capacity": 3})])
