"""LFA against scipy's solution of the orthogonal Procrustes problem."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData, Module
from compatbench.methods.lfa import LFA, procrustes


def fit(backbone: Backbone, data: FewShotData, **settings: object) -> Module:
    method = LFA(LFA.Config.model_validate(settings))
    return method.fit(backbone, data, torch.Generator())


def test_the_rotation_is_the_procrustes_solution(
    clip64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip64, labels, shots=30)
    rotation = fit(clip64, data)["rotation"]
    shots = F.normalize(data.train.views, dim=-1).reshape(-1, 16).numpy()
    texts = clip64.zero_shot(labels).numpy()
    wanted = np.concatenate([texts[data.train.targets.numpy()]] * len(data.train.views))

    def distance(matrix: np.ndarray) -> float:
        return float(np.linalg.norm(shots @ matrix - wanted))

    # Five texts span less than the space, so the solution is one of many; its value is not.
    best, _ = scipy.linalg.orthogonal_procrustes(shots, wanted)
    assert distance(rotation.numpy()) == pytest.approx(distance(best), abs=1e-6)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(16, dtype=torch.float64))


def test_a_rotation_is_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    torch.testing.assert_close(procrustes(x, x @ rotation), rotation, rtol=1e-6, atol=1e-6)


def test_directions_that_no_shot_has_stay_as_they_are() -> None:
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    apart = torch.eye(4, dtype=torch.float64)[2:]
    torch.testing.assert_close(apart @ procrustes(x, y), apart, rtol=1e-6, atol=1e-5)


def test_the_logits_are_those_of_the_formula(
    clip64: Backbone, eva64: Backbone, data64: FewShotData, images64: Tensor
) -> None:
    module = fit(clip64, data64)
    beta, rotation = float(module["beta"]), module["rotation"]
    matrix = beta * rotation + (1 - beta) * torch.eye(16, dtype=torch.float64)
    texts = eva64.zero_shot(data64.labels)
    for image, row in zip(
        images64, LFA().attach(module, eva64, data64.labels)(images64), strict=True
    ):
        seen = (image / image.norm()) @ matrix
        for text, logit in zip(texts, row, strict=True):
            cosine = torch.dot(seen, text) / seen.norm()
            torch.testing.assert_close(logit, eva64.logit_scale * cosine)


def test_beta_is_the_smallest_that_is_best_on_the_validation_set(
    clip: Backbone, data: FewShotData
) -> None:
    module = fit(clip, data)
    accuracies = []
    for beta in LFA.Config().grid:
        tried = Module(module.trained, {"beta": torch.tensor(beta)})
        logits = LFA().attach(tried, clip, data.labels)(data.val.plain)
        accuracies.append(float((logits.argmax(-1) == data.val.targets).float().mean()))
    assert float(module["beta"]) == pytest.approx(LFA.Config().grid[int(np.argmax(accuracies))])


def test_without_validation_images_beta_is_that_of_the_settings(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    assert float(fit(clip, make_data(clip, labels, val=0), beta=0.25)["beta"]) == 0.25


def test_another_feature_size_is_refused(
    clip: Backbone, wider_joint: Backbone, data: FewShotData
) -> None:
    with pytest.raises(NotTransferable, match="image features of size 16, not 24"):
        LFA().attach(fit(clip, data), wider_joint, data.labels)
