"""Checks of the logits, and of where a module acts."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Prompts
from compatbench.conformance.checks import CheckSkipped, check, require
from compatbench.conformance.method_under_test import (
    LABELS,
    MethodUnderTest,
    relabel,
    unseen_images,
)
from compatbench.conformance.models import forget_texts
from compatbench.files.tensors import fingerprint
from compatbench.method import Module


@check
def logits(tested: MethodUnderTest) -> None:
    """Logits are float32 of shape [batch, classes], finite, and not all alike."""
    wanted = (len(unseen_images()), len(LABELS))
    for role, backbone in tested.served():
        found = tested.logits(backbone)
        what = f"logits of {wanted[0]} images and {wanted[1]} classes on the {role}"
        require(found.shape == wanted, f"{what} have shape {list(found.shape)}")
        require(found.dtype == torch.float32, f"{what} are {found.dtype}, not float32")
        require(found.isfinite().all(), f"{what} are not finite")
        alike = f"some image on the {role} has the same logit for all classes"
        require(float(found.std(1).min()) > 0, alike)


@check
def batch_size(tested: MethodUnderTest) -> None:
    """An image's logits do not depend on the other images of its batch."""
    for role, backbone in tested.served():
        inputs, classify = tested.inputs(backbone), tested.attach(backbone)
        with torch.no_grad():
            together = classify(inputs)
            # Blocks of an image tower take at least one image, and no run asks for none.
            hidden = tested.build().image_input(backbone).kind == "hidden"
            none = together[:0] if hidden else classify(inputs[:0])
            alone = torch.cat([classify(image[None]) for image in inputs])
        _require_close(alone, together, f"one by one on the {role}, logits differ")
        shape = list(none.shape)
        require(shape == [0, len(LABELS)], f"an empty batch gives logits of shape {shape}")


@check
def inputs_unchanged(tested: MethodUnderTest) -> None:
    """Classifying leaves the image features as they were."""
    for role, backbone in tested.served():
        inputs = tested.inputs(backbone)
        given = inputs.clone()
        with torch.no_grad():
            tested.attach(backbone)(given)
        same = torch.equal(given, inputs)
        require(same, f"the classifier on the {role} writes to the features it is given")


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
    for role, backbone in tested.served():
        found, expected = tested.logits(backbone, module, permuted), tested.logits(backbone)
        problem = f"logits on the {role} do not follow the order of the class names; they differ"
        _require_close(found, expected[:, order], problem)


@check
def zero_shot_setting(tested: MethodUnderTest) -> None:
    """At its degenerate setting the method is the zero-shot classifier."""
    if not tested.card.zero_shot_at:
        raise CheckSkipped("the card declares no such setting (zero_shot_at)")
    for role, backbone in tested.served():
        module = tested.module
        for pattern, value in tested.card.zero_shot_at.items():
            names = [name for name in module.tensors if fnmatchcase(name, pattern)]
            require(names, f"zero_shot_at names '{pattern}', which the module does not hold")
            for name in names:
                number = backbone.embed_text(value) if isinstance(value, str) else value
                module[name][...] = number
        features = F.normalize(backbone.encode_images(unseen_images()), dim=-1)
        expected = backbone.logit_scale * features @ backbone.zero_shot(LABELS).T
        found = tested.logits(backbone, module)
        _require_close(found, expected, f"logits on the {role} are away from zero-shot")


def _require_close(one: Tensor, other: Tensor, otherwise: str) -> None:
    """Fails unless logits are the same up to the order in which sums were taken."""
    gap = float((one - other).abs().max())
    require(torch.allclose(one, other, rtol=1e-4, atol=1e-4), f"{otherwise} by up to {gap:.2g}")


@check
def place(tested: MethodUnderTest) -> str:
    """The module acts where the card says that it inserts, and nowhere else."""
    # What acts on features and what acts on class weights cannot be told apart from outside.
    output = {"feature": "output", "classifier": "output"}
    declared = {output.get(place, place) for place in tested.card.places}
    found = observed_places(tested)
    more, less = sorted(found - declared), sorted(declared - found)
    parts = [f"acts at {', '.join(more)}, undeclared"] if more else []
    parts += [f"declares {', '.join(less)}, where nothing changes"] if less else []
    require(not parts, "; ".join(parts))
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
    places = ("text-input", "text-layers", "image-layers")
    changed = {place for place in places if log.seen[place] != other.seen[place]}
    if not torch.equal(before, after):
        changed.add("output")
    return changed or {"none"}


class TowerLog:
    """What went through a backbone's towers, in order.

    Attributes:
        seen: by place, hashes of what a module can change there.
        outputs: by the function that was called.
    """

    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = defaultdict(list)
        self.outputs: dict[str, list[Tensor]] = defaultdict(list)


def _classify(
    tested: MethodUnderTest, module: Module, replay: TowerLog | None = None
) -> tuple[Tensor, TowerLog]:
    """Logits on the source, and what went through its towers.

    Args:
        replay: a log whose outputs the towers give again, whatever goes in.
    """
    inputs, backbone, log = tested.inputs(tested.source), copy.copy(tested.source), TowerLog()
    # A text that is remembered would not go through the tower.
    forget_texts(backbone)
    backbone.image = copy.copy(backbone.image)

    def watch(owner: object, name: str, note: Callable[..., None]) -> None:
        encode, outputs = getattr(owner, name), log.outputs[name]

        def call(*arguments: Any, **options: Any) -> Tensor:
            past = replay.outputs[name][len(outputs)] if replay else None
            outputs.append(encode(*arguments, **options) if past is None else past)
            note(outputs[-1], *arguments, **options)
            return outputs[-1]

        setattr(owner, name, call)

    def note_text(_: Tensor, prompts: Prompts, weights: Mapping[str, Tensor] | None = None) -> None:
        rows = torch.arange(prompts.suffix.shape[1]) < torch.tensor(prompts.lengths)[:, None]
        entering = {"prefix": prompts.prefix, "suffix": prompts.suffix[rows]}
        inner = {f"deep {i}": tensor for i, tensor in enumerate(prompts.deep)} | dict(weights or {})
        if prompts.swap is not None:
            inner["swap"] = prompts.swap.rows
        log.seen["text-input"].append(fingerprint(entering))
        log.seen["text-layers"].append(fingerprint(inner))

    def note_image(output: Tensor, *_: object, **__: object) -> None:
        log.seen["image-layers"].append(fingerprint({"output": output}))

    watch(backbone, "encode_prompts", note_text)
    watch(backbone.image, "encode", note_image)
    with torch.no_grad():
        return tested.attach(backbone, module)(inputs), log
