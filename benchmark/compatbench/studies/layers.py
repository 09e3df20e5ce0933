"""How far each layer of both towers has moved in an upgrade (arXiv:2412.20895, Figure 2 b, c)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.task import Task
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.studies.hidden import Layer, image_layers, text_layers
from compatbench.studies.similarity import absolute_change, linear_cka, relative_change

Tower = Literal["text", "image"]


@dataclass(frozen=True)
class LayerChange:
    """One layer of a tower, before and after the upgrade.

    Attributes:
        layer: its name on the source: ``input``, ``block 1`` ..., ``output``.
        target_layer: the layer it is compared with.
        compared: numbers of the source's layer that have a counterpart, of the same name
            and in a tensor of the same shape.
        parameters: numbers of the source's layer.
        parameter_change: mean of |new - old| over the compared parameters.
        parameter_relative: the same as a share of the mean of |old|.
        feature_change: mean of |new - old| over what leaves the layer; None if the shapes
            differ, as the figures below.
        feature_relative: the same as a share of the mean of |old|.
        cka: linear CKA of what leaves the layer, one row for each input; None where one
            side is the same for all inputs.
    """

    tower: Tower
    layer: str
    target_layer: str
    compared: int
    parameters: int
    parameter_change: float | None
    parameter_relative: float | None
    feature_change: float | None
    feature_relative: float | None
    cka: float | None


@dataclass(frozen=True)
class LayersReport:
    """All layers of an upgrade.

    Attributes:
        texts, images: how many inputs the features are of.
        changes: the layers, text tower first, each from input to output.
        notes: what could not be compared, and why.
    """

    source: str
    target: str
    tasks: tuple[str, ...]
    texts: int
    images: int
    changes: tuple[LayerChange, ...]
    notes: tuple[str, ...]


def analyze_layers(
    source: Backbone, target: Backbone, tasks: Sequence[Task], images: int = 256, seed: int = 1
) -> LayersReport:
    """Compares two backbones layer by layer.

    Args:
        tasks: whose prompts (first template) and test images the features are of.
        images: at most so many test images, evenly from all tasks.
        seed: of the draw of images.

    Raises:
        CompatbenchError: a text tower that is not understood, or a prompt too long for it.
    """
    texts = tuple(dict.fromkeys(text for task in tasks for text in task.labels.fill()))
    if len(texts) < 4:
        raise CompatbenchError(
            f"layers are compared on four prompts or more; the tasks have {len(texts)}"
        )
    changes, notes = compare_towers("text", text_layers(source, texts), text_layers(target, texts))
    drawn = draw_images(tasks, images, seed)
    try:
        before, after = (image_layers(backbone, drawn(backbone)) for backbone in (source, target))
    except NotTransferable as reason:
        notes = [*notes, f"image towers are left out: {reason.reason}"]
        count = 0
    else:
        found, more = compare_towers("image", before, after)
        changes, notes = [*changes, *found], [*notes, *more]
        count = len(before[0].counts)
    names = tuple(task.name for task in tasks)
    return LayersReport(
        source.name, target.name, names, len(texts), count, tuple(changes), tuple(notes)
    )


def draw_images(tasks: Sequence[Task], count: int, seed: int) -> Callable[[Backbone], list[Tensor]]:
    """Test images, evenly from all tasks; each backbone gets the same, in its own preprocessing."""
    generator = random.Random(seed)
    chosen = []
    for i, task in enumerate(tasks):
        share = count * (i + 1) // len(tasks) - count * i // len(tasks)
        samples = list(task.split("test"))
        chosen += [(task, one) for one in generator.sample(samples, min(share, len(samples)))]

    def load(backbone: Backbone) -> list[Tensor]:
        return [backbone.preprocess(task.source.image(one)) for task, one in chosen]  # type: ignore[misc]

    return load


def compare_towers(
    tower: Tower, before: Sequence[Layer], after: Sequence[Layer]
) -> tuple[list[LayerChange], list[str]]:
    """The layers of one tower, and what could not be compared.

    Of towers of unequal depth, a block is compared with the one at the same share of the
    other's depth, and features alone.
    """
    blocks = len(before) - 2, len(after) - 2
    pairs = [(0, 0)]
    pairs += [(i, max(1, round(i * blocks[1] / blocks[0]))) for i in range(1, blocks[0] + 1)]
    pairs += [(len(before) - 1, len(after) - 1)]
    same_depth = blocks[0] == blocks[1]
    changes = [
        _compare(tower, before[i], after[j], same_depth or not before[i].name.startswith("block"))
        for i, j in pairs
    ]
    return changes, _notes(tower, blocks, changes, before, after)


def _compare(tower: Tower, old: Layer, new: Layer, with_weights: bool) -> LayerChange:
    common = _common(old.weights, new.weights) if with_weights else []
    weights = (
        [
            torch.cat([layer[n].float().flatten() for n in common])
            for layer in (old.weights, new.weights)
        ]
        if common
        else None
    )
    rows = (old.rows, new.rows) if _same_shape(old, new) else None
    return LayerChange(
        tower=tower,
        layer=old.name,
        target_layer=new.name,
        compared=sum(old.weights[name].numel() for name in common),
        parameters=sum(tensor.numel() for tensor in old.weights.values()),
        parameter_change=absolute_change(*weights) if weights else None,
        parameter_relative=relative_change(*weights) if weights else None,
        feature_change=absolute_change(*rows) if rows else None,
        feature_relative=relative_change(*rows) if rows else None,
        cka=linear_cka(old.means, new.means),
    )


def _common(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> list[str]:
    return [name for name in old if name in new and old[name].shape == new[name].shape]


def _same_shape(old: Layer, new: Layer) -> bool:
    return old.states.shape[-1] == new.states.shape[-1] and torch.equal(old.counts, new.counts)


def _notes(
    tower: Tower,
    blocks: tuple[int, int],
    changes: Sequence[LayerChange],
    before: Sequence[Layer],
    after: Sequence[Layer],
) -> list[str]:
    notes = []
    if blocks[0] != blocks[1]:
        notes.append(
            f"{tower} towers have {blocks[0]} and {blocks[1]} blocks: blocks are compared at the "
            "same share of the depth, by their features alone"
        )
    if lacking := [one.layer for one in changes if one.compared == 0 and one.parameters]:
        notes.append(
            f"{tower} towers: no parameters of the same name and shape in {_listed(lacking)}"
        )
    partly = [one for one in changes if 0 < one.compared < one.parameters]
    if partly:
        least = min(one.compared / one.parameters for one in partly)
        notes.append(
            f"{tower} towers: only some parameters have a counterpart in "
            f"{_listed([one.layer for one in partly])} (at least {math.floor(100 * least)} %)"
        )
    if unequal := [one.layer for one in changes if one.feature_change is None]:
        shapes = [_shape(layers[1]) for layers in (before, after)]
        notes.append(
            f"{tower} towers: features of {_listed(unequal)} have other shapes "
            f"(block 1: {shapes[0]} and {shapes[1]}), so CKA alone is given"
        )
    return notes


def _shape(layer: Layer) -> str:
    counts = sorted(set(layer.counts.tolist()))
    rows = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{rows} × {layer.states.shape[-1]}"


def _listed(layers: Sequence[str]) -> str:
    """``input, block 1 to 6, output``."""
    numbers = [name.removeprefix("block ") for name in layers if name.startswith("block ")]
    words = [name for name in layers if name == "input"]
    if numbers:
        consecutive = len(numbers) > 1 and int(numbers[-1]) - int(numbers[0]) == len(numbers) - 1
        shown = f"{numbers[0]} to {numbers[-1]}" if consecutive else ", ".join(numbers)
        words.append(f"block {shown}" if len(numbers) == 1 else f"blocks {shown}")
    words += [name for name in layers if name == "output"]
    return ", ".join(words)
