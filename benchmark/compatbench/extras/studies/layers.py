"""The study of how far each layer of both towers has moved (arXiv:2412.20895, Figure 2 b, c)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import altair as alt
import pandas as pd
import torch
from torch import Tensor

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.data.cards import SuiteCard, suite_cards, suite_tasks, task_cards
from compatbench.data.task import Task, load_task
from compatbench.engine.request import Names
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.extras.studies import frames
from compatbench.extras.studies.frames import Row, StudyReport
from compatbench.extras.studies.similarity import linear_cka, mean_change
from compatbench.extras.studies.tower_states import Layer, image_layers, text_layers
from compatbench.tables.figures.colours import BLUE, ORANGE
from compatbench.tables.table import Column, Table, code, make_table, records, sentence

_COLUMNS = (
    Column("tower", "Tower", left=True),
    Column("layers", "Layer", left=True),
    Column("parameter_change", "Parameters", show=partial(frames.decimals, digits=4)),
    Column("parameter_relative", "relative", show=lambda share: f"{100 * share:.0f} %"),
    Column("feature_change", "Features", show=partial(frames.decimals, digits=2)),
    Column("feature_relative", "relative", show=lambda share: f"{100 * share:.0f} %"),
    Column("cka", "CKA", show=partial(frames.decimals, digits=2)),
)
_PANELS = {
    "parameter_change": "parameters: mean |change|",
    "parameter_relative": "parameters: relative change",
    "cka": "features: linear CKA",
    "feature_change": "features: mean |change|",
    "feature_relative": "features: relative change",
}


@dataclass(frozen=True)
class LayersReport(StudyReport):
    """All layers of both towers, before and after an upgrade.

    Attributes:
        texts, images: how many inputs the features are of.
        changes: one row for each layer, text tower first, from input to output: ``tower``
            (``text`` or ``image``); ``layer`` of the source (``input``, ``block 1`` ...,
            ``output``) and ``target_layer`` that it is compared with; ``compared``, of all its
            ``parameters`` those with a counterpart of the same name and shape;
            ``parameter_change``, ``parameter_relative``, mean of \\|new - old\\| over them, and
            that as a share of the mean of \\|old\\|; ``feature_change``, ``feature_relative``, the
            same of the layer's output, if the shapes are the same; ``cka``, linear CKA of the
            layer's output, one row for each input, missing if one side is constant.
        notes: what could not be compared, and why.
    """

    source: str
    target: str
    tasks: tuple[str, ...]
    texts: int
    images: int
    changes: pd.DataFrame
    notes: tuple[str, ...]

    def tables(self) -> list[Table]:
        """Return one table of all layers, with notes on what could not be compared."""
        inputs = f"{self.texts:,} prompts and {self.images:,} test images"
        inputs += f" of {len(self.tasks)} tasks"
        head = sentence(code(self.source), " → ", code(self.target), f": {inputs}.")
        rows = []
        for row in records(self.changes):
            compared = dict.fromkeys((row["layer"], row["target_layer"]))  # equal names once
            rows.append({**row, "layers": " → ".join(compared)})
        return [make_table(_COLUMNS, rows, caption=head, notes=self.notes)]

    alt_text = "Change of parameters and features by layer"

    def chart(self) -> alt.FacetChart:
        """Draw the change of parameters and features, and CKA, by layer."""
        rows = []
        for column, title in _PANELS.items():
            for tower, changes in self.changes.groupby("tower", sort=False):
                for place, value in enumerate(changes[column].astype(float)):
                    row = {"panel": title, "tower": f"{tower} tower", "layer": place, "y": value}
                    rows.append(row)
        points = pd.DataFrame(rows).dropna()
        places = frames.layer_axis(len(self.changes.query("tower == 'text'")))
        at = alt.Axis(
            values=places["ticks"], labelExpr=f"{places['names']}[datum.value]", grid=False
        )
        towers = alt.Scale(domain=["text tower", "image tower"], range=[BLUE, ORANGE])
        header = alt.Header(title=None, labelFontWeight="bold", labelLimit=300)
        return (
            alt.Chart(points)
            .mark_line(point={"size": 30})
            .encode(
                alt.X("layer:Q", title="layer", axis=at),
                alt.Y("y:Q", title=None),
                alt.Color("tower:N", scale=towers, legend=alt.Legend(title=None, orient="top")),
            )
            .properties(width=240, height=150)
            .facet(alt.Facet("panel:N", sort=[*_PANELS.values()], header=header), columns=3)
            .resolve_scale(y="independent")
            .resolve_axis(x="independent")
            .properties(title=f"{self.source} → {self.target}")
        )


def analyze_layers(
    source: str,
    target: str,
    *,
    tasks: Names | None = None,
    images: int = 256,
    seed: int = 1,
    suite: str | SuiteCard = "mini",
    device: str = "auto",
) -> LayersReport:
    """Measure how far each layer of both towers has moved: its parameters and its features.

    The change is the mean of |new - old|; the relative change is a share of the mean of |old|. CKA
    is 1 for features that are the same but for rotation and scale. Where shapes differ, CKA alone
    is given.

    Args:
        source: the old model (see ``list backbones``).
        target: the new model.
        tasks: tasks whose class names and images are used; by default all of the suite.
        images: number of test images, the same share from every task.
        seed: seed of the draw of images.
        suite, device: as for ``run``.

    Returns:
        A report: ``rows`` is a frame with a row per layer, ``tables()`` and ``chart()`` show it.

    Raises:
        CompatbenchError: an unknown name, a text tower that is not supported, or images or
            weights that are missing.
    """
    card = suite_cards.read(suite)
    names = suite_tasks(card) if tasks is None else task_cards.select_names(tasks)
    resolved = resolve_device(device)
    old = load_backbone(source, resolved)
    new = load_backbone(target, resolved)
    return compare_layers(old, new, [load_task(name) for name in names], images, seed)


def compare_layers(
    source: Backbone, target: Backbone, tasks: Sequence[Task], images: int = 256, seed: int = 1
) -> LayersReport:
    """Compare two backbones on the prompts (first template) and test images of tasks."""
    prompts: list[str] = []
    for task in tasks:
        prompts += task.labels.fill()
    texts = tuple(dict.fromkeys(prompts))
    if len(texts) < 4:
        raise CompatbenchError(
            f"layers are compared on four prompts or more; the tasks have {len(texts)}"
        )
    changes, notes = _compare_towers("text", text_layers(source, texts), text_layers(target, texts))
    image_count = 0
    draw = draw_images(tasks, images, seed)
    try:
        before = image_layers(source, draw(source))
        after = image_layers(target, draw(target))
    except NotTransferable as reason:
        notes.append(f"image towers are left out: {reason.reason}")
    else:
        image_changes, image_notes = _compare_towers("image", before, after)
        changes = pd.concat([changes, image_changes], ignore_index=True)
        notes += image_notes
        image_count = len(before[0].counts)
    return LayersReport(
        source=source.name,
        target=target.name,
        tasks=tuple(task.name for task in tasks),
        texts=len(texts),
        images=image_count,
        changes=changes,
        notes=tuple(notes),
    )


def draw_images(tasks: Sequence[Task], count: int, seed: int) -> Callable[[Backbone], list[Tensor]]:
    """Draw test images, evenly from all tasks.

    Return a function that gives them to a backbone, in its own preprocessing.
    """
    generator = random.Random(seed)
    chosen = []
    for i, task in enumerate(tasks):
        # Shares differ by at most one image, and their sum is the count.
        share = count * (i + 1) // len(tasks) - count * i // len(tasks)
        samples = list(task.split("test"))
        for sample in generator.sample(samples, min(share, len(samples))):
            chosen.append((task.source, sample))

    def preprocess(backbone: Backbone) -> list[Tensor]:
        preprocess_one: Any = backbone.preprocess
        return [preprocess_one(source.image(sample)) for source, sample in chosen]

    return preprocess


def _compare_towers(
    tower: str, before: Sequence[Layer], after: Sequence[Layer]
) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of one tower, and what could not be compared.

    In towers of unequal depth, a block is compared with the one at the same share of the other's
    depth, by its features alone.
    """
    depth = len(before) - 2  # without input and output
    new_depth = len(after) - 2
    rows = [_compare(before[0], after[0])]
    for block in range(1, depth + 1):
        counterpart = max(1, round(block * new_depth / depth))
        rows.append(_compare(before[block], after[counterpart], depth == new_depth))
    rows.append(_compare(before[-1], after[-1]))
    changes = pd.DataFrame([{"tower": tower, **row} for row in rows])
    notes = []
    if depth != new_depth:
        notes.append(
            f"{tower} towers have {depth} and {new_depth} blocks: blocks are compared at the same "
            "share of the depth, by their features alone"
        )
    compared = changes["compared"]
    parameters = changes["parameters"]
    exceptions = {
        "no parameters of the same name and shape in": (compared == 0) & (parameters > 0),
        "only some parameters have a counterpart in": (compared > 0) & (compared < parameters),
        "CKA alone is given where features have other shapes, in": changes["feature_change"].isna(),
    }
    for what, where in exceptions.items():
        if where.any():
            layers = _list_layers(changes.loc[where, "layer"].tolist())
            notes.append(f"{tower} towers: {what} {layers}")
    return changes, notes


def _compare(old: Layer, new: Layer, with_weights: bool = True) -> Row:
    """Return the row of a layer: how far its parameters and its features have moved."""
    common = []
    if with_weights:
        for name, weight in old.weights.items():
            if name in new.weights and new.weights[name].shape == weight.shape:
                common.append(name)
    row: Row = {
        "layer": old.name,
        "target_layer": new.name,
        "compared": sum(old.weights[name].numel() for name in common),
        "parameters": sum(tensor.numel() for tensor in old.weights.values()),
    }
    parameter_changes = None, None
    if common:
        parameter_changes = mean_change(_join_weights(old, common), _join_weights(new, common))
    row["parameter_change"], row["parameter_relative"] = parameter_changes
    feature_changes = None, None
    if old.rows.shape[-1] == new.rows.shape[-1] and torch.equal(old.counts, new.counts):
        feature_changes = mean_change(old.rows, new.rows)
    row["feature_change"], row["feature_relative"] = feature_changes
    row["cka"] = linear_cka(old.means, new.means)
    return row


def _join_weights(layer: Layer, names: Sequence[str]) -> Tensor:
    """Return weights of a layer in one vector."""
    return torch.cat([layer.weights[name].float().flatten() for name in names])


def _list_layers(names: list[str]) -> str:
    """Return names of layers such as ``input, blocks 1 to 6, output``."""
    blocks = [int(name.removeprefix("block ")) for name in names if name.startswith("block ")]
    if len(blocks) > 1 and blocks[-1] - blocks[0] == len(blocks) - 1:
        first = names.index(f"block {blocks[0]}")
        names[first : first + len(blocks)] = [f"blocks {blocks[0]} to {blocks[-1]}"]
    return ", ".join(names)
