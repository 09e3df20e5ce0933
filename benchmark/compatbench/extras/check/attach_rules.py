"""The rules of attaching a module, of the logits that it gives then, and of where it acts."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cache
from typing import Any
from unittest.mock import patch

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatbench.backbone import BlockUpdates, Prompts
from compatbench.backbone.parts.blocks import PROJECTIONS
from compatbench.backbone.words import encode_words, load_words
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.labels import Labels
from compatbench.errors import NotTransferable
from compatbench.extras.check.method_under_test import (
    LABELS,
    MethodUnderTest,
    relabel,
    require_logits,
    unseen_images,
)
from compatbench.extras.check.models import (
    forget_texts,
    random_rotation,
    rotate_clip,
    synthetic_models,
)
from compatbench.extras.check.outcome import BrokenRule, SkippedRule, require
from compatbench.files.tensors import fingerprint
from compatbench.method import Backbone, Classifier, Module
from compatbench.method.mistakes import explain
from compatbench.method.registry import find_transfer
from compatbench.method.transfer import TransferData, WordPair

WORDS = load_words()[::40]
BATCH_SIZES = (31, 8)  # of many images, besides all of them at once


@contextmanager
def _at_an_image(backbone: Backbone, verdict: BaseException) -> Iterator[None]:
    """Raise a verdict if an image enters the image tower, or is read from a file or the cache.

    Every image enters through the tower itself or through its first convolution.
    """

    def refuse(*_: object, **__: object) -> None:
        raise verdict

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


def no_image(tested: MethodUnderTest) -> None:
    """Attaching looks at no image."""
    for role, backbone in (("source", tested.source), ("target", tested.target)):
        why = f"attach gave the {role}'s image tower an image"
        with suppress(NotTransferable), _at_an_image(backbone, BrokenRule(why)):
            tested.attach(backbone)


def other_sizes(tested: MethodUnderTest) -> str:
    """A target of other sizes is refused with NotTransferable and a reason, or is served."""
    refused = []
    for what, backbone in tested.models.others.items():
        if refusal(tested, f"another {what}", backbone):
            refused.append(what)
            continue
        names = _find_cut_or_padded(tested, backbone)
        if names:
            raise BrokenRule(
                f"another {what}: '{names[0]}' was made for another size, yet it is served; "
                "nothing is cut or padded to fit"
            )
    return f"refused: {', '.join(refused)}" if refused else "served on all"


def class_subset(tested: MethodUnderTest) -> str:
    """Fewer classes than the module was fitted for are served, or refused with a reason."""
    labels = relabel(LABELS.names[:3])
    why = refusal(tested, "three of five classes", tested.source, labels)
    return f"refused: {why}" if why else "served"


def refusal(tested: MethodUnderTest, what: str, backbone: Backbone, labels: Labels = LABELS) -> str:
    """Return why the module is refused; empty if it is served.

    Raises:
        BrokenRule: it is refused with another error or without a reason, or its logits are wrong.
    """
    try:
        logits = tested.logits(backbone, labels=labels)
    except NotTransferable as why:
        require(why.reason.strip(), f"{what}: refused without a reason")
        return why.reason
    except Exception as error:
        raise BrokenRule(f"{what}: raise NotTransferable, not {explain(error)}") from None
    require_logits(logits, f"logits for {what}", labels)
    return ""


def _find_cut_or_padded(tested: MethodUnderTest, backbone: Backbone) -> list[str]:
    """Return tensors with a size of the source, at the card's places, which a backbone lacks."""
    card_places = set(tested.card.places)
    source = tested.source
    sizes = [
        ({"text-input", "text-layers"}, source.token_width, backbone.token_width),
        ({"feature", "classifier"}, source.embed_dim, backbone.embed_dim),
        ({"image-layers"}, source.image.width, backbone.image.width),
    ]
    # No two sizes of the source are equal, so a size tells where a tensor belongs.
    gone = set()
    for places, old, new in sizes:
        if places & card_places and old != new:
            gone.add(old)
    return [name for name, tensor in tested.fitted.tensors.items() if gone & {*tensor.shape}]


def turned_space(tested: MethodUnderTest) -> None:
    """Aligned by words and without an image, a module ignores a rotated embedding space."""
    why = "attach looks at images; see the check 'no-image'"
    with _at_an_image(tested.source, SkippedRule(why)):
        tested.attach(tested.source)
    expected = tested.logits(tested.source)
    rotated, words = _rotate_source()
    transfer = find_transfer("words")
    data = TransferData(transfer, words=WordPair(words, encode_words(rotated, WORDS)))
    why = "through words, attach gave the image tower an image"
    with torch.no_grad():
        with _at_an_image(rotated, BrokenRule(why)):
            classify = transfer.attach(tested.build(), tested.module, rotated, LABELS, data)
        logits = classify(tested.inputs(rotated))
    gap = float((logits - expected).abs().max() / expected.abs().max())
    require(
        gap <= 1e-3,
        f"through words on a rotated source, logits differ by up to {gap:.2g} of the largest; "
        "ask the backbone for features, not its model",
    )


@cache
def _rotate_source() -> tuple[Backbone, Tensor]:
    """Return the source with a rotated embedding space, and its word features before that."""
    source = synthetic_models().source
    rotated = rotate_clip(source, random_rotation(source.embed_dim, 1))
    return rotated, encode_words(source, WORDS)


def logits(tested: MethodUnderTest) -> None:
    """Logits are float32 of shape [batch, classes], finite, and not all alike."""
    for role, backbone in (("source", tested.source), ("target", tested.target)):
        what = f"logits on the {role}"
        try:
            logits = tested.logits(backbone)
        except NotTransferable:
            continue
        except (Exception, SystemExit) as error:
            raise BrokenRule(f"on the {role}: {explain(error)}") from None
        require_logits(logits, what)
        require(logits.dtype == torch.float32, f"{what} are {logits.dtype}, not float32")
        require(float(logits.std(1).min()) > 0, f"{what} are all alike for some image")


def batch_size(tested: MethodUnderTest) -> None:
    """Logits depend on neither a batch nor an image's place in it; with a stream, on no other call.

    A few images are classified one by one and together. More images, in the order of their classes,
    are classified in another order and in batches of other sizes.
    """
    for role, backbone in tested.served():
        inputs = tested.inputs(backbone)
        classify = tested.attach(backbone)
        with torch.no_grad():
            together = classify(inputs)
            if "stream" in tested.card.needs:
                same = torch.equal(classify(inputs), together)
                require(same, f"on the {role} a second call differs; a call is a stream of its own")
                continue
            # Blocks of an image tower take at least one image, and no run asks for none.
            outside = tested.build().image_input(backbone).in_joint_space
            none = classify(inputs[:0]) if outside else together[:0]
            alone = torch.cat([classify(image[None]) for image in inputs])
        _require_close(alone, together, f"one by one on the {role}, logits differ")
        shape = list(none.shape)
        require(shape == [0, len(LABELS)], f"an empty batch gives logits of shape {shape}")
        _try_orders_and_sizes(classify, tested.many_inputs(backbone), role)


def _try_orders_and_sizes(classify: Classifier, inputs: Tensor, role: str) -> None:
    """Raise BrokenRule if logits change with the order of many images, or with batches of them."""
    count = len(inputs)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        expected = classify(inputs)
        reordered = classify(inputs[order])
        problem = f"on the {role} logits depend on the order of {count} images; they differ"
        _require_close(reordered, expected[order], problem)
        for size in BATCH_SIZES:
            logits = torch.cat([classify(batch) for batch in inputs[order].split(size)])
            problem = f"on the {role} batches of {size} and of {count} images give logits"
            _require_close(logits, expected[order], f"{problem} that differ")


def inputs_unchanged(tested: MethodUnderTest) -> None:
    """Classifying leaves the image features as they were."""
    for role, backbone in tested.served():
        inputs = tested.inputs(backbone)
        with torch.no_grad():
            tested.attach(backbone)(inputs)
        same = torch.equal(inputs, tested.inputs(backbone))
        require(same, f"the classifier on the {role} writes to the features it is given")


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
        logits = tested.logits(backbone, module, permuted)
        expected = tested.logits(backbone)
        problem = f"logits on the {role} do not follow the order of the class names; they differ"
        _require_close(logits, expected[:, order], problem)


def zero_shot_setting(tested: MethodUnderTest) -> None:
    """At its degenerate setting the method is the zero-shot classifier."""
    if not tested.card.zero_shot_at:
        raise SkippedRule("the card declares no such setting (zero_shot_at)")
    for role, backbone in tested.served():
        module = tested.module
        for pattern, value in tested.card.zero_shot_at.items():
            names = [name for name in module.tensors if fnmatchcase(name, pattern)]
            require(names, f"zero_shot_at names '{pattern}', which the module does not hold")
            for name in names:
                # Text stands for the embeddings of its tokens on each backbone.
                setting = backbone.embed_text(value) if isinstance(value, str) else value
                module[name][...] = setting
        features = F.normalize(backbone.encode_images(unseen_images()), dim=-1)
        expected = backbone.logit_scale * features @ backbone.zero_shot(LABELS).T
        logits = tested.logits(backbone, module)
        _require_close(logits, expected, f"logits on the {role} are away from zero-shot")


def _require_close(logits: Tensor, expected: Tensor, otherwise: str) -> None:
    """Raise BrokenRule unless logits are equal up to the order in which sums were taken."""
    gap = float((logits - expected).abs().max())
    close = torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
    require(close, f"{otherwise} by up to {gap:.2g}")


def place(tested: MethodUnderTest) -> str:
    """The module acts where the card says that it inserts, and nowhere else."""
    # From outside, an action on features looks like one on class weights or on logits.
    output = {"feature": "output", "classifier": "output", "answer": "output"}
    declared = {output.get(place, place) for place in tested.card.places}
    observed = _find_places(tested)
    undeclared = sorted(observed - declared)
    unchanged = sorted(declared - observed)
    problems = []
    if undeclared:
        problems.append(f"acts at {', '.join(undeclared)}, undeclared")
    if unchanged:
        problems.append(f"declares {', '.join(unchanged)}, where nothing changes")
    require(not problems, "; ".join(problems))
    return tested.card.depth


def _find_places(tested: MethodUnderTest) -> set[str]:
    """Return where noise on the module shows, on the source: in each tower, and behind both."""
    noisy = tested.module
    generator = torch.Generator().manual_seed(3)
    for tensor in noisy.tensors.values():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor += 0.1 * (tensor.abs().mean() + 0.1) * noise
    before, log = _classify(tested, tested.module)
    _, other = _classify(tested, noisy)
    # With both towers answering as before, only what is behind them can make a difference.
    after, _ = _classify(tested, noisy, replay=log)
    places = ("text-input", "text-layers", "image-layers")
    changed = {place for place in places if log[place] != other[place]}
    if not torch.equal(before, after):
        changed.add("output")
    return changed or {"none"}


def _classify(
    tested: MethodUnderTest, module: Module, replay: Mapping[str, list[Any]] | None = None
) -> tuple[Tensor, Mapping[str, list[Any]]]:
    """Return logits on the source, and a log of what went through its towers, in order.

    The log holds hashes of what a module can change, by place, and outputs, by the function that
    was called. With a log to replay, the towers return its outputs again, whatever goes in.
    """
    inputs = tested.inputs(tested.source)
    backbone = copy.copy(tested.source)
    log = defaultdict(list)
    # A text that is remembered would not go through the tower.
    forget_texts(backbone)
    backbone.image = copy.copy(backbone.image)

    def watch(owner: object, name: str, note: Callable[..., None]) -> None:
        encode = getattr(owner, name)
        outputs = log[name]

        def call(*arguments: Any, **options: Any) -> Tensor:
            past = None if replay is None else replay[name][len(outputs)]
            output = encode(*arguments, **options) if past is None else past
            outputs.append(output)
            note(output, *arguments, **options)
            return output

        setattr(owner, name, call)

    def note_text(
        _: Tensor,
        prompts: Prompts,
        weights: Mapping[str, Tensor] | None = None,
        block_updates: BlockUpdates | None = None,
    ) -> None:
        # Padding changes nothing, so it is left out.
        is_token = torch.arange(prompts.suffix.shape[1]) < torch.tensor(prompts.lengths)[:, None]
        entering = {"prefix": prompts.prefix, "suffix": prompts.suffix[is_token]}
        log["text-input"].append(fingerprint(entering))
        inner = {f"deep {i}": tensor for i, tensor in enumerate(prompts.deep)}
        inner |= dict(weights or {})
        if prompts.swap is not None:
            inner["swap"] = prompts.swap.rows
        if prompts.inserted is not None:
            for i, rows in enumerate(prompts.inserted.rows):
                inner[f"inserted {i}"] = rows
        inner |= _try_updates(block_updates, backbone.token_width)
        log["text-layers"].append(fingerprint(inner))

    def note_image(output: Any, _: Tensor, **inserted: Any) -> None:
        # Queries, keys and values are updated with all tokens of an image, so these may be mixed.
        updates = inserted.get("block_updates") or {}
        alone = {place: one for place, one in updates.items() if place[1] not in PROJECTIONS}
        _try_updates(alone, backbone.image.width)
        outputs = output if isinstance(output, tuple) else (output,)
        log["image-layers"].append(fingerprint({str(i): layer for i, layer in enumerate(outputs)}))

    watch(backbone, "encode_prompts", note_text)
    watch(backbone.image, "encode", note_image)
    watch(backbone.image, "encode_rows", note_image)
    with torch.no_grad():
        return tested.attach(backbone, module)(inputs), log


def _try_updates(updates: BlockUpdates | None, width: int) -> dict[str, Tensor]:
    """Return what updates make of made-up rows of a tower.

    Raises:
        BrokenRule: a row depends on another.
    """
    generator = torch.Generator().manual_seed(5)
    output, entering = torch.randn(2, 2, 3, width, generator=generator)
    rows = {}
    for (block, part), update in (updates or {}).items():
        changed = update(output, entering)
        alone = update(output[:, 1:2], entering[:, 1:2])
        problem = f"the update of '{part}' in block {block} mixes rows; alone, a row differs"
        _require_close(alone, changed[:, 1:2], problem)
        rows[f"{part} of block {block}"] = changed
    return rows
