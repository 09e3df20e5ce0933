"""Methods that train all weights of a tower equal their formulas on a copy of the model."""

from __future__ import annotations

import torch
from formulas import (
    Case,
    Formula,
    Tensors,
    adam,
    cosine_logits,
    cross_entropy,
    fill,
    logits_test,
    make,
    seeded,
    shift_weights,
    step_test,
    unit,
)
from image_reference import draw_images, run_image_tower
from open_clip_reference import encode_texts
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.method import FewShotData
from compatbench.method.registry import builtin_methods


def encode_images(at: Case, own: Tensors | None = None) -> Tensor:
    """Return features with differences added to weights, by default all of the module's."""
    changed = shift_weights(at.backbone, at.own if own is None else own)
    return run_image_tower(changed.model.visual, at.images, [])


def clipood_logits(at: Case) -> Tensor:
    return at.cosines(at.photos, encode_images(at))


def clipood_loss(at: Case) -> Tensor:
    """Return the loss in which a wrong class gains s λ (1 − cos(t_y, t_c)), up to a constant."""
    texts = at.unit_photos
    logits = clipood_logits(at)
    extra = torch.stack([0.3 * (1 - texts @ texts[y]) for y in at.targets])
    return at.entropy(logits + at.scale * extra)


def wise_ft_logits(at: Case) -> Tensor:
    weights = at.scale * at.unit_photos + at.own["weight"]
    return unit(encode_images(at)) @ weights.T + at.own["bias"]


def ensemble(backbone: Backbone, labels: Labels) -> Tensor:
    """Return the mean over templates of normalised class features."""
    texts = [unit(fill(backbone, labels, template)) for template in labels.templates]
    return torch.stack(texts).mean(0)


def flyp_logits(at: Case) -> Tensor:
    changed = shift_weights(at.backbone, at.own)
    texts = ensemble(changed, at.labels)
    return at.own["log_scale"].exp() * at.cosines(texts, encode_images(at))


def flyp_loss(at: Case) -> Tensor:
    """Return CLIP's loss of images and their texts, in the templates that the fit draws."""
    rng = seeded(3)  # as in a first step
    torch.randperm(len(at.targets), generator=rng)
    drawn = torch.randint(3, (len(at.targets),), generator=rng)
    changed = shift_weights(at.backbone, at.own)
    texts = []
    for template, label in zip(drawn.tolist(), at.targets.tolist(), strict=True):
        texts.append(at.labels.templates[template].format(at.labels.names[label]))
    cosines = at.cosines(encode_texts(changed, texts), encode_images(at))
    logits = at.own["log_scale"].exp() * cosines
    diagonal = torch.arange(len(at.targets))
    return (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2


def own_name(backbone: Backbone, name: str) -> str:
    """Return the model's name of a weight that 2SFS calls ``text.…`` or ``image.…``."""
    if name.startswith("text.") or hasattr(backbone.model.visual, "proj"):
        return name
    for common, own in (("transformer.resblocks", "blocks"), ("ln_post", "norm"), ("ln_", "norm")):
        name = name.replace(common, own)
    return name.replace("image.", "image.trunk.")


def twosfs_logits(at: Case) -> Tensor:
    """Return s · cos(f', t' + r), with differences added to the norms of both towers."""
    own = {own_name(at.backbone, name): delta for name, delta in at.own.items()}
    own.pop("residual")
    texts = unit(fill(shift_weights(at.backbone, own), at.labels))
    return at.cosines(texts + at.own["residual"], encode_images(at, own))


def prolip_logits(at: Case) -> Tensor:
    """Return s · cos(x (P + D), t), with P replaced in the image tower."""
    change = at.own["projection"]
    if hasattr(at.backbone.model.visual, "proj"):
        own = {"image.proj": change}
    else:
        own = {"image.head.proj.weight": change.T}
    return at.cosines(at.photos, encode_images(at, own))


SMOOTH = {"eps": 0.1}  # of Adam
STEPS = [  # half of a step: the average with the start, and α
    Formula("clipood", clipood_logits, clipood_loss, adam(0.1, 2.5e-6), SMOOTH, step=1e-9),
    Formula("wise_ft_weights", wise_ft_logits, None, adam(0.1, 1.5e-5), SMOOTH, step=1e-9),
    Formula("flyp", flyp_logits, flyp_loss, adam(0.1, 1e-5), SMOOTH, step=1e-9),
]


test_logits_equal_the_formula = logits_test(
    [Formula("twosfs", twosfs_logits), Formula("prolip", prolip_logits)]
)
test_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


def test_differences_are_added_to_weights_of_towers_of_the_same_sizes(
    clip64: Backbone, eva64: Backbone, data64: FewShotData, images64: Tensor
) -> None:
    for target in (clip64, wrap(tiny_clip(seed=8).double(), "other")):
        for formula in STEPS:
            formula.check_logits(clip64, data64, images64, target)

    # The text towers of the pair are of one size, their image towers are not.
    def logits(at: Case) -> Tensor:
        changed = shift_weights(at.backbone, at.own)
        return at.own["log_scale"].exp() * at.cosines(ensemble(changed, at.labels))

    text_alone = Formula("flyp", logits, settings={"encoder": "text"})
    text_alone.check_logits(clip64, data64, images64, eva64)


def test_flyp_starts_at_the_zero_shot_ensemble(clip: Backbone, data: FewShotData) -> None:
    module = make("flyp").init(clip, data, torch.Generator())
    images = draw_images(clip, 4)
    features = clip.encode_images(images)
    expected = cosine_logits(clip, clip.zero_shot_ensemble(data.labels), features)
    torch.testing.assert_close(make("flyp").attach(module, clip, data.labels)(images), expected)


def test_twosfs_tunes_only_norms_that_both_towers_have() -> None:
    """A module of CLIP can then be attached to an EVA-CLIP of the same sizes."""
    tested = MethodUnderTest(builtin_methods().get("twosfs"))
    source = make("twosfs").init(tested.source, tested.draw(), torch.Generator())
    target = make("twosfs").init(tested.target, tested.draw(), torch.Generator())
    assert source.trained.keys() == target.trained.keys()
    # Both towers have weight and bias of two norms in twelve blocks and of one after them; and r.
    assert len(source.trained) == 2 * 2 * (2 * 12 + 1) + 1
