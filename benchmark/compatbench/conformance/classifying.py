"""Checks of the logits, and of where a module acts."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.conformance.kit import CheckFailed, CheckSkipped, check
from compatbench.conformance.spy import Log, spy_on
from compatbench.conformance.subject import LABELS, Subject, unseen_images
from compatbench.data.labels import Labels
from compatbench.errors import NotTransferable
from compatbench.method import Backbone, Module, Place


@check
def logits(subject: Subject) -> None:
    """Logits are float32 of shape [batch, classes], finite, and not all alike."""
    for role, backbone in _roles(subject):
        found = subject.logits(backbone)
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
def batch_size(subject: Subject) -> None:
    """An image's logits do not depend on the other images of its batch."""
    for role, backbone in _roles(subject):
        inputs, classify = subject.inputs(backbone, unseen_images()), subject.attach(backbone)
        with torch.no_grad():
            together = classify(inputs)
            # Blocks of an image tower take at least one image, and no run asks for none.
            hidden = subject.build().image_input(backbone).kind == "hidden"
            none = together[:0] if hidden else classify(inputs[:0])
            alone = torch.cat([classify(image[None]) for image in inputs])
        if not _close(alone, together):
            gap = float((alone - together).abs().max())
            raise CheckFailed(f"one by one on the {role}, logits differ by up to {gap:.2g}")
        if none.shape != (0, len(LABELS)):
            raise CheckFailed(f"an empty batch gives logits of shape {list(none.shape)}")


@check
def inputs_unchanged(subject: Subject) -> None:
    """Classifying leaves the image features as they were."""
    for role, backbone in _roles(subject):
        inputs = subject.inputs(backbone, unseen_images())
        given = inputs.clone()
        with torch.no_grad():
            subject.attach(backbone)(given)
        if not torch.equal(given, inputs):
            raise CheckFailed(f"the classifier on the {role} writes to the features it is given")


@check
def class_order(subject: Subject) -> None:
    """When the classes are permuted, the logits are permuted with them."""
    order = [3, 0, 4, 1, 2]
    names = tuple(LABELS.names[c] for c in order)
    permuted = Labels(names, LABELS.templates, LABELS.teacher_template)
    module = Module(*(_permute(group, order) for group in _groups(subject.module)))
    for role, backbone in _roles(subject):
        found = subject.logits(backbone, module, permuted)
        if not _close(found, subject.logits(backbone)[:, order]):
            raise CheckFailed(f"logits on the {role} do not follow the order of the class names")


@check
def class_subset(subject: Subject) -> str:
    """Fewer classes than the module was fitted for are served, or refused with a reason."""
    fewer = Labels(LABELS.names[:3], LABELS.templates, LABELS.teacher_template)
    try:
        found = subject.logits(subject.source, labels=fewer)
    except NotTransferable as why:
        if not why.reason.strip():
            raise CheckFailed("three of five classes are refused without a reason") from None
        return f"refused: {why.reason}"
    if found.shape[1] != 3 or not torch.isfinite(found).all():
        raise CheckFailed(f"three of five classes give logits of shape {list(found.shape)}")
    return "served"


@check
def zero_shot_setting(subject: Subject) -> None:
    """At its degenerate setting the method is the zero-shot classifier."""
    if not subject.card.zero_shot_at:
        raise CheckSkipped("the card declares no such setting (zero_shot_at)")
    for _, backbone in _roles(subject):
        module = _degenerate(subject, backbone)
        images = unseen_images()
        features = F.normalize(backbone.encode_images(images), dim=-1)
        expected = backbone.logit_scale * features @ backbone.zero_shot(LABELS).T
        logits = subject.logits(backbone, module, images=images)
        if not _close(logits, expected):
            gap = float((logits - expected).abs().max())
            raise CheckFailed(f"logits on {backbone.name} are {gap:.2g} away from zero-shot")


def _degenerate(subject: Subject, backbone: Backbone) -> Module:
    module = subject.module
    for pattern, value in subject.card.zero_shot_at.items():
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
def place(subject: Subject) -> str:
    """The module acts where the card says that it inserts, and nowhere else."""
    found, declared = observed_places(subject), _output_as_one(subject.card.places)
    if found != declared:
        more, less = sorted(found - declared), sorted(declared - found)
        parts = [f"acts at {', '.join(more)}, undeclared" if more else ""]
        parts.append(f"declares {', '.join(less)}, where nothing changes" if less else "")
        raise CheckFailed("; ".join(part for part in parts if part))
    return subject.card.depth


def observed_places(subject: Subject) -> set[str]:
    """Where a change of the module shows, on the source: tower by tower, and behind both.

    What acts on features and what acts on class weights cannot be told apart from
    outside; both are ``output``.
    """
    module, noisy = subject.module, _disturb(subject.module)
    before, log = _classify(subject, module)
    _, other = _classify(subject, noisy)
    places = set()
    if log.differs_at("inputs", other):
        places.add("text-input")
    if log.differs_at("inner", other):
        places.add("text-layers")
    if log.image_differs(other):
        places.add("image-layers")
    # With both towers answering as before, only what is behind them can make a difference.
    after, _ = _classify(subject, noisy, replay=log)
    if not torch.equal(before, after):
        places.add("output")
    return places or {"none"}


def _classify(subject: Subject, module: Module, replay: Log | None = None) -> tuple[Tensor, Log]:
    inputs = subject.inputs(subject.source, unseen_images())
    spy, log = spy_on(subject.source, replay)
    with torch.no_grad():
        return subject.attach(spy, module)(inputs), log


def _output_as_one(places: tuple[Place, ...]) -> set[str]:
    return {"output" if place in ("feature", "classifier") else place for place in places}


def _disturb(module: Module) -> Module:
    """The module with noise on every tensor of real numbers."""
    generator = torch.Generator().manual_seed(3)

    def noisy(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        noise = torch.randn(tensor.shape, generator=generator)
        return tensor + 0.1 * (tensor.abs().mean() + 0.1) * noise

    groups = ({n: noisy(t) for n, t in group.items()} for group in _groups(module))
    return Module(*groups)


def _permute(group: dict[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    """Tensors with every dimension that runs over the classes permuted."""
    permuted = {}
    for name, tensor in group.items():
        for dim, size in enumerate(tensor.shape):
            if size == len(order):
                tensor = tensor.index_select(dim, torch.tensor(order))
        permuted[name] = tensor
    return permuted


def _groups(module: Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return module.trained, module.stored


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether logits are the same up to the order in which sums were taken."""
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def _roles(subject: Subject) -> Iterator[tuple[str, Backbone]]:
    """The source, and the target unless the module cannot be attached to it."""
    yield "source", subject.source
    try:
        subject.attach(subject.target)
    except NotTransferable:
        return
    yield "target", subject.target
