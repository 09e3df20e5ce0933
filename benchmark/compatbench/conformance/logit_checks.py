"""Checks of the logits, and of where a module acts."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.conformance.checks import CheckFailed, CheckSkipped, check
from compatbench.conformance.method_under_test import (
    LABELS,
    MethodUnderTest,
    relabel,
    unseen_images,
)
from compatbench.conformance.tower_log import TowerLog, log_towers
from compatbench.errors import NotTransferable
from compatbench.method import Backbone, Module


@check
def logits(tested: MethodUnderTest) -> None:
    """Logits are float32 of shape [batch, classes], finite, and not all alike."""
    for role, backbone in _backbones(tested):
        found = tested.logits(backbone)
        if found.shape != (len(unseen_images()), len(LABELS)):
            raise CheckFailed(
                f"logits of {len(unseen_images())} images and {len(LABELS)} classes on the {role} "
                f"have shape {list(found.shape)}"
            )
        if found.dtype != torch.float32:
            raise CheckFailed(f"logits on the {role} are {found.dtype}, not float32")
        if not torch.isfinite(found).all():
            raise CheckFailed(f"logits on the {role} are not finite")
        if not float(found.std(1).min()) > 0:
            raise CheckFailed(f"some image on the {role} has the same logit for all classes")


@check
def batch_size(tested: MethodUnderTest) -> None:
    """An image's logits do not depend on the other images of its batch."""
    for role, backbone in _backbones(tested):
        inputs, classify = tested.inputs(backbone, unseen_images()), tested.attach(backbone)
        with torch.no_grad():
            together = classify(inputs)
            # Blocks of an image tower take at least one image, and no run asks for none.
            hidden = tested.build().image_input(backbone).kind == "hidden"
            none = together[:0] if hidden else classify(inputs[:0])
            alone = torch.cat([classify(image[None]) for image in inputs])
        if not _close(alone, together):
            gap = float((alone - together).abs().max())
            raise CheckFailed(f"one by one on the {role}, logits differ by up to {gap:.2g}")
        if none.shape != (0, len(LABELS)):
            raise CheckFailed(f"an empty batch gives logits of shape {list(none.shape)}")


@check
def inputs_unchanged(tested: MethodUnderTest) -> None:
    """Classifying leaves the image features as they were."""
    for role, backbone in _backbones(tested):
        inputs = tested.inputs(backbone, unseen_images())
        given = inputs.clone()
        with torch.no_grad():
            tested.attach(backbone)(given)
        if not torch.equal(given, inputs):
            raise CheckFailed(f"the classifier on the {role} writes to the features it is given")


@check
def class_order(tested: MethodUnderTest) -> None:
    """When the classes are permuted, the logits are permuted with them."""
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = relabel([LABELS.names[c] for c in order])
    module = tested.module
    for tensor in module.tensors.values():
        for dim, size in enumerate(tensor.shape):
            if size == len(order):
                tensor.copy_(tensor.index_select(dim, order))
    for role, backbone in _backbones(tested):
        found = tested.logits(backbone, module, permuted)
        if not _close(found, tested.logits(backbone)[:, order]):
            raise CheckFailed(f"logits on the {role} do not follow the order of the class names")


@check
def class_subset(tested: MethodUnderTest) -> str:
    """Fewer classes than the module was fitted for are served, or refused with a reason."""
    try:
        found = tested.logits(tested.source, labels=relabel(LABELS.names[:3]))
    except NotTransferable as why:
        if not why.reason.strip():
            raise CheckFailed("three of five classes are refused without a reason") from None
        return f"refused: {why.reason}"
    if found.shape[1] != 3 or not torch.isfinite(found).all():
        raise CheckFailed(f"three of five classes give logits of shape {list(found.shape)}")
    return "served"


@check
def zero_shot_setting(tested: MethodUnderTest) -> None:
    """At its degenerate setting the method is the zero-shot classifier."""
    if not tested.card.zero_shot_at:
        raise CheckSkipped("the card declares no such setting (zero_shot_at)")
    for _, backbone in _backbones(tested):
        features = F.normalize(backbone.encode_images(unseen_images()), dim=-1)
        expected = backbone.logit_scale * features @ backbone.zero_shot(LABELS).T
        found = tested.logits(backbone, _degenerate(tested, backbone))
        if not _close(found, expected):
            gap = float((found - expected).abs().max())
            raise CheckFailed(f"logits on {backbone.name} are {gap:.2g} away from zero-shot")


def _degenerate(tested: MethodUnderTest, backbone: Backbone) -> Module:
    module = tested.module
    for pattern, value in tested.card.zero_shot_at.items():
        names = [name for name in module.tensors if fnmatchcase(name, pattern)]
        if not names:
            raise CheckFailed(f"zero_shot_at names '{pattern}', which the module does not hold")
        for name in names:
            if isinstance(value, str):
                module[name].copy_(backbone.embed_text(value))
            else:
                module[name].fill_(value)
    return module


@check
def place(tested: MethodUnderTest) -> str:
    """The module acts where the card says that it inserts, and nowhere else."""
    # What acts on features and what acts on class weights cannot be told apart from outside.
    output = {"feature": "output", "classifier": "output"}
    declared = {output.get(place, place) for place in tested.card.places}
    found = observed_places(tested)
    if found != declared:
        more, less = sorted(found - declared), sorted(declared - found)
        parts = [f"acts at {', '.join(more)}, undeclared"] if more else []
        parts += [f"declares {', '.join(less)}, where nothing changes"] if less else []
        raise CheckFailed("; ".join(parts))
    return tested.card.depth


def observed_places(tested: MethodUnderTest) -> set[str]:
    """Where noise on the module shows, on the source: tower by tower, and behind both.

    Returns:
        Some of ``text-input``, ``text-layers``, ``image-layers`` and ``output``, or ``none``.
    """
    module, noisy = tested.module, tested.module
    generator = torch.Generator().manual_seed(3)
    for tensor in noisy.tensors.values():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor += 0.1 * (tensor.abs().mean() + 0.1) * noise
    before, log = _classify(tested, module)
    _, other = _classify(tested, noisy)
    # With both towers answering as before, only what is behind them can make a difference.
    after, _ = _classify(tested, noisy, replay=log)
    changed = {
        "text-input": log.text_inputs != other.text_inputs,
        "text-layers": log.text_inner != other.text_inner,
        "image-layers": log.image_hashes != other.image_hashes,
        "output": not torch.equal(before, after),
    }
    return {place for place, differs in changed.items() if differs} or {"none"}


def _classify(
    tested: MethodUnderTest, module: Module, replay: TowerLog | None = None
) -> tuple[Tensor, TowerLog]:
    inputs = tested.inputs(tested.source, unseen_images())
    backbone, log = log_towers(tested.source, replay)
    with torch.no_grad():
        return tested.attach(backbone, module)(inputs), log


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether logits are the same up to the order in which sums were taken."""
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def _backbones(tested: MethodUnderTest) -> Iterator[tuple[str, Backbone]]:
    """The source, and the target unless the module cannot be attached to it."""
    yield "source", tested.source
    try:
        tested.attach(tested.target)
    except NotTransferable:
        return
    yield "target", tested.target
