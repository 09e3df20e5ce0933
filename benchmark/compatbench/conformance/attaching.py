"""Checks of what is carried to another backbone, and of how it is attached there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from compatbench.conformance.kit import CheckFailed, check, describe_error
from compatbench.conformance.spy import ImageTouched, no_images
from compatbench.conformance.subject import LABELS, Subject, unseen_images
from compatbench.errors import NotTransferable
from compatbench.method import Backbone
from compatbench.method.module import load_module


@check
def round_trip(subject: Subject) -> None:
    """A module that was saved and loaded gives the same logits, bit for bit."""
    module = subject.module
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.safetensors"
        module.save(path, {"method": subject.card.name})
        loaded, _ = load_module(path)
    if loaded.fingerprint != module.fingerprint:
        raise CheckFailed("the module's tensors are not the same after saving and loading")
    if not torch.equal(subject.logits(subject.source, loaded), subject.logits(subject.source)):
        raise CheckFailed("the loaded module gives other logits than the fitted one")


@check
def source_classifier(subject: Subject) -> None:
    """The module attached to the source by a new instance is the classifier that was fitted."""
    method = subject.build()
    module = method.fit(subject.source, subject.draw(), torch.Generator().manual_seed(1))
    with torch.no_grad():
        inputs = subject.inputs(subject.source, unseen_images())
        own = method.attach(module.detach(), subject.source, LABELS)(inputs)
    found = subject.logits(subject.source, module)
    if not torch.equal(own, found):
        gap = float((own - found).abs().max())
        raise CheckFailed(
            f"logits differ by up to {gap:.2g}; keep all that attach needs in the module"
        )


@check
def no_image(subject: Subject) -> None:
    """Attaching looks at no image."""
    for role, backbone in (("source", subject.source), ("target", subject.target)):
        with suppress(NotTransferable), no_images(backbone):
            try:
                subject.attach(backbone)
            except ImageTouched:
                raise CheckFailed(f"attach gave the {role}'s image tower an image") from None


@check
def module_unchanged(subject: Subject) -> None:
    """Attaching and classifying leave the module as it was, bit for bit, without gradients."""
    module = subject.module
    before = module.fingerprint
    for backbone in (subject.target, subject.source):
        with suppress(NotTransferable), torch.no_grad():
            classify = subject.build().attach(module, backbone, LABELS)
            classify(subject.inputs(backbone, unseen_images()))
    if module.fingerprint != before:
        raise CheckFailed("attach or the classifier writes to the module's tensors")
    if any(tensor.requires_grad for tensor in module.tensors.values()):
        raise CheckFailed("attach asks for gradients of the module's tensors")


@check
def derived_not_stored(subject: Subject) -> None:
    """Nothing that a backbone can derive from the class names is stored in the module."""
    derived = list(_derived_rows(subject.source))
    scale = subject.source.logit_scale
    for name, tensor in subject.module.tensors.items():
        if not tensor.is_floating_point():
            continue
        if tensor.numel() == 1 and abs(float(tensor) - scale) < 1e-4:
            raise CheckFailed(f"'{name}' is the source's logit scale; ask the backbone for it")
        # What is trained may begin at a derived value, but does not stay there.
        trained = name in subject.module.trained
        for matrix in (tensor, tensor.mT) if tensor.ndim > 1 else (tensor[None],):
            for what, rows in derived:
                if matrix.shape[-1] == rows.shape[-1] and _share_row(matrix, rows, exact=trained):
                    raise CheckFailed(f"'{name}' holds {what} of the source; derive it in attach")


@check
def other_sizes(subject: Subject) -> str:
    """A target of other sizes is refused with NotTransferable and a reason, or is served."""
    refused = []
    for what, backbone in subject.bench.others.items():
        try:
            logits = subject.logits(backbone)
        except NotTransferable as why:
            if not why.reason.strip():
                raise CheckFailed(f"another {what}: refused without a reason") from None
            refused.append(what)
            continue
        except Exception as error:
            raise CheckFailed(
                f"another {what}: raise NotTransferable, not {describe_error(error)}"
            ) from error
        if logits.shape[1] != len(LABELS) or not torch.isfinite(logits).all():
            raise CheckFailed(f"another {what}: served with wrong or infinite logits")
        if names := _cut_or_padded(subject, backbone):
            raise CheckFailed(
                f"another {what}: '{names[0]}' was made for another size, yet it is served; "
                "nothing is cut or padded to fit"
            )
    return f"refused: {', '.join(refused)}" if refused else "served on all"


def _cut_or_padded(subject: Subject, backbone: Backbone) -> list[str]:
    """Tensors that have a size of the source which this backbone does not have.

    Only sizes of the places count where the card says that the module acts.
    """
    places, source = set(subject.card.places), subject.source
    sizes = [
        ({"text-input", "text-layers"}, source.token_width, backbone.token_width),
        ({"feature", "classifier"}, source.embed_dim, backbone.embed_dim),
        ({"image-layers"}, source.image.width, backbone.image.width),
    ]
    gone = {old for where, old, new in sizes if where & places and old != new}
    return [name for name, tensor in subject.module.tensors.items() if gone & {*tensor.shape}]


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


def _share_row(matrix: Tensor, rows: Tensor, exact: bool) -> bool:
    """Whether some row of a tensor is, or nearly is, one of some rows."""
    matrix = matrix.reshape(-1, matrix.shape[-1])
    if exact:
        return bool((matrix[:, None] == rows).all(-1).any())
    return bool(torch.isclose(matrix[:, None], rows, rtol=1e-4, atol=1e-6).all(-1).any())
