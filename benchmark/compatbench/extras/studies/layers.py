"""How far each layer of both towers has moved in an upgrade (arXiv:2412.20895, Figure 2 b, c)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import altair as alt
import pandas as pd
import torch
from torch import Tensor

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.parts.products import fast_products
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
        """All layers, and what could not be compared."""
        head = sentence(
            *(code(self.source), " → ", code(self.target)),
            f": {self.texts:,} prompts and {self.images:,} test images of {len(self.tasks)} tasks.",
        )
        rows = [
            {**row, "layers": " → ".join(dict.fromkeys((row["layer"], row["target_layer"])))}
            for row in records(self.changes)
        ]
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
        A report: ``rows`` is a frame with a row per layer, ``tables()`` and ``picture()`` show it.

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


@fast_products()
def compare_layers(
    source: Backbone, target: Backbone, tasks: Sequence[Task], images: int = 256, seed: int = 1
) -> LayersReport:
    """Compares two backbones on the prompts (first template) and test images of tasks."""
    texts = tuple(dict.fromkeys(text for task in tasks for text in task.labels.fill()))
    if len(texts) < 4:
        raise CompatbenchError(
            f"layers are compared on four prompts or more; the tasks have {len(texts)}"
        )
    models, count = (source, target), 0
    changes, notes = _compare_towers("text", *(text_layers(model, texts) for model in models))
    draw = draw_images(tasks, images, seed)
    try:
        towers = [image_layers(model, draw(model)) for model in models]
    except NotTransferable as reason:
        notes.append(f"image towers are left out: {reason.reason}")
    else:
        of_images, more = _compare_towers("image", *towers)
        changes, notes = pd.concat([changes, of_images], ignore_index=True), notes + more
        count = len(towers[0][0].counts)
    names = tuple(task.name for task in tasks)
    return LayersReport(source.name, target.name, names, len(texts), count, changes, tuple(notes))


def draw_images(tasks: Sequence[Task], count: int, seed: int) -> Callable[[Backbone], list[Tensor]]:
    """Test images, evenly from all tasks; each backbone gets the same, in its own preprocessing."""
    generator, chosen = random.Random(seed), []
    for i, task in enumerate(tasks):
        share = count * (i + 1) // len(tasks) - count * i // len(tasks)
        samples = list(task.split("test"))
        drawn = generator.sample(samples, min(share, len(samples)))
        chosen += [(task.source, sample) for sample in drawn]
    return lambda backbone: [backbone.preprocess(source.image(image)) for source, image in chosen]  # type: ignore[misc]


def _compare_towers(
    tower: str, before: Sequence[Layer], after: Sequence[Layer]
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of one tower, and what could not be compared.

    Of towers of unequal depth, a block is compared with the one at the same share of the
    other's depth, and features alone.
    """
    blocks = len(before) - 2, len(after) - 2
    pairs = [(i, max(1, round(i * blocks[1] / blocks[0]))) for i in range(1, blocks[0] + 1)]
    inner = [_compare(before[i], after[j], blocks[0] == blocks[1]) for i, j in pairs]
    rows = [_compare(before[0], after[0]), *inner, _compare(before[-1], after[-1])]
    changes, notes = pd.DataFrame([{"tower": tower, **row} for row in rows]), []
    if blocks[0] != blocks[1]:
        notes.append(
            f" have {blocks[0]} and {blocks[1]} blocks: blocks are compared at the same share of "
            "the depth, by their features alone"
        )
    some, every = changes["compared"], changes["parameters"]
    kinds = {
        "no parameters of the same name and shape in": (some == 0) & (every > 0),
        "only some parameters have a counterpart in": (some > 0) & (some < every),
        "CKA alone is given where features have other shapes, in": changes["feature_change"].isna(),
    }
    for what, where in kinds.items():
        if where.any():
            notes.append(f": {what} {_listed(changes.loc[where, 'layer'].tolist())}")
    return changes, [f"{tower} towers{note}" for note in notes]


def _compare(old: Layer, new: Layer, with_weights: bool = True) -> Row:
    shapes = {name: tensor.shape for name, tensor in new.weights.items() if with_weights}
    common = [name for name, each in old.weights.items() if shapes.get(name) == each.shape]
    row: Row = {
        "layer": old.name,
        "target_layer": new.name,
        "compared": sum(old.weights[name].numel() for name in common),
        "parameters": sum(tensor.numel() for tensor in old.weights.values()),
    }
    parameters = features = None, None
    if common:
        parameters = mean_change(
            *(torch.cat([x.weights[n].float().flatten() for n in common]) for x in (old, new))
        )
    if old.rows.shape[-1] == new.rows.shape[-1] and torch.equal(old.counts, new.counts):
        features = mean_change(old.rows, new.rows)
    row["parameter_change"], row["parameter_relative"] = parameters
    row["feature_change"], row["feature_relative"] = features
    return row | {"cka": linear_cka(old.means, new.means)}


def _listed(names: list[str]) -> str:
    """``input, blocks 1 to 6, output``."""
    blocks = [int(name.removeprefix("block ")) for name in names if name.startswith("block ")]
    if len(blocks) > 1 and blocks[-1] - blocks[0] == len(blocks) - 1:
        first = names.index(f"block {blocks[0]}")
        names[first : first + len(blocks)] = [f"blocks {blocks[0]} to {blocks[-1]}"]
    return ", ".join(names)
