"""Checks of what is carried to another backbone, and of how it is attached there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from unittest.mock import patch

import PIL.Image
import torch
from torch import Tensor, nn

from compatbench.conformance.checks import (
    CheckFailed,
    CheckSkipped,
    check,
    describe_error,
    require,
)
from compatbench.conformance.method_under_test import (
    LABELS,
    MethodUnderTest,
    fits_classes,
    relabel,
)
from compatbench.conformance.models import random_rotation, rotate_clip, synthetic_models
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.labels import Labels
from compatbench.errors import NotTransferable
from compatbench.method import Backbone, load_module
from compatbench.transfer.words import Words, encode_words, load_words

WORDS = load_words()[::40]


@check
def round_trip(tested: MethodUnderTest) -> None:
    """A module that was saved and loaded gives the same logits, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.safetensors"
        tested.module.save(path, {"method": tested.card.name})
        loaded = load_module(path)
    same = loaded.fingerprint == tested.module.fingerprint
    require(same, "the module's tensors are not the same after saving and loading")
    same = torch.equal(tested.logits(tested.source, loaded), tested.logits(tested.source))
    require(same, "the loaded module gives other logits than the fitted one")


@check
def source_classifier(tested: MethodUnderTest) -> None:
    """The module attached to the source by a new instance is the classifier that was fitted."""
    method = tested.build()
    module = method.fit(tested.source, tested.draw(), torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = method.attach(module.detach(), tested.source, LABELS)(tested.inputs(tested.source))
    found = tested.logits(tested.source, module)
    gap = f"logits differ by up to {float((own - found).abs().max()):.2g}"
    require(torch.equal(own, found), f"{gap}; keep all that attach needs in the module")


@contextmanager
def _expect_no_image(backbone: Backbone, error: Exception) -> Iterator[None]:
    """Raises an error if an image enters the image tower, or is read from a file or the cache.

    Every image enters through the tower itself or through its first convolution.
    """

    def refuse(*_: object, **__: object) -> None:
        raise error

    visual = backbone.model.visual
    assert isinstance(visual, nn.Module)
    entries = [visual, *(part for part in visual.modules() if isinstance(part, nn.Conv2d))]
    hooks = [entry.register_forward_pre_hook(refuse) for entry in entries]
    try:
        with (
            patch.multiple(FeatureCache, features=refuse, tokens=refuse),
            patch.object(PIL.Image, "open", refuse),
        ):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@check
def no_image(tested: MethodUnderTest) -> None:
    """Attaching looks at no image."""
    for role, backbone in (("source", tested.source), ("target", tested.target)):
        failure = CheckFailed(f"attach gave the {role}'s image tower an image")
        with suppress(NotTransferable), _expect_no_image(backbone, failure):
            tested.attach(backbone)


@check
def module_unchanged(tested: MethodUnderTest) -> None:
    """Attaching and classifying leave the module as it was, bit for bit, without gradients."""
    module = tested.module
    before = module.fingerprint
    for backbone in (tested.target, tested.source):
        with suppress(NotTransferable), torch.no_grad():
            tested.build().attach(module, backbone, LABELS)(tested.inputs(backbone))
    same = module.fingerprint == before
    require(same, "attach or the classifier writes to the module's tensors")
    asks = any(tensor.requires_grad for tensor in module.tensors.values())
    require(not asks, "attach asks for gradients of the module's tensors")


@check
def derived_not_stored(tested: MethodUnderTest) -> None:
    """Nothing that a backbone can derive from the class names is stored in the module."""
    derived, scale = list(_derived_rows(tested.source)), tested.source.logit_scale
    for name, tensor in tested.module.tensors.items():
        if not tensor.is_floating_point():
            continue
        same = tensor.numel() == 1 and abs(float(tensor) - scale) < 1e-4
        require(not same, f"'{name}' is the source's logit scale; ask the backbone for it")
        # What is trained may begin at a derived value, but does not stay there.
        rtol, atol = (0.0, 0.0) if name in tested.module.trained else (1e-4, 1e-6)
        for matrix in (tensor, tensor.mT) if tensor.ndim > 1 else (tensor[None],):
            matrix = matrix.reshape(-1, 1, matrix.shape[-1])
            for what, rows in derived:
                same = matrix.shape[-1] == rows.shape[-1] and (
                    torch.isclose(matrix, rows, rtol=rtol, atol=atol).all(-1).any()
                )
                require(not same, f"'{name}' holds {what} of the source; derive it in attach")


def _derived_rows(backbone: Backbone) -> Iterator[tuple[str, Tensor]]:
    """What the source derives from class names and templates, as rows."""
    for template in dict.fromkeys((*LABELS.templates, LABELS.teacher_template)):
        yield "text features", backbone.text_features(LABELS.fill(template))
        yield "zero-shot weights", backbone.zero_shot(LABELS, template)
    yield "zero-shot weights", backbone.zero_shot_ensemble(LABELS)
    names, lengths = backbone.name_tokens(LABELS)
    own = torch.cat([row[:length] for row, length in zip(names, lengths, strict=True)])
    yield "class-name embeddings", own
    ends = [*backbone.text_tokens.start, *backbone.text_tokens.end]
    yield "start- and end-of-text embeddings", backbone.embed(torch.tensor(ends))


@check
def other_sizes(tested: MethodUnderTest) -> str:
    """A target of other sizes is refused with NotTransferable and a reason, or is served."""
    refused = []
    for what, backbone in tested.models.others.items():
        if _refusal(tested, f"another {what}", backbone):
            refused.append(what)
        elif names := _cut_or_padded(tested, backbone):
            raise CheckFailed(
                f"another {what}: '{names[0]}' was made for another size, yet it is served; "
                "nothing is cut or padded to fit"
            )
    return f"refused: {', '.join(refused)}" if refused else "served on all"


@check
def class_subset(tested: MethodUnderTest) -> str:
    """Fewer classes than the module was fitted for are served, or refused with a reason."""
    labels = relabel(LABELS.names[:3])
    why = _refusal(tested, "three of five classes", tested.source, labels)
    return f"refused: {why}" if why else "served"


def _refusal(
    tested: MethodUnderTest, what: str, backbone: Backbone, labels: Labels = LABELS
) -> str:
    """Why the module is refused; empty if it is served, which must then be right."""
    try:
        logits = tested.logits(backbone, labels=labels)
    except NotTransferable as why:
        require(why.reason.strip(), f"{what}: refused without a reason")
        return why.reason
    except Exception as error:
        problem = f"{what}: raise NotTransferable, not {describe_error(error)}"
        raise CheckFailed(problem) from error
    require(fits_classes(logits, labels), f"{what}: served with wrong or infinite logits")
    return ""


def _cut_or_padded(tested: MethodUnderTest, backbone: Backbone) -> list[str]:
    """Tensors that have a size of the source which this backbone does not have.

    Only sizes of the places count where the card says that the module acts.
    """
    places, source = set(tested.card.places), tested.source
    sizes = [
        ({"text-input", "text-layers"}, source.token_width, backbone.token_width),
        ({"feature", "classifier"}, source.embed_dim, backbone.embed_dim),
        ({"image-layers"}, source.image.width, backbone.image.width),
    ]
    gone = {old for where, old, new in sizes if where & places and old != new}
    return [name for name, tensor in tested.module.tensors.items() if gone & {*tensor.shape}]


@check
def turned_space(tested: MethodUnderTest) -> None:
    """Aligned by words and without an image, a module takes no notice of a rotated joint space."""
    skip = CheckSkipped("attach looks at images; see the check 'no-image'")
    with _expect_no_image(tested.source, skip):
        tested.attach(tested.source)
    expected = tested.logits(tested.source)
    rotated, words = _rotated_source()
    transfer = Words(source_words=words, words_of=lambda b: encode_words(b, WORDS))
    failure = CheckFailed("through words, attach gave the image tower an image")
    with torch.no_grad():
        with _expect_no_image(rotated, failure):
            classify = transfer.attach(tested.build(), tested.module, None, rotated, LABELS)
        found = classify(tested.inputs(rotated))
    gap = float((found - expected).abs().max() / expected.abs().max())
    require(
        gap <= 1e-3,
        f"through words on a rotated source, logits differ by up to {gap:.2g} of the largest; "
        "ask the backbone for features, not its model",
    )


@cache
def _rotated_source() -> tuple[Backbone, Tensor]:
    """The source with a rotated joint space, and the word features of the source itself."""
    source = synthetic_models().source
    rotated = rotate_clip(source, random_rotation(source.embed_dim, seed=1))
    return rotated, encode_words(source, WORDS)
