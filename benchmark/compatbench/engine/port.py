"""A module written anew for another backbone, where it then needs no transfer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone, ImageInput, Labels, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.joint_maps import find_rotation
from compatbench.backbone.parts.products import fast_products
from compatbench.backbone.words import WordFeatures, find_words
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import COPIED, backbone_cards
from compatbench.engine.single_module import Fitted, build_method_of, find_labels, read_fitted
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import Method, Module
from compatbench.method.hub import local_file
from compatbench.method.registry import find_transfer
from compatbench.method.transfer import attach_rotated

WAYS = (COPIED, "words", "words+raw")
# A ported module's logits differ from the transfer's by no more than this share of the largest.
CLOSE = 1e-4
PROBES = 32  # images of noise on which they are compared
# Axes of the joint space's size that are tried, in all 2^n ways; more have weights of a tower.
MOST_AXES = 6


@fast_products()
def port(
    module: Module | str | Path,
    backbone: str,
    *,
    transfer: str | None = None,
    methods: str | None = None,
    device: str = "auto",
) -> Module:
    """Writes a module for a new model, where it needs no transfer; nothing is trained.

    Tensors in the joint space's coordinates (keys of a cache, a probe, a residual on class
    weights) are rotated as the transfer ``words`` rotates the model; the others are unchanged. It
    is an error if the result does not give the transfer's logits.

    Args:
        module: a module: its file, which ``run`` leaves in ``runs/modules/`` and ``module
            import`` writes, or ``hf://OWNER/NAME``, or what ``fit`` gives.
        backbone: as for ``evaluate``.
        transfer: ``words``, ``words+raw``, or ``copied``, which changes nothing; by default words
            for methods that act in the joint space, and copied for others.
        methods: as for ``evaluate``.

    Returns:
        The module, whose ``about`` has the new source and what it was ``ported`` from.

    Raises:
        CompatbenchError: as ``evaluate``; or the module does not fit the backbone, or no rotation
            of its tensors gives the logits that it has through the transfer.
    """
    address, backbone = local_file(module), backbone_cards.resolve(backbone)
    device = resolve_device(device)
    path = address if isinstance(address, Path) else Path("the module")
    if transfer not in (None, *WAYS):
        raise CompatbenchError(
            f"transfer '{transfer}': a module is written anew with {', '.join(WAYS)}; other "
            "transfers are for 'evaluate --transfer'"
        )
    module, fitted = read_fitted(address)
    method = build_method_of(fitted, methods, path)
    if backbone == fitted.source or method.card.depth == "none":
        state = "was fitted on" if backbone == fitted.source else "is the same on any model, as on"
        raise CompatbenchError(f"{path} {state} '{backbone}': there is nothing to port")
    way = transfer or ("words" if find_transfer("words").serves(method.card) else COPIED)
    labels, target = find_labels(path, fitted, method.card.needs), load_backbone(backbone, device)
    moved, rotation = module.to(target.device), None
    if way != COPIED:
        words = WordFeatures(default_cache_folder())
        source = find_words(path, fitted.source)
        if source is None:
            source = words.of(load_backbone(fitted.source, device))
        centred = find_transfer(way).config.centred
        rotation = find_rotation(source.to(target.device), words.of(target), centred)
    try:
        with torch.no_grad():
            probes = _noise(target, method.image_input(target))
            if rotation is None:
                method.attach(moved, target, labels)(probes)
            else:
                moved = turn_module(method, moved, target, labels, rotation.rotation, probes)
    except NotTransferable as why:
        raise CompatbenchError(
            f"{path} cannot be written for '{backbone}' with '{way}': {why.reason}"
        ) from None
    about = {name: module.about[name] for name in Fitted.model_fields if name in module.about}
    ported = {"from": fitted.source, "transfer": way, "module": module.fingerprint}
    about |= {"source": backbone, "ported": ported}
    return Module(moved.trained, moved.stored, about)


def turn_module(
    method: Method,
    module: Module,
    target: Backbone,
    labels: Labels,
    rotation: Tensor,
    probes: Tensor,
) -> Module:
    """The module whose classifier on the target is the one that the rotation R makes of it there.

    R is ``[e_s, e_t]``. No card says which axes of which tensors lie in the joint space. So each
    of size e_s is multiplied by R, or is not, and what comes nearest on ``probes``, images as
    the method takes them, is kept: a key k becomes k R, a matrix M between features Rᵀ M R.

    Raises:
        NotTransferable: nothing comes near enough, such as where a method computes with single
            coordinates (a ReLU), or where sizes differ and norms would, too.
    """
    wanted = attach_rotated(method, module, target, labels, rotation)(probes)
    size = len(rotation)
    numbers = {
        name: tensor for name, tensor in module.tensors.items() if tensor.is_floating_point()
    }
    axes = [
        (name, i)
        for name, tensor in numbers.items()
        for i, n in enumerate(tensor.shape)
        if n == size
    ]
    if len(axes) > MOST_AXES:
        raise NotTransferable(
            f"{len(axes)} axes of its tensors have the joint space's size {size}, too many to try; "
            "'evaluate --transfer' can carry it"
        )
    best, least = module, float("inf")
    for turned in _turns(module, axes, rotation):
        try:
            answered = method.attach(turned, target, labels)(probes)
        except (NotTransferable, RuntimeError, IndexError):  # an axis has the source's size still
            continue
        if (error := float((answered - wanted).abs().max())) < least:
            best, least = turned, error
    if not least <= CLOSE * float(wanted.abs().max()):
        raise NotTransferable(
            "no rotation of its tensors gives the same classifier; 'evaluate --transfer' can carry "
            "it"
        )
    return best


def _turns(module: Module, axes: list[tuple[str, int]], rotation: Tensor) -> Iterator[Module]:
    """The module with any of the axes multiplied by R; first with all, and last with none."""
    for count in range(len(axes), -1, -1):
        for some in combinations(axes, count):
            tensors = module.tensors
            for name, axis in some:
                turned = tensors[name].to(rotation).movedim(axis, -1) @ rotation
                tensors[name] = turned.movedim(-1, axis)
            tensors = {n: tensor.to(module[n]).contiguous() for n, tensor in tensors.items()}
            kept = {name: tensors[name] for name in module.trained}
            yield Module(kept, {name: tensors[name] for name in module.stored})


def _noise(target: Backbone, wanted: ImageInput) -> Tensor:
    """Coarse random images as a method takes them, ``[PROBES, ...]``."""
    generator = torch.Generator().manual_seed(0)
    size = target.preprocess_settings["size"]
    images = F.interpolate(torch.randn(PROBES, 3, 4, 4, generator=generator), size)
    views = [target.encode_images(images.roll(i, -1), wanted) for i in range(1 + wanted.views)]
    return torch.stack(views, dim=1) if wanted.views else views[0]
