"""Which of a task's templates make the class weights, in every method that lets a suite choose."""

from __future__ import annotations

import pytest
import torch
from formulas import fill, seeded, unit
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Method
from compatbench.method.registry import builtin_methods
from compatbench.methods._shared.texts import Templates, choose_templates, mean_texts, zero_shot

METHODS = {
    name: method
    for name, method in builtin_methods().classes.items()
    if (field := method.Config.model_fields.get("templates")) and field.annotation == Templates
    if method.image_input is Method.image_input  # or the data below would not be what it takes
}


@pytest.mark.parametrize(("which", "used"), [("first", [0]), ("rest", [1, 2]), ("all", [0, 1, 2])])
def test_texts_are_means_over_the_chosen_templates(
    backbone64: Backbone, labels: Labels, which: Templates, used: list[int]
) -> None:
    texts = [fill(backbone64, labels, labels.templates[i]) for i in used]
    mean = torch.stack(texts).mean(0)
    weights = unit(torch.stack([unit(each) for each in texts]).sum(0))
    torch.testing.assert_close(mean_texts(backbone64, labels, which), mean)
    torch.testing.assert_close(zero_shot(backbone64, labels, which), weights)
    only = Labels(labels.names, labels.templates[:1], "{}")
    assert choose_templates(only, which) == only.templates


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_fit_on_the_second_of_two_templates_is_one_on_it_alone(
    clip64: Backbone, make_data: MakeData, labels: Labels, images64: Tensor, method: type[Method]
) -> None:
    """Whatever a fit and a classifier take from the text, they take from the chosen templates."""
    caps = {"max_steps": 2} if "max_steps" in method.Config.model_fields else {}

    def classify(count: int, **settings: object) -> Tensor:
        texts = labels.templates[2 - count : 2]
        own = Labels(labels.names, texts, "{}", labels.descriptions)
        data = make_data(clip64, own)
        subject = method(method.Config.model_validate(caps | settings))
        module = subject.fit(clip64, data, seeded(1))
        return subject.attach(module.detach(), clip64, own)(images64)

    chosen = classify(2, templates="rest")
    torch.testing.assert_close(chosen, classify(1), rtol=0, atol=0)
    assert (chosen - classify(2, templates="first")).abs().max() > 1e-3
