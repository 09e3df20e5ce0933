"""ProDA: class weights are draws from a Gaussian; a bound of the expected loss is trained."""

from __future__ import annotations

import torch
from formulas import cosine_logits, cross_entropy
from open_clip_reference import encode_contexts, run_tower
from torch import Tensor, nn

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.method.trained import Batch
from compatbench.methods.coop import CoOp
from compatbench.methods.proda import ProDA, position_of

LENGTH = 4


def settings(prompts: int = 8, **values: object) -> ProDA:
    values = {"prompts": prompts, "context_length": LENGTH, **values}
    return ProDA(ProDA.Config.model_validate(values))


def random_contexts(prompts: int = 8) -> Tensor:
    return (
        0.3 * torch.randn(prompts, LENGTH, 32, generator=torch.Generator().manual_seed(1)).double()
    )


def table_of(backbone: Backbone) -> tuple[nn.Module, Tensor]:
    tower: nn.Module = getattr(backbone.model, "text", backbone.model)  # type: ignore[assignment]
    return tower, tower.token_embedding.weight  # type: ignore[return-value, union-attr]


def encode_placed(backbone: Backbone, name: str, context: Tensor, before: int) -> Tensor:
    """[SOS, v₁..v_before, name, the rest of v, ".", EOT] through open_clip's blocks."""
    tower, table = table_of(backbone)
    words, tokens = table[backbone.tokenizer([f"{name}."])[0]], len(backbone.tokenizer.encode(name))
    own, rest = words[1 : 1 + tokens], words[1 + tokens : len(words) - LENGTH]
    prompt = torch.cat([words[:1], context[:before], own, context[before:], rest])
    return run_tower(tower, prompt[None], torch.tensor([1 + LENGTH + tokens + 1]))[0]


def naive_weights(backbone: Backbone, names: tuple[str, ...], contexts: Tensor) -> Tensor:
    """w_kc: the first quarter of the contexts stands behind the name, the second around it."""
    quarter = len(contexts) // 4
    rows = []
    for k, context in enumerate(contexts):
        before = 0 if k < quarter else LENGTH // 2 if k < 2 * quarter else LENGTH
        texts = torch.stack([encode_placed(backbone, name, context, before) for name in names])
        rows.append(texts / texts.norm(dim=-1, keepdim=True))
    return torch.stack(rows)


def naive_bound(backbone: Backbone, weights: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Equation 8, with covariance matrices that are diagonal in the features."""
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    mean, count = weights.mean(0), len(weights)

    def covariance(c: int, d: int) -> Tensor:
        products = [(w[c] - mean[c]) * (w[d] - mean[d]) for w in weights]
        return torch.diag(sum(products) / (count + 1))  # type: ignore[arg-type]

    rows = []
    for image, y in zip(images, targets.tolist(), strict=True):
        f = image / image.norm()
        row = []
        for c in range(weights.shape[1]):
            spread = covariance(c, c) + covariance(y, y) - covariance(c, y) - covariance(y, c)
            row.append(scale * mean[c].dot(f) + scale**2 / 2 * (f @ spread @ f))
        rows.append(torch.stack(row))
    return cross_entropy(torch.stack(rows), targets)


def naive_overlap(backbone: Backbone, contexts: Tensor) -> Tensor:
    """The mean |cos| over pairs of contexts with neither name nor other words but the stop."""
    texts = torch.cat([encode_contexts(backbone, [""], context) for context in contexts])
    values = [
        (texts[i].dot(texts[j]) / (texts[i].norm() * texts[j].norm())).abs()
        for i in range(len(texts))
        for j in range(len(texts))
        if i != j
    ]
    return torch.stack(values).mean()


def test_logits_are_those_of_the_mean_weights(
    backbone64: Backbone, labels: Labels, images64: Tensor
) -> None:
    contexts = random_contexts()
    logits = settings().attach(Module({"contexts": contexts}), backbone64, labels)(images64)
    scale = backbone64.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    mean = naive_weights(backbone64, labels.names, contexts).mean(0)
    expected = scale * images64 / images64.norm(dim=-1, keepdim=True) @ mean.T
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_the_loss_over_all_prompts_equals_the_formula(
    float64: None, backbone64: Backbone, data64: FewShotData
) -> None:
    contexts = random_contexts()
    method = settings(weight=0.7)
    classifier = method.attach(Module({"contexts": contexts}), backbone64, data64.labels)
    batch = Batch(data64.train.plain, data64.train.targets, backbone64, data64.labels)
    weights = naive_weights(backbone64, data64.labels.names, contexts)
    expected = naive_bound(backbone64, weights, batch.features, batch.targets)
    assert expected > 1.05 * cross_entropy(
        cosine_logits(backbone64, weights.mean(0), batch.features) * weights.mean(0).norm(dim=-1),
        batch.targets,
    )
    expected = expected + 0.7 * naive_overlap(backbone64, contexts)
    torch.testing.assert_close(method.loss(classifier, batch), expected, rtol=1e-9, atol=1e-9)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    recipe = ProDA.Config().recipe.model_copy(update={"warmup_epochs": 0, "lr": 0.1})
    method = settings(recipe=recipe, max_steps=1, prompts_per_step=3)
    found = method.fit(clip64, data64, torch.Generator().manual_seed(3))["contexts"]

    rng = torch.Generator().manual_seed(3)
    start = method.init(clip64, data64, rng)["contexts"].requires_grad_()
    order = torch.randperm(len(data64.train), generator=rng)
    images, targets = data64.train.views[0][order], data64.train.targets[order]
    chosen = torch.randperm(8, generator=rng)[:3]
    weights = naive_weights(clip64, data64.labels.names, start)[chosen]
    loss = naive_bound(clip64, weights, images, targets) + 0.1 * naive_overlap(clip64, start)
    (gradient,) = torch.autograd.grad(loss, start)
    expected = (start - 0.1 * (gradient + 5e-4 * start)).detach()
    assert (found - start).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_one_prompt_is_coop(clip64: Backbone, labels: Labels, images64: Tensor) -> None:
    contexts = random_contexts(1)
    logits = settings(1).attach(Module({"contexts": contexts}), clip64, labels)(images64)
    coop = CoOp().attach(Module({"context": contexts[0]}), clip64, labels)(images64)
    torch.testing.assert_close(logits, coop, rtol=1e-10, atol=1e-10)


def test_prompts_that_agree_are_bounded_by_their_cross_entropy(
    clip64: Backbone, data64: FewShotData
) -> None:
    """Contexts of one place that are all alike have no spread, and are all in overlap."""
    method = settings(3, weight=1.0)
    contexts = random_contexts(1).expand(3, -1, -1)
    classifier = method.attach(Module({"contexts": contexts}), clip64, data64.labels)
    batch = Batch(data64.train.plain, data64.train.targets, clip64, data64.labels)
    texts = encode_contexts(clip64, data64.labels.names, contexts[0])
    entropy = cross_entropy(cosine_logits(clip64, texts, batch.features), batch.targets)
    torch.testing.assert_close(method.loss(classifier, batch), entropy + 1, rtol=1e-9, atol=1e-9)


def test_names_stand_at_three_places() -> None:
    places = [position_of(k, 32) for k in range(32)]
    assert places == ["front"] * 8 + ["middle"] * 8 + ["end"] * 16
