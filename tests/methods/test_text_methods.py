"""Methods that read texts about classes, or put words of a task into its prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from formulas import (
    Case,
    Fit,
    FitInputs,
    Formula,
    Tensors,
    embed,
    fit_test,
    logits_test,
    make,
    naive_gaussian,
    seeded,
    step_test,
    unit,
    variants,
)
from open_clip_reference import encode_contexts, encode_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Method
from compatbench.method.registry import builtin_methods
from compatbench.methods._shared.texts import Templates
from compatbench.methods.dclip import join


def described(backbone: Backbone, labels: Labels, templates: int = 0) -> list[Tensor]:
    """Return normalised features of each class's first templates and descriptions."""
    rows = []
    for name, own in zip(labels.names, labels.descriptions, strict=True):
        texts = [template.format(name) for template in labels.templates[:templates]]
        rows.append(unit(encode_texts(backbone, [*texts, *own])))
    return rows


def cupl_logits(at: Case) -> Tensor:
    templates = 3 if "templates" in at.settings else 0
    means = [texts.mean(0) for texts in described(at.backbone, at.labels, templates)]
    return at.cosines(torch.stack(means))


# The descriptions of the test labels as DCLIP joins them.
JOINED = (
    ("dog, which is a friend", "dog: It barks.", "dog, which often runs"),
    ("hippopotamus, which has grey skin", "hippopotamus, which can swim"),
    (
        "A red apple is sweet.",
        "red apple, which is used in pies",
        "red apple, which is an old fruit",
        "red apple, which has antlers",
    ),
    ("xylophone, which has wooden bars", "The xylophone of a child"),
    ("tree, which has leaves", "A tree is tall."),
)


def dclip_logits(at: Case) -> Tensor:
    """Return the mean over a class's texts of s · cos."""
    texts = described(at.backbone, replace(at.labels, descriptions=JOINED))
    scores = [at.cosines(one).mean(1) for one in texts]
    return torch.stack(scores, dim=1)


def timo_logits(at: Case) -> Tensor:
    rows = []
    texts_by_class = described(at.backbone, at.labels, 1)
    for weights, texts in zip(at.own["text_weights"], texts_by_class, strict=True):
        rows.append(sum(weight * text for weight, text in zip(weights, texts, strict=False)))
    text = at.own["alpha"] * unit(at.images) @ unit(torch.stack(rows)).T
    return text + unit(at.images) @ at.own["weight"].T + at.own["bias"]


def atprompt_logits(at: Case) -> Tensor:
    """Encode [SOS, u₁, E(a₁), u₂, E(a₂), v, E(name), ".", EOT]; a₁ has four tokens."""
    first, second = at.own["attribute_context"]
    rows = [first, embed(at.backbone, "playfulness"), second, embed(at.backbone, "energy")]
    texts = encode_contexts(at.backbone, at.labels.names, torch.cat([*rows, at.own["context"]]))
    return at.cosines(texts)


def protext_logits(at: Case) -> Tensor:
    first, *deep = at.own["prompts"]
    texts = encode_contexts(at.backbone, at.labels.names, first, dict(enumerate(deep, start=1)))
    return at.cosines(texts)


STEPS = variants("atprompt", atprompt_logits, {"attributes": ["playfulness", "energy"]})
FORMULAS = [
    *STEPS,
    *variants("cupl", cupl_logits, {}, {"templates": "all"}),
    Formula("dclip", dclip_logits),
    Formula("timo", timo_logits),
    Formula("protext", protext_logits),
]


test_logits_equal_the_formula = logits_test(FORMULAS)
test_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


@pytest.mark.parametrize(
    ("name", "text", "joined"),
    [
        ("apple_pie", "A apple_pie has a crust.", "A apple_pie has a crust."),
        ("707-320", "Aircraft 707-320s are wide and", "Aircraft 707-320s are wide and"),
        ("707-320", "The -320 was first. It", "707-320: The -320 was first. It"),
        ("tree", "Streets are long.", "tree: Streets are long."),
        ("owl", "two eyes", "owl, which has two eyes"),
        ("owl", "has two eyes", "owl, which has two eyes"),
    ],
)
def test_dclip_joins_names_and_descriptors(name: str, text: str, joined: str) -> None:
    assert join(name, text) == joined


def timo_fit(of: FitInputs) -> Tensors:
    """Return text weights of each class, and W and b of GDA on images and weighted texts.

    The texts of a class without shots have equal weights.
    """
    weights = []
    groups = []
    gamma = of.settings["gamma"]
    for c, texts in enumerate(described(of.source, of.data.labels, 1)):
        texts = texts[:3]  # one template, and the fewest descriptions are two
        own = of.views()[:, of.owners == c]
        if not own.shape[1]:
            weights.append(torch.full((3,), 1 / 3))
            groups.append(texts[:0])
            continue
        matches = texts @ unit(unit(own.mean(0)).mean(0))
        weights.append(torch.softmax(gamma * matches / matches.norm(), dim=0))
        ranked = sorted(range(3), key=lambda j: -float(matches[j]))
        chosen = [*ranked, *ranked][: of.settings["beta"] or 3]
        rows = [matches[j] * texts[j] for j in chosen]
        groups.append(torch.stack([*rows, *unit(own).flatten(0, 1)]))
    return {"text_weights": torch.stack(weights), **naive_gaussian(groups)}


TIMO = [
    Fit("timo", timo_fit, {"gamma": 50.0, "beta": None}, 3, 1e-8),
    Fit("timo", timo_fit, {"gamma": 7.0, "beta": 5}, 3, 1e-8),
    Fit("timo", timo_fit, {"gamma": 50.0, "beta": None}, (3, 0, 3, 3, 3), 1e-6),
]


test_fits_equal_their_formulas = fit_test(TIMO)


def test_protext_uses_no_images(clip64: Backbone, few: MakeData) -> None:
    method = make("protext", max_steps=2)
    one_shot = method.fit(clip64, few(shots=1), seeded())
    three_shots = method.fit(clip64, few(shots=3), seeded())
    assert one_shot.fingerprint == three_shots.fingerprint


# Methods with a choice of templates that are fitted on features.
METHODS = {}
for name, method in builtin_methods().classes.items():
    field = method.Config.model_fields.get("templates")
    if field and field.annotation == Templates and method.image_input is Method.image_input:
        METHODS[name] = method


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_unused_templates_do_not_change_a_fit(
    clip64: Backbone, make_data: MakeData, labels: Labels, images64: Tensor, method: type[Method]
) -> None:
    """A fit on the second of two templates equals a fit on that template alone."""
    caps = {"max_steps": 2} if "max_steps" in method.Config.model_fields else {}

    def classify(count: int, **settings: object) -> Tensor:
        texts = labels.templates[2 - count : 2]
        own = Labels(labels.names, texts, "{}", labels.descriptions)
        data = make_data(clip64, own)
        subject = method(method.Config.model_validate(caps | settings))
        module = subject.fit(clip64, data, seeded(1))
        return subject.attach(module.detach(), clip64, own)(images64)

    chosen = classify(2, templates="rest")
    for which in ("first", "rest"):  # of one template
        torch.testing.assert_close(chosen, classify(1, templates=which), rtol=0, atol=0)
    assert (chosen - classify(2, templates="first")).abs().max() > 1e-3
