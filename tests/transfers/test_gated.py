"""The gate: the module where gain is expected, zero-shot itself where it is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from compatbench.backbone import DENSE, PIXELS, POOLED, ImageInput
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest, unseen_images
from compatbench.method import Module
from compatbench.method.predictions import predict
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.method.transfer import OldAnswers, TransferData, Unlabelled
from compatbench.transfers._shared import survival
from compatbench.transfers._shared.survival import Estimator, FourAnswers, describe_answers


@pytest.mark.parametrize("name", ["taskres", "clip_lora"])  # of features, and of hidden tokens
def test_the_expected_gain_decides_between_the_module_and_zero_shot(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested, transfer = MethodUnderTest(builtin_methods().get(name)), find_transfer("gated")
    method, source, target = tested.build(), tested.source, tested.target
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(60, *unseen_images().shape[1:], generator=generator)
    # Far from zero-shot, so that answers differ.
    noise = {
        tensor: value + torch.randn(value.shape, generator=generator)
        for tensor, value in tested.module.trained.items()
    }
    module = Module(noise, tested.module.stored, tested.module.about)
    wanted = transfer.image_input(method, target)
    features = [one.encode_images(images) for one in (source, target)]
    inputs = target.encode_images(images, wanted)
    zero_shot = [
        one.logit_scale * F.normalize(seen, dim=-1) @ one.zero_shot(LABELS).T
        for one, seen in zip((source, target), features, strict=True)
    ]
    with torch.no_grad():
        old = method.attach(module, source, LABELS)(
            source.encode_images(images, method.image_input(source))
        )
        own = method.attach(module, target, LABELS)(inputs)
    unlabelled = Unlabelled(features[0], features[1], inputs, OldAnswers(old, zero_shot[0]))
    data = TransferData(transfer, unlabelled=unlabelled, source=source)
    answers = [predict(logits) for logits in (old, zero_shot[0], own, zero_shot[1])]
    four = FourAnswers(answers[0], answers[1], answers[2], answers[3])
    expected = describe_answers(four, len(LABELS))
    assert expected["differ"] > 0
    for weight, logits, says in (
        (1.0, own, f"keeps the module: a gain of +{100 * expected['differ']:.1f}"),
        (-1.0, zero_shot[1], f"falls back to zero-shot: a gain of -{100 * expected['differ']:.1f}"),
    ):
        asked = []

        def find(*upgrade: str, weight: float = weight, asked: list = asked) -> Estimator:
            asked.append(upgrade)
            return Estimator(("differ", "sure"), (weight, 0.0), 0.0, 0.0, 0.02)

        monkeypatch.setattr(survival, "find_estimator", find)
        with torch.no_grad():
            found = transfer.attach(method, module, target, LABELS, data)
            assert torch.allclose(found(inputs), logits, atol=1e-4)
        assert says in found.note  # type: ignore[attr-defined]
        assert asked == [("images", source.name, target.name)]


@pytest.mark.parametrize(
    "wanted", [DENSE, POOLED, PIXELS, ImageInput("hidden", 1), ImageInput("pixels", views=2)]
)
def test_features_are_finished_from_what_classifiers_take(wanted: ImageInput) -> None:
    backbone, images = MethodUnderTest(builtin_methods().get("taskres")).target, unseen_images()
    features = backbone.encode_images(images)
    given = backbone.encode_images(images, wanted)
    if wanted.views:
        given = torch.stack([given, *[given.flip(-1)] * wanted.views], 1)
    assert torch.allclose(backbone.finish_images(given, wanted), features, atol=1e-5)
