"""How class tokens and text features have moved, and whether that predicts what methods lose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from compatbench.backbone import Backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.labels import Labels
from compatbench.data.task import Task
from compatbench.pages.figures.svg import BLUE, GREY, SKY
from compatbench.pages.markdown import code
from compatbench.pages.suite_page import SuitePage, read_suite_page
from compatbench.results.bootstrap import spearman_interval
from compatbench.results.measures import Upgrade
from compatbench.studies.similarity import (
    linear_cka,
    mean_cosine,
    modality_gap,
    neighbour_overlap,
    procrustes_residual,
)
from compatbench.studies.study import Names, Study, StudyOptions
from compatbench.studies.study_report import (
    StudyReport,
    TextTable,
    correlation,
    decimals,
    interval_columns,
    interval_text,
    legend_above,
    new_figure,
    records,
    task_means,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
}


@dataclass(frozen=True)
class EmbeddingsReport(StudyReport):
    """The geometry of all tasks, and how it goes with what methods lose.

    Attributes:
        geometry: one row for each task, see ``measure_geometry``.
        predictions: see ``predict_losses``; empty without results.
    """

    geometry: pd.DataFrame
    predictions: pd.DataFrame

    def tables(self) -> list[TextTable]:
        """The figures of every task; and, if there are results, how they go with the losses."""
        names = [name for name in PREDICTORS if name != "gap_change"]
        rows = [
            [
                one["task"],
                *[decimals(one[name], 2) for name in names],
                f"{one['source_gap']:.2f} → {one['target_gap']:.2f}",
            ]
            for one in records(self.geometry)
        ]
        header = ["Task", *[PREDICTORS[name] for name in names], "gap"]
        tables = [TextTable(header, rows, markup={0: code})]
        if not self.predictions.empty:
            rows = [
                [
                    PREDICTORS[one["measure"]],
                    decimals(one["correlation"], 2, "+"),
                    interval_text(one, "correlation", correlation),
                    f"{one['clear']} of {one['methods']}",
                ]
                for one in records(summarize_predictions(self.predictions))
            ]
            header = ["Figure", "ρ with the mean loss", "95 % interval", "Methods off 0"]
            tables.append(TextTable(header, rows))
        return tables

    def draw(self) -> Figure | None:
        """Each figure's rank correlation with the loss: of the mean over methods, and of each."""
        if self.predictions.empty:
            return None
        figure = new_figure(7, 3.6)
        axes = figure.subplots()
        axes.axvline(0, color=GREY, linewidth=1)
        of_methods = [one for one in records(self.predictions) if one["method"]]
        summaries = records(summarize_predictions(self.predictions))[::-1]
        for row, one in enumerate(summaries):
            each = [m["correlation"] for m in of_methods if m["measure"] == one["measure"]]
            each = [value for value in each if value is not None]
            axes.plot(each, [row - 0.25] * len(each), "|", color=SKY, label="each method")
            if (mean := one["correlation"]) is not None:
                error = [[mean - one["correlation_low"]], [one["correlation_high"] - mean]]
                style = {"fmt": "o", "color": BLUE, "capsize": 3, "label": "mean loss"}
                axes.errorbar(mean, row, xerr=error, **style)
        axes.set_yticks(range(len(summaries)), [PREDICTORS[one["measure"]] for one in summaries])
        axes.set_xlim(-1.05, 1.05)
        axes.set_xlabel("rank correlation with the loss, over tasks")
        legend_above(figure, axes, columns=2)
        return figure


def analyze_embeddings(
    source: str, target: str, *, tasks: Names | None = None, **options: Unpack[StudyOptions]
) -> EmbeddingsReport:
    """How the classes' embeddings have moved, and whether that predicts what methods lose.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        tasks: all of the suite by default.
        options: ``suite``, ``device``, and ``out``, whose ``results/`` the losses are read from.

    Returns:
        A report: ``geometry`` has the figures of each task, ``predictions`` the rank correlations
        of each figure with each method's losses; it is empty without complete results.

    Raises:
        CompatbenchError: an unknown name, a broken results file, or missing images or weights.
    """
    study = Study(source, target, **options)
    both, cache = study.backbones, study.cache
    rows = [measure_geometry(*both, task, cache) for task in study.load_tasks(tasks)]
    geometry, page = pd.DataFrame(rows), read_suite_page(study.card, Path(study.out))
    return EmbeddingsReport(geometry, predict_losses(page, geometry, (source, target)))


def measure_geometry(
    source: Backbone, target: Backbone, task: Task, cache: FeatureCache
) -> dict[str, str | float | None]:
    """The figures of one task before and after an upgrade; None where one is not defined.

    Token figures are of the classes' mean token embeddings, text figures of the text
    features of the task's first template, image figures of the test images' class means.

    Returns:
        ``task``, ``classes``; ``token_cosine``, ``text_cosine``: mean over classes of the
        cosine between old and new, if the widths are equal; ``*_procrustes``: what the best
        rotation and scale leave of the difference, 0 to 1; ``*_cka``: linear CKA over the
        classes; ``*_neighbours``: share of the nearest other classes that stay the same;
        ``source_gap``, ``target_gap``: distance of the means of normalised image and text
        features; ``gap_change``.

    Raises:
        CompatbenchError: a prompt too long for a text tower, or images that cannot be read.
    """
    labels, models, samples = task.labels, (source, target), list(task.split("test"))
    texts = [F.normalize(one.text_features(labels.fill()).cpu(), dim=-1) for one in models]
    images = [F.normalize(cache.features(one, task, samples).cpu(), dim=-1) for one in models]
    targets = torch.tensor([sample.label for sample in samples])
    # The mean of each class that has images, in label order.
    means = [
        torch.stack([features[targets == label].mean(0) for label in targets.unique()])
        for features in images
    ]
    row: dict[str, str | float | None] = {"task": task.name, "classes": len(labels)}
    row["token_cosine"] = mean_cosine(*(mean_tokens(one, labels) for one in models))
    row["text_cosine"] = mean_cosine(*texts)
    for name, both in (("text", texts), ("image", means)):
        row[f"{name}_procrustes"] = procrustes_residual(*both)
        row[f"{name}_cka"] = linear_cka(*both)
        row[f"{name}_neighbours"] = neighbour_overlap(*both, NEIGHBOURS)
    before, after = map(modality_gap, images, texts)
    return row | {"source_gap": before, "target_gap": after, "gap_change": after - before}


def mean_tokens(backbone: Backbone, labels: Labels) -> Tensor:
    """The mean token embedding of each class name, ``[C, D]``."""
    rows, lengths = backbone.name_tokens(labels)
    counts = torch.tensor(lengths, device=rows.device)
    inside = torch.arange(rows.shape[1], device=rows.device) < counts[:, None]
    return ((rows * inside[..., None]).sum(1) / counts[:, None]).cpu()


def predict_losses(page: SuitePage, geometry: pd.DataFrame, upgrade: Upgrade) -> pd.DataFrame:
    """Correlates every figure with every complete method's loss, and with the mean loss.

    The loss on a task is the gain on the source minus the gain on the target, each over
    the zero-shot of its own backbone: what the module is worth less after the upgrade.

    Returns:
        One row for each ``method`` (empty: the mean over methods) and ``measure``: number of
        ``tasks``, mean ``loss`` in points, and Spearman's ``correlation`` over tasks with an
        interval, missing if it is not defined. No rows if the suite has no such upgrade, or no
        complete method.
    """
    known = geometry.loc[geometry["task"].isin(page.expected.tasks)]
    losses: dict[str, list[float]] = {}
    if upgrade in page.expected.upgrades and len(known):
        for ranked in page.ranks(upgrade, max(page.expected.shots)):
            standing = ranked.standing
            if standing.state == "complete" and standing.info.depth != "none":
                lost = task_means(standing, "source_gain") - task_means(standing, "gain")
                losses[standing.info.name] = lost[known["task"]].tolist()
    if losses:
        columns = zip(*losses.values(), strict=True)
        losses = {"": [sum(column) / len(losses) for column in columns], **losses}
    rows = []
    for method, values in losses.items():
        loss = sum(values) / len(values)
        for measure in PREDICTORS:
            figures = known[measure]
            found = None if figures.isna().any() else spearman_interval(figures, values)
            row = {"method": method, "measure": measure, "tasks": len(known), "loss": loss}
            rows.append(row | interval_columns("correlation", found))
    return pd.DataFrame(rows)


def summarize_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row for each figure: its correlation with the mean loss, and with each method's.

    Returns:
        ``measure``, ``correlation`` with an interval; ``clear``, the methods whose interval does
        not contain 0, of all ``methods``.
    """
    mean = predictions.loc[predictions["method"] == ""]
    each = predictions.loc[predictions["method"] != ""]
    sure = (each["correlation_low"] > 0) | (each["correlation_high"] < 0)
    clear = each.loc[sure, "measure"].value_counts()
    names = ["measure", "correlation", "correlation_low", "correlation_high"]
    counts = mean["measure"].map(clear).fillna(0).astype(int)
    return mean.loc[:, names].assign(clear=counts, methods=each["method"].nunique())
