"""Port a module: write it for another backbone, where it then needs no transfer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone, ImageInput, Labels, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.joint_maps import find_rotation
from compatbench.backbone.words import WordFeatures, find_words
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import COPIED, backbone_cards
from compatbench.engine.single_module import Fitted, build_method_of, find_labels, read_fitted
from compatbench.errors import CompatbenchError, CompatbenchWarning, NotTransferable
from compatbench.method import Method, Module
from compatbench.method.hub import local_file
from compatbench.method.registry import find_transfer, find_useful_transfer
from compatbench.method.transfer import attach_rotated

TRANSFERS = (COPIED, "words", "words+raw")
# A ported module's logits differ from the transfer's by no more than this share of the largest.
TOLERANCE = 1e-4
PROBES = 32  # images of noise on which they are compared
# Axes of the embedding space's size, of which all 2^n subsets are tried. Only weights of towers
# have more.
MAX_AXES = 6


def port(
    module: Module | str | Path,
    backbone: str,
    *,
    transfer: str | None = None,
    methods: str | None = None,
    device: str = "auto",
) -> Module:
    """Write a module for a new model, where it needs no transfer; nothing is trained.

    Tensors in the embedding space's coordinates (keys of a cache, a probe, a residual on class
    weights) are rotated as the transfer ``words`` rotates the model; the others are unchanged. It
    is an error if the result does not give the transfer's logits.

    Args:
        module: a module: its file, which ``run`` leaves in ``runs/modules/`` and ``module
            import`` writes, or ``hf://OWNER/NAME``, or what ``fit`` gives.
        backbone: as for ``evaluate``.
        transfer: ``words``, ``words+raw``, or ``copied``, which changes nothing; by default words
            for methods that act in the embedding space, and copied for others.
        methods: as for ``evaluate``.

    Returns:
        The module, whose ``about`` has the new source and what it was ``ported`` from.

    Raises:
        CompatbenchError: as ``evaluate``; or the module does not fit the backbone, or no rotation
            of its tensors gives the logits that it has through the transfer.
    """
    address = local_file(module)
    path = address if isinstance(address, Path) else Path("the module")
    backbone = backbone_cards.resolve(backbone)
    device = resolve_device(device)
    if transfer not in (None, *TRANSFERS):
        raise CompatbenchError(
            f"transfer '{transfer}': a module is written anew with {', '.join(TRANSFERS)}; other "
            "transfers are for 'evaluate --transfer'"
        )
    module, fitted = read_fitted(address)
    method = build_method_of(fitted, methods, path)
    if backbone == fitted.source or method.card.depth == "none":
        state = "was fitted on" if backbone == fitted.source else "is the same on any model, as on"
        raise CompatbenchError(f"{path} {state} '{backbone}': there is nothing to port")
    undecided = (fitted.imported or {}).get("undecided", {})
    if undecided:
        warnings.warn(
            f"{path}: the file did not say {' and '.join(undecided)}, and nothing has decided it; "
            "give it to 'module import' (--set), or port the module that 'advise' wrote",
            CompatbenchWarning,
            stacklevel=3,
        )
    if transfer is None:
        transfer = "words" if find_transfer("words").serves(method.card) else COPIED
    transfer = find_useful_transfer(transfer, method.card)
    labels = find_labels(path, fitted, method.card.needs)
    target = load_backbone(backbone, device)
    moved = module.to(target.device)
    rotation = None
    if transfer != COPIED:
        rotation = _find_rotation(path, fitted.source, target, transfer, device)
    try:
        with torch.no_grad():
            probes = _draw_probes(target, method.image_input(target))
            if rotation is None:
                method.attach(moved, target, labels)(probes)  # raises if it does not fit
            else:
                moved = turn_module(method, moved, target, labels, rotation, probes)
    except NotTransferable as error:
        raise CompatbenchError(
            f"{path} cannot be written for '{backbone}' with '{transfer}': {error.reason}"
        ) from None
    about = {name: module.about[name] for name in Fitted.model_fields if name in module.about}
    about["source"] = backbone
    about["ported"] = {
        "from": fitted.source,
        "transfer": transfer,
        "module": module.fingerprint,
    }
    return Module(moved.trained, moved.stored, about)


def _find_rotation(
    path: Path, source: str, target: Backbone, transfer: str, device: str
) -> Tensor | None:
    """Return the rotation between two embedding spaces, ``[e_s, e_t]``; None if they are the same.

    The source's word features are read beside the module in ``path`` if they are there. Otherwise
    the source is loaded.
    """
    words = WordFeatures(default_cache_folder())
    source_words = find_words(path, source)
    if source_words is None:
        source_words = words.of(load_backbone(source, device))
    centred = find_transfer(transfer).config.centred
    rotation = find_rotation(source_words.to(target.device), words.of(target), centred)
    return None if rotation is None else rotation.rotation


def turn_module(
    method: Method,
    module: Module,
    target: Backbone,
    labels: Labels,
    rotation: Tensor,
    probes: Tensor,
) -> Module:
    """Return the module whose logits on the target are those of the module on the rotated target.

    No card says which axes of which tensors lie in the embedding space. So every axis of size e_s
    is multiplied by R, or is not, and the combination whose logits come nearest is kept: a key k
    becomes k R, a matrix M between features Rᵀ M R.

    Args:
        rotation: R, ``[e_s, e_t]``.
        probes: images as the method takes them, ``[PROBES, ...]``.

    Raises:
        NotTransferable: no combination comes near enough. This happens where a method computes
            with single coordinates (a ReLU), or where sizes differ and so do norms.
    """
    expected = attach_rotated(method, module, target, labels, rotation)(probes)
    size = len(rotation)
    axes = []
    for name, tensor in module.tensors.items():
        if tensor.is_floating_point():
            axes += [(name, axis) for axis, length in enumerate(tensor.shape) if length == size]
    if len(axes) > MAX_AXES:
        raise NotTransferable(
            f"{len(axes)} axes of its tensors have the embedding space's size {size}, too many to "
            "try; 'evaluate --transfer' can carry it"
        )
    best = module
    least_error = float("inf")
    for turned in _turns(module, axes, rotation):
        try:
            logits = method.attach(turned, target, labels)(probes)
        except (NotTransferable, RuntimeError, IndexError):  # an axis still has the source's size
            continue
        error = float((logits - expected).abs().max())
        if error < least_error:
            best = turned
            least_error = error
    # Not ``>``, which is False for NaN.
    if not least_error <= TOLERANCE * float(expected.abs().max()):
        raise NotTransferable(
            "no rotation of its tensors gives the same classifier; 'evaluate --transfer' can carry "
            "it"
        )
    return best


def _turns(module: Module, axes: Sequence[tuple[str, int]], rotation: Tensor) -> Iterator[Module]:
    """Yield the module with every subset of the axes multiplied by R; first all, last none."""
    for count in range(len(axes), -1, -1):
        for subset in combinations(axes, count):
            yield _turn(module, subset, rotation)


def _turn(module: Module, axes: Sequence[tuple[str, int]], rotation: Tensor) -> Module:
    """Return the module with these axes of its tensors multiplied by R."""
    tensors = module.tensors
    for name, axis in axes:
        turned = tensors[name].to(rotation).movedim(axis, -1) @ rotation
        tensors[name] = turned.movedim(-1, axis)
    for name, tensor in tensors.items():
        tensors[name] = tensor.to(module[name]).contiguous()
    trained = {name: tensors[name] for name in module.trained}
    stored = {name: tensors[name] for name in module.stored}
    return Module(trained, stored)


def _draw_probes(target: Backbone, image_input: ImageInput) -> Tensor:
    """Return coarse random images as a method takes them, ``[PROBES, ...]``."""
    generator = torch.Generator().manual_seed(0)
    size = target.preprocess_settings["size"]
    images = F.interpolate(torch.randn(PROBES, 3, 4, 4, generator=generator), size)
    if not image_input.views:
        return target.encode_images(images, image_input)
    # Further views are shifted copies.
    views = []
    for shift in range(1 + image_input.views):
        views.append(target.encode_images(images.roll(shift, -1), image_input))
    return torch.stack(views, dim=1)
