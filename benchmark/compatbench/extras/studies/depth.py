"""Does depth decide? The same small module at each depth of the text tower (claim 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import pandas as pd
from typing_extensions import Unpack

from compatbench.backbone import Backbone
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.extras.studies import depth_probe, frames
from compatbench.extras.studies.depth_probe import RATES, DepthProbe
from compatbench.extras.studies.frames import Row, StudyReport, spearman_interval
from compatbench.extras.studies.study import Fit, Names, Study, StudyOptions
from compatbench.harmonic_mean import harmonic_mean
from compatbench.method.registry import MethodRegistry
from compatbench.results.estimate import FEWEST_UNITS, Interval, estimate, interval_columns
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.numbers import signed, with_interval
from compatbench.tables.table import Table, code, join, plain_table, records, sentence

KINDS = ("bias", "map")
MEASURES = ("source", "target", "h", "source_gain", "target_gain")
TRENDS = {"source_gain": "gain on the source", "target_gain": "gain on the target", "h": "H"}
_LINES = {"source_gain": "source", "target_gain": "target, same module"}
FOLDER = "depth"  # below runs/: these cells are no part of a suite


@dataclass(frozen=True)
class DepthReport(StudyReport):
    """Accuracy and gain of the module at each depth, in percent and points.

    Attributes:
        points: one row for each ``kind`` and ``depth``: ``place`` (``input``, ``block 1`` ...,
            ``output``), ``parameters``; mean and standard deviation over seeds of ``source``,
            ``target``, ``h``, and of the gains over the backbone's own zero-shot accuracy,
            ``source_gain`` and ``target_gain``; the learning ``rates`` that the fits chose.
        trends: one row for each ``kind`` and ``measure``: how many ``tasks``; ``correlation``,
            the mean over tasks and seeds of Spearman's correlation of measure and depth, with an
            interval over tasks, if they are enough for one; ``trend`` in words.
    """

    source: str
    target: str
    tasks: tuple[str, ...]
    shots: int
    seeds: tuple[int, ...]
    max_steps: int | None
    points: pd.DataFrame
    trends: pd.DataFrame

    def tables(self) -> list[Table]:
        """All places, and the trends."""
        rows = [
            [
                *(row["kind"], row["place"], f"{row['parameters']:,}"),
                *(frames.spread(row, name) for name in ("source", "target", "h")),
                *(signed(row[name]) for name in ("source_gain", "target_gain")),
            ]
            for row in records(self.points)
        ]
        tasks = join(map(code, self.tasks), ", ")
        head = sentence(
            *(code(self.source), " → ", code(self.target), ": ", tasks),
            f"; {self.shots} shots, mean ± std over {len(self.seeds)} seeds, at most "
            f"{self.max_steps} steps.",
        )
        notes = [
            f"{row['kind']}, {TRENDS[row['measure']]}: {row['trend']}; ρ = "
            f"{with_interval(row, 'correlation', '{:+.2f}'.format)}"
            for row in records(self.trends)
        ]
        header = ["Module", "Place", "Parameters", "Source", "Target", "H"]
        header += ["Source gain", "Target gain"]
        return [plain_table(header, rows, (0, 1), head, notes)]

    figure = "depth"

    def shown(self) -> Shown:
        """Gain on source and target against the depth of the module."""
        rows, places = list[Row](), 0
        for _, points in self.points.groupby("kind", sort=False):
            along = records(points)
            places, title = len(along), f"{along[0]['kind']}, {along[0]['parameters']:,} parameters"
            rows += [
                {"panel": title, **mean}
                for column, series in _LINES.items()
                for mean in frames.mean_points(along, column, series)
            ]
        heading = f"{self.source} → {self.target}, {self.shots} shots"
        signals = {"heading": heading, "series": [*_LINES.values()], **frames.layer_axis(places)}
        return Shown(rows, signals)


def analyze_depth(
    source: str,
    target: str,
    tasks: Names | None = None,
    *,
    shots: int | None = None,
    seeds: Sequence[int] | None = None,
    steps: int = 100,
    rates: Sequence[float] = RATES,
    **options: Unpack[StudyOptions],
) -> DepthReport:
    """Fits the same small module at each depth of the text tower, and carries it over.

    A bias, and a low-rank map, are inserted before the first block, after each block, and after
    the last norm; each is fitted on the source and attached untouched to the target. Finished fits
    are kept and not run again.

    Args:
        source, target: as of ``analyze_layers``.
        tasks: tasks that modules are fitted on: names, globs, comma lists.
        shots: images per class; by default the suite's most.
        seeds: seeds, such as ``1,2``; by default the suite's.
        steps: most optimiser steps of a fit.
        rates: learning rates, of which each fit chooses on its few-shot validation images.
        options: ``suite``, ``device``, ``jobs`` (worker processes), ``out``, whose
            ``runs/depth/`` keeps the fits, and ``on_start`` and ``on_event`` as in ``run``.

    Returns:
        A report: ``rows`` is a frame with a row per kind of module and depth.

    Raises:
        CompatbenchError: an unknown name, towers of different sizes, or a fit that failed.
    """
    study = Study(source, target, **options)
    depths, name = range(count_depths(*study.backbones)), DepthProbe.card.name
    configs = {
        f"{kind}-{depth}": {"method": name, "kind": kind, "depth": depth, "rates": tuple(rates)}
        for kind, depth in product(KINDS, depths)
    }
    training = study.card.training.model_copy(update={"max_steps": steps})
    changes = {"methods": configs, "training": training}
    registry = MethodRegistry({name: DepthProbe})
    matrix = study.matrix(registry, list(configs), tasks, shots, seeds, changes)
    cells = [replace(cell, plugin=depth_probe.__file__) for cell in matrix.cells()]
    return read_depth(study.fit(matrix, cells, RunStore(study.out / "runs" / FOLDER)))


def count_depths(source: Backbone, target: Backbone) -> int:
    """Places for a module: one before each block, and two behind the last.

    Raises:
        CompatbenchError: no module can be carried from every place of the one text tower to the
            same place of the other.
    """
    sizes = [(model.text.depth, model.token_width) for model in (source, target)]
    if sizes[0] != sizes[1]:
        (blocks, width), (others, other) = sizes
        raise CompatbenchError(
            f"the text tower of '{source.name}' has {blocks} blocks of width {width}, that of "
            f"'{target.name}' {others} of width {other}: a module of one has no place in the "
            "other; give two backbones of one size"
        )
    return source.text.depth + 2


def read_depth(fits: Sequence[Fit]) -> DepthReport:
    """The report of all fits of a study; an error if one was not measured, for a mean over the
    others would mislead.
    """
    frame = pd.DataFrame([_measured(fit) for fit in fits])
    cell, last = fits[0].cell, frame["depth"].max()
    points = []
    for names, group in frame.groupby(["kind", "depth"]):
        kind, depth = tuple(names)  # type: ignore[arg-type]
        place = {0: "input", last: "output"}.get(depth, f"block {depth}")
        point: Row = {"kind": kind, "depth": depth, "place": place}
        point["parameters"] = int(group["parameters"].iloc[0])
        for measure in MEASURES:
            point |= frames.seed_means(group, measure)
        points.append(point | {"rates": tuple(sorted(set(group["rate"])))})
    trends = [
        {"kind": kind, **_trend(of_kind, measure)}
        for kind, of_kind in frame.groupby("kind")
        for measure in TRENDS
    ]
    source, target = cell.backbones
    return DepthReport(
        source,
        target,
        tuple(frame["task"].unique()),
        cell.shots,
        tuple(frame["seed"].unique()),
        cell.training.max_steps,
        pd.DataFrame(points),
        pd.DataFrame(trends),
    )


def _measured(fit: Fit) -> Row:
    """One fit on source and target, in percent and points."""
    cell, row = fit.cell, Row()
    for side, backbone in zip(("source", "target"), cell.backbones, strict=True):
        places = [
            each for each in fit.rows if (each.backbone, each.test_set) == (backbone, cell.task)
        ]
        measured = places[0].model_dump() if places else {"correct": None, "reason": ""}
        if measured["correct"] is None:
            why = f": {measured['reason']}" if measured["reason"] else ""
            raise CompatbenchError(f"{cell} was not measured on {backbone}{why}")
        right = measured["correct"], measured["correct"] - measured["zero_shot_correct"]
        row[side], row[f"{side}_gain"] = (100 * number / measured["total"] for number in right)
    row |= {"task": cell.task, "seed": cell.seed, "rate": float(fit.module["rate"])}
    row |= {"kind": cell.config["kind"], "depth": cell.config["depth"]}
    row["parameters"] = fit.rows[0].parameters
    return row | {"h": harmonic_mean(row["source"], row["target"])}


def _trend(fits: pd.DataFrame, measure: str) -> Row:
    curves = fits.pivot(index="depth", columns=["task", "seed"], values=measure)
    known = [spearman_interval(curves.index, curves[curve]) for curve in curves]
    # A figure that is the same at every depth has no trend.
    correlations = pd.DataFrame({"correlation": [each.value if each else 0.0 for each in known]})
    tasks = curves.columns.get_level_values("task")
    interval = estimate(correlations.assign(task=tasks), by="task")
    assert interval is not None
    words = {1: "rises with depth", -1: "falls with depth", 0: "no clear trend"}[interval.sign]
    if not interval.decides:
        words, interval = f"{FEWEST_UNITS} tasks are needed to tell", Interval(interval.value)
    row = {"measure": measure, "tasks": tasks.nunique()}
    return row | interval_columns("correlation", interval) | {"trend": words}
