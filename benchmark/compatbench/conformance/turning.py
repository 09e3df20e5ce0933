"""The check of aligned attaching: a turn of the joint space is undone, from words alone."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor

from compatbench.conformance.kit import CheckFailed, CheckSkipped, check
from compatbench.conformance.models import build_bench, forget
from compatbench.conformance.spy import ImageTouched, no_images
from compatbench.conformance.subject import LABELS, Subject, unseen_images
from compatbench.files.hashes import sha256_json
from compatbench.files.tensors import fingerprint
from compatbench.method import Backbone
from compatbench.transfer.attaching import AlignedMethod
from compatbench.transfer.words import encode_words, load_words

WORDS = load_words()[::40]
CLOSE = 1e-3  # of the largest logit


@check
def turned_space(subject: Subject) -> None:
    """Aligned by words and without an image, a module takes no notice of a turned joint space."""
    with no_images(subject.source):
        try:
            subject.attach(subject.source)
        except ImageTouched:
            raise CheckSkipped("attach looks at images; see the check 'no-image'") from None
    expected = subject.logits(subject.source)
    turned = _turned_source()
    aligned = AlignedMethod(subject.build(), _words(), lambda b: encode_words(b, WORDS))
    with no_images(turned), torch.no_grad():
        try:
            classify = aligned.attach(subject.module, turned, LABELS)
        except ImageTouched:
            raise CheckFailed("aligned, attach gave the image tower an image") from None
    with torch.no_grad():
        found = classify(subject.inputs(turned, unseen_images()))
    gap = float((found - expected).abs().max() / expected.abs().max())
    if not gap <= CLOSE:
        raise CheckFailed(
            f"aligned on a turned source, logits differ by up to {gap:.2g} of the largest; ask the "
            "backbone for features, not its model"
        )


@cache
def _words() -> Tensor:
    return encode_words(build_bench().source, WORDS)


@cache
def _turned_source() -> Backbone:
    return turn_clip(build_bench().source, random_turn(build_bench().source.embed_dim, seed=1))


def turn_clip(backbone: Backbone, rotation: Tensor) -> Backbone:
    """A CLIP with both projections into the joint space turned: another model, the same answers.

    Args:
        rotation: orthogonal, ``[e, e]``; features become f Rᵀ.
    """
    turned = copy.deepcopy(backbone)
    forget(turned)
    turned.weights_key = sha256_json([backbone.weights_key, fingerprint({"rotation": rotation})])
    visual = turned.model.visual
    with torch.no_grad():
        for projection in (turned.model.text_projection, visual.proj):  # type: ignore[union-attr]
            projection.copy_(projection @ rotation.T)  # type: ignore[operator, union-attr]
    return turned


def random_turn(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix ``[e, e]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
