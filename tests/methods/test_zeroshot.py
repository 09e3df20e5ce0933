"""Zero-shot: z = s · cos(f, t), t the features of hand-written prompts."""

from __future__ import annotations

import torch
from open_clip_reference import encode_texts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Module
from compatbench.methods.zeroshot import ZeroShot, ZeroShotEnsemble


def unit(x: Tensor) -> Tensor:
    return x / x.dot(x).sqrt()


def test_logits_are_scaled_cosines_with_the_first_template(
    backbone64: Backbone, labels: Labels, images64: Tensor
) -> None:
    logits = ZeroShot().attach(Module(), backbone64, labels)(images64)
    scale = backbone64.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    for c, name in enumerate(labels.names):
        text = encode_texts(backbone64, [f"a photo of a {name}."])[0]
        for i, image in enumerate(images64):
            torch.testing.assert_close(logits[i, c], scale * unit(image).dot(unit(text)))


def test_the_ensemble_averages_normalised_features(
    backbone64: Backbone, labels: Labels, images64: Tensor
) -> None:
    logits = ZeroShotEnsemble().attach(Module(), backbone64, labels)(images64)
    scale = backbone64.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    for c, name in enumerate(labels.names):
        texts = [f"a photo of a {name}.", f"a drawing of the {name}.", f"{name} texture"]
        mean = sum(unit(feature) for feature in encode_texts(backbone64, texts)) / 3
        for i, image in enumerate(images64):
            torch.testing.assert_close(logits[i, c], scale * unit(image).dot(unit(mean)))


def test_the_ensemble_of_one_template_is_that_template(clip: Backbone, images: Tensor) -> None:
    labels = Labels(("dog", "tree"), ("a photo of a {}.",), "a photo of a {}.")
    single = ZeroShot().attach(Module(), clip, labels)(images)
    ensemble = ZeroShotEnsemble().attach(Module(), clip, labels)(images)
    torch.testing.assert_close(single, ensemble)
