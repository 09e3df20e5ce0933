"""Does depth decide? The same small module at each depth of the text tower (claim 2).

It is fitted on the source and attached, untouched, to the target, through the same cells,
store and workers as any method of the benchmark; finished cells are not run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compatbench.backbone import Backbone
from compatbench.data.cards import TrainingCard
from compatbench.engine.cell import Cell, CellRecord, Record
from compatbench.engine.keys import cell_key, data_key
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method.identity import method_identity
from compatbench.results.bootstrap import Interval, mean_interval, spearman_interval
from compatbench.results.measures import Mean, harmonic_mean, mean_over_seeds
from compatbench.studies import depth_probe
from compatbench.studies.depth_probe import DepthProbe

Kind = Literal["bias", "map"]
KINDS: tuple[Kind, ...] = ("bias", "map")
LEAST_CURVES = 5  # below, a bootstrap's interval is not worth its name
FOLDER = "depth"  # below runs/: these cells are no part of a suite


@dataclass(frozen=True)
class DepthPlan:
    """What is fitted: kinds × depths × tasks × seeds.

    Attributes:
        depths: number of places: one before each block, and two behind the last.
        rates: learning rates to choose from; one is no choice.
    """

    source: str
    target: str
    depths: int
    tasks: tuple[str, ...]
    shots: int
    seeds: tuple[int, ...]
    training: TrainingCard
    rates: tuple[float, ...] = depth_probe.RATES
    rank: int = 2

    def cells(self) -> list[Cell]:
        """The cells, those of one task and seed together."""
        return [
            self.cell(kind, depth, task, seed)
            for task in self.tasks
            for seed in self.seeds
            for kind in KINDS
            for depth in range(self.depths)
        ]

    def cell(self, kind: Kind, depth: int, task: str, seed: int) -> Cell:
        """One fit, measured on source and target."""
        config = DepthProbe.Config(
            kind=kind,
            depth=depth,
            rank=self.rank,
            rates=self.rates,
            max_steps=self.training.max_steps,
        ).model_dump(mode="json")
        name = DepthProbe.card.name
        training = self.training.model_dump(mode="json", exclude={"max_steps"})
        return Cell(
            key=cell_key(
                method_identity(DepthProbe), config, self.source, task, self.shots, seed, training
            ),
            method=name,
            config=config,
            task=task,
            shots=self.shots,
            seed=seed,
            backbones=(self.source, self.target),
            test_sets=(task,),
            training=self.training,
            plugin=depth_probe.__file__,
        )


@dataclass(frozen=True)
class DepthPoint:
    """A kind of module at one depth; all figures in percent or points, mean and std over seeds.

    Attributes:
        place: ``input``, ``block 1`` ..., ``output``.
        source_gain, target_gain: over the zero-shot accuracy of the same backbone.
        rates: the learning rates that the fits chose, smallest first.
    """

    kind: Kind
    depth: int
    place: str
    parameters: int
    source: Mean
    target: Mean
    h: Mean
    source_gain: Mean
    target_gain: Mean
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Trend:
    """Whether a figure falls or rises with depth.

    Attributes:
        correlation: mean over curves of Spearman's correlation of figure and depth, with an
            interval over the curves.
        curves: how many there are, one for each task and seed.
    """

    kind: Kind
    measure: Literal["source_gain", "target_gain", "h"]
    correlation: Interval
    curves: int

    @property
    def words(self) -> str:
        """Rises, falls, or neither; of fewer curves than ``LEAST_CURVES`` nothing is said."""
        if self.curves < LEAST_CURVES:
            return f"too few curves to tell; {LEAST_CURVES} are needed"
        words = {1: "rises with depth", -1: "falls with depth", 0: "no clear trend"}
        return words[self.correlation.sign]


@dataclass(frozen=True)
class DepthReport:
    """What the probes show."""

    plan: DepthPlan
    points: tuple[DepthPoint, ...]
    trends: tuple[Trend, ...]


def plan_depth(
    source: Backbone,
    target: Backbone,
    tasks: Sequence[str],
    shots: int,
    seeds: Sequence[int],
    training: TrainingCard,
    rates: Sequence[float] = depth_probe.RATES,
) -> DepthPlan:
    """The plan for two backbones.

    Raises:
        CompatbenchError: their text towers differ in width or depth, so that no module can
            be carried from every place of the one to the same place of the other.
    """
    for what, of in (("width", "token_width"), ("number of blocks", "depth")):
        sizes = [getattr(b if of == "token_width" else b.text, of) for b in (source, target)]
        if sizes[0] != sizes[1]:
            raise CompatbenchError(
                f"the text towers of '{source.name}' and '{target.name}' differ in {what} "
                f"({sizes[0]} and {sizes[1]}): a module of one has no place in the other; "
                "give two backbones of one size"
            )
    return DepthPlan(
        source.name,
        target.name,
        source.text.depth + 2,
        tuple(tasks),
        shots,
        tuple(seeds),
        training,
        tuple(rates),
    )


def read_depth(plan: DepthPlan, store: RunStore) -> DepthReport:
    """The report of finished cells.

    Raises:
        CompatbenchError: a cell is missing or failed; a mean over the others would mislead.
    """
    points, trends = [], []
    for kind in KINDS:
        tables: dict[str, list[list[list[float]]]] = {"source_gain": [], "target_gain": [], "h": []}
        for depth in range(plan.depths):
            point, values = _read_point(plan, store, kind, depth)
            points.append(point)
            for measure, table in tables.items():
                table.append(values[measure])
        trends += [_trend(kind, measure, table) for measure, table in tables.items()]
    return DepthReport(plan, tuple(points), tuple(trends))


def _read_point(
    plan: DepthPlan, store: RunStore, kind: Kind, depth: int
) -> tuple[DepthPoint, dict[str, list[list[float]]]]:
    """A point, and its figures before they are averaged: measure -> ``[seeds, tasks]``."""
    cells = [[plan.cell(kind, depth, task, seed) for task in plan.tasks] for seed in plan.seeds]
    pairs = [[_pair(cell, store) for cell in row] for row in cells]
    values: dict[str, list[list[float]]] = {
        "source": [[s.accuracy for s, _ in row] for row in pairs],
        "target": [[t.accuracy for _, t in row] for row in pairs],
        "h": [[harmonic_mean(s.accuracy, t.accuracy) for s, t in row] for row in pairs],
        "source_gain": [[s.gain for s, _ in row] for row in pairs],
        "target_gain": [[t.gain for _, t in row] for row in pairs],
    }
    means = {name: mean_over_seeds(rows) for name, rows in values.items()}
    records = [store.read(cell.key) for row in cells for cell in row]
    rates = [float(store.read_module(one)["rate"]) for one in records]  # type: ignore[arg-type, index]
    blocks = plan.depths - 2
    place = "input" if depth == 0 else "output" if depth > blocks else f"block {depth}"
    point = DepthPoint(
        kind=kind,
        depth=depth,
        place=place,
        parameters=records[0].parameters,  # type: ignore[union-attr]
        rates=tuple(sorted(set(rates))),
        **means,  # type: ignore[arg-type]
    )
    return point, values


@dataclass(frozen=True)
class _Measured:
    accuracy: float
    gain: float


def _pair(cell: Cell, store: RunStore) -> tuple[_Measured, _Measured]:
    done: CellRecord | None = store.read(cell.key)
    if done is None or done.status != "ok":
        why = f": {done.error}" if done else ""
        raise CompatbenchError(f"{cell} at depth {cell.config['depth']} has no result{why}")
    found = []
    for backbone in cell.backbones:
        record = done.find(backbone, cell.task, data_key(backbone, cell.task))
        if record is None or record.status != "ok":
            why = f": {record.reason}" if record else ""
            raise CompatbenchError(
                f"{cell} at depth {cell.config['depth']} was not measured on {backbone}{why}"
            )
        found.append(_measured(record))
    return found[0], found[1]


def _measured(record: Record) -> _Measured:
    assert record.correct is not None
    assert record.zero_shot_correct is not None
    assert record.total
    correct, zero_shot = record.correct, record.zero_shot_correct
    return _Measured(100 * correct / record.total, 100 * (correct - zero_shot) / record.total)


def _trend(kind: Kind, measure: str, table: Sequence[Sequence[Sequence[float]]]) -> Trend:
    """The trend of a measure, ``[depths, seeds, tasks]``."""
    seeds, tasks = range(len(table[0])), range(len(table[0][0]))
    curves = [[at[seed][task] for at in table] for seed in seeds for task in tasks]
    # A figure that is the same at every depth has no trend.
    found = [spearman_interval(range(len(table)), curve) for curve in curves]
    correlation = mean_interval([one.value if one else 0.0 for one in found])
    return Trend(kind, measure, correlation, len(curves))  # type: ignore[arg-type]


def describe_trends(report: DepthReport) -> list[str]:
    """What the trends say, one line each."""
    names = {"source_gain": "gain on the source", "target_gain": "gain on the target", "h": "H"}
    lines = []
    for trend in report.trends:
        found = trend.correlation
        interval = f" ({found.low:+.2f} to {found.high:+.2f})" if found.bounded else ""
        lines.append(
            f"{trend.kind}, {names[trend.measure]}: {trend.words}; ρ = {found.value:+.2f}{interval}"
        )
    return lines


def store_of(out: Path) -> RunStore:
    """Where the probes' cells are kept: ``runs/depth``, apart from the suites' cells."""
    return RunStore(out / "runs" / FOLDER)
