"""Caches of shots, words or images beside zero-shot: Tip-Adapter, APE, ProKeR, Rosetta, TDA."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from formulas import (
    Case,
    Formula,
    Tensors,
    adam,
    close,
    logits_test,
    make,
    scale_of,
    step_test,
    stream_of_features,
    unit,
    unit_texts,
    variants,
)
from open_clip_reference import encode_texts
from scipy.linalg import orthogonal_procrustes
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.backbone.words import load_words
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData
from compatbench.methods._shared.cache import choose_channels
from compatbench.methods.ape import APE


def tip_logits(at: Case) -> Tensor:
    """z = s f̂ W_0ᵀ + α exp(−β (1 − f̂ Gᵀ)) Y; 1.17 and 1 are the weights before a search."""
    alpha, beta = at.own.get("alpha", 1.17), at.own.get("beta", 1.0)
    rows = []
    for f in unit(at.images):
        row = list(at.scale * at.unit_photos @ f)
        for key, owner in zip(at.own["keys"], at.own["values"].argmax(-1).tolist(), strict=True):
            row[owner] = row[owner] + alpha * torch.exp(-beta * (1 - f.dot(key)))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def ape_logits(at: Case) -> Tensor:
    """A cache in chosen channels, its values weighted by exp(γ KL)."""
    texts = at.unit_photos
    alpha, beta, gamma = (float(at.own[name]) for name in ("alpha", "beta", "gamma"))
    where = at.own["channels"].nonzero()[:, 0].tolist()
    logits = at.scale * unit(at.images) @ texts.T
    for i, image in enumerate(at.images):
        for key, owner in zip(at.own["keys"], at.own["values"].argmax(-1).tolist(), strict=True):
            key = unit(key[where])
            said = torch.stack([key.dot(unit(t[where])) for t in texts]).softmax(0)
            kl = 0.0
            for c in range(5):
                y = float(c == owner)
                kl += y * math.log2((y + 1e-6) / (float(said[c]) + 1e-6))
            nearness = math.exp(-beta * (1 - float(unit(image[where]).dot(key))))
            logits[i, owner] += alpha * nearness * math.exp(gamma * kl)
    return logits


def ape_t_logits(at: Case) -> Tensor:
    """One residual per class moves its text and its keys in chosen channels."""
    own, where, columns = at.own, at.own["channels"].nonzero()[:, 0].tolist(), []
    for c, text in enumerate(at.unit_photos):
        shift = torch.zeros_like(text)
        for j, k in enumerate(where):
            shift[k] = own["residual"][c, j]
        column = [at.scale * f.dot(text + shift) for f in unit(at.images)]
        for key, value, u in zip(
            at.own["keys"], at.own["values"], at.own["value_weights"], strict=True
        ):
            if value[c]:
                for i, f in enumerate(unit(at.images)):
                    nearness = torch.exp(-own["beta"] * (1 - f.dot(key + shift)))
                    column[i] = column[i] + own["alpha"] * u * nearness
        columns.append(torch.stack(column))
    return torch.stack(columns, dim=1)


def first_keys(backbone: Backbone, data: FewShotData) -> Tensors:
    return {"keys": unit(data.train.views.mean(0))}


def start_of_ape_t(backbone: Backbone, data: FewShotData) -> Tensors:
    channels = choose_channels(make("ape_t").config, unit_texts(backbone, data.labels))
    start = {"residual": torch.zeros(5, int(channels.sum())), "value_weights": torch.ones(15)}
    return first_keys(backbone, data) | start | {"channels": channels}


def proker_logits(at: Case) -> Tensor:
    """z_c = s · (⟨f, t_c⟩ + Σ_j exp(−β (1 − ⟨f, g_j⟩)) α_jc), ``[images, C]``."""
    rows = []
    for f in unit(at.images):
        row = list(at.unit_photos @ f)
        for key, weights in zip(at.own["keys"], at.own["alpha"], strict=True):
            near = torch.exp(-at.own["beta"] * (1 - f.dot(key)))
            row = [z + near * a for z, a in zip(row, weights, strict=True)]
        rows.append(at.scale * torch.stack(row))
    return torch.stack(rows)


def solve_naively(backbone: Backbone, data: FewShotData, beta: float, penalty: float) -> Tensors:
    """α = (κ/λ + I)⁻¹ (Y − G W_0ᵀ) by the inverse, over all views."""
    keys = unit(torch.cat(list(data.train.views)))
    kernel = torch.tensor([[float(-beta * (1 - a.dot(b))) for b in keys] for a in keys]).exp()
    errors = -keys @ unit_texts(backbone, data.labels).T
    for row, owner in zip(errors, data.train.targets.tolist() * len(data.train.views), strict=True):
        row[owner] += 1
    alpha = torch.linalg.inv(kernel.to(keys) / penalty + torch.eye(len(keys)).to(keys)) @ errors
    return {"keys": keys, "alpha": alpha, "beta": torch.tensor(beta).to(keys)}


LR, NEAR = {"lr": 0.1}, (1e-6, 1e-6)


STEPS = [
    Formula("tip_adapter_f", tip_logits, None, adam(1e-4, decoupled=0.01), LR, start=first_keys),
    Formula("ape_t", ape_t_logits, None, adam(1e-3, decoupled=0.1), LR, {}, start_of_ape_t, *NEAR),
]
SEARCHED = {"most_alpha": 30.0}
FORMULAS = [
    *STEPS,
    *variants("tip_adapter", tip_logits, {}, SEARCHED, exact=1e-6),
    *variants("ape", ape_logits, {}, SEARCHED | {"most_gamma": 1.5}, exact=1e-6),
    Formula("proker", proker_logits),
]


test_logits_equal_the_formula = logits_test(FORMULAS)
test_the_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize("name", ["tip_adapter", "ape", "tip_adapter_f", "ape_t", "proker"])
def test_the_cache_has_normalised_means_over_the_last_views_and_one_hot_labels(
    clip64: Backbone, few: MakeData, name: str, count: int | None
) -> None:
    """ProKeR's has every view by itself."""
    data, method = few(shots=[2, 1, 3, 0, 1], val=0, views=3), make(name, cache_views=count)
    module = getattr(method, "init", method.fit)(clip64, data, torch.Generator())
    used = data.train.views[-(count or 3) :]
    if name == "proker":
        close(module["keys"], unit(used.flatten(0, 1)))
        return
    close(module["keys"], unit(used.mean(0)))
    owners = [0, 0, 1, 2, 2, 2, 4]
    assert module["values"].tolist() == [[float(c == owner) for c in range(5)] for owner in owners]


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


@pytest.mark.parametrize("shots", [[2, 2, 2, 2, 2], [2, 1, 3, 0, 1]])
@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.1, 0.9)])
def test_ape_s_channels_equal_the_criterion(
    clip64: Backbone, few: MakeData, shots: list[int], weights: tuple[float, float]
) -> None:
    data, (similarity, variance) = few(shots=shots), weights
    method = make("ape", channels=0.4, similarity_weight=similarity, variance_weight=variance)
    module = method.fit(clip64, data, torch.Generator())
    keys, owners = [*unit(data.train.views.mean(0))], data.train.targets.tolist()
    expected = naive_channels(unit_texts(clip64, data.labels), keys, owners, 6, weights)
    assert set(module["channels"].nonzero()[:, 0].tolist()) == expected


def test_channels_of_the_text_alone_equal_the_criterion_and_half_are_kept(
    clip64: Backbone, b16_sized: Backbone, labels: Labels
) -> None:
    texts = unit_texts(clip64, labels)
    mask = choose_channels(APE.Config(channels=0.5), texts)
    assert set(mask.nonzero()[:, 0].tolist()) == naive_channels(texts, [], [], 8, (0.7, 0.3))
    # The authors' 500 of 1,024.
    assert int(choose_channels(APE.Config(), b16_sized.zero_shot(labels)).sum()) == 250


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", [0, 3])
def test_proker_takes_the_first_best_pair_of_its_grid(
    clip64: Backbone, few: MakeData, seed: int
) -> None:
    data, scores = few(val=4, seed=seed), {}
    module = make("proker", beta_steps=4, penalty_steps=3).fit(clip64, data, torch.Generator())
    for pair in itertools.product([0.5, 4 / 3, 13 / 6, 3.0], [0.001, 0.5005, 1.0]):
        own = solve_naively(clip64, data, *pair)
        logits = proker_logits(Case(clip64, data.labels, own, data.val.plain))
        scores[pair] = int((logits.argmax(-1) == data.val.targets).sum())
    assert len(set(scores.values())) > 1  # or any choice would do
    best = max(scores, key=lambda pair: scores[pair])
    assert (float(module["beta"]), float(module["penalty"])) == pytest.approx(best)
    close(module["alpha"], solve_naively(clip64, data, *best)["alpha"])


def tda_logits(backbone: Backbone, labels: Labels, images: Tensor) -> tuple[Tensor, list[int]]:
    """TDA with lists of cached images, one image at a time; and how many were ever cached."""
    texts, alpha, beta, rows, counts = unit_texts(backbone, labels), 2.0, 5.0, [], [0, 0, 0]
    positive: dict[int, list[tuple[float, Tensor, Tensor]]] = {c: [] for c in range(5)}
    negative: dict[int, list[tuple[float, Tensor, Tensor]]] = {c: [] for c in range(5)}
    for f in unit(images):
        logits = scale_of(backbone) * texts @ f
        p = logits.softmax(0)
        entropy, guess = -sum(float(x) * math.log(float(x)) for x in p), int(p.argmax())
        doubtful = 0.2 < entropy / math.log2(5) < 0.5
        counts[2] += doubtful
        places = [(positive, 3, torch.eye(5)[guess])]
        places += [(negative, 2, ((p > 0.03) & (p < 1)).float())] if doubtful else []
        for cache, size, value in places:
            cache[guess].append((entropy, f, value.double()))
            cache[guess] = sorted(cache[guess], key=lambda entry: entry[0])[:size]
        for cache, factor, slope in ((positive, alpha, beta), (negative, -0.117, 1.0)):
            for _, key, value in itertools.chain(*cache.values()):
                logits = logits + factor * math.exp(-slope * (1 - float(f.dot(key)))) * value
        rows.append(logits)
    counts[:2] = [sum(map(len, cache.values())) for cache in (positive, negative)]
    return torch.stack(rows), counts


@pytest.mark.usefixtures("float64")
def test_tda_s_caches_give_the_formula_s_logits(clip64: Backbone, data64: FewShotData) -> None:
    method, labels = make("tda"), data64.labels
    stream = stream_of_features()
    expected, (positive, negative, doubtful) = tda_logits(clip64, labels, stream)
    # Images were turned away from both caches.
    assert positive < len(stream)
    assert 0 < negative < doubtful
    module = method.fit(clip64, data64, torch.Generator())
    close(method.attach(module, clip64, labels)(stream), expected)


WORDS = 60


def word_features(backbone: Backbone) -> Tensor:
    every = load_words()
    chosen = [every[math.floor(i * len(every) / WORDS)] for i in range(WORDS)]
    return unit(encode_texts(backbone, [f"a photo of a {word}." for word in chosen]))


def naive_values(keys: Tensor, targets: list[int], texts: Tensor) -> Tensor:
    """V ``[N, C]``: every shot is left out in turn, and the rest is solved without it."""
    shots, classes = len(keys), len(texts)
    kernel = (-3 * (1 - keys @ keys.T)).exp()
    wanted = torch.eye(classes).double()[targets] - 1 / classes
    penalised = kernel + 0.3 * torch.eye(shots)
    solved = torch.linalg.solve(penalised, wanted)
    left_out = []
    for i in range(shots):
        rest = [j for j in range(shots) if j != i]
        inner = torch.linalg.solve(penalised[rest][:, rest], wanted[rest])
        left_out.append(kernel[i, rest] @ inner)

    def spread(logits: Tensor) -> Tensor:
        return logits.std(1).mean()

    own = spread(kernel @ solved)
    return solved * 2.5 * spread(torch.stack(left_out)) / own * spread(keys @ texts.T) / own


@pytest.mark.parametrize("shots", [1, 3, [2, 1, 4, 1, 3]])
def test_rosetta_s_values_equal_the_formula(
    clip64: Backbone, few: MakeData, shots: int | list[int]
) -> None:
    data = few(shots=shots)
    values = make("rosetta", words=WORDS).fit(clip64, data, torch.Generator())["values"]
    texts, targets = unit_texts(clip64, data.labels), data.train.targets.tolist()
    expected = naive_values(unit(data.train.plain), targets, texts)
    assert expected.abs().max() > 0.01
    close(values, expected, 1e-6)


def test_rosetta_s_logits_equal_the_formula(
    clip64: Backbone, backbone64: Backbone, data64: FewShotData, images64: Tensor
) -> None:
    method, labels = make("rosetta", words=WORDS), data64.labels
    module = method.fit(clip64, data64, torch.Generator())
    logits = method.attach(module, backbone64, labels)(images64)
    a, b = word_features(clip64).detach(), word_features(backbone64).detach()
    a, b, mean, target_mean = a - a.mean(0), b - b.mean(0), a.mean(0), b.mean(0)
    rotation = torch.from_numpy(orthogonal_procrustes(a, b)[0])
    rho = (a @ rotation * b).sum() / a.norm() / b.norm()
    texts, keys = unit_texts(backbone64, labels), unit(data64.train.plain)
    for row, f in zip(logits, unit(images64), strict=True):
        m = unit((f - target_mean) @ rotation.T + mean)
        pairs = zip(keys, module["values"], strict=True)
        cache = sum(math.exp(-3 * (1 - float(m @ key))) * value for key, value in pairs)
        close(row, scale_of(backbone64) * (texts @ f + rho * cache), 1e-6)


def test_a_class_without_shots_is_neither_spoken_for_nor_against(
    clip64: Backbone, few: MakeData
) -> None:
    data = few(shots=[3, 0, 3, 3, 3])
    values = make("rosetta", words=WORDS).fit(clip64, data, torch.Generator())["values"]
    assert values[:, 1].abs().max() == 0
    close(values.sum(1), torch.zeros(12).double())


def test_another_list_of_words_is_refused(clip: Backbone, data: FewShotData) -> None:
    module = make("rosetta", words=WORDS).fit(clip, data, torch.Generator())
    with pytest.raises(NotTransferable, match="another list of words"):
        make("rosetta", words=WORDS, word_list="0" * 64).attach(module, clip, data.labels)
