"""VPT-shallow: VPT-deep with tokens for the first block alone."""

from __future__ import annotations

import pytest
import torch
from formulas import cosine_logits, photo_texts
from image_reference import draw_images, few_shots, run_image_tower
from test_vpt_deep import HIDDEN

from compatbench.backbone import Backbone, Labels
from compatbench.methods.vpt_deep import VPTDeep
from compatbench.methods.vpt_shallow import VPTShallow


@pytest.mark.usefixtures("float64")
def test_the_tokens_go_through_all_blocks(backbone64: Backbone, labels: Labels) -> None:
    module = VPTShallow().init(backbone64, few_shots(backbone64, labels)[0], torch.Generator())
    [prompts] = module["image_prompts"]
    images = draw_images(backbone64, 4)
    classify = VPTShallow().attach(module, backbone64, labels)
    found = classify(backbone64.encode_images(images, HIDDEN))
    features = run_image_tower(backbone64.model.visual, images, [prompts])
    expected = cosine_logits(backbone64, photo_texts(backbone64, labels), features)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_it_is_vpt_deep_of_depth_1(clip: Backbone, labels: Labels) -> None:
    data, _ = few_shots(clip, labels)
    deep = VPTDeep(VPTDeep.Config(depth=1, max_steps=3))
    shallow = VPTShallow(VPTShallow.Config(max_steps=3))
    one, other = (m.fit(clip, data, torch.Generator().manual_seed(1)) for m in (deep, shallow))
    assert one.fingerprint == other.fingerprint
