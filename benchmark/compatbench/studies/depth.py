"""Does depth decide? The same small module at each depth of the text tower (claim 2).

It is fitted on the source and attached, untouched, to the target, through the same cells,
store and workers as any method of the benchmark; finished cells are not run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from compatbench.backbone import Backbone
from compatbench.data.cards import SuiteCard
from compatbench.engine.cell import Cell
from compatbench.engine.keys import data_key
from compatbench.engine.plan import plan_cells
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method.registry import MethodRegistry
from compatbench.pages.figures.svg import BLUE, GREY, RED
from compatbench.pages.markdown import code, signed
from compatbench.results.bootstrap import mean_interval, spearman_interval
from compatbench.results.measures import harmonic_mean, mean_over_seeds
from compatbench.studies import depth_probe
from compatbench.studies.depth_probe import DepthProbe
from compatbench.studies.study_report import (
    StudyReport,
    TextTable,
    correlation,
    interval_columns,
    mean_columns,
    name_layers,
    new_figure,
    plot_means,
    records,
    spread,
    with_interval,
)
from compatbench.studies.study_setup import Names, StudySetup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("bias", "map")
MEASURES = ("source", "target", "h", "source_gain", "target_gain")
TRENDS = {"source_gain": "gain on the source", "target_gain": "gain on the target", "h": "H"}
_LINES = {
    "source_gain": {"color": BLUE, "fmt": "o-", "label": "source"},
    "target_gain": {"color": RED, "fmt": "s--", "label": "target, same module"},
}
LEAST_CURVES = 5  # with fewer, a bootstrap interval says nothing
FOLDER = "depth"  # below runs/: these cells are no part of a suite


@dataclass(frozen=True)
class DepthReport(StudyReport):
    """Accuracy and gain of the module at each depth, in percent and points.

    Attributes:
        points: one row for each kind and place: ``kind``, ``depth``, ``place`` (``input``,
            ``block 1`` ..., ``output``), ``parameters``; mean and standard deviation over seeds
            of ``source``, ``target``, ``h``, ``source_gain`` and ``target_gain``, the gains over
            the zero-shot accuracy of the same backbone; ``rates``, the learning rates that the
            fits chose, smallest first.
        trends: one row for each ``kind`` and ``measure``: ``curves``, one for each task and seed;
            ``correlation``, the mean over the curves of Spearman's correlation of measure and
            depth, with an interval over the curves; ``trend`` in words.
    """

    source: str
    target: str
    tasks: tuple[str, ...]
    shots: int
    seeds: tuple[int, ...]
    max_steps: int | None
    points: pd.DataFrame
    trends: pd.DataFrame

    def tables(self) -> list[TextTable]:
        """All places, and the trends."""
        rows = [
            [
                one["kind"],
                one["place"],
                f"{one['parameters']:,}",
                *[spread(one, name) for name in ("source", "target", "h")],
                signed(one["source_gain"]),
                signed(one["target_gain"]),
            ]
            for one in records(self.points)
        ]
        head = (
            f"{code(self.source)} → {code(self.target)}: {', '.join(map(code, self.tasks))}; "
            f"{self.shots} shots, mean ± std over {len(self.seeds)} seeds, at most "
            f"{self.max_steps} steps."
        )
        notes = [
            f"{one['kind']}, {TRENDS[one['measure']]}: {one['trend']}; ρ = "
            f"{with_interval(one, 'correlation', correlation)}"
            for one in records(self.trends)
        ]
        header = ["Module", "Place", "Parameters", "Source", "Target", "H"]
        header += ["Source gain", "Target gain"]
        return [TextTable(header, rows, head, notes, left=(0, 1))]

    def draw(self) -> Figure:
        """Gain on source and target against the depth of the module."""
        figure = new_figure(9, 3.4)
        panels = figure.subplots(1, len(KINDS), sharey=True)
        for axes, kind in zip(panels, KINDS, strict=True):
            points = [one for one in records(self.points) if one["kind"] == kind]
            axes.axhline(0, color=GREY, linewidth=1)
            for column, style in _LINES.items():
                plot_means(axes, range(len(points)), points, column, **style)
            axes.set_title(f"{kind}, {points[0]['parameters']:,} parameters")
            axes.set_xlabel("depth in the text tower")
            name_layers(axes, len(points))
        panels[0].set_ylabel("gain over zero-shot, points")
        panels[-1].legend()
        figure.suptitle(f"{self.source} → {self.target}, {self.shots} shots", fontsize=10)
        return figure


def study_depth(
    setup: StudySetup,
    tasks: Names | None = None,
    shots: int | None = None,
    seeds: Sequence[int] | None = None,
    steps: int = 100,
    rates: Sequence[float] = depth_probe.RATES,
) -> DepthReport:
    """Fits and measures what is not in ``runs/depth`` yet, and reads the report.

    Args:
        tasks: names and globs of tasks that have training images; by default the suite's.
        shots, seeds: by default the suite's largest number of shots, and its seeds.
        steps: most optimiser steps of a fit.
        rates: learning rates, of which each fit chooses on its validation images.

    Raises:
        CompatbenchError: an unknown name, backbones that do not fit each other, a store that
            cannot be written, or cells that failed.
    """
    setup.require_upgrade()
    training = setup.suite.training.model_copy(update={"max_steps": steps})
    changes = {"tasks": tuple(setup.training_tasks(tasks)), "training": training}
    suite = setup.suite.model_copy(update=changes)
    shots, seeds = shots or max(suite.shots), seeds or suite.seeds
    cells = plan_depth(*setup.backbones, suite, shots, seeds, rates)
    store = RunStore(setup.out / "runs" / FOLDER)
    setup.run(cells, store)
    return read_depth(cells, store)


def plan_depth(
    source: Backbone,
    target: Backbone,
    suite: SuiteCard,
    shots: int,
    seeds: Sequence[int],
    rates: Sequence[float] = depth_probe.RATES,
) -> list[Cell]:
    """The cells of two backbones: tasks × seeds × kinds × depths.

    The depths are one before each block, and two behind the last.

    Raises:
        CompatbenchError: their text towers differ in width or depth, so that no module can
            be carried from every place of the one to the same place of the other.
    """
    for what, sizes in (
        ("width", (source.token_width, target.token_width)),
        ("number of blocks", (source.text.depth, target.text.depth)),
    ):
        if sizes[0] != sizes[1]:
            raise CompatbenchError(
                f"the text towers of '{source.name}' and '{target.name}' differ in {what} "
                f"({sizes[0]} and {sizes[1]}): a module of one has no place in the other; "
                "give two backbones of one size"
            )
    name = DepthProbe.card.name
    configs = {
        f"{kind}-{depth}": {"method": name, "kind": kind, "depth": depth, "rates": tuple(rates)}
        for kind in KINDS
        for depth in range(source.text.depth + 2)
    }
    upgrade = source.name, target.name
    changes = {"upgrades": (upgrade,), "variants": (), "retrained": False, "methods": configs}
    registry = MethodRegistry({name: DepthProbe})
    suite = suite.model_copy(update=changes)
    planned = plan_cells(suite, registry, list(configs), seeds=seeds, shots=[shots])
    return [replace(cell, plugin=depth_probe.__file__) for cell in planned]


def read_depth(cells: Sequence[Cell], store: RunStore) -> DepthReport:
    """The report of finished cells.

    Raises:
        CompatbenchError: a cell is missing or failed; a mean over the others would mislead.
    """
    fits = pd.DataFrame([_read_fit(cell, store) for cell in cells])
    points, trends = [], []
    for kind, of_kind in fits.groupby("kind"):
        points += [
            _point(of_place, fits["depth"].max()) for _, of_place in of_kind.groupby("depth")
        ]
        trends += [_trend(of_kind, str(kind), measure) for measure in TRENDS]
    source, target = cells[0].backbones
    return DepthReport(
        source,
        target,
        tuple(fits["task"].unique()),
        cells[0].shots,
        tuple(fits["seed"].unique()),
        cells[0].training.max_steps,
        pd.DataFrame(points),
        pd.DataFrame(trends),
    )


def _read_fit(cell: Cell, store: RunStore) -> dict[str, Any]:
    """One fit on source and target, in percent and points."""
    done, depth = store.read(cell.key), cell.config["depth"]
    if done is None or done.status != "ok":
        why = f": {done.error}" if done else ""
        raise CompatbenchError(f"{cell} at depth {depth} has no result{why}")
    row: dict[str, Any] = {"kind": cell.config["kind"], "depth": depth, "task": cell.task}
    row |= {"seed": cell.seed, "parameters": done.parameters}
    for side, backbone in zip(("source", "target"), cell.backbones, strict=True):
        record = done.find(backbone, cell.task, data_key(backbone, cell.task))
        if record is None or record.status != "ok":
            why = f": {record.reason}" if record else ""
            raise CompatbenchError(f"{cell} at depth {depth} was not measured on {backbone}{why}")
        correct, zero_shot, total = record.correct, record.zero_shot_correct, record.total
        assert correct is not None
        assert zero_shot is not None
        assert total
        row |= {side: 100 * correct / total, f"{side}_gain": 100 * (correct - zero_shot) / total}
    module = store.read_module(done)
    if module is None:
        raise CompatbenchError(f"{cell} at depth {depth} has lost its module")
    return row | {"h": harmonic_mean(row["source"], row["target"]), "rate": float(module["rate"])}


def _point(fits: pd.DataFrame, last: int) -> dict[str, Any]:
    """The fits of one kind at one depth, as a row of the report."""
    first = records(fits)[0]
    depth = first["depth"]
    row = {
        "kind": first["kind"],
        "depth": depth,
        "place": {0: "input", last: "output"}.get(depth, f"block {depth}"),
        "parameters": first["parameters"],
    }
    for measure in MEASURES:
        by_seed = fits.pivot(index="seed", columns="task", values=measure)
        row |= mean_columns(measure, mean_over_seeds(by_seed.to_numpy().tolist()))
    return row | {"rates": tuple(sorted(set(fits["rate"])))}


def _trend(fits: pd.DataFrame, kind: str, measure: str) -> dict[str, Any]:
    curves = fits.pivot(index="depth", columns=["seed", "task"], values=measure)
    # A figure that is the same at every depth has no trend.
    found = [spearman_interval(curves.index, curves[curve]) for curve in curves]
    interval = mean_interval([one.value if one else 0.0 for one in found])
    words = {1: "rises with depth", -1: "falls with depth", 0: "no clear trend"}[interval.sign]
    if len(found) < LEAST_CURVES:
        words = f"too few curves to tell; {LEAST_CURVES} are needed"
    row = {"kind": kind, "measure": measure, "curves": len(found)}
    return row | interval_columns("correlation", interval) | {"trend": words}
