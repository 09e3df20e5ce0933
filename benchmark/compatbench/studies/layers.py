"""How far each layer of both towers has moved in an upgrade (arXiv:2412.20895, Figure 2 b, c)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.task import Task
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.pages.figures.svg import BLUE, ORANGE
from compatbench.pages.markdown import code
from compatbench.studies.similarity import absolute_change, linear_cka, relative_change
from compatbench.studies.study_report import (
    StudyReport,
    TextTable,
    decimals,
    name_layers,
    new_figure,
    records,
    share,
)
from compatbench.studies.study_setup import Names, StudySetup
from compatbench.studies.tower_states import Layer, image_layers, text_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOWERS = {"text": (BLUE, "o-"), "image": (ORANGE, "s--")}
_PANELS = {
    "pa": ("parameter_change", "parameters: mean |change|"),
    "pr": ("parameter_relative", "parameters: relative change"),
    "fa": ("feature_change", "features: mean |change|"),
    "fr": ("feature_relative", "features: relative change"),
    "cka": ("cka", "features: linear CKA"),
}
_UNEQUAL = (
    " have {} and {} blocks: blocks are compared at the same share of the depth, by their "
    "features alone"
)


@dataclass(frozen=True)
class LayersReport(StudyReport):
    """All layers of both towers, before and after an upgrade.

    Attributes:
        texts, images: how many inputs the features are of.
        changes: one row for each layer, text tower first, from input to output:

            * ``tower``, ``layer``, ``target_layer``: ``text`` or ``image``; the source's layer
              (``input``, ``block 1`` ..., ``output``) and the target's that it is compared with;
            * ``compared``, ``parameters``: numbers of the source's layer that have a counterpart,
              of the same name and in a tensor of the same shape, and all of them;
            * ``parameter_change``, ``parameter_relative``: mean of \\|new - old\\| over the
              compared parameters, and the same as a share of the mean of \\|old\\|;
            * ``feature_change``, ``feature_relative``: the same of the layer's output; missing
              if the shapes differ;
            * ``cka``: linear CKA of the layer's output, one row for each input; missing if one
              side is the same for all inputs.
        notes: what could not be compared, and why.
    """

    source: str
    target: str
    tasks: tuple[str, ...]
    texts: int
    images: int
    changes: pd.DataFrame
    notes: tuple[str, ...]

    def tables(self) -> list[TextTable]:
        """All layers, and what could not be compared."""
        rows = [
            [
                one["tower"],
                " → ".join(dict.fromkeys((one["layer"], one["target_layer"]))),
                decimals(one["parameter_change"], 4),
                share(one["parameter_relative"]),
                decimals(one["feature_change"], 2),
                share(one["feature_relative"]),
                decimals(one["cka"], 2),
            ]
            for one in records(self.changes)
        ]
        head = (
            f"{code(self.source)} → {code(self.target)}: {self.texts:,} prompts and "
            f"{self.images:,} test images of {len(self.tasks)} tasks."
        )
        header = ("Tower", "Layer", "Parameters", "relative", "Features", "relative", "CKA")
        return [TextTable(header, rows, head, self.notes, left=(0, 1))]

    def draw(self) -> Figure:
        """Change of parameters and of features, absolute and relative, and CKA, by layer."""
        figure = new_figure(9, 4.6)
        panels = figure.subplot_mosaic([["pa", "pr", "cka"], ["fa", "fr", "cka"]])
        for place, (column, title) in _PANELS.items():
            axes, values = panels[place], self.changes[column].astype(float)
            for tower, (colour, line) in _TOWERS.items():
                known = values[self.changes["tower"] == tower].reset_index(drop=True).dropna()
                if len(known):
                    axes.plot(known.index, known, line, color=colour, label=f"{tower} tower")
            axes.set_title(title)
            largest = values.max() if values.max() > 0 else 1.0
            axes.set_ylim(0, 1.02 if column == "cka" else 1.08 * largest)
            name_layers(axes, (self.changes["tower"] == "text").sum())
        panels["cka"].legend(loc="lower left")
        figure.suptitle(f"{self.source} → {self.target}", fontsize=10)
        return figure


def study_layers(
    setup: StudySetup, tasks: Names | None = None, images: int = 256, seed: int = 1
) -> LayersReport:
    """``compare_layers`` of the two models of a setup.

    Args:
        tasks: names and globs; by default those of the suite.
    """
    return compare_layers(*setup.backbones, setup.load_tasks(tasks), images, seed)


def compare_layers(
    source: Backbone, target: Backbone, tasks: Sequence[Task], images: int = 256, seed: int = 1
) -> LayersReport:
    """Compares two backbones layer by layer.

    Args:
        tasks: whose prompts (first template) and test images the features are of.
        images: at most so many test images, evenly from all tasks.
        seed: of the draw of images.

    Raises:
        CompatbenchError: a text tower that is not supported, or a prompt too long for it.
    """
    texts = tuple(dict.fromkeys(text for task in tasks for text in task.labels.fill()))
    if len(texts) < 4:
        raise CompatbenchError(
            f"layers are compared on four prompts or more; the tasks have {len(texts)}"
        )
    changes, notes = _compare_towers("text", text_layers(source, texts), text_layers(target, texts))
    drawn = draw_images(tasks, images, seed)
    count = 0
    try:
        before, after = (image_layers(backbone, drawn(backbone)) for backbone in (source, target))
    except NotTransferable as reason:
        notes.append(f"image towers are left out: {reason.reason}")
    else:
        found, more = _compare_towers("image", before, after)
        changes, notes = changes + found, notes + more
        count = len(before[0].counts)
    names = tuple(task.name for task in tasks)
    frame = pd.DataFrame(changes)
    return LayersReport(source.name, target.name, names, len(texts), count, frame, tuple(notes))


def draw_images(tasks: Sequence[Task], count: int, seed: int) -> Callable[[Backbone], list[Tensor]]:
    """Test images, evenly from all tasks; each backbone gets the same, in its own preprocessing."""
    generator = random.Random(seed)
    chosen = []
    for i, task in enumerate(tasks):
        own = count * (i + 1) // len(tasks) - count * i // len(tasks)
        samples = list(task.split("test"))
        chosen += [(task, one) for one in generator.sample(samples, min(own, len(samples)))]
    return lambda backbone: [backbone.preprocess(task.source.image(one)) for task, one in chosen]  # type: ignore[misc]


def _compare_towers(
    tower: str, before: Sequence[Layer], after: Sequence[Layer]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one tower, and what could not be compared.

    Of towers of unequal depth, a block is compared with the one at the same share of the
    other's depth, and features alone.
    """
    blocks = len(before) - 2, len(after) - 2
    pairs = [(0, 0)]
    pairs += [(i, max(1, round(i * blocks[1] / blocks[0]))) for i in range(1, blocks[0] + 1)]
    pairs += [(len(before) - 1, len(after) - 1)]
    same_depth = blocks[0] == blocks[1]
    changes = [
        {"tower": tower}
        | _compare(before[i], after[j], same_depth or not before[i].name.startswith("block"))
        for i, j in pairs
    ]
    notes = [] if same_depth else [_UNEQUAL.format(*blocks)]
    notes += _notes(changes, before[1], after[1])
    return changes, [f"{tower} towers{note}" for note in notes]


def _compare(old: Layer, new: Layer, with_weights: bool) -> dict[str, Any]:
    common = [
        name
        for name, tensor in old.weights.items()
        if with_weights and name in new.weights and new.weights[name].shape == tensor.shape
    ]
    row: dict[str, Any] = {
        "layer": old.name,
        "target_layer": new.name,
        "compared": sum(old.weights[name].numel() for name in common),
        "parameters": sum(tensor.numel() for tensor in old.weights.values()),
    }
    sides: dict[str, list[Tensor]] = {"parameter": [], "feature": []}
    if common:
        sides["parameter"] = [
            torch.cat([layer.weights[name].float().flatten() for name in common])
            for layer in (old, new)
        ]
    if old.states.shape[-1] == new.states.shape[-1] and torch.equal(old.counts, new.counts):
        sides["feature"] = [old.rows, new.rows]
    for name, both in sides.items():
        row[f"{name}_change"] = absolute_change(*both) if both else None
        row[f"{name}_relative"] = relative_change(*both) if both else None
    return row | {"cka": linear_cka(old.means, new.means)}


def _notes(changes: Sequence[dict[str, Any]], before: Layer, after: Layer) -> list[str]:
    """What could not be compared; ``before`` and ``after`` are the first blocks."""
    notes = []
    if without := [one for one in changes if one["compared"] == 0 and one["parameters"]]:
        notes.append(f": no parameters of the same name and shape in {_listed(without)}")
    if partly := [one for one in changes if 0 < one["compared"] < one["parameters"]]:
        least = min(one["compared"] / one["parameters"] for one in partly)
        notes.append(
            f": only some parameters have a counterpart in {_listed(partly)} (at least "
            f"{math.floor(100 * least)} %)"
        )
    if unequal := [one for one in changes if one["feature_change"] is None]:
        notes.append(
            f": features of {_listed(unequal)} have other shapes (block 1: {_shape(before)} and "
            f"{_shape(after)}), so CKA alone is given"
        )
    return notes


def _shape(layer: Layer) -> str:
    low, high = int(layer.counts.min()), int(layer.counts.max())
    rows = str(low) if low == high else f"{low} to {high}"
    return f"{rows} × {layer.states.shape[-1]}"


def _listed(changes: Sequence[dict[str, Any]]) -> str:
    """``input, blocks 1 to 6, output``."""
    layers = [one["layer"] for one in changes]
    numbers = [name.removeprefix("block ") for name in layers if name.startswith("block ")]
    words = [name for name in layers if name == "input"]
    if numbers:
        consecutive = len(numbers) > 1 and int(numbers[-1]) - int(numbers[0]) == len(numbers) - 1
        shown = f"{numbers[0]} to {numbers[-1]}" if consecutive else ", ".join(numbers)
        words.append(f"block{'s' if len(numbers) > 1 else ''} {shown}")
    return ", ".join([*words, *[name for name in layers if name == "output"]])
