"""APE: zero-shot plus a cache in chosen channels, its values weighted by exp(γ KL)."""

from __future__ import annotations

import math

import pytest
import torch
from formulas import unit, unit_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods._shared.cache import choose_channels
from compatbench.methods.ape import APE


def naive_channels(
    texts: Tensor, keys: list[Tensor], owners: list[int], size: int, weights: tuple[float, float]
) -> set[int]:
    """The criterion by a loop over all pairs of features of different classes."""
    features = [*zip(texts, range(len(texts)), strict=True), *zip(keys, owners, strict=True)]
    pairs = [f * g for f, i in features for g, j in features if i != j]
    similarity = torch.stack(pairs).mean(0)
    mean = texts.mean(0)
    variance = sum((t - mean) ** 2 for t in texts) / (len(texts) - 1)
    criterion = -weights[0] * similarity + weights[1] * variance
    return set(sorted(range(len(mean)), key=lambda k: -float(criterion[k]))[:size])


def random_module(alpha: float, beta: float, gamma: float) -> Module:
    generator = torch.Generator().manual_seed(1)
    keys = unit(torch.randn(7, 16, generator=generator).double())
    owners = [0, 0, 1, 2, 3, 4, 4]
    scalars = {"alpha": alpha, "beta": beta, "gamma": gamma}
    return Module(
        stored={
            "keys": keys,
            "values": torch.tensor([[float(o == c) for c in range(5)] for o in owners]).double(),
            "channels": torch.arange(16) % 3 != 1,
        }
        | {name: torch.tensor(value).double() for name, value in scalars.items()}
    )


def naive_logits(backbone: Backbone, labels: Labels, module: Module, images: Tensor) -> Tensor:
    scale = math.exp(float(backbone.model.logit_scale))  # type: ignore[arg-type]
    texts = unit_texts(backbone, labels)
    where = [k for k, chosen in enumerate(module["channels"].tolist()) if chosen]
    owners = module["values"].argmax(-1).tolist()
    logits = torch.zeros(len(images), 5).double()
    for i, image in enumerate(unit(images)):
        for c in range(5):
            logits[i, c] = scale * image.dot(texts[c])
        for key, owner in zip(module["keys"], owners, strict=True):
            key = unit(key[where])
            said = torch.stack([key.dot(unit(t[where])) for t in texts]).exp()
            said = said / said.sum()
            kl = 0.0
            for c in range(5):
                y = float(c == owner)
                kl += y * math.log2((y + 1e-6) / (float(said[c]) + 1e-6))
            nearness = math.exp(-float(module["beta"]) * (1 - float(unit(image[where]).dot(key))))
            logits[i, owner] += (
                float(module["alpha"]) * nearness * math.exp(float(module["gamma"]) * kl)
            )
    return logits


@pytest.mark.parametrize("scalars", [(2.0, 1.0, 0.1), (3.1, 5.5, 0.4), (1.0, 2.0, 0.0)])
def test_logits_equal_the_formula(
    backbone64: Backbone, labels: Labels, images64: Tensor, scalars: tuple[float, float, float]
) -> None:
    module = random_module(*scalars)
    logits = APE().attach(module, backbone64, labels)(images64)
    expected = naive_logits(backbone64, labels, module, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shots", [[2, 2, 2, 2, 2], [2, 1, 3, 0, 1]])
@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.1, 0.9)])
def test_channels_equal_the_criterion(
    clip64: Backbone,
    labels: Labels,
    make_data: MakeData,
    shots: list[int],
    weights: tuple[float, float],
) -> None:
    data = make_data(clip64, labels, shots=shots)
    config = APE.Config(channels=0.4, similarity_weight=weights[0], variance_weight=weights[1])
    module = APE(config).fit(clip64, data, torch.Generator())
    keys = list(unit(data.train.views.mean(0)))
    expected = naive_channels(
        unit_texts(clip64, labels), keys, data.train.targets.tolist(), 6, weights
    )
    assert set(module["channels"].nonzero()[:, 0].tolist()) == expected


def test_channels_of_the_text_alone_equal_the_criterion(clip64: Backbone, labels: Labels) -> None:
    texts = unit_texts(clip64, labels)
    mask = choose_channels(APE.Config(channels=0.5), texts)
    assert set(mask.nonzero()[:, 0].tolist()) == naive_channels(texts, [], [], 8, (0.7, 0.3))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3])
def test_the_search_equals_a_triple_loop(
    eva64: Backbone, labels: Labels, make_data: MakeData, seed: int
) -> None:
    data = make_data(eva64, labels, val=4, seed=seed)
    config = APE.Config(alpha_steps=4, beta_steps=5, gamma_steps=3, most_alpha=30, most_gamma=1.5)
    found = APE(config).fit(eva64, data, torch.Generator())
    best, winner, scores = -1, (0.0, 0.0, 0.0), set()
    for beta in (0.1 + i * (7 - 0.1) / 5 for i in range(5)):
        for alpha in (0.1 + i * (30 - 0.1) / 4 for i in range(4)):
            for gamma in (i * 1.5 / 3 for i in range(3)):
                scalars = {"alpha": alpha, "beta": beta, "gamma": gamma}
                tensors = {n: torch.tensor(v).double() for n, v in scalars.items()}
                trial = Module(stored=found.stored | tensors)
                logits = naive_logits(eva64, labels, trial, data.val.plain)
                right = int((logits.argmax(-1) == data.val.targets).sum())
                scores.add(right)
                if right > best:
                    best, winner = right, (alpha, beta, gamma)
    assert len(scores) > 1
    chosen = tuple(float(found[name]) for name in ("alpha", "beta", "gamma"))
    assert chosen == pytest.approx(winner)


def test_keys_are_those_of_tip_adapter(clip64: Backbone, data64: FewShotData) -> None:
    module = APE().fit(clip64, data64, torch.Generator())
    torch.testing.assert_close(module["keys"], unit(data64.train.views.mean(0)))
    assert module["values"].argmax(-1).tolist() == data64.train.targets.tolist()


def test_without_validation_images_the_initial_weights_stay(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    module = APE().fit(clip, make_data(clip, labels, val=0), torch.Generator())
    chosen = tuple(float(module[name]) for name in ("alpha", "beta", "gamma"))
    assert chosen == pytest.approx((2.0, 1.0, 0.1))


def test_half_of_a_feature_s_channels_are_kept(b16_sized: Backbone, data: FewShotData) -> None:
    """The authors' 500 of 1,024."""
    text = b16_sized.zero_shot(data.labels)
    assert int(choose_channels(APE.Config(), text).sum()) == 250
