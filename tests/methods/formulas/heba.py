"""HeBA: its logits and its first step, written out from the paper, without the harness."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from image_reference import draw_images, run_image_tower
from open_clip_reference import encode_texts, text_tower
from tiny_models import wrap
from torch import Tensor, nn

from compatbench.backbone import Backbone
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData, Module
from formulas import Case, Formula, Tensors, close, descend, fill, make, seeded, unit


class Adapted(nn.Module):
    """A norm before attention, and the adapter of what attention gets."""

    def __init__(self, norm: nn.Module, own: Tensors, scale: float, is_image: bool) -> None:
        super().__init__()
        self.norm = norm
        self.own = own
        self.scale = scale
        self.is_image = is_image

    def forward(self, x: Tensor) -> Tensor:
        u = self.norm(x)
        if not self.is_image:
            return u + self.scale * self.adapt(u, u @ self.own["down"].T)
        patches = u[:, 1:]
        rows = patches @ self.own["down"].T
        side = round(rows.shape[1] ** 0.5)
        mixed = torch.zeros_like(rows)
        for a in range(side):
            for b in range(side):
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if 0 <= a + dy < side and 0 <= b + dx < side:
                            kernel = self.own["mix"][:, 0, dy + 1, dx + 1]
                            neighbour = rows[:, (a + dy) * side + b + dx]
                            mixed[:, a * side + b] = mixed[:, a * side + b] + kernel * neighbour
        changed = patches + self.scale * self.adapt(patches, mixed)
        return torch.cat([u[:, :1], changed], dim=1)

    def adapt(self, u: Tensor, hidden: Tensor) -> Tensor:
        phi = (1 + torch.erf(hidden / math.sqrt(2))) / 2
        y = u + (hidden * phi) @ self.own["up"].T
        centred = y - y.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.own["norm"] + self.own["norm_bias"]


Scales = Mapping[str, Sequence[float]]  # κ of each block, by tower


def adapted(at: Case, scales: Scales) -> Backbone:
    """Return a copy of the model with adapters behind the first norm of every block."""
    changed = wrap(copy.deepcopy(at.backbone.model), "changed")
    visual: Any = changed.model.visual
    if hasattr(visual, "trunk"):
        blocks = [(block, "norm1") for block in visual.trunk.blocks]
    else:
        blocks = [(block, "ln_1") for block in visual.transformer.resblocks]
    texts = [(block, "ln_1") for block in text_tower(changed).transformer.resblocks]
    for kind, owners in (("image", blocks), ("text", texts)):
        for i, (block, name) in enumerate(owners):
            own = {}
            for key, tensor in at.own.items():
                if key.startswith(kind):
                    own[key.removeprefix(f"{kind}_")] = tensor[i]
            setattr(
                block, name, Adapted(getattr(block, name), own, scales[kind][i], kind == "image")
            )
    return changed


@pytest.mark.parametrize("kind", ["clip64", "eva64"])
def test_logits_equal_the_formula(
    kind: str, request: pytest.FixtureRequest, data64: FewShotData
) -> None:
    backbone: Backbone = request.getfixturevalue(kind)
    labels = data64.labels
    method = make("heba", scale=0.5)
    rng = seeded()
    noise = {}
    for name, tensor in method.init(backbone, data64, rng).trained.items():
        noise[name] = 0.3 * torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
    images = draw_images(backbone, 4)
    inputs = backbone.encode_images(images, method.image_input(backbone))
    found = method.attach(Module(noise), backbone, labels)(inputs)
    at = Case(backbone, labels, noise, images)
    changed = adapted(at, dict.fromkeys(("text", "image"), [0.5] * 9))
    texts = [unit(fill(changed, labels, template)) for template in labels.templates]
    features = run_image_tower(changed.model.visual, images, [])
    close(found, at.cosines(torch.stack(texts).mean(0), features))


def draw_first_step(backbone: Backbone) -> tuple[list[int], Scales]:
    """Return the template of each class, and the factors of the blocks, of a first step."""
    rng = seeded(3)
    make("heba").init(backbone, None, rng)
    torch.randperm(10, generator=rng)
    templates = torch.randint(3, (5,), generator=rng).tolist()
    scales = {}
    for kind, tower in (("text", backbone.text), ("image", backbone.image)):
        drawn = torch.rand(tower.depth, generator=rng).tolist()
        scales[kind] = [0.025 * 2.25 if number > 0.8 else 0.025 for number in drawn]
    assert len({*scales["text"], *scales["image"]}) == 2
    return templates, scales


def loss(at: Case) -> Tensor:
    """Return the smoothed cross-entropy with a template for each class."""
    templates, scales = draw_first_step(at.backbone)
    changed = adapted(at, scales)
    words = []
    for number, name in zip(templates, at.labels.names, strict=True):
        words.append(at.labels.templates[number].format(name))
    texts = encode_texts(changed, words)
    logits = at.cosines(texts, run_image_tower(changed.model.visual, at.images, []))
    return 0.9 * at.entropy(logits) - 0.1 * logits.log_softmax(1).mean()


@pytest.mark.usefixtures("float64")
def test_first_step_follows_the_gradient_of_the_formula(
    clip64: Backbone, data64: FewShotData
) -> None:
    """The gradient of each adapter is divided by its factor κ."""
    _, scales = draw_first_step(clip64)

    def update(name: str, x: Tensor, gradient: Tensor) -> Tensor:
        kind, _, _ = name.partition("_")
        for i, scale in enumerate(scales[kind]):
            gradient[i] /= scale
        return descend(name, x, gradient)

    Formula("heba", loss, loss, update).check_first_step(clip64, data64)


def test_a_step_compares_with_its_own_classes_and_some_others() -> None:
    method = make("heba", negatives=2)
    targets = torch.tensor([7, 3, 7])
    classes, places = method.draw_classes(targets, 50, seeded())
    assert classes[places].tolist() == targets.tolist()
    assert len(classes) == len({*classes.tolist()}) == 2 + 2 * 2
    classes, places = method.draw_classes(targets, 3, seeded())
    assert classes.tolist() == [0, 1, 2]
    assert places is targets


@pytest.mark.usefixtures("float64")
def test_towers_without_a_class_token_before_a_square_of_patches_are_refused(
    clip64: Backbone, data64: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make("heba")
    module = method.init(clip64, data64, seeded())
    monkeypatch.setattr(clip64.image, "tokens", clip64.image.tokens - 1)
    with pytest.raises(NotTransferable, match="not a class token and a square grid"):
        method.attach(module, clip64, data64.labels)
