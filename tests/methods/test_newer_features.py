"""ProKeR, 2SFS, ProLIP, TDA and TransCLIP, each against its formula."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from formulas import (
    Formula,
    Tensors,
    cosine_logits,
    cross_entropy,
    logits_test,
    scale_of,
    unit,
    unit_texts,
)
from image_reference import few_shots
from tiny_models import MakeData
from torch import Tensor
from torch.func import functional_call

from compatbench.backbone import Backbone, Labels
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.method import POOLED, FewShotData
from compatbench.methods.proker import ProKeR
from compatbench.methods.prolip import ProLIP
from compatbench.methods.tda import TDA
from compatbench.methods.transclip import TransCLIP
from compatbench.methods.twosfs import TwoSFS


def proker_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """z_c = s · (⟨f, t_c⟩ + Σ_j exp(−β (1 − ⟨f, g_j⟩)) α_jc), ``[images, C]``."""
    rows = []
    for f in unit(images):
        row = list(unit_texts(backbone, labels) @ f)
        for key, weights in zip(own["keys"], own["alpha"], strict=True):
            near = torch.exp(-own["beta"] * (1 - f.dot(key)))
            row = [z + near * a for z, a in zip(row, weights, strict=True)]
        rows.append(scale_of(backbone) * torch.stack(row))
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


@pytest.mark.parametrize("seed", [0, 3])
def test_proker_takes_the_first_best_pair_of_its_grid(
    clip64: Backbone, labels: Labels, make_data: MakeData, float64: None, seed: int
) -> None:
    data = make_data(clip64, labels, val=4, seed=seed)
    config = ProKeR.Config(beta_steps=4, penalty_steps=3)
    module = ProKeR(config).fit(clip64, data, torch.Generator())
    scores = {}
    betas = [0.5, 4 / 3, 13 / 6, 3.0]
    for beta, penalty in itertools.product(betas, [0.001, 0.5005, 1.0]):
        own = solve_naively(clip64, data, beta, penalty)
        logits = proker_logits(clip64, labels, own, data.val.plain)
        scores[beta, penalty] = int((logits.argmax(-1) == data.val.targets).sum())
    assert len(set(scores.values())) > 1  # or any choice would do
    best = max(scores, key=lambda pair: scores[pair])
    assert (float(module["beta"]), float(module["penalty"])) == pytest.approx(best)
    expected = solve_naively(clip64, data, *best)["alpha"]
    torch.testing.assert_close(module["alpha"], expected, rtol=1e-9, atol=1e-9)


def test_proker_without_validation_images_has_the_settings_and_the_last_views(
    clip64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip64, labels, val=0, views=3)
    module = ProKeR(ProKeR.Config(cache_views=2)).fit(clip64, data, torch.Generator())
    assert [float(module[name]) for name in ("beta", "penalty")] == pytest.approx([1.7, 0.1])
    torch.testing.assert_close(module["keys"], unit(torch.cat(list(data.train.views[1:]))))


def own_name(backbone: Backbone, name: str) -> str:
    """The model's name of what 2SFS calls ``text.…`` or ``image.…``."""
    tower, _, name = name.partition(".")
    eva = hasattr(backbone.model, "text")
    if tower == "text":
        return f"text.{name}" if eva else name
    if not eva:
        return f"visual.{name}"
    for common, own in (("transformer.resblocks", "blocks"), ("ln_post", "norm"), ("ln_", "norm")):
        name = name.replace(common, own)
    return f"visual.trunk.{name}"


def twosfs_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """s · cos(f', t' + r) by the whole model, with differences added to its norms."""
    model, weights = backbone.model, dict(backbone.model.named_parameters())
    names = {n: own_name(backbone, n) for n in own if n != "residual"}
    shifted = {name: weights[name] + own[n] for n, name in names.items()}
    tokens = backbone.tokenizer([f"a photo of a {name}." for name in labels.names])
    features, texts, scale = functional_call(model, shifted, (images, tokens))
    return scale * features @ unit(texts + own["residual"]).T


def test_twosfs_tunes_no_more_than_both_towers_have() -> None:
    """So that a module of CLIP's is one of EVA-CLIP's, if the sizes are."""
    tested = MethodUnderTest(TwoSFS)
    source, target = (
        set(TwoSFS().init(one, tested.draw(), torch.Generator()).trained)
        for one in (tested.source, tested.target)
    )
    # Weight and bias of two norms in each of twelve blocks and of one behind them, and r.
    assert source == target
    assert len(source) == 2 * 2 * (2 * 12 + 1) + 1
    assert tested.attach(tested.target)(tested.inputs(tested.target)).isfinite().all()


def test_twosfs_steps_in_two_stages(clip64: Backbone, labels: Labels, float64: None) -> None:
    """Two steps of AdamW on the norms, at two rates of a cosine, and then one on the residual."""
    data, views = few_shots(clip64, labels, TwoSFS().image_input(clip64))
    config = TwoSFS.Config(max_steps=3, first_share=0.7)
    found = TwoSFS(config).fit(clip64, data, torch.Generator().manual_seed(3))
    own = {n: torch.zeros_like(t).requires_grad_() for n, t in found.trained.items()}
    norms, head = [t for n, t in own.items() if n != "residual"], [own["residual"]]
    for trained, stage in ((norms, views), (head, views[:1])):
        optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=1e-2)
        for step, images in enumerate(stage):
            rate = 1e-6 + (2e-4 - 1e-6) * (1 + math.cos(math.pi * step / len(stage))) / 2
            optimizer.param_groups[0]["lr"] = rate
            logits = twosfs_logits(clip64, labels, own, images)
            gradients = torch.autograd.grad(cross_entropy(logits, data.train.targets), trained)
            for tensor, gradient in zip(trained, gradients, strict=True):
                tensor.grad = gradient
            optimizer.step()
    for name, tensor in found.trained.items():
        assert tensor.abs().min() > 1e-6, name
        # Adam divides by the gradient's own size, which some numbers have hardly any of.
        torch.testing.assert_close(tensor, own[name].detach(), rtol=0, atol=1e-8)


def prolip_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """s · cos(x (P + D), t), P replaced in the image tower."""
    visual, change = backbone.model.visual, own["projection"]
    weights = dict(visual.named_parameters())  # type: ignore[union-attr]
    name, shift = ("proj", change) if "proj" in weights else ("head.proj.weight", change.T)
    features = functional_call(visual, {name: weights[name] + shift}, (images,))  # type: ignore[arg-type]
    return cosine_logits(backbone, unit_texts(backbone, labels), features)


@pytest.mark.parametrize("weight", [None, 3.0])
def test_prolip_s_steps_are_those_of_the_formula(
    clip64: Backbone, labels: Labels, float64: None, weight: float | None
) -> None:
    """Two steps of Adam on two views: the penalty's gradient, 2 λ D, is in the second."""
    data, views = few_shots(clip64, labels, POOLED)
    config = ProLIP.Config(max_steps=2, weight=weight)
    found = ProLIP(config).fit(clip64, data, torch.Generator())
    penalty = 1 / 2 if weight is None else weight  # of two shots
    change = torch.zeros(32, 16, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=1e-4, eps=1e-4)
    for rate, images in zip((1e-4, 0.5e-4), views, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        logits = prolip_logits(clip64, labels, {"projection": change}, images)
        [gradient] = torch.autograd.grad(cross_entropy(logits, data.train.targets), change)
        change.grad = gradient + 2 * penalty * change.detach()
        optimizer.step()
    assert change.abs().max() > 1e-5
    torch.testing.assert_close(found["projection"], change.detach(), rtol=1e-9, atol=1e-12)


FORMULAS = {
    "proker": Formula(ProKeR, proker_logits, exact=1e-9),
    "twosfs": Formula(TwoSFS, twosfs_logits, exact=1e-9),
    "prolip": Formula(ProLIP, prolip_logits, exact=1e-9),
}
test_logits_equal_the_formula = logits_test(FORMULAS)


@pytest.fixture(scope="module")
def stream() -> Tensor:
    """Features of thirty images, near to one another so that not all are surely one class."""
    return 3 * torch.randn(30, 16, generator=torch.Generator().manual_seed(9)).double()


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
            cache[guess] = sorted(cache[guess], key=lambda one: one[0])[:size]
        for cache, factor, slope in ((positive, alpha, beta), (negative, -0.117, 1.0)):
            for _, key, value in itertools.chain(*cache.values()):
                logits = logits + factor * math.exp(-slope * (1 - float(f.dot(key)))) * value
        rows.append(logits)
    counts[:2] = [sum(map(len, cache.values())) for cache in (positive, negative)]
    return torch.stack(rows), counts


def test_tda_s_caches_give_the_formula_s_logits(
    clip64: Backbone, labels: Labels, data64: FewShotData, stream: Tensor, float64: None
) -> None:
    config = TDA.Config()
    module = TDA(config).fit(clip64, data64, torch.Generator())
    expected, (positive, negative, doubtful) = tda_logits(clip64, labels, stream)
    # Images were turned away from both caches.
    assert positive < len(stream)
    assert 0 < negative < doubtful
    found = TDA(config).attach(module, clip64, labels)(stream)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def transclip_logits(backbone: Backbone, labels: Labels, images: Tensor, rounds: int) -> Tensor:
    """TransCLIP's rounds, image by image and class by class."""
    x, texts = unit(images), unit_texts(backbone, labels)
    start = torch.stack([scale_of(backbone) * texts @ f for f in x])
    near = torch.zeros(len(x), len(x)).double()
    for i, f in enumerate(x):
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j: -float(f.dot(x[j])))
        for j in others[:3]:
            near[i, j] = f.dot(x[j])
    z, spread, means, logits = start.softmax(1), torch.full((16,), 1 / 16).double(), [], start
    for c in range(5):
        surest = sorted(range(len(x)), key=lambda i: -float(z[i, c]))[:8]
        means.append(unit(sum(z[i, c] * x[i] for i in surest)))
    for _ in range(rounds):
        gaussians = [[-((f - m) ** 2 / spread).sum() / 2 for m in means] for f in x]
        fixed = start + torch.tensor(gaussians).double() / 50
        for _ in range(5):
            logits = fixed + (near.T @ z + near @ z) / 6
            z = logits.softmax(1)
        means = [unit(sum(z[i, c] * x[i] for i in range(len(x)))) for c in range(5)]
        squares = [z[i, c] * (x[i] - means[c]) ** 2 for i in range(len(x)) for c in range(5)]
        spread = torch.stack(squares).sum(0) / len(x)
    return logits


def test_transclip_s_rounds_give_the_formula_s_logits(
    clip64: Backbone, labels: Labels, data64: FewShotData, stream: Tensor, float64: None
) -> None:
    method = TransCLIP(TransCLIP.Config(rounds=4))
    module = method.fit(clip64, data64, torch.Generator())
    found = method.attach(module, clip64, labels)(stream)
    expected = transclip_logits(clip64, labels, stream, rounds=4)
    assert (found - transclip_logits(clip64, labels, stream, rounds=3)).abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
