"""Methods that train all weights of a tower: each against its formula, on a copy of the model."""

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

from compatbench.backbone import Backbone
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.method import FewShotData
from compatbench.method.registry import builtin_methods


def encode_images(at: Case, own: Tensors | None = None) -> Tensor:
    """With differences added to weights, by default all of the module's."""
    changed = shift_weights(at.backbone, at.own if own is None else own)
    return run_image_tower(changed.model.visual, at.images, [])


def clipood_logits(at: Case) -> Tensor:
    return at.cosines(at.photos, encode_images(at))


def clipood_loss(at: Case) -> Tensor:
    """Up to a constant, a wrong class gains s λ (1 − cos(t_y, t_c))."""
    texts = at.unit_photos
    logits = clipood_logits(at)
    extra = torch.stack([0.3 * (1 - texts @ texts[y]) for y in at.targets])
    return at.entropy(logits + at.scale * extra)


def wise_ft_logits(at: Case) -> Tensor:
    weights = at.scale * at.unit_photos + at.own["weight"]
    return unit(encode_images(at)) @ weights.T + at.own["bias"]


def flyp_logits(at: Case) -> Tensor:
    changed = shift_weights(at.backbone, at.own)
    texts = torch.stack([unit(fill(changed, at.labels, t)) for t in at.labels.templates]).mean(0)
    return at.own["log_scale"].exp() * at.cosines(texts, encode_images(at))


def flyp_loss(at: Case) -> Tensor:
    """CLIP's own loss of images and their texts, in the templates that the fit draws."""
    rng = seeded(3)  # as in a first step
    torch.randperm(len(at.targets), generator=rng)
    drawn = torch.randint(3, (len(at.targets),), generator=rng)
    changed = shift_weights(at.backbone, at.own)
    pairs = zip(drawn.tolist(), at.targets.tolist(), strict=True)
    texts = encode_texts(
        changed, [at.labels.templates[t].format(at.labels.names[y]) for t, y in pairs]
    )
    logits = at.own["log_scale"].exp() * at.cosines(texts, encode_images(at))
    diagonal = torch.arange(len(at.targets))
    return (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2


def own_name(backbone: Backbone, name: str) -> str:
    """The model's name of what 2SFS calls ``text.…`` or ``image.…``."""
    if name.startswith("text.") or hasattr(backbone.model.visual, "proj"):
        return name
    for common, own in (("transformer.resblocks", "blocks"), ("ln_post", "norm"), ("ln_", "norm")):
        name = name.replace(common, own)
    return name.replace("image.", "image.trunk.")


def twosfs_logits(at: Case) -> Tensor:
    """s · cos(f', t' + r), with differences added to the norms of both towers."""
    own = {own_name(at.backbone, n): x for n, x in at.own.items() if n != "residual"}
    texts = unit(fill(shift_weights(at.backbone, own), at.labels))
    return at.cosines(texts + at.own["residual"], encode_images(at, own))


def prolip_logits(at: Case) -> Tensor:
    """s · cos(x (P + D), t), P replaced in the image tower."""
    change = at.own["projection"]
    is_clip = hasattr(at.backbone.model.visual, "proj")
    own = {"image.proj": change} if is_clip else {"image.head.proj.weight": change.T}
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
test_the_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


def test_differences_are_added_to_the_weights_of_the_source_and_of_towers_of_its_sizes(
    clip64: Backbone, eva64: Backbone, data64: FewShotData, images64: Tensor
) -> None:
    for target in (clip64, wrap(tiny_clip(seed=8).double(), "other")):
        for formula in STEPS:
            formula.check_logits(clip64, data64, images64, target)

    # The text towers of the pair are of one size, their image towers are not.
    def logits(at: Case) -> Tensor:
        changed = shift_weights(at.backbone, at.own)
        texts = [unit(fill(changed, at.labels, template)) for template in at.labels.templates]
        return at.own["log_scale"].exp() * at.cosines(torch.stack(texts).mean(0))

    text_alone = Formula("flyp", logits, settings={"encoder": "text"})
    text_alone.check_logits(clip64, data64, images64, eva64)


def test_flyp_starts_at_the_zero_shot_ensemble(clip: Backbone, data: FewShotData) -> None:
    module = make("flyp").init(clip, data, torch.Generator())
    images = draw_images(clip, 4)
    features = clip.encode_images(images)
    expected = cosine_logits(clip, clip.zero_shot_ensemble(data.labels), features)
    torch.testing.assert_close(make("flyp").attach(module, clip, data.labels)(images), expected)


def test_twosfs_tunes_no_more_than_both_towers_have() -> None:
    """So that a module of CLIP's is one of EVA-CLIP's, if the sizes are."""
    tested = MethodUnderTest(builtin_methods().get("twosfs"))
    source, target = (
        set(make("twosfs").init(one, tested.draw(), torch.Generator()).trained)
        for one in (tested.source, tested.target)
    )
    # Weight and bias of two norms in each of twelve blocks and of one behind them, and r.
    assert source == target
    assert len(source) == 2 * 2 * (2 * 12 + 1) + 1
