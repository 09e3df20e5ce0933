"""PromptKD: its logits, written out from the paper, without the harness."""

from __future__ import annotations

from dataclasses import replace

import torch
from image_reference import draw_images, few_shots, run_image_tower

from compatbench.backbone import Backbone, Labels
from compatbench.method import Module, Teacher
from formulas import close, cosine_logits, make, seeded


def test_logits_equal_the_formula(float64: None, clip64: Backbone, labels: Labels) -> None:
    """z = s · cos(W₂ ReLU(BN(W₁ f + b₁)) + b₂, t_T) with a teacher's texts."""
    method = make("promptkd")
    wanted = method.image_input(clip64)
    data, _ = few_shots(clip64, labels, wanted)
    data = replace(data, teacher=Teacher(clip64, data))
    start = method.init(clip64, data, seeded())
    rng = seeded(2)
    tensors = {}
    for name, tensor in start.tensors.items():
        tensors[name] = torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
    tensors["variance"] = tensors["variance"].abs()
    stored = {name: tensors[name] for name in start.stored}
    trained = {name: tensors[name] for name in start.trained}
    images = draw_images(clip64, 4)
    classify = method.attach(Module(trained, stored), clip64, labels)
    found = classify(clip64.encode_images(images, wanted))
    features = run_image_tower(clip64.model.visual, images, list(tensors["image_prompts"]))
    hidden = features @ tensors["down"].T + tensors["down_bias"]
    spread = (tensors["variance"] + 1e-5).sqrt()
    hidden = tensors["gain"] * (hidden - tensors["mean"]) / spread + tensors["shift"]
    answer = hidden.clamp(min=0) @ tensors["up"].T + tensors["up_bias"]
    expected = cosine_logits(clip64, tensors["texts"], answer)
    assert expected.std() > 0.1
    close(found, expected)
