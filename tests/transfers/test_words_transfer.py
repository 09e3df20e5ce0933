"""The transfer ``words``: what a rotation does to a module, and what words undo."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.joint_maps import find_rotation
from compatbench.backbone.words import encode_words, load_words
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest, unseen_images
from compatbench.extras.check.models import (
    EMBED_DIM,
    build_clip,
    random_rotation,
    rotate_clip,
    synthetic_models,
)
from compatbench.method import Classifier, Method, Module
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.method.transfer import TransferData, WordPair

WORDS = load_words()[::40]
METHODS = builtin_methods().classes
INPUT_SIDE = [n for n, cls in METHODS.items() if not find_transfer("words").serves(cls.card)]
# Their prompts are computed from features, whose coordinates their nets have learned.
READ_FEATURES = ["cocoop", "tcp"]
# It changes the projection into the joint space.
PROJECTS = ["clipood"]
INVARIANT = [name for name in INPUT_SIDE if name not in [*READ_FEATURES, *PROJECTS]]
SIZES = {"narrower": EMBED_DIM - 4, "wider": EMBED_DIM + 5}


def words_of(backbone: Backbone) -> Tensor:
    return encode_words(backbone, WORDS)


@cache
def source_words() -> Tensor:
    return words_of(synthetic_models().source)


@cache
def fitted(name: str) -> tuple[MethodUnderTest, Module]:
    subject = MethodUnderTest(METHODS[name])
    return subject, subject.module


@cache
def turned_source(seed: int) -> Backbone:
    return rotate_clip(synthetic_models().source, random_rotation(EMBED_DIM, seed))


def attach(method: Method, module: Module, target: Backbone) -> Classifier:
    transfer = find_transfer("words")
    data = TransferData(transfer, words=WordPair(source_words(), words_of(target)))
    return transfer.attach(method, module, target, LABELS, data)


def test_the_methods_on_features_are_those_that_can_be_aligned() -> None:
    output_side = set(METHODS) - set(INPUT_SIDE)
    assert {"linear_probe", "taskres", "tip_adapter_f", "clip_adapter", "lfa"} <= output_side
    assert {"coop", "kgcoop", "contcoop", "zeroshot", "clip_lora", "plot"} <= set(INPUT_SIDE)


@pytest.mark.parametrize("name", INVARIANT)
def test_a_turn_does_not_exist_for_what_acts_in_the_towers(name: str) -> None:
    subject, module = fitted(name)
    expected = subject.logits(subject.source, module)
    found = subject.logits(turned_source(seed=1), module)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["linear_probe", *READ_FEATURES])
def test_a_turn_changes_what_is_written_in_coordinates_and_words_restore_it(name: str) -> None:
    subject, module = fitted(name)
    source, turned = subject.source, turned_source(seed=1)
    images = turned.encode_images(unseen_images())
    expected = subject.logits(source, module)
    copied = subject.build().attach(module, turned, LABELS)(images)
    restored = attach(subject.build(), module, turned)(images)
    spread = float(expected.std())
    assert float((copied - expected).abs().max()) > 0.01 * spread
    assert torch.allclose(restored, expected, atol=1e-3 * spread)


def test_on_the_source_itself_nothing_is_turned() -> None:
    subject, module = fitted("linear_probe")
    images = subject.source.encode_images(unseen_images())
    plain = subject.build().attach(module, subject.source, LABELS)(images)
    assert torch.equal(attach(subject.build(), module, subject.source)(images), plain)
    assert find_rotation(source_words(), source_words() + 1e-5) is None


def test_the_probe_is_turned_by_the_procrustes_solution_of_the_words() -> None:
    subject, module = fitted("linear_probe")
    target = subject.target
    a, b = source_words().double(), words_of(target).double()
    u, _, v = torch.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    features = target.encode_images(unseen_images())
    expected = features @ (u @ v).T.float() @ module["weight"].T + module["bias"]
    found = attach(subject.build(), module, target)(features)
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_residual_is_carried_forward_by_the_same_turn() -> None:
    """Class weights t Rᵀ + r in the source's coordinates are t + r R in the target's."""
    subject, module = fitted("taskres")
    target, method = subject.target, subject.build()
    turn = find_rotation(source_words(), words_of(target))
    assert turn is not None
    features = target.encode_images(unseen_images())
    text = target.text_features(LABELS.fill())
    weights = text + method.config.alpha * module["residual"] @ turn.rotation.float()  # type: ignore[attr-defined]
    cosines = F.normalize(features, dim=-1) @ F.normalize(weights, dim=-1).T
    found = attach(method, module, target)(features)
    assert torch.allclose(found, target.logit_scale * cosines, atol=1e-3)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", ["linear_probe", "taskres", "tip_adapter_f", "clip_adapter"])
def test_a_target_of_another_size_is_reached(name: str, size: int) -> None:
    subject, module = fitted(name)
    other = build_clip("other-joint", seed=8, embed_dim=size)
    features = other.encode_images(unseen_images())
    logits = attach(subject.build(), module, other)(features)
    assert logits.shape == (len(features), len(LABELS))
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", ["taskres", "tip_adapter_f", "gda", "wise_ft"])
def test_in_a_narrower_target_a_module_at_zero_is_its_zero_shot(name: str) -> None:
    subject, module = fitted(name)
    card = METHODS[name].card
    zero = {
        key: torch.zeros_like(t) if key in card.zero_shot_at else t
        for key, t in module.tensors.items()
    }
    other = build_clip("narrow-joint", seed=8, embed_dim=EMBED_DIM - 4)
    features = other.encode_images(unseen_images())
    found = attach(subject.build(), Module(zero), other)(features)
    cosines = F.normalize(features, dim=-1) @ other.zero_shot(LABELS).T
    assert torch.allclose(found, other.logit_scale * cosines, atol=1e-3)
