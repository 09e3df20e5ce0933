"""How class tokens and text features have moved, and whether that predicts what methods lose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from compatbench.backbone import Backbone, Labels
from compatbench.backbone.joint_maps import fit_rotation
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task
from compatbench.engine.task_images import label_tensor
from compatbench.extras.studies import frames, similarity
from compatbench.extras.studies.frames import StudyReport, spearman_interval
from compatbench.extras.studies.study import Names, Study, StudyOptions
from compatbench.extras.studies.tower_states import inherited_share
from compatbench.results.estimate import interval_columns
from compatbench.results.expected import Upgrade
from compatbench.results.result_files import RESULTS
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.numbers import interval_text
from compatbench.tables.suite_page import SuitePage, read_suite_page
from compatbench.tables.table import Column, Table, code, make_table, number, plain_table, records

NEIGHBOURS = 5
# What may predict a loss, by column of the geometry.
PREDICTORS = {
    "token_cosine": "token cosine",
    "text_cosine": "text cosine",
    "text_procrustes": "text Procrustes",
    "text_cka": "text CKA",
    "text_neighbours": "text neighbours",
    "image_procrustes": "image Procrustes",
    "image_cka": "image CKA",
    "image_neighbours": "image neighbours",
    "gap_change": "gap change",
    "zero_shot_gain": "zero-shot gain",
}
NO_LAW = (
    "what copied modules lose cannot be told: none of these figures was shown to predict it for "
    "another lineage (docs/laws.md)"
)


@dataclass(frozen=True)
class EmbeddingsReport(StudyReport):
    """The geometry of all tasks, and how it goes with what methods lose.

    Attributes:
        geometry: one row for each task, see ``measure_geometry``.
        predictions: see ``predict_losses``; empty without results.
        inherited: the share of the target's parameters that it has from the source.
        results: the folder that losses were looked for in.
    """

    geometry: pd.DataFrame
    predictions: pd.DataFrame
    inherited: float
    results: str = "results"

    def data(self) -> EmbeddingsReport:
        return self

    def tables(self) -> list[Table]:
        """The figures of every task, and how they go with losses, if those are known."""
        two = partial(frames.decimals, digits=2)
        columns = [Column(name, title, show=two) for name, title in PREDICTORS.items()]
        points = partial(frames.decimals, digits=1, sign="+")
        columns[-2:] = Column("gap", "gap"), replace(columns[-1], show=points)
        rows = [
            {**row, "gap": number(f"{row['source_gap']:.2f} → {row['target_gap']:.2f}")}
            for row in records(self.geometry.assign(task=self.geometry["task"].map(code)))
        ]
        notes = [f"of the target's parameters, {self.inherited:.0%} lie in tensors of the source"]
        notes.append(NO_LAW)
        if self.predictions.empty:
            missing = "holds no complete method for this upgrade; losses are left out"
            notes.append(f"{self.results} {missing}")
        task, half = Column("task", "Task", left=True), len(columns) // 2
        tables = [
            make_table([task, *columns[:half]], rows),
            make_table([task, *columns[half:]], rows, notes=notes),
        ]
        if not self.predictions.empty:
            rows = [
                [
                    PREDICTORS[row["measure"]],
                    frames.decimals(row["correlation"], 2, "+"),
                    interval_text(row, "correlation", "{:+.2f}".format),
                    f"{row['clear']} of {row['methods']}",
                ]
                for row in records(summarize_predictions(self.predictions))
            ]
            header = ["Figure", "ρ with the mean loss", "95 % interval", "Methods excluding 0"]
            tables.append(plain_table(header, rows))
        return tables

    figure = "embeddings"

    def shown(self) -> Shown | None:
        """Each figure's rank correlation with the loss: of the mean over methods, and of each."""
        if self.predictions.empty:
            return None
        each, whole = "each method", "mean loss"
        rows = []
        for known in records(self.predictions.dropna(subset="correlation")):
            row = {"figure": PREDICTORS[known["measure"]], "x": known["correlation"]}
            if not known["method"]:
                row |= {end: known[f"correlation_{end}"] for end in ("low", "high")}
            rows.append(row | {"series": each if known["method"] else whole})
        return Shown(rows, {"series": [each, whole]})


def analyze_embeddings(
    source: str, target: str, *, tasks: Names | None = None, **options: Unpack[StudyOptions]
) -> EmbeddingsReport:
    """Shows how the classes' embeddings have moved, and whether that predicts what methods lose.

    The loss of a method on a task is its gain over zero-shot on the source minus that on the
    target; it is correlated, by rank over tasks, with each figure.

    Args:
        source, target, tasks: as of ``analyze_layers``.
        options: ``suite``, ``device``, and ``out``, whose ``results/`` the losses are read from.

    Returns:
        A report: ``geometry`` has the figures of each task, ``predictions`` the rank correlations
        of each figure with each method's losses; it is empty without complete results.

    Raises:
        CompatbenchError: an unknown name, a broken results file, or missing images or weights.
    """
    study = Study(source, target, **options)
    models, cache = study.backbones, study.cache
    rows = []
    for task in study.load_tasks(tasks):
        before, after = (encode_task(each, task, cache) for each in models)
        figures = measure_geometry(before, after, label_tensor(task.split("test")))
        rows.append({"task": task.name, "classes": len(task.labels), **figures})
    geometry, page = pd.DataFrame(rows), read_suite_page(study.card, study.out)
    losses = predict_losses(page, geometry, (source, target))
    where = str(study.out / RESULTS / study.card.name)
    return EmbeddingsReport(geometry, losses, inherited_share(*models), where)


@dataclass(frozen=True)
class EncodedTask:
    """What a model makes of a task.

    Attributes:
        texts: unit features of the classes under the first template, ``[classes, e]``.
        images: unit features of the test images, ``[images, e]``.
        tokens: mean token embeddings of the class names, ``[classes, d]``.
    """

    texts: Tensor
    images: Tensor
    tokens: Tensor


def encode_task(backbone: Backbone, task: Task, cache: FeatureCache) -> EncodedTask:
    """What a model makes of a task's classes and test images."""
    texts = backbone.text_features(task.labels.fill())
    images = cache.features(backbone, task, list(task.split("test")))
    texts, images = (F.normalize(each.cpu(), dim=-1) for each in (texts, images))
    return EncodedTask(texts, images, mean_tokens(backbone, task.labels))


def mean_tokens(backbone: Backbone, labels: Labels) -> Tensor:
    """Return the mean token embedding of each class name, ``[C, D]``."""
    rows, lengths = backbone.name_tokens(labels)
    counts = torch.tensor(lengths, device=rows.device)
    inside = torch.arange(rows.shape[1], device=rows.device) < counts[:, None]
    return ((rows * inside[..., None]).sum(1) / counts[:, None]).cpu()


def measure_geometry(
    source: EncodedTask, target: EncodedTask, targets: Tensor
) -> dict[str, float | None]:
    """The figures of one task before and after an upgrade; None where one is not defined.

    Token figures are of the classes' mean token embeddings, text figures of the texts, image
    figures of the class means of the test images, whose classes are ``targets``, ``[images]``.

    Returns:
        ``*_cosine``: mean over classes of the cosine between old and new;
        ``*_procrustes``: what the best rotation and scale leave of the difference, 0 to 1;
        ``*_cka``: linear CKA over the classes; ``*_neighbours``: share of the nearest other
        classes that stay the same; ``source_gap``, ``target_gap``, ``gap_change``: distance of
        the means of normalised image and text features; ``zero_shot_gain``: of the target over
        the source, in points.
    """
    both = source, target
    # The mean of each class that has images, in label order.
    means = [
        torch.stack([each.images[targets == label].mean(0) for label in targets.unique()])
        for each in both
    ]
    row: dict[str, float | None] = {}
    row["token_cosine"] = similarity.mean_cosine(source.tokens, target.tokens)
    row["text_cosine"] = similarity.mean_cosine(source.texts, target.texts)
    for name, (old, new) in (("text", [each.texts for each in both]), ("image", means)):
        row[f"{name}_procrustes"] = fit_rotation(old, new).residual if len(old) > 1 else None
        row[f"{name}_cka"] = similarity.linear_cka(old, new)
        row[f"{name}_neighbours"] = similarity.neighbour_overlap(old, new, NEIGHBOURS)
    before, after = (similarity.modality_gap(each.images, each.texts) for each in both)
    row |= {"source_gap": before, "target_gap": after, "gap_change": after - before}
    right = [((each.images @ each.texts.T).argmax(1) == targets).double().mean() for each in both]
    return row | {"zero_shot_gain": 100 * float(right[1] - right[0])}


def predict_losses(page: SuitePage, geometry: pd.DataFrame, upgrade: Upgrade) -> pd.DataFrame:
    """Correlates every figure with every complete method's loss, and with the mean loss.

    The loss on a task is the gain on the source minus the gain on the target, each over
    the zero-shot of its own backbone: what the module is worth less after the upgrade.

    Returns:
        One row for each ``method`` (empty: the mean over methods) and ``measure``: number of
        ``tasks``, mean ``loss`` in points, and Spearman's ``correlation`` over tasks with an
        interval, if it is defined. No rows without the upgrade, or without a complete method.
    """
    known = geometry.loc[geometry["task"].isin(page.expected.tasks)]
    losses: dict[str, pd.Series] = {}
    if upgrade in page.expected.upgrades and len(known):
        for name, standing in page.by_name(upgrade, max(page.expected.shots)).items():
            if standing.is_measured and standing.info.depth != "none":
                before, after = (frames.task_means(standing, m) for m in ("source_gain", "gain"))
                losses[name] = (before - after)[known["task"]]
    if losses:
        losses = {"": sum(losses.values(), pd.Series(0.0, known["task"])) / len(losses), **losses}
    rows = []
    for (method, loss), measure in product(losses.items(), PREDICTORS):
        row = {"method": method, "measure": measure, "tasks": len(known)}
        row["loss"] = sum(loss) / len(loss)
        defined = known[measure].notna().all()
        interval = spearman_interval(known[measure], loss) if defined else None
        rows.append(row | interval_columns("correlation", interval))
    return pd.DataFrame(rows)


def summarize_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row for each figure: its correlation with the mean loss, and of all ``methods`` those
    that are ``clear``: whose own interval does not contain 0.
    """
    mean = predictions.loc[predictions["method"] == ""]
    each = predictions.loc[predictions["method"] != ""]
    sure = (each["correlation_low"] > 0) | (each["correlation_high"] < 0)
    clear = each.loc[sure, "measure"].value_counts()
    names = ["measure", "correlation", "correlation_low", "correlation_high"]
    counts = mean["measure"].map(clear).fillna(0).astype(int)
    return mean.loc[:, names].assign(clear=counts, methods=each["method"].nunique())
