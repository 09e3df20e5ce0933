"""Methods with a cache of shots, words or images: Tip-Adapter, APE, ProKeR, Rosetta, TDA."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from formulas import (
    Case,
    Fit,
    FitInputs,
    Formula,
    Tensors,
    adam,
    close,
    fit_test,
    logits_test,
    make,
    scale_of,
    step_test,
    unit,
    unit_texts,
    variants,
)
from open_clip_reference import encode_texts
from scipy.linalg import orthogonal_procrustes
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.words import load_words
from compatbench.method import FewShotData


def tip_logits(at: Case) -> Tensor:
    """Return z = s f̂ W_0ᵀ + α exp(−β (1 − f̂ Gᵀ)) Y; before a search α = 1.17 and β = 1."""
    alpha = at.own.get("alpha", 1.17)
    beta = at.own.get("beta", 1.0)
    nearness = torch.exp(-beta * (1 - unit(at.images) @ at.own["keys"].T))
    return at.cosines(at.unit_photos) + alpha * nearness @ at.own["values"]


def ape_logits(at: Case) -> Tensor:
    """Return logits of a cache in chosen channels, its values weighted by exp(γ KL)."""
    channels = at.own["channels"]
    keys = unit(at.own["keys"][:, channels])
    texts = unit(at.unit_photos[:, channels])
    images = unit(at.images[:, channels])
    guessed = (keys @ texts.T).softmax(1)
    truth = at.own["values"]
    divergence = (truth * torch.log2((truth + 1e-6) / (guessed + 1e-6))).sum(1)
    weights = torch.exp(at.own["gamma"] * divergence - at.own["beta"] * (1 - images @ keys.T))
    return at.cosines(at.unit_photos) + at.own["alpha"] * weights @ truth


def ape_t_logits(at: Case) -> Tensor:
    """Return logits with one residual per class, added to its text and keys in chosen channels."""
    own = at.own
    images = unit(at.images)
    columns = []
    for c, text in enumerate(at.unit_photos):
        shift = torch.zeros(16, dtype=text.dtype).masked_scatter(
            own["channels"], own["residual"][c]
        )
        nearness = torch.exp(-own["beta"] * (1 - images @ (own["keys"] + shift).T))
        cache = nearness @ (own["values"][:, c] * own["value_weights"])
        columns.append(at.scale * images @ (text + shift) + own["alpha"] * cache)
    return torch.stack(columns, dim=1)


def first_keys(backbone: Backbone, data: FewShotData) -> Tensors:
    return {"keys": unit(data.train.views.mean(0))}


def start_of_ape_t(backbone: Backbone, data: FewShotData) -> Tensors:
    """Return the start with half of the channels, as the authors' 500 of 1,024."""
    start = {"residual": torch.zeros(5, 8), "value_weights": torch.ones(15)}
    return {**first_keys(backbone, data), **start}


def proker_logits(at: Case) -> Tensor:
    """Return z_c = s · (⟨f, t_c⟩ + Σ_j exp(−β (1 − ⟨f, g_j⟩)) α_jc), ``[images, C]``."""
    nearness = torch.exp(-at.own["beta"] * (1 - unit(at.images) @ at.own["keys"].T))
    return at.cosines(at.unit_photos) + at.scale * nearness @ at.own["alpha"]


def solve_naively(backbone: Backbone, data: FewShotData, beta: float, penalty: float) -> Tensors:
    """Compute α = (κ/λ + I)⁻¹ (Y − G W_0ᵀ) by the inverse, over all views."""
    keys = unit(data.train.views.flatten(0, 1))
    truth = torch.eye(5).to(keys)[data.train.targets.repeat(len(data.train.views))]
    kernel = torch.exp(-beta * (1 - keys @ keys.T)) / penalty + torch.eye(len(keys)).to(keys)
    alpha = torch.linalg.inv(kernel) @ (truth - keys @ unit_texts(backbone, data.labels).T)
    return {"keys": keys, "alpha": alpha, "beta": torch.tensor(beta).to(keys)}


LR = {"lr": 0.1}
NEAR = (1e-6, 1e-6)


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
test_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


def naive_channels(
    texts: Tensor, keys: list[Tensor], owners: list[int], size: int, weights: tuple[float, float]
) -> set[int]:
    """Choose channels by a loop over all pairs of features of different classes."""
    features = [*texts, *keys]
    labels = [*range(len(texts)), *owners]
    products = []
    for first, second in itertools.permutations(range(len(features)), 2):
        if labels[first] != labels[second]:
            products.append(features[first] * features[second])
    similarity = torch.stack(products).mean(0)
    mean = texts.mean(0)
    variance = sum((text - mean) ** 2 for text in texts) / (len(texts) - 1)
    criterion = -weights[0] * similarity + weights[1] * variance
    return set(sorted(range(len(mean)), key=lambda k: -float(criterion[k]))[:size])


@pytest.mark.parametrize(
    ("name", "shots"), [("ape", [2] * 5), ("ape", [2, 1, 3, 0, 1]), ("ape_t", [2] * 5)]
)
@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.1, 0.9)])
def test_ape_channels_equal_the_criterion(
    clip64: Backbone, few: MakeData, name: str, shots: list[int], weights: tuple[float, float]
) -> None:
    """APE-T uses the texts alone."""
    data = few(shots=shots)
    similarity, variance = weights
    method = make(name, channels=0.4, similarity_weight=similarity, variance_weight=variance)
    module = getattr(method, "init", method.fit)(clip64, data, torch.Generator())
    keys = [*unit(data.train.views.mean(0))] if name == "ape" else []
    owners = data.train.targets.tolist()[: len(keys)]
    expected = naive_channels(unit_texts(clip64, data.labels), keys, owners, 6, weights)
    assert set(module["channels"].nonzero()[:, 0].tolist()) == expected


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", [0, 3])
def test_proker_chooses_the_first_best_pair_of_its_grid(
    clip64: Backbone, few: MakeData, seed: int
) -> None:
    data = few(val=4, seed=seed)
    scores = {}
    module = make("proker", beta_steps=4, penalty_steps=3).fit(clip64, data, torch.Generator())
    for pair in itertools.product([0.5, 4 / 3, 13 / 6, 3.0], [0.001, 0.5005, 1.0]):
        own = solve_naively(clip64, data, *pair)
        logits = proker_logits(Case(clip64, data.labels, own, data.val.plain))
        scores[pair] = int((logits.argmax(-1) == data.val.targets).sum())
    assert len(set(scores.values())) > 1  # or any choice would do
    best = max(scores, key=lambda pair: scores[pair])
    assert (float(module["beta"]), float(module["penalty"])) == pytest.approx(best)
    close(module["alpha"], solve_naively(clip64, data, *best)["alpha"])


def cached(of: FitInputs) -> Tensors:
    """Return normalised means over the last views, and their classes."""
    keys = unit(of.views(of.settings["cache_views"]).mean(0))
    return {"keys": keys, "values": torch.eye(5)[of.owners]}


def cached_by_proker(of: FitInputs) -> Tensors:
    """Return every view as a key."""
    return {"keys": unit(of.views(of.settings["cache_views"]).flatten(0, 1))}


def tda_logits(of: FitInputs) -> Tensors:
    """Return the logits of TDA with lists of cached images, one image at a time."""
    texts = unit_texts(of.target, of.data.labels)
    rows = []
    doubts = 0
    positive: dict[int, list[tuple[float, Tensor, Tensor]]] = {c: [] for c in range(5)}
    negative: dict[int, list[tuple[float, Tensor, Tensor]]] = {c: [] for c in range(5)}
    for f in unit(of.images):
        logits = scale_of(of.target) * texts @ f
        p = logits.softmax(0)
        entropy = float(torch.special.entr(p).sum())
        guess = int(p.argmax())
        places = [(positive, 3, torch.eye(5)[guess])]
        if 0.2 < entropy / math.log2(5) < 0.5:
            doubts += 1
            places.append((negative, 2, ((p > 0.03) & (p < 1)).double()))
        for cache, size, value in places:
            cache[guess].append((entropy, f, value))
            cache[guess] = sorted(cache[guess], key=lambda entry: entry[0])[:size]
        for cache, factor, slope in ((positive, 2.0, 5.0), (negative, -0.117, 1.0)):
            for _, key, value in itertools.chain(*cache.values()):
                logits = logits + factor * torch.exp(-slope * (1 - f.dot(key))) * value
        rows.append(logits)
    # Both caches were full at some time.
    assert sum(map(len, positive.values())) < len(rows)
    assert 0 < sum(map(len, negative.values())) < doubts
    return {"logits": torch.stack(rows)}


WORDS = {"words": 60}


def word_features(backbone: Backbone) -> Tensor:
    every = load_words()
    chosen = [every[math.floor(i * len(every) / 60)] for i in range(60)]
    return unit(encode_texts(backbone, [f"a photo of a {word}." for word in chosen])).detach()


def rosetta(of: FitInputs) -> Tensors:
    """Return V ``[N, C]``, for which every shot is left out in turn, and the logits.

    The logits add zero-shot's and those of a cache, whose features words rotate to the source's.
    """
    keys = unit(of.data.train.plain)
    shots = len(of.owners)
    kernel = torch.exp(-3 * (1 - keys @ keys.T))
    seen = torch.eye(5)[of.owners].any(0)  # only these classes have values
    wanted = (torch.eye(5)[of.owners] - 1 / seen.sum()) * seen
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
    values = solved * 2.5 * spread(torch.stack(left_out)) / own * spread(keys @ of.texts.T) / own
    source_words = word_features(of.source)
    target_words = word_features(of.target)
    mean = source_words.mean(0)
    target_mean = target_words.mean(0)
    a = source_words - mean
    b = target_words - target_mean
    rotation = torch.from_numpy(orthogonal_procrustes(a, b)[0])
    rho = (a @ rotation * b).sum() / a.norm() / b.norm()
    images = unit(of.images)
    seen = unit((images - target_mean) @ rotation.T + mean)
    cosines = images @ unit_texts(of.target, of.data.labels).T
    cache = torch.exp(-3 * (1 - seen @ keys.T)) @ values
    return {"values": values, "logits": scale_of(of.target) * (cosines + rho * cache)}


ALL_VIEWS = {"cache_views": None}
TWO_VIEWS = {"cache_views": 2}
FITS = [
    Fit("proker", cached_by_proker, ALL_VIEWS),
    Fit("proker", cached_by_proker, TWO_VIEWS),
    Fit("tda", tda_logits),
    Fit("rosetta", rosetta, WORDS, 1, 1e-6),
    Fit("rosetta", rosetta, WORDS, (2, 1, 4, 1, 3), 1e-6),
    Fit("rosetta", rosetta, WORDS, (3, 0, 3, 3, 3), 1e-6),
]
for name in ("tip_adapter", "ape", "tip_adapter_f", "ape_t"):
    FITS.append(Fit(name, cached, ALL_VIEWS))
    FITS.append(Fit(name, cached, TWO_VIEWS))


test_fits_equal_their_formulas = fit_test(FITS)
