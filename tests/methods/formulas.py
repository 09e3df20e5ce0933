"""Formulas that many methods share, written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from open_clip_reference import encode_texts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData
from compatbench.method.trained import TrainedMethod


def cosine_logits(backbone: Backbone, texts: Tensor, images: Tensor) -> Tensor:
    """z_ic = s · ⟨f_i, t_c⟩ / (‖f_i‖ ‖t_c‖), ``[images, classes]``."""
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    rows = [[scale * f.dot(t) / (f.norm() * t.norm()) for t in texts] for f in images]
    return torch.stack([torch.stack(row) for row in rows])


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−(1/N) Σ_i log softmax(z_i)_{y_i}."""
    losses = [row.logsumexp(0) - row[y] for row, y in zip(logits, targets, strict=True)]
    return torch.stack(losses).mean()


def mean_cosine(texts: Tensor, others: Tensor) -> Tensor:
    """(1/C) Σ_c cos(t_c, t'_c)."""
    cosines = [a.dot(b) / (a.norm() * b.norm()) for a, b in zip(texts, others, strict=True)]
    return torch.stack(cosines).mean()


def unit(x: Tensor) -> Tensor:
    """Rows divided by their lengths."""
    return x / x.norm(dim=-1, keepdim=True)


def unit_texts(backbone: Backbone, labels: Labels) -> Tensor:
    """Normalised features of the first template, as open_clip gives them, ``[C, e]``."""
    return unit(photo_texts(backbone, labels))


def photo_texts(backbone: Backbone, labels: Labels) -> Tensor:
    """Features of "a photo of a …." as open_clip gives them, ``[C, e]``, not normalised."""
    return encode_texts(backbone, [f"a photo of a {name}." for name in labels.names])


def random_tensors(
    shapes: Mapping[str, tuple[int, ...]], scale: float = 0.3, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Tensors of these names and shapes, drawn from one normal of this scale."""
    rng = torch.Generator().manual_seed(1)
    return {
        name: scale * torch.randn(shape, generator=rng).to(dtype) for name, shape in shapes.items()
    }


def descend(x: Tensor, gradient: Tensor) -> Tensor:
    """A first step of SGD at a rate of 0.1: momentum has nothing to add yet."""
    return x - 0.1 * (gradient + 5e-4 * x)


def check_first_step(
    method: type[TrainedMethod],
    backbone: Backbone,
    data: FewShotData,
    loss: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor],
    update: Callable[[Tensor, Tensor], Tensor] = descend,
    *,
    recipe: Mapping[str, object] | None = None,
    images: Tensor | None = None,
    start: Mapping[str, Tensor] | None = None,
    rtol: float = 1e-8,
    **settings: object,
) -> None:
    """After one step of a fit, every tensor is where the gradient of a naive loss takes it.

    Args:
        loss: of the parameters, a batch of the first view and its targets.
        update: a tensor and its gradient → the tensor after the step.
        recipe: changes of the recipe; by default a rate of 0.1 without warm-up.
        images: the first view, where it is not features.
        start: what the parameters are before the step, as the paper has it.
    """
    changes = {"warmup_epochs": 0, "lr": 0.1} if recipe is None else recipe
    changed = method.Config().recipe.model_copy(update=changes)
    values = {"recipe": changed, "max_steps": 1, **settings}
    subject = method(method.Config.model_validate(values))
    found = subject.fit(backbone, data, torch.Generator().manual_seed(3))

    rng = torch.Generator().manual_seed(3)
    first = subject.init(backbone, data, rng).trained
    for name, expected in (start or {}).items():
        torch.testing.assert_close(first[name], expected)
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in first.items()}
    chosen = torch.randperm(len(data.train), generator=rng)[: changed.batch_size]
    view = data.train.views[0] if images is None else images
    value = loss(parameters, view[chosen], data.train.targets[chosen])
    gradients = torch.autograd.grad(value, list(parameters.values()))
    assert found.trained.keys() == parameters.keys()
    for (name, x), gradient in zip(parameters.items(), gradients, strict=True):
        assert gradient.abs().max() > 1e-6, name
        expected = update(x, gradient).detach()
        torch.testing.assert_close(found[name], expected, rtol=rtol, atol=rtol / 100)
